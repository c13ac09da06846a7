//! What a certificate of the cluster says about its owner. The name stands in a subject alternative name of its own
//! form, `sandboxd://replica/1` or `sandboxd://node/NODE`: never in the common name, which is for people.

use proto::id::NodeId;
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::time::SystemTime;
use webpki::EndEntityCert;
use yasna::{ASN1Result, BERReader};

const SCHEME: &str = "sandboxd://";

/// The machine that a certificate speaks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A replica, by its number.
    Replica(u64),
    /// The agent of a node.
    Node(NodeId),
}

/// What is read out of a certificate whose chain was verified elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certified {
    /// `None`: it names no machine of a cluster.
    pub principal: Option<Principal>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate can't be read: {0}")]
pub struct CertificateError(String);

impl Principal {
    /// As it stands in the certificate.
    #[must_use]
    pub fn uri(&self) -> String {
        match self {
            Self::Replica(id) => format!("{SCHEME}replica/{id}"),
            Self::Node(id) => format!("{SCHEME}node/{id}"),
        }
    }

    /// `None` where it is not one of ours.
    #[must_use]
    pub fn from_uri(uri: &str) -> Option<Self> {
        let (kind, name) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        match kind {
            "replica" => name.parse().ok().filter(|id| *id > 0).map(Self::Replica),
            "node" => NodeId::new(name).ok().map(Self::Node),
            _ => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(id) => write!(f, "replica/{id}"),
            Self::Node(id) => write!(f, "node/{id}"),
        }
    }
}

impl Certified {
    /// # Errors
    /// [`CertificateError`] where it is no certificate.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let parsed =
            EndEntityCert::try_from(certificate).map_err(|error| CertificateError(error.to_string()))?;
        let mut principals = parsed.valid_uri_names().filter_map(Principal::from_uri);
        let principal = principals.next();
        if principals.next().is_some() {
            return Err(CertificateError("it names more than one machine".to_owned()));
        }
        let (not_before, not_after) =
            validity(certificate).map_err(|error| CertificateError(error.to_string()))?;
        Ok(Self {
            principal,
            not_before,
            not_after,
        })
    }

    /// When a new one is asked for: after two thirds of its life, so that an outage of weeks does not end it.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life * 2 / 3
    }
}

/// RFC 5280, 4.1: from the certificate's first part, the fifth field after its version.
fn validity(certificate: &[u8]) -> ASN1Result<(SystemTime, SystemTime)> {
    yasna::parse_ber(certificate, |reader| {
        reader.read_sequence(|certificate| {
            let times = certificate.next().read_sequence(|to_sign| {
                to_sign.next().read_der()?; // version
                to_sign.next().read_der()?; // serial number
                to_sign.next().read_der()?; // algorithm
                to_sign.next().read_der()?; // issuer
                let times = to_sign.next().read_sequence(|validity| {
                    let begin = time(validity.next())?;
                    Ok((begin, time(validity.next())?))
                })?;
                while to_sign.read_optional(|field| field.read_der())?.is_some() {}
                Ok(times)
            })?;
            certificate.next().read_der()?; // algorithm
            certificate.next().read_der()?; // signature
            Ok(times)
        })
    })
}

/// Two digits of the year until 2049, four from then on.
fn time(reader: BERReader<'_, '_>) -> ASN1Result<SystemTime> {
    let is_short = reader.lookahead_tag()? == yasna::tags::TAG_UTCTIME;
    if is_short {
        Ok((*reader.read_utctime()?.datetime()).into())
    } else {
        Ok((*reader.read_generalized_time()?.datetime()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(uri: &str, expected: Option<&str>) {
        let read = Principal::from_uri(uri);
        assert_eq!(read.as_ref().map(ToString::to_string).as_deref(), expected);
        if let Some(principal) = read {
            assert_eq!(principal.uri(), uri);
        }
    }

    #[test]
    fn names_of_machines_are_read_and_nothing_else() {
        check("sandboxd://replica/1", Some("replica/1"));
        check("sandboxd://node/agent-1", Some("node/agent-1"));
        check("sandboxd://replica/0", None);
        check("sandboxd://replica/one", None);
        check("sandboxd://node/../etc", None);
        check("sandboxd://node/", None);
        check("sandboxd://admin/1", None);
        check("https://replica/1", None);
    }
}
