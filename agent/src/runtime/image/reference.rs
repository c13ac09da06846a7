//! Where an image is fetched from: its mirrors in order, then its own registry; and as whom.

use super::credentials::{Credentials, KnownCredentials};
use super::error::ImageError;
use super::transport::Transport;
use oci_client::Reference;
use oci_client::secrets::RegistryAuth;
use proto::image::ImageName;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

/// Docker Hub goes by one name and answers under another.
const DOCKER_HUB: (&str, &str) = ("docker.io", "index.docker.io");

/// How registries are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Tried in order before the registry itself.
    pub mirrors: Vec<Mirror>,
    /// By registry or mirror, as in an image's name: `docker.io`, `10.0.0.1:5000`; perhaps with the beginning of a
    /// path in it, `quay.io/team`. Of several the longest counts. In front of those in `docker_config`.
    pub credentials: BTreeMap<String, Credentials>,
    /// What `docker login` writes, read anew for each pull, so that it may change.
    pub docker_config: Option<PathBuf>,
    /// By registry or mirror; [`Transport::Tls`] for those that are not named. A mirror's `http://` goes first.
    pub transports: BTreeMap<String, Transport>,
}

/// Another place for the images of one registry: `docker.io=http://10.88.0.1:5000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Whose images it has.
    pub registry: String,
    /// Its host, with its port where it has one.
    pub host: String,
    /// Plain text, without TLS.
    pub plain: bool,
    /// In front of the path within the registry; empty, or ending with `/`.
    pub prefix: String,
}

impl FromStr for Mirror {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let fail = |why| ImageError::Mirror {
            text: text.to_owned(),
            why,
        };
        let (registry, url) = text.split_once('=').ok_or_else(|| fail("there is no `=`"))?;
        let (plain, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(fail("its address begins with neither http:// nor https://")),
        };
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        // A name is checked by what reads names of images.
        let checked = |host: &str, path: &str| {
            let text = if path.is_empty() {
                format!("{host}/a")
            } else {
                format!("{host}/{path}/a")
            };
            ImageName::parse(&text)
                .is_ok_and(|name| name.registry == host && name.tag.as_deref() == Some("latest"))
        };
        if !checked(registry, "") {
            return Err(fail("what stands before `=` is no registry, such as docker.io"));
        }
        // A host without a dot or port would be read as a part of the path.
        let as_registry = if host.contains(['.', ':']) {
            host.to_owned()
        } else {
            format!("{host}:1")
        };
        if host.is_empty() || !checked(&as_registry, prefix) {
            return Err(fail("its address is no HOST[:PORT][/PATH]"));
        }
        Ok(Self {
            registry: registry.to_owned(),
            host: host.to_owned(),
            plain,
            prefix: if prefix.is_empty() {
                String::new()
            } else {
                format!("{prefix}/")
            },
        })
    }
}

/// One place to fetch one image from.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// As `https://host:port`.
    pub(super) url: String,
    pub(super) transport: Transport,
    pub(super) repository: String,
    pub(super) auth: RegistryAuth,
    host: String,
}

impl Endpoint {
    /// The name to ask this place for.
    pub(super) fn reference(&self, name: &ImageName) -> Reference {
        let (host, repository) = (self.host.clone(), self.repository.clone());
        match (&name.digest, &name.tag) {
            (Some(digest), _) => Reference::with_digest(host, repository, digest.clone()),
            (None, tag) => Reference::with_tag(host, repository, tag.clone().unwrap_or_default()),
        }
    }
}

impl RegistryConfig {
    /// The places that may have `name`, in the order to try. Reads `docker_config`.
    ///
    /// # Errors
    /// [`ImageError::Credentials`].
    pub(super) fn endpoints(&self, name: &ImageName) -> Result<Vec<Endpoint>, ImageError> {
        let mut known = KnownCredentials::default();
        if let Some(path) = &self.docker_config {
            known = KnownCredentials::read(path).map_err(|fault| ImageError::Credentials {
                path: path.clone(),
                fault,
            })?;
        }
        known.prefer(&self.credentials);
        let mirrors = self
            .mirrors
            .iter()
            .filter(|m| m.registry == name.registry)
            .map(|mirror| {
                let transport = if mirror.plain {
                    Transport::Plain
                } else {
                    self.transport(&mirror.host)
                };
                let repository = format!("{}{}", mirror.prefix, name.repository);
                endpoint(&known, &mirror.host, &mirror.host, transport, repository)
            });
        let host = if name.registry == DOCKER_HUB.0 {
            DOCKER_HUB.1
        } else {
            &name.registry
        };
        let transport = self.transport(&name.registry);
        let own = endpoint(&known, host, &name.registry, transport, name.repository.clone());
        Ok(mirrors.chain([own]).collect())
    }

    fn transport(&self, registry: &str) -> Transport {
        self.transports.get(registry).cloned().unwrap_or_default()
    }
}

fn endpoint(
    known: &KnownCredentials,
    host: &str,
    known_as: &str,
    transport: Transport,
    repository: String,
) -> Endpoint {
    Endpoint {
        url: format!("{}://{host}", transport.scheme()),
        auth: known.of(known_as, &repository),
        transport,
        repository,
        host: host.to_owned(),
    }
}
