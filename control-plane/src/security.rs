//! Whether this replica speaks TLS, and as whom. Owns the files that make it part of the cluster: its certificate, the
//! authority's key, the hash of the cluster's first token. Says who somebody is by his certificate; what he may do is
//! `access`'s. Called by `serve` and by `raft`, which dials other replicas.

use crate::clock;
use crate::config::{Config, TlsFiles};
use axum::http::Uri;
use identity::authority::{Authority, AuthorityError, Unsigned};
use identity::credentials::{Credentials, CredentialsError};
use identity::dial::Dialer;
use identity::folder::{self, FolderError};
use identity::principal::Principal;
use identity::token::{SecretHash, TokenError};

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Between attempts at a certificate that can't be renewed; it holds for a month still when they begin.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60 * 60);
/// Timers don't count the time that a machine sleeps: the clock is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);

/// Why a replica can't prove who it is.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    #[error("no TLS: {0}. `sbxctl cluster init` makes certificates; --insecure does without")]
    Credentials(#[from] CredentialsError),
    #[error("the certificate in {} is of {found}, but this is replica {id}", dir.display())]
    Other { dir: PathBuf, found: Principal, id: u64 },
    #[error(transparent)]
    File(#[from] FolderError),
    #[error("{}: {source}", path.display())]
    Authority { path: PathBuf, source: AuthorityError },
    #[error("{}: the hash of the first token {source}", path.display())]
    FirstToken { path: PathBuf, source: TokenError },
}

/// How this replica speaks to everybody. Clones share.
#[derive(Clone)]
pub enum Security {
    /// Plain text, and nobody is asked who he is: somebody has asked for it.
    Insecure,
    Tls(Tls),
}

/// Certificates, and where the authority's key is.
#[derive(Clone)]
pub struct Tls {
    credentials: Credentials,
    authority_key: PathBuf,
    /// At which others reach this replica.
    hosts: Vec<String>,
}

/// The first token of a cluster, by its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstToken {
    pub id: String,
    pub hash: SecretHash,
}

impl Security {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// [`SecurityError`], also where they are another replica's.
    pub fn open(config: &Config) -> Result<Self, SecurityError> {
        let Some(files) = &config.tls else {
            return Ok(Self::Insecure);
        };
        let credentials = Credentials::open(&files.dir)?;
        let found = credentials.principal();
        if found != Principal::Replica(config.id) {
            return Err(SecurityError::Other {
                dir: files.dir.clone(),
                found,
                id: config.id,
            });
        }
        let tls = Tls {
            credentials,
            authority_key: files.authority_key.clone(),
            hosts: hosts(&[&config.advertise, &config.advertise_peer]),
        };
        // A key that can't be used is told now, and not to the first machine that joins.
        tls.authority()?;
        Ok(Self::Tls(tls))
    }

    #[must_use]
    pub fn dialer(&self) -> Dialer {
        match self {
            Self::Insecure => Dialer::plain(),
            Self::Tls(tls) => Dialer::following(tls.credentials.clone()),
        }
    }

    /// The hash of the cluster's first token, where there is a file of it.
    ///
    /// # Errors
    /// [`SecurityError::FirstToken`] where it is empty, or of a secret that everybody knows.
    pub fn first_token(&self) -> Result<Option<FirstToken>, SecurityError> {
        let Self::Tls(tls) = self else {
            return Ok(None);
        };
        let path = tls.credentials.folder().join(folder::FIRST_TOKEN);
        let record = match folder::read_secret(&path) {
            Ok(record) => record,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match SecretHash::from_record(&record) {
            Ok((id, hash)) => Ok(Some(FirstToken { id, hash })),
            Err(source) => Err(SecurityError::FirstToken { path, source }),
        }
    }

    /// Keeps the certificate valid: takes in files that were exchanged, and renews it when it grows old. Without end.
    pub async fn keep(self) {
        let Self::Tls(tls) = self else {
            return std::future::pending().await;
        };
        let renewing = tls.clone().renew();
        let following = async {
            match tls.credentials.follow().await {
                Ok(never) => match never {},
                // Renewal goes on; what an administrator exchanges takes a restart.
                Err(error) => tracing::error!(%error, "certificates that are exchanged take a restart"),
            }
        };
        tokio::join!(renewing, following);
    }
}

impl Tls {
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The authorities' certificates, in PEM.
    ///
    /// # Errors
    /// [`SecurityError::File`]
    pub fn authority_certificate(&self) -> Result<String, SecurityError> {
        Ok(folder::read(&self.credentials.folder().join(folder::AUTHORITY))?)
    }

