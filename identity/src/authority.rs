//! The cluster's certificate authority. Owns what certificates look like: who they name, what they may be used for,
//! how long they hold. Keys are ECDSA on P-256. Whoever has the authority's key decides who belongs to the cluster:
//! it is kept by replicas alone, since a replica holds the whole state anyway. Called by `sbxctl cluster init`, by
//! replicas that sign for others, and by tests.

use crate::principal::Principal;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SignatureAlgorithm, SigningKey,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The authority outlives the machines that it names; exchanging it is work, see docs/security.md.
pub const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3_650);
/// Of a machine's certificate. It is renewed after two thirds, so that one that was stolen ends within three months
/// and a cluster that was switched off for a month comes back.
pub const CERTIFICATE_LIFE: Duration = DAY.saturating_mul(90);
/// Clocks differ: what is signed now holds for a machine whose clock is behind, too.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);
/// What an owner signs together with his key, so that the signature is good for nothing else.
const PROOF: &[u8] = b"sandboxd: this key is mine\0";

/// Why nothing was made or signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot make a key: {0}")]
    Key(rcgen::Error),
    #[error("cannot make the certificate of the authority: {0}")]
    Create(rcgen::Error),
    #[error("the key of the certificate authority can't be read: {0}")]
    ReadKey(rcgen::Error),
    #[error("the certificate of the authority can't be read: {0}")]
    ReadCertificate(String),
    #[error("the key of the certificate authority does not belong to its certificate")]
    OtherKey,
    #[error("`{0}` is no host name that a certificate could hold")]
    Host(String),
    #[error("who asks for a certificate has not proved that the key is his")]
    Proof,
    #[error("cannot sign the certificate of {principal}: {source}")]
    Sign {
        principal: Principal,
        source: rcgen::Error,
    },
}

/// The authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A new key and its certificate, in PEM.
pub struct Issued {
    /// The machine's own certificate, then the authority's.
    pub chain: String,
    pub key: String,
}

/// A key whose certificate somebody else will sign.
pub struct Unsigned {
    public: PublicKey,
    /// In PEM; goes nowhere.
    pub key: String,
}

/// The half of a key that everybody may know, with a proof that its owner has the other half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// A point on P-256, uncompressed: 65 bytes.
    pub point: Vec<u8>,
    /// The owner's signature of it, ECDSA with SHA-256, in DER.
    pub proof: Vec<u8>,
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// [`AuthorityError`] where the operating system gives no randomness.
    pub fn create(now: SystemTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Key)?;
        let params = own_params(now);
        let certificate = params.self_signed(&key).map_err(AuthorityError::Create)?;
        Ok(Self {
            certificate: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority of these files, in PEM, made by [`Authority::create`]. Of several certificates, the first is the
    /// one that signs.
    ///
    /// # Errors
    /// [`AuthorityError`] where they can't be read, or don't belong together.
    pub fn open(certificate: &str, key: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let unreadable = |error: &dyn std::error::Error| AuthorityError::ReadCertificate(error.to_string());
        let key = KeyPair::from_pem(key).map_err(AuthorityError::ReadKey)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| unreadable(&e))?;
        let authority = Self {
            certificate: certificate.to_owned(),
            issuer: Issuer::new(own_params(now), key),
        };
        // What it signs must be what its certificate vouches for.
        let probe = Unsigned::create()?;
        let signed = authority.sign(&probe.public(), &Principal::Replica(1), &[], now)?;
        let signed = CertificateDer::from_pem_slice(signed.as_bytes()).map_err(|e| unreadable(&e))?;
        let signed = webpki::EndEntityCert::try_from(&signed).map_err(|e| unreadable(&e))?;
        let anchors = [webpki::anchor_from_trusted_cert(&der).map_err(|e| unreadable(&e))?];
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let verified = signed.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &[],
            UnixTime::since_unix_epoch(since_epoch),
            webpki::KeyUsage::client_auth(),
            None,
            None,
        );
        match verified {
            Ok(_) => Ok(authority),
            Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
                Err(AuthorityError::OtherKey)
            }
            Err(error) => Err(unreadable(&error)),
        }
    }

    /// In PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// In PEM: the cluster's greatest secret.
    #[must_use]
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A new key and its certificate for `principal`, which others reach at `hosts`: names or addresses.
    ///
    /// # Errors
    /// [`AuthorityError`]
    pub fn issue(
        &self,
        principal: &Principal,
        hosts: &[String],
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        let unsigned = Unsigned::create()?;
        Ok(Issued {
            chain: self.sign(&unsigned.public, principal, hosts, now)?,
            key: unsigned.key,
        })
    }

    /// Signs a key, whose owner has proved that it is his. What the certificate says is decided here. Gives the
    /// machine's certificate, then the authority's, in PEM.
    ///
    /// # Errors
    /// [`AuthorityError`]
    pub fn sign(
        &self,
        key: &PublicKey,
        principal: &Principal,
        hosts: &[String],
        now: SystemTime,
    ) -> Result<String, AuthorityError> {
        key.check()?;
        let certificate = params(principal, hosts, now)?
            .signed_by(key, &self.issuer)
            .map_err(|source| AuthorityError::Sign {
                principal: principal.clone(),
                source,
            })?;
        Ok(format!("{}{}", certificate.pem(), self.certificate))
    }
}

