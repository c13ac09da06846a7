//! How a registry or mirror is spoken to: with TLS, and whom to trust then, or without.

use super::error::ImageError;
use std::path::{Path, PathBuf};
use std::str::FromStr;

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TLS with whom the authorities of this machine vouch for.
    #[default]
    Tls,
    /// The same, and the authorities in this PEM file count as well.
    OwnAuthority(PathBuf),
    /// TLS with whoever answers: hides what is sent from who only listens, and credentials from nobody else.
    Unverified,
    /// Without TLS.
    Plain,
}

/// A registry or mirror with its transport, as an administrator writes it: `10.0.0.1:5000=plain`,
/// `registry.lan=ca:/etc/ssl/lan.pem`, `registry.lan=unverified`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryTransport {
    pub registry: String,
    pub transport: Transport,
}

impl Transport {
    pub(super) fn scheme(&self) -> &'static str {
        match self {
            Self::Tls | Self::OwnAuthority(_) | Self::Unverified => "https",
            Self::Plain => "http",
        }
    }
}

impl FromStr for RegistryTransport {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let fail = |why| ImageError::Transport {
            text: text.to_owned(),
            why,
        };
        let (registry, how) = text.split_once('=').ok_or_else(|| fail("there is no `=`"))?;
        if registry.is_empty() || registry.contains('/') {
            return Err(fail(
                "what stands before `=` is no registry, such as 10.0.0.1:5000",
            ));
        }
        let transport = match (how, how.strip_prefix("ca:").map(Path::new)) {
            ("plain", _) => Transport::Plain,
            ("unverified", _) => Transport::Unverified,
            (_, Some(path)) if path.is_absolute() => Transport::OwnAuthority(path.to_owned()),
            (_, Some(_)) => return Err(fail("its file of certificates has no absolute path")),
            (_, None) => return Err(fail("there is no such way")),
        };
        Ok(Self {
            registry: registry.to_owned(),
            transport,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Result<(&str, Transport), &str>) {
        match (text.parse::<RegistryTransport>(), want) {
            (Ok(read), Ok((registry, transport))) => {
                assert_eq!((read.registry.as_str(), read.transport), (registry, transport));
            }
            (Err(said), Err(why)) => assert!(said.to_string().contains(why), "{said}"),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn transports_are_read_as_written() {
        check("10.0.0.1:5000=plain", Ok(("10.0.0.1:5000", Transport::Plain)));
        check("r.lan=unverified", Ok(("r.lan", Transport::Unverified)));
        check(
            "r.lan=ca:/etc/r.pem",
            Ok(("r.lan", Transport::OwnAuthority("/etc/r.pem".into()))),
        );
        check("r.lan", Err("no `=`"));
        check("=plain", Err("no registry"));
        check("r.lan/path=plain", Err("no registry"));
        check("r.lan=ca:r.pem", Err("no absolute path"));
        check("r.lan=http", Err("no such way"));
    }
}
