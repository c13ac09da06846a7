//! What a machine shows and whom it trusts: the files of its folder, as TLS settings. Owns the reading of them anew
//! when the kernel tells of a change: connections that are made from then on use the new ones, those that are open go
//! on. Files that don't fit together, as while they are exchanged one by one, change nothing.

use crate::dial::{HTTP1, HTTP2, TlsError, VERSIONS, http2, provider, roots};
use crate::folder::{self, FolderError};
use crate::pin::Fingerprint;
use crate::principal::{CertificateError, Certified, Principal};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ServerConfig};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;

/// Files of one exchange are written one after another: they are read when nothing was written for so long.
const SETTLED: Duration = Duration::from_millis(100);
/// Of notices, of which only that there are some is of interest.
const NOTICES: usize = 4_096;

/// Why a machine has no identity.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error(transparent)]
    File(#[from] FolderError),
    #[error("{}: {why}", path.display())]
    Malformed { path: PathBuf, why: String },
    #[error(
        "{} and {} do not belong together: {source}",
        folder::CERTIFICATE,
        folder::KEY
    )]
    Mismatch { source: rustls::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{}: {source}", path.display())]
    Certificate { path: PathBuf, source: CertificateError },
    #[error("{} is the certificate of no replica and no node of a cluster", .0.display())]
    Nobody(PathBuf),
    #[error("cannot watch {} for certificates that are exchanged: {source}", path.display())]
    Watch { path: PathBuf, source: std::io::Error },
}

/// The identity of this machine. Clones share it.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    current: RwLock<Arc<Current>>,
    exchanged: watch::Sender<u64>,
}

/// The files as they were read last.
struct Current {
    principal: Principal,
    certified: Certified,
    authority: Fingerprint,
    /// Of the own certificate: two of one second have the same times.
    own: Fingerprint,
    client: Arc<ClientConfig>,
    users: Arc<ServerConfig>,
    peers: Arc<ServerConfig>,
}

impl Credentials {
    /// Reads the files of the folder.
    ///
    /// # Errors
    /// [`CredentialsError`], which names the file.
    pub fn open(folder: &Path) -> Result<Self, CredentialsError> {
        let current = RwLock::new(Arc::new(Current::read(folder)?));
        Ok(Self(Arc::new(Inner {
            folder: folder.to_owned(),
            current,
            exchanged: watch::Sender::default(),
        })))
    }

    fn current(&self) -> Arc<Current> {
        self.0
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    #[must_use]
    pub fn principal(&self) -> Principal {
        self.current().principal.clone()
    }

    /// How long the present certificate holds, and when to ask for the next.
    #[must_use]
    pub fn certified(&self) -> Certified {
        self.current().certified.clone()
    }

    /// Of the authority that tokens for joining name.
    #[must_use]
    pub fn authority(&self) -> Fingerprint {
        self.current().authority
    }

    /// For dialling replicas.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        self.current().client.clone()
    }

    /// For users and agents: HTTP/2 and HTTP/1.1, whoever has a certificate shows it.
    #[must_use]
    pub fn serve_users(&self) -> Arc<ServerConfig> {
        self.current().users.clone()
    }

    /// For machines of the cluster alone: HTTP/2, a certificate is required.
    #[must_use]
    pub fn serve_peers(&self) -> Arc<ServerConfig> {
        self.current().peers.clone()
    }

    /// Counts how often the files were exchanged; for who must act on it.
    #[must_use]
    pub fn exchanged(&self) -> watch::Receiver<u64> {
        self.0.exchanged.subscribe()
    }

    /// Reads the files anew whenever they change; without end.
    ///
    /// # Errors
    /// [`CredentialsError::Watch`] where the kernel does not tell of changes.
    pub async fn follow(self) -> Result<std::convert::Infallible, CredentialsError> {
        let failed = |source: std::io::Error| CredentialsError::Watch {
            path: self.0.folder.clone(),
            source,
        };
        let inotify =
            Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(|e| failed(e.into()))?;
        let events = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        inotify
            .add_watch(&self.0.folder, events)
            .map_err(|e| failed(e.into()))?;
        // Notices are read like what comes out of a pipe.
        let mut notices = Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify)).map_err(failed)?;
        let mut buffer = [0; NOTICES];
        // What changed before the watch began.
        self.reload();
        loop {
            notices.read(&mut buffer).await.map_err(failed)?;
            while let Ok(more) = tokio::time::timeout(SETTLED, notices.read(&mut buffer)).await {
                more.map_err(failed)?;
            }
            self.reload();
        }
    }

    fn reload(&self) {
        match Current::read(&self.0.folder) {
            Ok(read) => {
                let same = {
                    let mut current = self.0.current.write().unwrap_or_else(PoisonError::into_inner);
                    let same = current.own == read.own && current.authority == read.authority;
                    *current = Arc::new(read);
                    same
                };
                if !same {
                    tracing::info!(folder = %self.0.folder.display(), "certificates were exchanged");
                    self.0.exchanged.send_modify(|count| *count += 1);
                }
            }
            Err(error) => tracing::warn!(%error, "the present certificates stay in use"),
        }
    }
}

impl Current {
    fn read(folder: &Path) -> Result<Self, CredentialsError> {
        let authority = folder::read(&folder.join(folder::AUTHORITY))?;
        let path = folder.join(folder::CERTIFICATE);
        let chain = folder::read(&path)?;
        let malformed = |path: &Path, why: String| CredentialsError::Malformed {
            path: path.to_owned(),
            why,
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| malformed(&path, error.to_string()))?;
        let own = chain
            .first()
            .ok_or_else(|| malformed(&path, "there is no certificate in it".to_owned()))?;
        let certified = Certified::read(own).map_err(|source| CredentialsError::Certificate {
            path: path.clone(),
            source,
        })?;
        let principal = certified
            .principal
            .clone()
            .ok_or(CredentialsError::Nobody(path))?;
        let path = folder.join(folder::KEY);
        let key = folder::read_secret(&path)?;
        let key = || {
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| malformed(&path, error.to_string()))
        };
        let fingerprint = Fingerprint::of_pem(&authority).ok_or_else(|| {
            malformed(
                &folder.join(folder::AUTHORITY),
                "there is no certificate in it".to_owned(),
            )
        })?;
        let roots = Arc::new(roots(&authority)?);
        let mismatch = |source| CredentialsError::Mismatch { source };
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(TlsError::from)?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), key()?)
            .map_err(mismatch)?;
        let server = |verifier, protocols: &[&[u8]]| -> Result<Arc<ServerConfig>, CredentialsError> {
            let mut config = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(VERSIONS)
                .map_err(TlsError::from)?
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain.clone(), key()?)
                .map_err(mismatch)?;
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Ok(Arc::new(config))
        };
        let verifier = || WebPkiClientVerifier::builder_with_provider(roots.clone(), provider());
        let unusable = |error: rustls::server::VerifierBuilderError| TlsError::Authority(error.to_string());
        Ok(Self {
            users: server(
                verifier().allow_unauthenticated().build().map_err(unusable)?,
                &[HTTP2, HTTP1],
            )?,
            peers: server(verifier().build().map_err(unusable)?, &[HTTP2])?,
            client: Arc::new(http2(client)),
            own: Fingerprint::of(own),
            principal,
            certified,
            authority: fingerprint,
        })
    }
}

#[cfg(test)]
mod tests;
