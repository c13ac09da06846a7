//! Speaks to registries: asks each place that may have an image in turn, and again after a while where the
//! fault may pass. Trusts nothing that it gets: every body is bounded and must have the digest it was asked for.
//!
//! Keeps nothing on disk but the file that it is told to fill. Called by [`super::pull`].

use super::digest::Digest;
use super::error::EndpointFailure;
use super::manifest::{Descriptor, MAX_DOCUMENT};
use super::reference::{Endpoint, RegistryConfig};
use futures::StreamExt;
use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE, OciDescriptor,
};
use proto::image::ImageName;
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Finding a host and agreeing on a connection: a few round trips, even across the world.
const CONNECT: Duration = Duration::from_secs(5);
/// Without a single byte for so long, a connection is dead.
const STALL: Duration = Duration::from_secs(30);
/// How often every place is asked, in all: with the pauses between, some four seconds of a registry that
/// refuses connections and some 25 s of one that is not there.
const ROUNDS: u32 = 4;
/// Before the second round; doubled before each further one.
const PAUSE: Duration = Duration::from_millis(500);
const ACCEPTED: [&str; 4] = [
    OCI_IMAGE_MEDIA_TYPE,
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
];
const USER_AGENT: &str = concat!("sbxlet/", env!("CARGO_PKG_VERSION"));
/// Of what a registry says in its errors; rate limits are explained in about 200 characters.
const MAX_MESSAGE: usize = 300;

/// Why one place did not give what it was asked for. Texts of strangers appear only where they come in
/// the form of a registry's error: any other body may be from a place that the registry has led us to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    #[error("not found")]
    NotFound,
    #[error("access refused{}", said(.0))]
    Refused(String),
    #[error("busy (HTTP status {code}){}", said(.message))]
    Busy { code: u16, message: String },
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    #[error("answers with HTTP status {0}")]
    Status(u16),
    #[error("sent content that is not {expected}; it is damaged or was tampered with")]
    Digest { expected: String },
    #[error("sent a manifest of {0} bytes, which is refused")]
    LongManifest(usize),
    #[error("does not speak as a registry does: {0}")]
    Protocol(String),
    #[error("the client does not start: {0}")]
    Client(String),
    #[error("cannot be kept: {0}")]
    Disk(String),
}

impl Fault {
    /// It may pass by itself.
    fn is_transient(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Unreachable(_) => true,
            Self::NotFound
            | Self::Refused(_)
            | Self::Status(_)
            | Self::Digest { .. }
            | Self::LongManifest(_)
            | Self::Protocol(_)
            | Self::Client(_)
            | Self::Disk(_) => false,
        }
    }

    /// What a person can do about it.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::NotFound => "check the image's name and tag",
            Self::Refused(_) => "check the image's name, or give the agent credentials for this registry",
            Self::Busy { .. } => "try again later, or use a mirror",
            Self::Unreachable(_) => "check the network of the node, or use a mirror",
            Self::Digest { .. } => "ask who runs this registry or mirror, or push the image again",
            Self::Status(_) | Self::LongManifest(_) | Self::Protocol(_) => {
                "check that a registry answers there"
            }
            Self::Client(_) => {
                "check that the node has certificates of authorities (package ca-certificates)"
            }
            Self::Disk(_) => "check the disk of the node",
        }
    }
}

fn said(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

pub(super) struct Registry {
    config: RegistryConfig,
    plain: OnceLock<Client>,
    tls: OnceLock<Client>,
}

impl Registry {
    pub(super) fn new(config: RegistryConfig) -> Self {
        Self {
            config,
            plain: OnceLock::new(),
            tls: OnceLock::new(),
        }
    }

    pub(super) fn endpoints(&self, name: &ImageName) -> Vec<Endpoint> {
        self.config.endpoints(name)
    }

    /// The manifest or index that `name` leads to.
    ///
    /// # Errors
    /// What each place answered.
    pub(super) async fn manifest(
        &self,
        name: &ImageName,
        endpoints: &[Endpoint],
    ) -> Result<Vec<u8>, Vec<EndpointFailure>> {
        let mut attempts = Attempts::new(endpoints);
        while let Some(endpoint) = attempts.next().await {
            match self.manifest_from(endpoint, name).await {
                Ok(bytes) => return Ok(bytes),
                Err(fault) => attempts.failed(fault),
            }
        }
        Err(attempts.failures())
    }

    /// Fills the file `out` with the blob `wanted` of the image `name`.
    ///
    /// # Errors
    /// What each place answered.
    pub(super) async fn blob(
        &self,
        name: &ImageName,
        endpoints: &[Endpoint],
        wanted: &Descriptor,
        out: &Path,
    ) -> Result<(), Vec<EndpointFailure>> {
        let mut attempts = Attempts::new(endpoints);
        while let Some(endpoint) = attempts.next().await {
            match self.blob_from(endpoint, name, wanted, out).await {
                Ok(()) => return Ok(()),
                Err(fault) => attempts.failed(fault),
            }
        }
        Err(attempts.failures())
    }

    async fn manifest_from(&self, endpoint: &Endpoint, name: &ImageName) -> Result<Vec<u8>, Fault> {
        let client = self.client(endpoint)?;
        let asked = endpoint.reference(name);
        let (bytes, _) = client
            .pull_manifest_raw(&asked, &endpoint.auth, &ACCEPTED)
            .await
            .map_err(fault)?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Fault::LongManifest(bytes.len()));
        }
        match &name.digest {
            Some(expected) if Digest::of(&bytes).to_string() != *expected => Err(Fault::Digest {
                expected: expected.clone(),
            }),
            Some(_) | None => Ok(bytes.to_vec()),
        }
    }

    async fn blob_from(
        &self,
        endpoint: &Endpoint,
        name: &ImageName,
        wanted: &Descriptor,
        out: &Path,
    ) -> Result<(), Fault> {
        let client = self.client(endpoint)?;
        let asked = endpoint.reference(name);
        client
            .store_auth_if_needed(asked.resolve_registry(), &endpoint.auth)
            .await;
        download(client, &asked, wanted, out).await
    }

    fn client(&self, endpoint: &Endpoint) -> Result<&Client, Fault> {
        let (slot, protocol) = if endpoint.plain {
            (&self.plain, ClientProtocol::Http)
        } else {
            (&self.tls, ClientProtocol::Https)
        };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        // An error only says that the process has a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT),
            read_timeout: Some(STALL),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|e| Fault::Client(chain(&e)))?;
        Ok(slot.get_or_init(|| client))
    }
}

