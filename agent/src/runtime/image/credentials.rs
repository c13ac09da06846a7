//! Who the node is for a registry: what an administrator has set, and what `docker login` or `podman login` has written.
//!
//! Runs no credential helper: a program named in a file would run as root. Called by [`super::reference`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Docker Hub's names in files of credentials.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// Of a file of credentials; one with a hundred registries has some 20 KB.
const MAX_FILE: u64 = 1 << 20;

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

/// Why a file of credentials can't be used. Never quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialFault {
    #[error("cannot read it: {0}")]
    Read(String),
    #[error("it is {0} bytes long, which is refused")]
    Long(u64),
    #[error("it is not what docker login writes: line {line}, column {column}")]
    Json { line: usize, column: usize },
    #[error("the `auth` of {registry} is not USER:PASSWORD in base64")]
    Auth { registry: String },
}

/// By registry, perhaps with the beginning of a path in it.
#[derive(Default)]
pub(super) struct KnownCredentials(BTreeMap<String, RegistryAuth>);

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

impl KnownCredentials {
    /// Reads the file that `docker login` writes.
    ///
    /// # Errors
    /// [`CredentialFault`].
    pub(super) fn read(path: &Path) -> Result<Self, CredentialFault> {
        let read = |e: std::io::Error| CredentialFault::Read(e.to_string());
        let length = std::fs::metadata(path).map_err(read)?.len();
        if length > MAX_FILE {
            return Err(CredentialFault::Long(length));
        }
        Self::parse(&std::fs::read(path).map_err(read)?)
    }

    fn parse(bytes: &[u8]) -> Result<Self, CredentialFault> {
        let config: DockerConfig = serde_json::from_slice(bytes).map_err(|e| CredentialFault::Json {
            line: e.line(),
            column: e.column(),
        })?;
        let mut known = Self::default();
        for (registry, entry) in config.auths {
            match entry.read(&registry)? {
                Some(auth) => {
                    known.0.insert(normal(&registry), auth);
                }
                None => {
                    tracing::debug!(
                        registry,
                        "its credentials are with a helper program, which is not run"
                    );
                }
            }
        }
        Ok(known)
    }

    /// Lets `others` count in front of these.
    pub(super) fn prefer(&mut self, others: &BTreeMap<String, Credentials>) {
        let basic = |c: &Credentials| RegistryAuth::Basic(c.username.clone(), c.password.clone());
        self.0
            .extend(others.iter().map(|(name, known)| (normal(name), basic(known))));
    }

    /// What is known for `repository` in `registry`: the entry with the longest path that leads to it.
    pub(super) fn of(&self, registry: &str, repository: &str) -> RegistryAuth {
        let full = format!("{}/{repository}", normal(registry));
        let shorter = |end: &usize| full[..*end].rfind('/');
        std::iter::successors(Some(full.len()), shorter)
            .find_map(|end| self.0.get(&full[..end]))
            .cloned()
            .unwrap_or(RegistryAuth::Anonymous)
    }
}

impl DockerAuth {
    /// `None`: there is nothing in it.
    fn read(self, registry: &str) -> Result<Option<RegistryAuth>, CredentialFault> {
        if !self.registry_token.is_empty() {
            return Ok(Some(RegistryAuth::Bearer(self.registry_token)));
        }
        if !self.auth.is_empty() {
            let decoded = STANDARD.decode(self.auth.trim()).ok();
            let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            // Docker pads passwords with NUL bytes.
            let pair = text
                .as_deref()
                .and_then(|t| t.trim_end_matches('\0').split_once(':'));
            let (user, password) = pair.ok_or_else(|| CredentialFault::Auth {
                registry: registry.to_owned(),
            })?;
            return Ok(Some(RegistryAuth::Basic(user.to_owned(), password.to_owned())));
        }
        if self.username.is_empty() {
            return Ok(None);
        }
        Ok(Some(RegistryAuth::Basic(self.username, self.password)))
    }
}

/// As in an image's name: without scheme and version, Docker Hub by its one name.
fn normal(registry: &str) -> String {
    let bare = registry
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let bare = bare
        .strip_suffix("/v1")
        .or_else(|| bare.strip_suffix("/v2"))
        .unwrap_or(bare);
    match bare.split_once('/') {
        Some((host, path)) if DOCKER_HUB.contains(&host) => format!("{}/{path}", DOCKER_HUB[0]),
        None if DOCKER_HUB.contains(&bare) => DOCKER_HUB[0].to_owned(),
        Some(_) | None => bare.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
        "auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnNlOmNyZXQ="},
            "10.0.0.1:5000": {"username": "plain", "password": "words"},
            "quay.io": {"auth": "cXVheTpx"},
            "quay.io/team": {"auth": "dGVhbTp0"},
            "http://old.lan/v2/": {"auth": "b2xkOnB3AAAA"},
            "token.lan": {"registrytoken": "t0ken"},
            "helped.lan": {}
        },
        "credsStore": "desktop", "HttpHeaders": {}
    }"#;

    #[track_caller]
    fn check(registry: &str, repository: &str, want: &str) {
        let known = KnownCredentials::parse(FILE.as_bytes()).expect("read");
        let found = match known.of(registry, repository) {
            RegistryAuth::Anonymous => "-".to_owned(),
            RegistryAuth::Basic(user, password) => format!("{user} {password}"),
            RegistryAuth::Bearer(token) => format!("bearer {token}"),
        };
        assert_eq!(found, want, "{registry}/{repository}");
    }

    #[test]
    fn docker_config_gives_the_longest_match() {
        check("docker.io", "library/alpine", "hub se:cret");
        check("10.0.0.1:5000", "a", "plain words");
        check("10.0.0.1:5001", "a", "-");
        check("quay.io", "other/x", "quay q");
        check("quay.io", "team/x", "team t");
        check("quay.io", "team", "team t");
        check("quay.io", "teams/x", "quay q");
        check("old.lan", "x", "old pw");
        check("token.lan", "x", "bearer t0ken");
        check("helped.lan", "x", "-");
    }

    #[test]
    fn what_an_administrator_has_set_goes_first() {
        let mut known = KnownCredentials::parse(FILE.as_bytes()).expect("read");
        let own = Credentials {
            username: "own".to_owned(),
            password: "pw".to_owned(),
        };
        known.prefer(&BTreeMap::from([("quay.io".to_owned(), own)]));
        assert_eq!(
            known.of("quay.io", "x"),
            RegistryAuth::Basic("own".into(), "pw".into())
        );
        assert_eq!(
            known.of("quay.io", "team/x"),
            RegistryAuth::Basic("team".into(), "t".into())
        );
    }

    #[track_caller]
    fn check_fault(file: &str, want: &CredentialFault) {
        assert_eq!(
            KnownCredentials::parse(file.as_bytes()).err().as_ref(),
            Some(want)
        );
    }

    #[test]
    fn damaged_files_are_refused_without_quoting_them() {
        check_fault("{", &CredentialFault::Json { line: 1, column: 1 });
        let auth = CredentialFault::Auth {
            registry: "a.lan".to_owned(),
        };
        check_fault(r#"{"auths": {"a.lan": {"auth": "%%%"}}}"#, &auth);
        check_fault(r#"{"auths": {"a.lan": {"auth": "bm9jb2xvbg=="}}}"#, &auth);
    }
}
