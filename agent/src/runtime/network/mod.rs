//! How sandboxes are connected: each by a cable (veth) of its own to the node, which routes one address through it.
//! No bridge: there is no layer 2 between sandboxes, and the firewall sees every packet.
//!
//! Owns the node's links named `sbx-*` with their routes and neighbours, and through [`super::firewall`] the one
//! nftables table. Never touches other links. Called by the agent when a sandbox starts and ends.

mod cable;
mod error;
mod link;
mod message;
mod name;
mod sysctl;
#[cfg(test)]
mod tests;

pub use error::NetworkError;
pub use name::{LinkName, PREFIX};

use crate::runtime::firewall::block::Block;
use crate::runtime::firewall::{Firewall, FirewallError, Rules};
use crate::runtime::netlink::{ACK, Conversation, Request};
use crate::runtime::sys::readable::readable;
use cable::Cable;
use link::Links;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sched::{CloneFlags, setns};
use proto::id::Uid;
use proto::spec::Cidr;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// How many sandboxes are connected at the same time: all of them wait for the one lock that the kernel has for
/// links, and more at once only make each slower.
const CONNECTED_AT_ONCE: usize = 4;
/// The same for the other way, and for all else. Removing a link is for the most part waiting until no processor
/// uses it any more, with the lock released: fifty take a third of the time that they take four by four.
const DISCONNECTED_AT_ONCE: usize = 16;
/// Before a firewall that another program has changed, and that can't be put back, is tried again.
const DEFEND_PAUSE: Duration = Duration::from_secs(1);
/// In every network namespace.
const LOOPBACK_INDEX: u32 = 1;
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

type OpenFirewall = fn(Cidr, &[Cidr], &BTreeSet<Uid>) -> Result<Firewall, FirewallError>;

/// What holds for all sandboxes of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Where sandboxes have their addresses: IPv4. Closed to all sandboxes.
    pub subnet: Cidr,
    /// Closed to all sandboxes besides: the control plane.
    pub protected: Vec<Cidr>,
}

/// The network of this node's sandboxes, in the network namespace it was opened in. Clones share it.
#[derive(Debug, Clone)]
pub struct Network {
    node: Arc<Node>,
}

#[derive(Debug)]
struct Node {
    subnet: Cidr,
    addresses: Block,
    namespace: File,
    connecting: Semaphore,
    others: Semaphore,
    firewall: Mutex<Firewall>,
}

