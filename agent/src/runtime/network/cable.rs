//! The cable between the node and one sandbox: made and removed step by step, in the calling thread, which is moved
//! into the sandbox's network namespace on the way.

use super::error::NetworkError;
use super::link::Links;
use super::message::{self, NODE_MAC, sandbox_mac};
use super::name::LinkName;
use super::sysctl;
use crate::runtime::netlink::{Failure, NetlinkError, Request};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use proto::id::Uid;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What the sandbox's end is called in there.
const INSIDE: &str = "eth0";
/// What the sandbox sends everything to. Nobody has it: the neighbour entry says where packets for it go.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The kernel says so within a millisecond; a second on a machine that is far too busy.
const UP_TIMEOUT: Duration = Duration::from_secs(10);
/// `ENODEV`, and what the kernel says instead while the namespace at the other end goes.
const GONE: [Errno; 2] = [Errno::ENODEV, Errno::ENXIO];

/// What is to be made for a sandbox.
#[derive(Debug, Clone)]
pub(super) struct Cable {
    pub(super) uid: Uid,
    pub(super) ip: Ipv4Addr,
    /// Where its network namespace is pinned.
    pub(super) netns: PathBuf,
    /// The node's own processes reach it by 127.0.0.1.
    pub(super) from_loopback: bool,
}

impl Cable {
    /// Makes it, and returns when packets flow both ways. The calling thread is in the sandbox's network namespace
    /// afterwards: it must end.
    pub(super) fn connect(&self) -> Result<(), NetworkError> {
        let name = LinkName::of(self.uid).to_string();
        let mut node = Links::open().map_err(self.failed("open the links"))?;
        let netns = File::open(&self.netns).map_err(self.not_entered())?;
        let cable = message::cable(&name, INSIDE, sandbox_mac(self.ip), netns.as_raw_fd());
        match node.change(vec![cable.clone()]) {
            Err((_, error)) if error.errno() == Some(Errno::EEXIST) => {
                // Left by an attempt that was interrupted.
                remove(&mut node, self.uid)?;
                node.change(vec![cable])
            }
            result => result,
        }
        .map_err(self.refused(&["make the cable"]))?;
        sysctl::disable_ipv6(&name)?;
        if self.from_loopback {
            sysctl::route_loopback(&name)?;
        }
        let outside = node.index(&name).map_err(self.failed("find the node's link"))?;
        node.change(vec![
            message::raise_without_arp(outside),
            message::route_to(outside, self.ip),
            message::neighbour(outside, self.ip, sandbox_mac(self.ip)),
        ])
        .map_err(self.refused(&[
            "raise the node's link",
            "route to the address",
            "set the neighbour",
        ]))?;
        setns(&netns, CloneFlags::CLONE_NEWNET).map_err(|errno| self.not_entered()(errno.into()))?;
        let mut inside = Links::open().map_err(self.failed("open the inner links"))?;
        let index = self.configure_inside(&mut inside)?;
        let deadline = Instant::now() + UP_TIMEOUT;
        self.await_up(&mut inside, INSIDE, index, deadline)?;
        self.await_up(&mut node, &name, outside, deadline)
    }

    fn configure_inside(&self, inside: &mut Links) -> Result<u32, NetworkError> {
        sysctl::disable_ipv6(INSIDE)?;
        let index = inside.index(INSIDE).map_err(self.failed("find the inner link"))?;
        let steps: [(&'static str, Request); 5] = [
            ("set the address", message::address(index, self.ip)),
            ("raise the inner link", message::raise(index)),
            ("route to the gateway", message::route_to(index, GATEWAY)),
            ("set the default route", message::default_route(index, GATEWAY)),
            (
                "set the gateway's neighbour entry",
                message::neighbour(index, GATEWAY, NODE_MAC),
            ),
        ];
        let acts = steps.each_ref().map(|(act, _)| *act);
        let requests = steps.into_iter().map(|(_, request)| request).collect();
        inside.change(requests).map_err(self.refused(&acts))?;
        Ok(index)
    }

    fn await_up(
        &self,
        links: &mut Links,
        name: &str,
        index: u32,
        deadline: Instant,
    ) -> Result<(), NetworkError> {
        match links
            .await_up(name, index, deadline)
            .map_err(self.failed("await the link"))?
        {
            true => Ok(()),
            false => Err(NetworkError::NotUp {
                uid: self.uid,
                limit_ms: UP_TIMEOUT.as_millis(),
            }),
        }
    }

    fn failed(&self, act: &'static str) -> impl Fn(NetlinkError) -> NetworkError {
        let uid = self.uid;
        move |source| NetworkError::Link { act, uid, source }
    }

    /// `acts` in the order of the requests.
    fn refused(&self, acts: &[&'static str]) -> impl Fn(Failure) -> NetworkError {
        let uid = self.uid;
        let (acts, all) = (acts.to_vec(), "change the links");
        move |(index, source)| NetworkError::Link {
            act: index.and_then(|index| acts.get(index)).copied().unwrap_or(all),
            uid,
            source,
        }
    }

    fn not_entered(&self) -> impl Fn(std::io::Error) -> NetworkError {
        let path = self.netns.clone();
        move |source| NetworkError::Enter {
            path: path.clone(),
            source,
        }
    }
}

/// Removes the cable of this uid; none there is none to remove.
pub(super) fn disconnect(uid: Uid) -> Result<(), NetworkError> {
    let mut node = Links::open().map_err(|source| NetworkError::Link {
        act: "open the links",
        uid,
        source,
    })?;
    remove(&mut node, uid)
}

fn remove(node: &mut Links, uid: Uid) -> Result<(), NetworkError> {
    let act = "remove the link";
    match node.change(vec![message::remove_link(&LinkName::of(uid).to_string())]) {
        Err((_, error)) if error.errno().is_some_and(|errno| GONE.contains(&errno)) => Ok(()),
        Err((_, source)) => Err(NetworkError::Link { act, uid, source }),
        Ok(()) => Ok(()),
    }
}
