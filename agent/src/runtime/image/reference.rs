//! Where an image is fetched from: its mirrors in order, then its own registry.

use super::error::ImageError;
use oci_client::Reference;
use oci_client::secrets::RegistryAuth;
use proto::image::ImageName;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Docker Hub goes by one name and answers under another.
const DOCKER_HUB: (&str, &str) = ("docker.io", "index.docker.io");

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// Tried in order before the registry itself.
    pub mirrors: Vec<Mirror>,
    /// By registry or mirror, as in an image's name: `docker.io`, `10.0.0.1:5000`.
    pub credentials: BTreeMap<String, Credentials>,
}

/// For a registry that asks who is there.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
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
    pub(super) plain: bool,
    host: String,
    repository: String,
    pub(super) auth: RegistryAuth,
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
    /// The places that may have `name`, in the order to try.
    pub(super) fn endpoints(&self, name: &ImageName) -> Vec<Endpoint> {
        let mirrors = self
            .mirrors
            .iter()
            .filter(|m| m.registry == name.registry)
            .map(|mirror| {
                self.endpoint(
                    &mirror.host,
                    mirror.plain,
                    &mirror.host,
                    format!("{}{}", mirror.prefix, name.repository),
                )
            });
        let host = if name.registry == DOCKER_HUB.0 {
            DOCKER_HUB.1
        } else {
            &name.registry
        };
        let own = self.endpoint(host, false, &name.registry, name.repository.clone());
        mirrors.chain([own]).collect()
    }

    fn endpoint(&self, host: &str, plain: bool, known_as: &str, repository: String) -> Endpoint {
        let auth = match self.credentials.get(known_as) {
            Some(known) => RegistryAuth::Basic(known.username.clone(), known.password.clone()),
            None => RegistryAuth::Anonymous,
        };
        let scheme = if plain { "http" } else { "https" };
        Endpoint {
            url: format!("{scheme}://{host}"),
            plain,
            host: host.to_owned(),
            repository,
            auth,
        }
    }
}
