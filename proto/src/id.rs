//! Identifiers, checked once where they enter and trusted from there on.

use serde::Serialize;
use std::fmt;

/// Why a string is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("must not be empty")]
    Empty,
    #[error("is {len} characters long, at most {max} are allowed")]
    TooLong { len: usize, max: usize },
    #[error("must begin with a letter or digit and contain only letters, digits, '_', '.' and '-'")]
    Character,
    #[error("must not contain '..'")]
    DotDot,
}

/// `^[A-Za-z0-9][A-Za-z0-9_.-]{0,max-1}$`; with `dots` false, `..` is refused as well.
fn check(text: &str, max: usize, dotdot: bool) -> Result<(), IdError> {
    let mut bytes = text.bytes();
    let first = bytes.next().ok_or(IdError::Empty)?;
    if !first.is_ascii_alphanumeric()
        || !bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    {
        return Err(IdError::Character);
    }
    if text.len() > max {
        return Err(IdError::TooLong { len: text.len(), max });
    }
    if !dotdot && text.contains("..") {
        return Err(IdError::DotDot);
    }
    Ok(())
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, max = $max:literal, dotdot = $dotdot:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// # Errors
            /// [`IdError`] where the text breaks the rule.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check(&text, $max, $dotdot)?;
                Ok(Self(text))
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

identifier!(
    /// A sandbox's id, unique in the cluster: 1..=128 characters.
    SandboxId, max = 128, dotdot = false
);
identifier!(
    /// A node's id, unique in the cluster: 1..=128 characters.
    NodeId, max = 128, dotdot = false
);
identifier!(
    /// An external's id, unique in the cluster: 1..=128 characters.
    ExternalId, max = 128, dotdot = false
);
identifier!(
    /// The name of a container or volume, unique within its sandbox: 1..=64 characters.
    Name, max = 64, dotdot = true
);

/// One number per created sandbox, assigned by the replicated state and never used again: tells two
/// sandboxes of one id apart, and names what a node makes for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Uid(pub u64);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
