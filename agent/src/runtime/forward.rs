//! Connections of users to a port of a sandbox, published or not: opened from within the sandbox's network namespace, so
//! that a program is reached that listens on 127.0.0.1 alone, and neither firewall nor published ports are asked.
//!
//! gVisor has a network of its own, in which nobody but the sandbox's programs can open a socket: what is not found
//! inside is asked for at the sandbox's address. Called by `session`.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// Within a namespace, and from a node to a sandbox of its own, connecting takes microseconds; a program whose queue is
/// full is given time to take from it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ForwardFault {
    #[error("cannot enter the network namespace {}: {source}", path.display())]
    Enter { path: PathBuf, source: io::Error },
    #[error("no program in the sandbox listens on port {0}")]
    Refused(u16),
    #[error("port {0} does not answer within {CONNECT_TIMEOUT:?}")]
    Silent(u16),
    #[error("the connection to port {port} broke: {source}")]
    Broken { port: u16, source: io::Error },
    #[error("cannot connect to port {port}: {source}")]
    Connect { port: u16, source: io::Error },
}

/// Connects to `port` of the sandbox whose network namespace is pinned at `net`, and whose address is `ip`.
///
/// # Errors
/// [`ForwardFault`]
pub async fn connect(net: &Path, ip: Option<Ipv4Addr>, port: u16) -> Result<TcpStream, ForwardFault> {
    let enter = |source| ForwardFault::Enter {
        path: net.to_owned(),
        source,
    };
    let loopback = sockets(net.to_owned()).await.map_err(enter)?;
    let local = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let mut attempts = Vec::new();
    for (socket, ip) in loopback.into_iter().zip(local) {
        attempts.push((socket, SocketAddr::new(ip, port)));
    }
    if let Some(ip) = ip {
        let socket = TcpSocket::new_v4().map_err(|source| ForwardFault::Connect { port, source })?;
        attempts.push((socket, SocketAddr::from((ip, port))));
    }
    let mut fault = ForwardFault::Refused(port);
    for (socket, address) in attempts {
        match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await {
            Ok(Ok(stream)) => {
                // Every byte is passed on at once, as it was sent.
                stream
                    .set_nodelay(true)
                    .map_err(|source| ForwardFault::Connect { port, source })?;
                return Ok(stream);
            }
            // Nobody there, or no such address family.
            Ok(Err(error)) if is_absent(&error) => {}
            Ok(Err(source)) => fault = ForwardFault::Connect { port, source },
            Err(_) => fault = ForwardFault::Silent(port),
        }
    }
    Err(fault)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// One for each family, made in the namespace: a socket stays where it was made.
async fn sockets(net: PathBuf) -> io::Result<[TcpSocket; 2]> {
    let (done, made) = tokio::sync::oneshot::channel();
    // A thread of its own: it stays in the namespace until it ends.
    let thread = std::thread::Builder::new().name("forward".to_owned());
    thread.spawn(move || {
        // Nobody who listens: the user has gone.
        let _ = done.send(make(&net));
    })?;
    made.await
        .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?
}

fn make(net: &Path) -> io::Result<[TcpSocket; 2]> {
    setns(File::open(net)?, CloneFlags::CLONE_NEWNET)?;
    Ok([TcpSocket::new_v4()?, TcpSocket::new_v6()?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::namespace;
    use std::process::Command;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A network namespace with a loopback device, and nothing else.
    struct Net {
        dir: tempfile::TempDir,
    }

    impl Net {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            namespace::create(&dir.path().join("ns"), "box", None).expect("namespaces; run this as root");
            let net = Self { dir };
            let up = Command::new("nsenter")
                .arg(format!("--net={}", net.path().display()))
                .args(["ip", "link", "set", "lo", "up"])
                .status();
            assert!(up.expect("nsenter runs").success());
            net
        }

        fn path(&self) -> PathBuf {
            namespace::Pins::below(&self.dir.path().join("ns")).net
        }

        /// Listens in there.
        async fn listener(&self, address: &str) -> tokio::net::TcpListener {
            let address: SocketAddr = address.parse().expect("an address");
            let [v4, v6] = sockets(self.path()).await.expect("entered");
            let socket = if address.is_ipv4() { v4 } else { v6 };
            socket.bind(address).expect("bound");
            socket.listen(8).expect("listening")
        }
    }

    impl Drop for Net {
        fn drop(&mut self) {
            let faults = namespace::remove(&self.dir.path().join("ns"));
            assert!(faults.is_empty() || std::thread::panicking(), "{faults:?}");
        }
    }

    #[tokio::test]
    async fn program_that_listens_within_is_reached_on_either_family() {
        let net = Net::new();
        for address in ["127.0.0.1:80", "[::1]:81", "0.0.0.0:82"] {
            let listener = net.listener(address).await;
            let port = listener.local_addr().expect("an address").port();
            let path = net.path();
            let (mut here, there) = tokio::join!(connect(&path, None, port), listener.accept());
            let (mut there, _) = there.expect("accepted");
            let here = here.as_mut().unwrap_or_else(|error| panic!("{address}: {error}"));
            here.write_all(b"hello").await.expect("written");
            let mut heard = [0; 5];
            there.read_exact(&mut heard).await.expect("read");
            assert_eq!(&heard, b"hello");
        }
    }

    /// As of gVisor: there is nobody inside, but somebody at the sandbox's address.
    #[tokio::test]
    async fn program_that_is_seen_only_from_outside_is_reached_at_its_address() {
        let net = Net::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let stream = connect(&net.path(), Some(Ipv4Addr::LOCALHOST), port).await;
        stream.expect("connected");
    }

    #[tokio::test]
    async fn port_without_a_program_is_told() {
        let net = Net::new();
        let refused = connect(&net.path(), None, 9).await.expect_err("refused");
        assert_eq!(refused.to_string(), "no program in the sandbox listens on port 9");
        let gone = connect(Path::new("/nowhere"), None, 9)
            .await
            .expect_err("refused");
        assert!(matches!(gone, ForwardFault::Enter { .. }), "{gone}");
    }
}
