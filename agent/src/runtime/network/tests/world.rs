//! A node, the outside, and sandboxes: each a network namespace.

use crate::runtime::firewall::Rules;
use crate::runtime::namespace::{self, Pins};
use crate::runtime::network::{Network, NetworkConfig, NetworkError};
use crate::runtime::user_namespace::{IDS, IdRange};
use nix::sched::{CloneFlags, setns, unshare};
use proto::id::Uid;
use proto::spec::{Cidr, EgressRule, Protocol};
use proto::status::AssignedPort;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// What is allowed arrives at once; so long only where the machine is very busy.
const ARRIVES: Duration = Duration::from_secs(5);
/// What is dropped is never answered. Anything that passes is there in well under a millisecond.
const DROPPED: Duration = Duration::from_millis(300);

pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Further addresses of the outside: the control plane's, and one to be allowed.
pub(super) const CONTROL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
pub(super) const OTHER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
pub(super) const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

pub(super) fn cidr(text: &str) -> Cidr {
    let (address, prefix) = text.split_once('/').expect("a CIDR");
    Cidr {
        address: address.parse().expect("an address"),
        prefix: prefix.parse().expect("a prefix"),
    }
}

pub(super) fn allow(text: &str, port: Option<(u16, Protocol)>) -> EgressRule {
    EgressRule {
        cidr: cidr(text),
        port,
    }
}

pub(super) fn port(host_port: u16, container_port: u16, protocol: Protocol) -> AssignedPort {
    AssignedPort {
        host_port,
        container_port,
        protocol,
    }
}

pub(super) fn egress() -> Rules {
    Rules {
        egress: true,
        ..Rules::default()
    }
}

pub(super) fn allowing(allow: Vec<EgressRule>) -> Rules {
    Rules {
        allow,
        ..Rules::default()
    }
}

pub(super) fn publishing(ports: Vec<AssignedPort>) -> Rules {
    Rules {
        ports,
        ..Rules::default()
    }
}

/// A network namespace, gone with the value. What is opened in it stays in it, whoever uses it.
pub(super) struct Host {
    namespace: File,
}

impl Host {
    fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces: run them as root");
            super::super::raise_loopback().expect("lo is up");
            File::open("/proc/thread-self/ns/net").expect("the own namespace")
        };
        let namespace = std::thread::scope(|s| s.spawn(make).join()).expect("a namespace");
        Self { namespace }
    }

    /// Runs it in there.
    pub(super) fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("entered");
            act()
        };
        match std::thread::scope(|s| s.spawn(inside).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The output of a command in there.
    pub(super) fn sh(&self, command: &str) -> String {
        let output = self
            .run(|| Command::new("sh").args(["-ec", command]).output())
            .expect("sh runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(super) fn listen(&self, ip: Ipv4Addr, port: u16) -> TcpListener {
        self.run(|| TcpListener::bind((ip, port))).expect("bound")
    }

    pub(super) fn udp(&self, ip: Ipv4Addr, port: u16) -> UdpSocket {
        self.run(|| UdpSocket::bind((ip, port))).expect("bound")
    }

    fn connect(&self, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&to, limit))
    }

    #[track_caller]
    pub(super) fn reaches(&self, ip: Ipv4Addr, port: u16) {
        let connected = self.connect((ip, port).into(), ARRIVES);
        assert!(connected.is_ok(), "{ip}:{port} is not reached: {connected:?}");
    }

    #[track_caller]
    pub(super) fn never_reaches(&self, ip: Ipv4Addr, port: u16) {
        let connected = self.connect((ip, port).into(), DROPPED);
        assert!(connected.is_err(), "{ip}:{port} is reached");
    }

    /// Sends a datagram to where `server` is reached, and back.
    #[track_caller]
    pub(super) fn exchanges(&self, ip: Ipv4Addr, port: u16, server: &UdpSocket) {
        let client = self.udp(Ipv4Addr::UNSPECIFIED, 0);
        client.send_to(b"ping", (ip, port)).expect("sent");
        let mut buffer = [0; 16];
        server.set_read_timeout(Some(ARRIVES)).expect("set");
        let (length, from) = server.recv_from(&mut buffer).expect("received");
        server.send_to(b"pong", from).expect("sent back");
        assert_eq!(&buffer[..length], b"ping");
        client.set_read_timeout(Some(ARRIVES)).expect("set");
        let (length, from) = client.recv_from(&mut buffer).expect("answered");
        assert_eq!((&buffer[..length], from), (&b"pong"[..], (ip, port).into()));
    }
}

/// Whether a datagram arrives.
pub(super) fn arrives(server: &UdpSocket) -> bool {
    server.set_read_timeout(Some(DROPPED)).expect("set");
    server.recv_from(&mut [0; 16]).is_ok()
}

