//! Connections to this replica, encrypted or not, each with who is at its other end. Owns the accepting: handshakes run
//! beside each other, bounded in number and time, so that one who says nothing keeps nobody waiting. Called by `serve`
//! for users and agents, and by `raft` for other replicas.

use crate::security::Security;
use identity::principal::{Certified, Principal};
use rustls::ServerConfig;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// For the handshake of one connection: some round trips, on a network with losses.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at one time. Each costs a millisecond of processor; what comes beyond waits in the kernel's queue.
const MAX_HANDSHAKES: usize = 512;
/// Connections that are ready and wait to be served: served at once, as a rule.
const READY: usize = 64;
/// When no connection can be accepted for want of file descriptors: others may be closed meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Users and agents: a certificate is shown by whoever has one.
    Users,
    /// Other replicas: nobody else gets past the handshake.
    Replicas,
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub address: IpAddr,
    /// `None`: it has shown no certificate.
    pub principal: Option<Principal>,
}

/// Accepted connections. Dropped, it accepts no more.
pub(crate) struct Incoming {
    ready: mpsc::Receiver<Connection>,
    accepting: AbortHandle,
}

impl Incoming {
    /// Begins to accept.
    pub(crate) fn start(listener: TcpListener, security: Security, audience: Audience) -> Self {
        let (sender, ready) = mpsc::channel(READY);
        let accepting = tokio::spawn(accept(listener, security, audience, sender));
        Self {
            ready,
            accepting: accepting.abort_handle(),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(context).map(|ready| ready.map(Ok))
    }
}

async fn accept(
    listener: TcpListener,
    security: Security,
    audience: Audience,
    ready: mpsc::Sender<Connection>,
) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else {
            return;
        };
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (security, ready) = (security.clone(), ready.clone());
        tokio::spawn(async move {
            let connected = connect(tcp, peer, &security, audience);
            match timeout(HANDSHAKE_TIMEOUT, connected).await {
                Ok(Ok(connection)) => {
                    drop(permit);
                    // Nobody serves any more.
                    ready.send(connection).await.ok();
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a connection was refused"),
                Err(_) => tracing::debug!(%peer, "a connection was given up, which said nothing"),
            }
        });
    }
}

async fn connect(
    tcp: TcpStream,
    peer: SocketAddr,
    security: &Security,
    audience: Audience,
) -> io::Result<Connection> {
    tcp.set_nodelay(true)?;
    let mut origin = Origin {
        address: peer.ip().to_canonical(),
        principal: None,
    };
    // The newest certificate: looked up for each connection.
    let config: Arc<ServerConfig> = match (security, audience) {
        (Security::Insecure, _) => {
            return Ok(Connection {
                io: Io::Plain(tcp),
                origin,
            });
        }
        (Security::Tls(tls), Audience::Users) => tls.credentials().serve_users(),
        (Security::Tls(tls), Audience::Replicas) => tls.credentials().serve_peers(),
    };
    let io = TlsAcceptor::from(config).accept(tcp).await?;
    let shown = io.get_ref().1.peer_certificates().and_then(<[_]>::first);
    if let Some(certificate) = shown {
        let certified = Certified::read(certificate).map_err(io::Error::other)?;
        origin.principal = certified.principal;
    }
    if audience == Audience::Replicas && !matches!(origin.principal, Some(Principal::Replica(_))) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the certificate is no replica's",
        ));
    }
    Ok(Connection {
        io: Io::Tls(Box::new(io)),
        origin,
    })
}

/// One connection.
pub(crate) struct Connection {
    io: Io,
    origin: Origin,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Origin;

    fn connect_info(&self) -> Origin {
        self.origin.clone()
    }
}

impl Origin {
    /// For what came over no connection of ours.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            address: Ipv4Addr::UNSPECIFIED.into(),
            principal: None,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Io::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Io::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_write_vectored(context, slices),
            Io::Tls(tls) => Pin::new(tls).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(tcp) => tcp.is_write_vectored(),
            Io::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Io::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Io::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}
