//! Names of images: `alpine:3.20` as people write it, `docker.io/library/alpine:3.20` as everything else reads it.

use std::fmt;

const DEFAULT_REGISTRY: &str = "docker.io";
/// Docker Hub keeps its official images below this name.
const OFFICIAL: &str = "library";
/// The longest name that registries accept, tag and digest not counted (OCI distribution specification).
const MAX_NAME: usize = 255;

/// A normalised reference; shown fully qualified.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    /// Host, with its port where it has one.
    pub registry: String,
    /// Path within the registry.
    pub repository: String,
    /// `None` only where a digest is given.
    pub tag: Option<String>,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: Option<String>,
}

impl ImageName {
    /// Reads a reference as Docker does: the first part is a registry where it has a `.` or `:` or is
    /// `localhost`, else the image is Docker Hub's; neither tag nor digest means `latest`.
    ///
    /// # Errors
    /// What is wrong, in words that fit behind a path.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fail = |why: &str| Err(format!("`{text}` is not an image reference: {why}"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if let Some(digest) = digest {
            let hex = digest.strip_prefix("sha256:").unwrap_or_default();
            if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return fail("a digest is sha256: and 64 hexadecimal digits");
            }
        }
        let slash = rest.rfind('/').map_or(0, |i| i + 1);
        let (name, tag) = match rest[slash..].find(':') {
            Some(i) => (&rest[..slash + i], Some(&rest[slash + i + 1..])),
            None => (rest, None),
        };
        if tag.is_some_and(|t| !is_tag(t)) {
            return fail("a tag is 1 to 128 letters, digits, '_', '.' and '-'");
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, path.to_owned())
            }
            Some(_) => (DEFAULT_REGISTRY, name.to_owned()),
            None => (DEFAULT_REGISTRY, format!("{OFFICIAL}/{name}")),
        };
        let registry = if registry == "index.docker.io" {
            DEFAULT_REGISTRY
        } else {
            registry
        };
        if !is_registry(registry) {
            return fail("the registry is a host name, with :port where it needs one");
        }
        if name.is_empty() || name.len() > MAX_NAME || !path.split('/').all(is_component) {
            return fail("a name has lower-case letters and digits, with '.', '_', '__' or '-' between them");
        }
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository: path,
            tag,
            digest: digest.map(str::to_owned),
        })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= 128
        && tag
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && tag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = registry
        .split_once(':')
        .map_or((registry, None), |(h, p)| (h, Some(p)));
    let label = |l: &str| {
        l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !l.is_empty() && !l.starts_with('-')
    };
    host.split('.').all(label) && port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0))
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(part: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let separators = ["..", "._", "_.", "-.", ".-", "-_", "_-", "___"];
    edge(part.bytes().next())
        && edge(part.bytes().last())
        && part
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
        && !separators.iter().any(|s| part.contains(s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Result<&str, &str>) {
        match (ImageName::parse(text), want) {
            (Ok(got), Ok(want)) => assert_eq!(got.to_string(), want),
            (Err(got), Err(want)) => assert!(got.contains(want), "{got:?} lacks {want:?}"),
            (got, want) => panic!("{text}: {got:?}, expected {want:?}"),
        }
    }

    #[test]
    fn short_names_are_docker_hubs() {
        check("alpine", Ok("docker.io/library/alpine:latest"));
        check("alpine:3.20", Ok("docker.io/library/alpine:3.20"));
        check("grafana/loki:3", Ok("docker.io/grafana/loki:3"));
        check(
            "docker.io/library/alpine:3.20",
            Ok("docker.io/library/alpine:3.20"),
        );
        check(
            "index.docker.io/library/alpine",
            Ok("docker.io/library/alpine:latest"),
        );
    }

    #[test]
    fn first_part_with_dot_port_or_localhost_is_a_registry() {
        check("example.org/a/b:1", Ok("example.org/a/b:1"));
        check("localhost/a", Ok("localhost/a:latest"));
        check("localhost:5000/a", Ok("localhost:5000/a:latest"));
        check("10.0.0.1:5000/a/b/c:x", Ok("10.0.0.1:5000/a/b/c:x"));
    }

    #[test]
    fn digest_stands_without_tag() {
        let digest = format!("sha256:{}", "a".repeat(64));
        check(
            &format!("alpine@{digest}"),
            Ok(&format!("docker.io/library/alpine@{digest}")),
        );
        check(
            &format!("alpine:3@{digest}"),
            Ok(&format!("docker.io/library/alpine:3@{digest}")),
        );
        check("alpine@sha256:abc", Err("64 hexadecimal"));
        check("alpine@md5:abc", Err("64 hexadecimal"));
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in [
            "",
            ":",
            "/",
            "a/",
            "Alpine",
            "a..b",
            "a___b",
            "-a",
            "a//b",
            "a b",
            "../a",
            "example.org/",
        ] {
            check(text, Err("not an image reference"));
        }
        check("alpine:", Err("a tag is"));
        check("alpine:a b", Err("a tag is"));
        check("example.org:x/a", Err("registry"));
        check(&"a".repeat(256), Err("a name has"));
    }
}