    /// The authority with its key; `None` where this replica does not have it.
    ///
    /// # Errors
    /// [`SecurityError`] where the files can't be used.
    pub fn authority(&self) -> Result<Option<Authority>, SecurityError> {
        let key = match folder::read_secret(&self.authority_key) {
            Ok(key) => key,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let certificate = self.authority_certificate()?;
        match Authority::open(&certificate, &key, clock::wall()) {
            Ok(authority) => Ok(Some(authority)),
            Err(source) => Err(SecurityError::Authority {
                path: self.authority_key.clone(),
                source,
            }),
        }
    }

    async fn renew(self) {
        loop {
            let certified = self.credentials.certified();
            let left = certified
                .renew_at()
                .duration_since(clock::wall())
                .unwrap_or_default();
            if !left.is_zero() {
                tokio::time::sleep(left.min(LOOK_EVERY)).await;
                continue;
            }
            match self.issue_own(clock::wall()) {
                Ok(true) => {
                    let mut exchanged = self.credentials.exchanged();
                    tracing::info!("this replica's certificate was renewed");
                    tokio::time::timeout(RENEWAL_PAUSE, exchanged.changed())
                        .await
                        .ok();
                }
                Ok(false) => {
                    tracing::warn!(
                        ends = ?certified.not_after,
                        "this replica's certificate grows old, and without the authority's key it can't renew it"
                    );
                    tokio::time::sleep(RENEWAL_PAUSE).await;
                }
                Err(error) => {
                    tracing::error!(%error, "this replica's certificate can't be renewed");
                    tokio::time::sleep(RENEWAL_PAUSE).await;
                }
            }
        }
    }

    /// Writes a new certificate of this replica, for the same hosts; `false` where the authority's key is not here.
    ///
    /// # Errors
    /// [`SecurityError`]
    pub fn issue_own(&self, now: SystemTime) -> Result<bool, SecurityError> {
        let Some(authority) = self.authority()? else {
            return Ok(false);
        };
        let failed = |source| SecurityError::Authority {
            path: self.authority_key.clone(),
            source,
        };
        let unsigned = Unsigned::create().map_err(failed)?;
        let chain = authority
            .sign(
                &unsigned.public(),
                &self.credentials.principal(),
                &self.hosts,
                now,
            )
            .map_err(failed)?;
        write(self.credentials.folder(), &unsigned.key, &chain)?;
        Ok(true)
    }
}

/// Gives the replica of the number `id` a certificate for the hosts of `urls`, signed with the authority's key, where the
/// folder has none of that number; `false`: it has none, and neither has it the key.
///
/// # Errors
/// [`SecurityError`]
pub fn certify(files: &TlsFiles, id: u64, urls: &[&str]) -> Result<bool, SecurityError> {
    if let Ok(there) = Credentials::open(&files.dir)
        && there.principal() == Principal::Replica(id)
    {
        return Ok(true);
    }
    let key = match folder::read_secret(&files.authority_key) {
        Ok(key) => key,
        Err(error) if error.is_not_found() => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let failed = |source| SecurityError::Authority {
        path: files.authority_key.clone(),
        source,
    };
    let certificate = folder::read(&files.dir.join(folder::AUTHORITY))?;
    let now = clock::wall();
    let authority = Authority::open(&certificate, &key, now).map_err(failed)?;
    let issued = authority
        .issue(&Principal::Replica(id), &hosts(urls), now)
        .map_err(failed)?;
    write(&files.dir, &issued.key, &issued.chain)?;
    Ok(true)
}

/// The hosts of URLs, each once.
pub(crate) fn hosts(urls: &[&str]) -> Vec<String> {
    let mut hosts = Vec::new();
    for url in urls {
        let host = url
            .parse::<Uri>()
            .ok()
            .and_then(|uri| uri.host().map(str::to_owned));
        let host = host.map(|host| host.trim_matches(['[', ']']).to_owned());
        hosts.extend(host.filter(|host| !hosts.contains(host)));
    }
    hosts
}

/// The key first: until the certificate follows, they don't fit together and the old ones stay in use.
fn write(dir: &Path, key: &str, chain: &str) -> Result<(), FolderError> {
    folder::write(&dir.join(folder::KEY), key)?;
    folder::write(&dir.join(folder::CERTIFICATE), chain)
}
