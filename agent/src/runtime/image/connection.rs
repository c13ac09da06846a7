//! One registry or mirror, spoken to as one user: sends requests, with the token or password that it asks for.
//!
//! What comes back is bounded: errors here, content by who asks. Tokens are fetched by `oci-client`, which does so
//! as the registry's challenge says; the rest is plain HTTP. Called by [`super::registry`].

use super::fault::{Fault, chain, refusal, unauthorized, unreachable};
use super::reference::Endpoint;
use super::transport::Transport;
use oci_client::client::{Certificate, CertificateEncoding, Client, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use reqwest::{Response, StatusCode, header};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Finding a host and agreeing on a connection: a few round trips, even across the world.
const CONNECT: Duration = Duration::from_secs(5);
/// Without a single byte for so long, a connection is dead.
const STALL: Duration = Duration::from_secs(30);
/// Of an answer that is no success; registries explain themselves in a few hundred bytes.
const MAX_REFUSAL: u64 = 64 << 10;
/// Repositories whose tokens are remembered.
const MAX_GRANTS: usize = 1_000;
const USER_AGENT: &str = concat!("sbxlet/", env!("CARGO_PKG_VERSION"));

pub(super) struct Connection {
    http: reqwest::Client,
    tokens: Client,
    /// By repository.
    grants: Mutex<HashMap<String, RegistryAuth>>,
}

/// What to get of a repository.
pub(super) struct Request<'a> {
    /// As `manifests/latest`.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'a str>,
    /// The first byte wanted; 0: all.
    pub(super) from: u64,
}

impl Connection {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// [`Fault::Client`], as where certificates can't be read.
    pub(super) fn new(transport: &Transport) -> Result<Self, Fault> {
        // An error only says that the process has one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = match transport {
            Transport::OwnAuthority(path) => Some(authority(path)?),
            Transport::Tls | Transport::Unverified | Transport::Plain => None,
        };
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(STALL)
            .user_agent(USER_AGENT)
            .danger_accept_invalid_certs(*transport == Transport::Unverified);
        if let Some(pem) = &authority {
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(client)?;
            http = http.tls_certs_merge(certificates);
        }
        let config = ClientConfig {
            protocol: match transport {
                Transport::Plain => ClientProtocol::Http,
                Transport::Tls | Transport::OwnAuthority(_) | Transport::Unverified => ClientProtocol::Https,
            },
            accept_invalid_certificates: *transport == Transport::Unverified,
            extra_root_certificates: certificates(authority.as_deref()),
            connect_timeout: Some(CONNECT),
            read_timeout: Some(STALL),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        };
        Ok(Self {
            http: http.build().map_err(client)?,
            tokens: Client::try_from(config).map_err(|e| Fault::Client(chain(&e)))?,
            grants: Mutex::default(),
        })
    }

    /// Sends a request; gives an answer that is a success, its content not yet read.
    ///
    /// # Errors
    /// [`Fault`]. [`Fault::Refused`] only after a fresh token was tried.
    pub(super) async fn get(
        &self,
        endpoint: &Endpoint,
        asked: &Reference,
        request: Request<'_>,
    ) -> Result<Response, Fault> {
        let known = self.lock().get(&endpoint.repository).cloned();
        if let Some(grant) = known {
            match self.send(endpoint, &request, &grant).await {
                // Tokens last for minutes.
                Err(Fault::Refused(_)) => {}
                done => return done,
            }
        }
        let grant = self.authorize(endpoint, asked).await?;
        self.send(endpoint, &request, &grant).await
    }

    async fn authorize(&self, endpoint: &Endpoint, asked: &Reference) -> Result<RegistryAuth, Fault> {
        let auth = &endpoint.auth;
        let token = self.tokens.auth(asked, auth, RegistryOperation::Pull).await;
        let grant = match (token.map_err(unauthorized)?, auth) {
            (Some(token), _) => RegistryAuth::Bearer(token),
            // It asks for the password itself, or for nothing at all.
            (None, auth) => auth.clone(),
        };
        let mut grants = self.lock();
        if grants.len() >= MAX_GRANTS {
            grants.clear();
        }
        grants.insert(endpoint.repository.clone(), grant.clone());
        Ok(grant)
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        asked: &Request<'_>,
        grant: &RegistryAuth,
    ) -> Result<Response, Fault> {
        let url = format!("{}/v2/{}/{}", endpoint.url, endpoint.repository, asked.path);
        let mut request = self.http.get(url);
        request = match grant {
            RegistryAuth::Anonymous => request,
            RegistryAuth::Basic(user, password) => request.basic_auth(user, Some(password)),
            RegistryAuth::Bearer(token) => request.bearer_auth(token),
        };
        if let Some(accept) = asked.accept {
            request = request.header(header::ACCEPT, accept);
        }
        if asked.from > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", asked.from));
        }
        let mut answer = request.send().await.map_err(unreachable)?;
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
            StatusCode::RANGE_NOT_SATISFIABLE => Err(Fault::Range),
            status => {
                // Cut off where it is too long: then it is no registry's error.
                let body = bounded(&mut answer, MAX_REFUSAL).await.unwrap_or_default();
                Err(refusal(status, &body.unwrap_or_default()))
            }
        }
    }

    #[cfg(test)]
    pub(super) fn spoil_grants(&self) {
        for grant in self.lock().values_mut() {
            *grant = RegistryAuth::Bearer("stale".to_owned());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, RegistryAuth>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The content of `answer`; `None` where it is longer than `limit`.
///
/// # Errors
/// [`Fault::Unreachable`] where it breaks off.
pub(super) async fn bounded(answer: &mut Response, limit: u64) -> Result<Option<Vec<u8>>, Fault> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
        if (body.len() + chunk.len()) as u64 > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

fn authority(path: &Path) -> Result<Vec<u8>, Fault> {
    std::fs::read(path).map_err(|e| Fault::Client(format!("cannot read {}: {e}", path.display())))
}

/// One for each of a PEM file's, as `oci-client` wants them.
fn certificates(pem: Option<&[u8]>) -> Vec<Certificate> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(pem.unwrap_or_default());
    let each = text.split_inclusive(END).filter(|part| part.contains(END));
    each.map(|part| Certificate {
        encoding: CertificateEncoding::Pem,
        data: part.as_bytes().to_vec(),
    })
    .collect()
}

fn client(error: reqwest::Error) -> Fault {
    Fault::Client(chain(&error))
}