impl Network {
    /// Turns on forwarding and sets up the table in one transaction. What the table has of sandboxes whose link is
    /// there stays as it is, what it has of others is dropped.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing of the table is changed then.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        Self::open_with(config, Firewall::open).await
    }

    /// The same as on a kernel that can't keep other programs from the firewall.
    #[cfg(test)]
    async fn open_shared(config: NetworkConfig) -> Result<Self, NetworkError> {
        Self::open_with(config, Firewall::open_shared).await
    }

    async fn open_with(config: NetworkConfig, open: OpenFirewall) -> Result<Self, NetworkError> {
        let subnet = config.subnet;
        let addresses = Block::of(subnet).ok_or(NetworkError::Subnet { subnet })?;
        let enter = |source| NetworkError::Enter {
            path: OWN_NAMESPACE.into(),
            source,
        };
        let namespace = File::open(OWN_NAMESPACE).map_err(enter)?;
        let inside = namespace.try_clone().map_err(enter)?;
        let firewall = on_a_thread("open the network", inside, move || {
            sysctl::enable_forwarding()?;
            Ok(open(subnet, &config.protected, &linked()?)?)
        })
        .await?;
        let node = Node {
            subnet,
            addresses,
            namespace,
            connecting: Semaphore::new(CONNECTED_AT_ONCE),
            others: Semaphore::new(DISCONNECTED_AT_ONCE),
            firewall: Mutex::new(firewall),
        };
        Ok(Self { node: Arc::new(node) })
    }

    /// Connects the sandbox whose network namespace is pinned at `netns`: the firewall first, in one transaction,
    /// then the cable. When it returns, packets flow. What is there of the same uid is replaced.
    ///
    /// # Errors
    /// [`NetworkError`]; what was done until then is undone.
    pub async fn attach(
        &self,
        uid: Uid,
        ip: Ipv4Addr,
        netns: &Path,
        rules: &Rules,
    ) -> Result<(), NetworkError> {
        if !self.node.addresses.contains(ip) {
            let subnet = self.node.subnet;
            return Err(NetworkError::OutOfSubnet { ip, uid, subnet });
        }
        let cable = Cable {
            uid,
            ip,
            netns: netns.to_owned(),
            from_loopback: !rules.ports.is_empty(),
        };
        let rules = rules.clone();
        let node = Arc::clone(&self.node);
        let connected = self
            .act(&self.node.connecting, "connect a sandbox", move || {
                node.firewall().admit(uid, ip, &rules)?;
                cable.connect()
            })
            .await;
        if connected.is_err() {
            for failure in self.detach(uid).await {
                tracing::warn!(%uid, %failure, "cannot undo the connection of a sandbox");
            }
        }
        connected
    }

    /// Removes everything of the uid: its cable, then its rules, then its connections. Every failure; none there is
    /// none to remove.
    pub async fn detach(&self, uid: Uid) -> Vec<NetworkError> {
        let node = Arc::clone(&self.node);
        let failures = self
            .act(&self.node.others, "disconnect a sandbox", move || {
                let cable = cable::disconnect(uid);
                let rules = node.firewall().withdraw(uid);
                Ok([cable.err(), rules.err().map(NetworkError::from)])
            })
            .await;
        match failures {
            Ok(failures) => failures.into_iter().flatten().collect(),
            Err(error) => vec![error],
        }
    }

    /// Opens what the rules say, and nothing else, for a sandbox that is connected: after a restart of the agent, since
    /// another program may have taken the table away meanwhile.
    ///
    /// # Errors
    /// [`NetworkError::Firewall`]; all is as it was then.
    pub async fn readmit(&self, uid: Uid, ip: Ipv4Addr, rules: &Rules) -> Result<(), NetworkError> {
        let (node, rules) = (Arc::clone(&self.node), rules.clone());
        self.act(&self.node.others, "admit a sandbox again", move || {
            Ok(node.firewall().admit(uid, ip, &rules)?)
        })
        .await
    }

    /// Puts the firewall back as soon as another program has changed it. Never returns; has nothing to do where the
    /// kernel keeps other programs from it.
    pub async fn guard(&self) {
        let mut failed = false;
        while let Some(changes) = self.changes() {
            let told = match (failed, changes) {
                (true, _) => {
                    tokio::time::sleep(DEFEND_PAUSE).await;
                    Ok(())
                }
                (false, Ok(changes)) => readable(changes).await,
                (false, Err(error)) => Err(error),
            };
            let in_doubt = failed || told.is_err();
            let node = Arc::clone(&self.node);
            let defended = self.act(&self.node.others, "defend the firewall", move || {
                Ok(node.firewall().defend(in_doubt)?)
            });
            let defended = defended.await.and(told.map_err(NetworkError::Watch));
            failed = defended.is_err();
            if let Err(error) = defended {
                tracing::error!(%error, "cannot see to it that the firewall is as it should be");
            }
        }
        std::future::pending().await
    }

    fn changes(&self) -> Option<io::Result<OwnedFd>> {
        self.node.firewall().changes()
    }

    /// Replaces the protected addresses: called when the control plane's are known better.
    ///
    /// # Errors
    /// [`NetworkError::Firewall`]; the former ones stay protected then.
    pub async fn protect(&self, protected: &[Cidr]) -> Result<(), NetworkError> {
        let (node, protected) = (Arc::clone(&self.node), protected.to_vec());
        self.act(&self.node.others, "protect addresses", move || {
            Ok(node.firewall().protect(&protected)?)
        })
        .await
    }

    /// The sandboxes of which a link or a rule is there, as the kernel says; in order.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn attached(&self) -> Result<Vec<Uid>, NetworkError> {
        let node = Arc::clone(&self.node);
        let uids = self
            .act(&self.node.others, "list sandboxes", move || {
                let mut uids = linked()?;
                uids.extend(node.firewall().uids()?);
                Ok(uids)
            })
            .await?;
        Ok(uids.into_iter().collect())
    }

    /// On a thread of its own in the node's network namespace, few at a time.
    async fn act<T: Send + 'static>(
        &self,
        turns: &Semaphore,
        what: &'static str,
        act: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let namespace = self.node.namespace.try_clone().map_err(NetworkError::Thread)?;
        // Never closed, so a turn always comes.
        let _turn = turns.acquire().await;
        on_a_thread(what, namespace, act).await
    }
}

impl Node {
    fn firewall(&self) -> MutexGuard<'_, Firewall> {
        // One that has panicked has committed all of a transaction or nothing.
        self.firewall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of which sandboxes there is a link.
fn linked() -> Result<BTreeSet<Uid>, NetworkError> {
    let names = Links::open().and_then(|mut links| links.names());
    let names = names.map_err(NetworkError::List)?;
    Ok(names
        .iter()
        .filter_map(|n| LinkName::parse(n))
        .map(LinkName::uid)
        .collect())
}

/// A thread that enters network namespaces ends with the act, so that no other act finds itself elsewhere.
async fn on_a_thread<T: Send + 'static>(
    act: &'static str,
    namespace: File,
    run: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let (answer, answered) = oneshot::channel();
    let enter = move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| NetworkError::Enter {
            path: OWN_NAMESPACE.into(),
            source: errno.into(),
        })?;
        run()
    };
    std::thread::Builder::new()
        .name("network".to_owned())
        // Nobody waits any more where the receiver is gone.
        .spawn(move || drop(answer.send(enter())))
        .map_err(NetworkError::Thread)?;
    answered.await.map_err(|_| NetworkError::ThreadDied { act })?
}

/// Readies the calling thread's network namespace, which is new: links that are made in it have no IPv6, and `lo` is up.
pub(super) fn settle() -> io::Result<()> {
    sysctl::disable_ipv6(sysctl::DEFAULT).map_err(io::Error::other)?;
    raise_loopback()
}

/// Raises `lo` in the calling thread's network namespace.
pub(super) fn raise_loopback() -> io::Result<()> {
    let mut kernel = Conversation::open(NETLINK_ROUTE, 0).map_err(io::Error::other)?;
    let request = message::raise(LOOPBACK_INDEX);
    let acknowledged = Request {
        flags: ACK,
        ..request
    };
    kernel
        .change(&[acknowledged])
        .map_err(|(_, error)| io::Error::other(error))
}
