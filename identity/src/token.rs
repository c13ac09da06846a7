//! Secrets of people, and of machines that join. A token is `sbxt.ID.SECRET`, and one for joining
//! `sbxj.ID.SECRET.FINGERPRINT`: the fingerprint is the authority's, so that a machine that joins knows whom it speaks
//! to. The id is no secret: it names the token in lists and finds its record. The secret has 256 random bits, which
//! nobody guesses; a plain SHA-256 of it is therefore as good as any slow hash, and is what the cluster keeps. Hashes
//! are compared in constant time.

use crate::pin::Fingerprint;
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;

const ACCESS: &str = "sbxt";
const JOIN: &str = "sbxj";
const ID_CHARACTERS: usize = 10;
const SECRET_BYTES: usize = 32;
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// In the documentation. Never valid.
pub const EXAMPLE: &str = "sbxt.exampleexa.e7a3e7a3e7a3e7a3e7a3e7a3e7a3e7a3e7a3e7a3e7a3e7a3e7a3e7a3e7a3e7a3";

/// Why a text is no token, or none that may be used. Never shows the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("is no token; one looks like `sbxt.ID.SECRET`")]
    Form,
    #[error("is no token for joining; one looks like `sbxj.ID.SECRET.FINGERPRINT`")]
    JoinForm,
    #[error("is empty")]
    Empty,
    #[error("is an example of the documentation, which everybody knows; make a token of your own")]
    Example,
    #[error("is no hash of a token; one looks like `ID:HASH`")]
    HashForm,
    #[error("the operating system gives no randomness: {0}")]
    Randomness(String),
}

/// A secret with the name that it is known by. `Debug` does not show it, `Display` does.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    id: String,
    secret: [u8; SECRET_BYTES],
}

/// What lets one machine into the cluster, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub secret: Secret,
    pub authority: Fingerprint,
}

/// What the cluster keeps of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretHash(pub [u8; 32]);

impl Secret {
    /// A new one, of the operating system's randomness.
    ///
    /// # Errors
    /// [`TokenError::Randomness`]
    pub fn generate() -> Result<Self, TokenError> {
        let mut random = [0; ID_CHARACTERS + SECRET_BYTES];
        OsRng
            .try_fill_bytes(&mut random)
            .map_err(|error| TokenError::Randomness(error.to_string()))?;
        let (name, bytes) = random.split_at(ID_CHARACTERS);
        let id = name
            .iter()
            .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
            .collect();
        let mut secret = [0; SECRET_BYTES];
        secret.copy_from_slice(bytes);
        Ok(Self { id, secret })
    }

    /// Of what was sent apart.
    ///
    /// # Errors
    /// [`TokenError`]
    pub fn new(id: &str, secret: &[u8]) -> Result<Self, TokenError> {
        let secret = secret.try_into().map_err(|_| TokenError::Form)?;
        if !is_id(id) {
            return Err(TokenError::Form);
        }
        let id = id.to_owned();
        Self { id, secret }.refuse_example()
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret part alone.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.secret
    }

    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.secret).into())
    }

    /// The id and the secret of a token in parts.
    fn of_parts(id: &str, secret: &str) -> Option<Self> {
        let mut bytes = [0; SECRET_BYTES];
        hex::decode_to_slice(secret, &mut bytes).ok()?;
        is_id(id).then(|| Self {
            id: id.to_owned(),
            secret: bytes,
        })
    }

    fn refuse_example(self) -> Result<Self, TokenError> {
        if self.to_string() == EXAMPLE || self.secret.iter().all(|byte| *byte == self.secret[0]) {
            return Err(TokenError::Example);
        }
        Ok(self)
    }
}

/// Whether a text could be a token's id.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == ID_CHARACTERS
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

impl SecretHash {
    /// Whether it is this secret's, in a time that does not tell how much of it is.
    #[must_use]
    pub fn is_of(&self, secret: &Secret) -> bool {
        self.0.ct_eq(&secret.hash().0).into()
    }

    /// As in the file of a cluster's first token: `ID:HASH`.
    #[must_use]
    pub fn record(&self, id: &str) -> String {
        format!("{id}:{}", hex::encode(self.0))
    }