/// Which place to ask next: all in order, and those whose fault may pass again after a pause.
struct Attempts<'a> {
    endpoints: &'a [Endpoint],
    /// The last one of each place.
    faults: Vec<Option<Fault>>,
    /// The place asked last is the one before this.
    next: usize,
    round: u32,
    pause: Duration,
}

impl<'a> Attempts<'a> {
    fn new(endpoints: &'a [Endpoint]) -> Self {
        Self {
            endpoints,
            faults: vec![None; endpoints.len()],
            next: 0,
            round: 1,
            pause: PAUSE,
        }
    }

    /// The next place; pauses before a further round. `None`: no place is left that could answer.
    async fn next(&mut self) -> Option<&'a Endpoint> {
        loop {
            while self.next < self.endpoints.len() {
                self.next += 1;
                if self.faults[self.next - 1]
                    .as_ref()
                    .is_none_or(Fault::is_transient)
                {
                    return Some(&self.endpoints[self.next - 1]);
                }
            }
            if self.round == ROUNDS || !self.faults.iter().flatten().any(Fault::is_transient) {
                return None;
            }
            tokio::time::sleep(self.pause).await;
            self.pause *= 2;
            self.round += 1;
            self.next = 0;
        }
    }

    /// The place that [`Self::next`] gave last did not answer.
    fn failed(&mut self, fault: Fault) {
        self.faults[self.next - 1] = Some(fault);
    }

    fn failures(self) -> Vec<EndpointFailure> {
        let failure = |(endpoint, fault): (&Endpoint, Option<Fault>)| {
            fault.map(|fault| EndpointFailure {
                endpoint: endpoint.url.clone(),
                fault,
            })
        };
        self.endpoints
            .iter()
            .zip(self.faults)
            .filter_map(failure)
            .collect()
    }
}

async fn download(client: &Client, from: &Reference, wanted: &Descriptor, out: &Path) -> Result<(), Fault> {
    let mismatch = || Fault::Digest {
        expected: wanted.digest.to_string(),
    };
    let disk = |e: std::io::Error| Fault::Disk(e.to_string());
    // Without the other addresses that a manifest may name: those are a stranger's choice.
    let descriptor = OciDescriptor {
        digest: wanted.digest.to_string(),
        ..OciDescriptor::default()
    };
    let mut stream = client.pull_blob_stream(from, &descriptor).await.map_err(fault)?;
    let mut file = tokio::fs::File::create(out).await.map_err(disk)?;
    let mut hasher = Sha256::new();
    let mut left = wanted.size;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(
            |e| match e.get_ref().and_then(|e| e.downcast_ref::<DigestError>()) {
                Some(_) => mismatch(),
                None => Fault::Unreachable(chain(&e)),
            },
        )?;
        left = left.checked_sub(chunk.len() as u64).ok_or_else(mismatch)?;
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    if left > 0 || Digest::from(hasher) != wanted.digest {
        Err(mismatch())
    } else {
        Ok(())
    }
}

fn fault(error: OciDistributionError) -> Fault {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => Fault::NotFound,
        OciDistributionError::AuthenticationFailure(_) | OciDistributionError::UnauthorizedError { .. } => {
            Fault::Refused(String::new())
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let said = envelope.errors.first();
            let message = said
                .map(|e| e.message.chars().take(MAX_MESSAGE).collect())
                .unwrap_or_default();
            match said.map(|e| &e.code) {
                Some(
                    OciErrorCode::ManifestUnknown
                    | OciErrorCode::NameUnknown
                    | OciErrorCode::NotFound
                    | OciErrorCode::BlobUnknown,
                ) => Fault::NotFound,
                Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => Fault::Refused(message),
                Some(OciErrorCode::Toomanyrequests) => Fault::Busy { code: 429, message },
                Some(_) | None => Fault::Protocol(message),
            }
        }
        OciDistributionError::ServerError { code, .. } => match code {
            404 => Fault::NotFound,
            401 | 403 => Fault::Refused(String::new()),
            429 | 500.. => Fault::Busy {
                code,
                message: String::new(),
            },
            _ => Fault::Status(code),
        },
        OciDistributionError::RequestError(error) => Fault::Unreachable(chain(&error.without_url())),
        OciDistributionError::DigestError(DigestError::VerificationError { expected, .. }) => {
            Fault::Digest { expected }
        }
        // Parsers' messages may quote what they have read; the kind says enough.
        OciDistributionError::RegistryTokenDecodeError(_) => {
            Fault::Protocol("its token is malformed".to_owned())
        }
        other => Fault::Protocol(other.to_string().chars().take(MAX_MESSAGE).collect()),
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