impl PublicKey {
    /// Whether it is a key, and its owner has the other half of it.
    fn check(&self) -> Result<(), AuthorityError> {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point);
        let message = [PROOF, &self.point].concat();
        key.verify(&message, &self.proof)
            .map_err(|_| AuthorityError::Proof)
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl Unsigned {
    /// # Errors
    /// [`AuthorityError::Key`]
    pub fn create() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Key)?;
        let point = key.public_key_raw().to_vec();
        let proof = key.sign(&[PROOF, &point].concat()).map_err(AuthorityError::Key)?;
        Ok(Self {
            public: PublicKey { point, proof },
            key: key.serialize_pem(),
        })
    }

    /// What is sent to whoever signs.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public.clone()
    }
}

/// What the authority's own certificate says.
fn own_params(now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("sandboxd cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + AUTHORITY_LIFE).into();
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// What the certificate of `principal` says. Only a replica's is good for serving: no agent can pass for one.
fn params(
    principal: &Principal,
    hosts: &[String],
    now: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let host = |text: &String| -> Result<SanType, AuthorityError> {
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => match text.as_str().try_into() {
                Ok(name) if !text.is_empty() => Ok(SanType::DnsName(name)),
                Ok(_) | Err(_) => Err(AuthorityError::Host(text.clone())),
            },
        }
    };
    let uri = principal.uri();
    let uri = uri.as_str().try_into().map_err(|source| AuthorityError::Sign {
        principal: principal.clone(),
        source,
    })?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&principal.to_string());
    params.subject_alt_names = vec![SanType::URI(uri)];
    for text in hosts {
        params.subject_alt_names.push(host(text)?);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match principal {
        Principal::Replica(_) => vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
        Principal::Node(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + CERTIFICATE_LIFE).into();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::principal::Certified;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[track_caller]
    fn first(chain: &str) -> Certified {
        let der = CertificateDer::from_pem_slice(chain.as_bytes()).expect("a certificate");
        Certified::read(&der).expect("it is readable")
    }

    #[test]
    fn issued_certificate_names_its_machine_and_ends() {
        let authority = Authority::create(now()).expect("made");
        let principal = Principal::Replica(3);
        let hosts = ["10.0.0.3".to_owned(), "r3.example.org".to_owned()];
        let issued = authority.issue(&principal, &hosts, now()).expect("issued");
        let certified = first(&issued.chain);
        assert_eq!(certified.principal, Some(principal));
        assert_eq!(certified.not_after, now() + CERTIFICATE_LIFE);
        assert!(certified.renew_at() < certified.not_after && certified.renew_at() > now());
        assert_eq!(issued.chain.matches("BEGIN CERTIFICATE").count(), 2);
    }

    #[test]
    fn key_without_its_owners_proof_is_not_signed() {
        let authority = Authority::create(now()).expect("made");
        let (own, other) = (
            Unsigned::create().expect("a key").public(),
            Unsigned::create().expect("a key").public(),
        );
        let stolen = PublicKey {
            point: other.point,
            ..own.clone()
        };
        let nonsense = PublicKey {
            point: vec![4; 65],
            ..own.clone()
        };
        for key in [stolen, nonsense] {
            let signed = authority.sign(&key, &Principal::Replica(1), &[], now());
            assert!(matches!(signed, Err(AuthorityError::Proof)));
        }
        assert!(authority.sign(&own, &Principal::Replica(1), &[], now()).is_ok());
    }

    #[test]
    fn authority_opens_with_its_own_key_alone() {
        let authority = Authority::create(now()).expect("made");
        let other = Authority::create(now()).expect("made");
        assert!(Authority::open(authority.certificate(), &authority.key(), now()).is_ok());
        let opened = Authority::open(authority.certificate(), &other.key(), now());
        assert!(matches!(opened, Err(AuthorityError::OtherKey)));
    }

    #[test]
    fn host_that_is_none_is_refused() {
        let authority = Authority::create(now()).expect("made");
        for host in ["", "ü.example"] {
            let issued = authority.issue(&Principal::Replica(1), &[host.to_owned()], now());
            assert!(matches!(issued, Err(AuthorityError::Host(_))), "{host}");
        }
    }
}