    /// # Errors
    /// [`TokenError`], also where it is the hash of an example, or of nothing.
    pub fn from_record(text: &str) -> Result<(String, Self), TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        let (id, hash) = text.split_once(':').ok_or(TokenError::HashForm)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(hash, &mut bytes).map_err(|_| TokenError::HashForm)?;
        if !is_id(id) {
            return Err(TokenError::HashForm);
        }
        Self(bytes).refuse_known().map(|hash| (id.to_owned(), hash))
    }

    /// Refuses the hash of a secret that everybody knows.
    ///
    /// # Errors
    /// [`TokenError::Example`]
    pub fn refuse_known(self) -> Result<Self, TokenError> {
        let example = EXAMPLE
            .rsplit('.')
            .next()
            .and_then(|secret| hex::decode(secret).ok());
        let known = [example.unwrap_or_default(), Vec::new(), vec![0; SECRET_BYTES]];
        let is_known = known
            .iter()
            .any(|secret| self.0.ct_eq(Sha256::digest(secret).as_ref()).into());
        if is_known {
            Err(TokenError::Example)
        } else {
            Ok(self)
        }
    }
}

impl FromStr for Secret {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        let mut parts = text.split('.');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(ACCESS), Some(id), Some(secret), None) => Self::of_parts(id, secret)
                .ok_or(TokenError::Form)?
                .refuse_example(),
            _ => Err(TokenError::Form),
        }
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        let mut parts = text.split('.');
        match (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) {
            (Some(JOIN), Some(id), Some(secret), Some(authority), None) => Ok(Self {
                secret: Secret::of_parts(id, secret)
                    .ok_or(TokenError::JoinForm)?
                    .refuse_example()?,
                authority: authority.parse().map_err(|_| TokenError::JoinForm)?,
            }),
            _ => Err(TokenError::JoinForm),
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ACCESS}.{}.{}", self.id, hex::encode(self.secret))
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Secret { id, secret } = &self.secret;
        write!(f, "{JOIN}.{id}.{}.{}", hex::encode(secret), self.authority)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_secret_is_read_back_and_known_by_its_hash() {
        let secret = Secret::generate().expect("randomness");
        let read: Secret = secret.to_string().parse().expect("a token");
        assert_eq!(read, secret);
        assert!(secret.hash().is_of(&read));
        assert!(!secret.hash().is_of(&Secret::generate().expect("randomness")));
        let (id, hash) = SecretHash::from_record(&secret.hash().record(secret.id())).expect("a record");
        assert_eq!((id.as_str(), hash), (secret.id(), secret.hash()));
        assert!(!format!("{secret:?}").contains(&hex::encode(secret.secret)));
    }

    #[track_caller]
    fn check(text: &str, expected: TokenError) {
        assert_eq!(text.parse::<Secret>(), Err(expected));
    }

    #[test]
    fn text_that_is_no_usable_token_is_refused() {
        let zeros = "0".repeat(64);
        check("", TokenError::Empty);
        check(" \n", TokenError::Empty);
        check("changeme", TokenError::Form);
        check("sbxt.abc.00", TokenError::Form);
        check(&format!("sbxt.aaaaaaaaaa.{zeros}"), TokenError::Example);
        check(&format!("sbxj.aaaaaaaaaa.{zeros}"), TokenError::Form);
        check(EXAMPLE, TokenError::Example);
    }

    #[test]
    fn hash_of_a_known_secret_is_refused() {
        let record = |secret: &[u8]| SecretHash(Sha256::digest(secret).into()).record("aaaaaaaaaa");
        for known in [&[][..], &[0; SECRET_BYTES], &[0xe7, 0xa3].repeat(16)] {
            assert_eq!(SecretHash::from_record(&record(known)), Err(TokenError::Example));
        }
        assert_eq!(SecretHash::from_record("\n"), Err(TokenError::Empty));
        assert_eq!(SecretHash::from_record("secret"), Err(TokenError::HashForm));
    }

    #[test]
    fn token_for_joining_carries_its_authority() {
        let token = JoinToken {
            secret: Secret::generate().expect("randomness"),
            authority: Fingerprint([7; 32]),
        };
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        let access = token.secret.to_string();
        assert_eq!(access.parse::<JoinToken>(), Err(TokenError::JoinForm));
    }
}
