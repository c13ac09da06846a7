//! Connections to replicas. A dialer either speaks TLS to all of them or plain text to all: a URL of the other kind
//! is refused, so that nobody is led from one to the other by a word of a replica. TLS settings are looked up for each
//! connection, so that a certificate that was exchanged is shown from the next one on.

use crate::credentials::Credentials;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{self, Channel, Endpoint, Uri};
use tower::Service;

/// TLS 1.3 alone: everybody who speaks to a cluster is younger than it.
pub(crate) const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
pub(crate) const HTTP2: &[u8] = b"h2";
pub(crate) const HTTP1: &[u8] = b"http/1.1";

/// What TLS is made with, without touching the process's default.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Why there are no TLS settings.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("TLS: {0}")]
    Settings(#[from] rustls::Error),
    #[error("the certificate of the authority can't be read: {0}")]
    Authority(String),
}

/// Why a URL can't be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("must begin with https://")]
    NotEncrypted,
    #[error("must begin with http://: plain text was asked for, by --insecure")]
    Encrypted,
    #[error("is no URL: {0}")]
    Form(String),
}

/// How replicas are reached. Clones share.
#[derive(Clone)]
pub struct Dialer(How);

#[derive(Clone)]
enum How {
    Plain,
    Fixed(Arc<ClientConfig>),
    Following(Credentials),
}

impl Dialer {
    /// Plain text, for whoever has asked for it.
    #[must_use]
    pub fn plain() -> Self {
        Self(How::Plain)
    }

    /// TLS with these settings.
    #[must_use]
    pub fn fixed(config: ClientConfig) -> Self {
        Self(How::Fixed(Arc::new(config)))
    }

    /// TLS that shows a machine's own certificate, the newest one.
    #[must_use]
    pub fn following(credentials: Credentials) -> Self {
        Self(How::Following(credentials))
    }

    /// TLS that trusts an authority, in PEM, and shows nothing: a person's, who has a token.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn trusting(authority: &str) -> Result<Self, TlsError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)?
            .with_root_certificates(roots(authority)?)
            .with_no_client_auth();
        Ok(Self::fixed(http2(config)))
    }

    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        !matches!(self.0, How::Plain)
    }

    /// An endpoint for a replica's URL, to be connected with [`Dialer::lazy`] or [`Dialer::connect`].
    ///
    /// # Errors
    /// [`UrlError`]
    pub fn endpoint(&self, url: &str) -> Result<Endpoint, UrlError> {
        let form = |error: &dyn std::error::Error| UrlError::Form(error.to_string());
        let uri: Uri = url.parse().map_err(|e| form(&e))?;
        let encrypted = uri.scheme_str() == Some("https");
        if encrypted != self.is_encrypted() {
            return Err(if encrypted {
                UrlError::Encrypted
            } else {
                UrlError::NotEncrypted
            });
        }
        // The connector below is what encrypts; tonic would refuse https without TLS of its own.
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|e| form(&e))?;
        Ok(endpoint.origin(uri))
    }

    /// A channel that connects when it is used, and again whenever it broke.
    #[must_use]
    pub fn lazy(&self, endpoint: &Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(self.clone())
    }

    /// A channel that is connected.
    ///
    /// # Errors
    /// Where no connection comes about.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, transport::Error> {
        endpoint.connect_with_connector(self.clone()).await
    }

    fn config(&self) -> Option<Arc<ClientConfig>> {
        match &self.0 {
            How::Plain => None,
            How::Fixed(config) => Some(config.clone()),
            How::Following(credentials) => Some(credentials.client()),
        }
    }

    /// The certificate that whoever is there shows; `None` where nothing is encrypted.
    ///
    /// # Errors
    /// What the network or TLS says.
    pub async fn shown(&self, uri: &Uri) -> io::Result<Option<CertificateDer<'static>>> {
        let Some(tls) = self.config() else {
            return Ok(None);
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(tls).connect(name, tcp).await?;
        let chain = stream.get_ref().1.peer_certificates();
        Ok(chain
            .and_then(|chain| chain.first())
            .cloned()
            .map(CertificateDer::into_owned))
    }

    /// A connection to the host and port of a URL, encrypted where this dialer does so. `protocols` as ALPN has them.
    ///
    /// # Errors
    /// What the network or TLS says.
    pub async fn open(&self, uri: &Uri, protocols: Protocols) -> io::Result<Box<dyn Stream>> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let tls = self.config();
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let tcp = TcpStream::connect((host, port)).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = tls else {
            return Ok(Box::new(tcp));
        };
        let tls = match protocols {
            Protocols::Http2 => tls,
            Protocols::Http1 => {
                let mut tls = ClientConfig::clone(&tls);
                tls.alpn_protocols = vec![HTTP1.to_vec()];
                Arc::new(tls)
            }
        };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(tls).connect(name, tcp).await?))
    }
}

/// What is spoken over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    Http2,
    Http1,
}

/// A connection, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// For `hyper`'s own client, which keeps connections by what it knows of them: nothing more than that they are there.
impl Connection for Box<dyn Stream> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Connections for HTTP/1.1.
#[derive(Clone)]
pub struct Http1Dialer(pub Dialer);

impl Service<Uri> for Http1Dialer {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.0.clone();
        Box::pin(async move { Ok(TokioIo::new(dialer.open(&uri, Protocols::Http1).await?)) })
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move { Ok(TokioIo::new(dialer.open(&uri, Protocols::Http2).await?)) })
    }
}

/// Why a connection was not trusted, if that is why it failed: no other replica, and no other time, would help.
#[must_use]
pub fn untrusted(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .or_else(|| error.downcast_ref());
        match tls {
            Some(rustls::Error::InvalidCertificate(why)) => {
                return Some(format!("its certificate is not good: {why}"));
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                return Some(
                    "it does not speak TLS; a replica that runs with --insecure is http://HOST:PORT"
                        .to_owned(),
                );
            }
            Some(_) | None => {}
        }
        next = error.source();
    }
    None
}

/// The authorities of a PEM file.
pub(crate) fn roots(authority: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        let certificate = certificate.map_err(|error| TlsError::Authority(error.to_string()))?;
        roots.add(certificate)?;
    }
    if roots.is_empty() {
        return Err(TlsError::Authority("there is no certificate in it".to_owned()));
    }
    Ok(roots)
}

pub(crate) fn http2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config
}