/// A sandbox's namespaces, removed with the value.
pub(super) struct Sandbox {
    pub(super) uid: Uid,
    pub(super) ip: Ipv4Addr,
    pub(super) host: Host,
    pub(super) pins: Pins,
    dir: PathBuf,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let failures = namespace::remove(&self.dir);
        if !std::thread::panicking() {
            assert!(failures.is_empty(), "{failures:?}");
        }
    }
}

/// What the kernel can do.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Exclusive,
    /// As before Linux 6.9: other programs may change the firewall.
    Shared,
}

pub(super) struct World {
    pub(super) node: Host,
    pub(super) outside: Host,
    /// `None` between an agent's end and the next one's start.
    network: Option<Network>,
    kind: Kind,
    dir: TempDir,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::of(Kind::Exclusive).await
    }

    pub(super) async fn shared() -> Self {
        Self::of(Kind::Shared).await
    }

    async fn of(kind: Kind) -> Self {
        let (node, outside) = (Host::new(), Host::new());
        outside.sh("ip link add eth0 type veth peer name peer");
        let there = format!("/proc/{}/fd/{}", std::process::id(), node.fd());
        // By a file, since the namespace has no process of its own.
        outside.sh(&format!("ip link set peer netns {there} name eth0"));
        outside.sh(&format!(
            "ip addr add {OUTSIDE}/24 dev eth0; ip addr add {CONTROL}/24 dev eth0; ip addr add {OTHER}/32 dev eth0
             ip addr add {METADATA}/32 dev eth0; ip link set eth0 up"
        ));
        node.sh(&format!(
            "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1
             ip addr add {NODE}/24 dev eth0; ip link set eth0 up; ip route add default via {OUTSIDE}
             ip route add {METADATA} via {OUTSIDE}"
        ));
        let network = Some(open(&node, kind).await.expect("opened"));
        let dir = tempfile::tempdir().expect("a folder");
        Self {
            node,
            outside,
            network,
            kind,
            dir,
        }
    }

    /// As a restarted agent does.
    pub(super) async fn reopen(&mut self) {
        self.close();
        self.network = Some(open(&self.node, self.kind).await.expect("opened"));
    }

    /// As a restarted agent does, on a newer kernel.
    pub(super) async fn reopen_exclusive(&mut self) {
        self.kind = Kind::Exclusive;
        self.reopen().await;
    }

    /// No agent is there any more.
    pub(super) fn close(&mut self) {
        self.network = None;
    }

    pub(super) fn network(&self) -> &Network {
        self.network.as_ref().expect("an agent is there")
    }

    /// A second agent on the node.
    pub(super) async fn intrude(&self) -> Result<Network, NetworkError> {
        open(&self.node, self.kind).await
    }

    /// Without a link.
    pub(super) fn sandbox(&self, number: u8) -> Sandbox {
        let uid = Uid(u64::from(number));
        let dir = self.dir.path().join(number.to_string()).join("ns");
        // Each other one has a user namespace that its network belongs to.
        let ids = IdRange::from((1 << 28) + u32::from(number) * IDS).filter(|_| number % 2 == 1);
        let pins =
            namespace::create(&dir, &format!("sandbox-{number}"), ids).expect("namespaces; run as root");
        Sandbox {
            uid,
            ip: Ipv4Addr::new(10, 89, 0, number),
            host: Host {
                namespace: File::open(&pins.net).expect("pinned"),
            },
            pins,
            dir,
        }
    }

    pub(super) async fn attach(&self, sandbox: &Sandbox, rules: &Rules) -> Result<(), NetworkError> {
        self.network()
            .attach(sandbox.uid, sandbox.ip, &sandbox.pins.net, rules)
            .await
    }

    pub(super) async fn connected(&self, number: u8, rules: &Rules) -> Sandbox {
        let sandbox = self.sandbox(number);
        self.attach(&sandbox, rules).await.expect("attached");
        sandbox
    }

    #[track_caller]
    pub(super) fn detached(failures: Vec<NetworkError>) {
        assert!(failures.is_empty(), "{failures:?}");
    }

    /// All of the node that a sandbox could leave something in.
    pub(super) fn traces(&self) -> String {
        self.node.sh(
            "nft list ruleset; ip -o link | cut -d' ' -f2; ip route show table all; ip -o addr
             ip neigh | grep -v eth0 || true; ls /proc/sys/net/ipv4/conf",
        )
    }
}

impl Host {
    fn fd(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.namespace)
    }
}

async fn open(node: &Host, kind: Kind) -> Result<Network, NetworkError> {
    let config = NetworkConfig {
        subnet: cidr("10.89.0.0/16"),
        protected: vec![cidr(&format!("{CONTROL}/32"))],
    };
    // Opened on a thread in there; used from anywhere.
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        match kind {
            Kind::Exclusive => runtime.block_on(Network::open(config)),
            Kind::Shared => runtime.block_on(Network::open_shared(config)),
        }
    })
}
