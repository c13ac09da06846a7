//! What a whole state comes to, in a few bytes: two replicas that have applied the same entries have the same digest, and
//! two that have gone apart have not. Pure.

use super::{State, stored};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// SHA-256 of all records, each key and each value behind its length.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl State {
    /// Of every byte that this state has on disk. Takes as long as encoding all of it does.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut sum = Sha256::new();
        for write in stored::records(self) {
            for bytes in [&write.key, &write.value.unwrap_or_default()] {
                sum.update((bytes.len() as u64).to_be_bytes());
                sum.update(bytes);
            }
        }
        Digest(sum.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
