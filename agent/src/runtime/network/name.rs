//! The name of a sandbox's link on the node: one to one with the sandbox's uid, so that it is never used again,
//! and what has it can be told whose it is.

use proto::id::Uid;
use std::fmt;

/// Every link with this prefix is a sandbox's: the firewall goes by it. Nothing else of ours begins so, the
/// bridges of local clusters (`sbxd...`) among it.
pub const PREFIX: &str = "sbx-";
/// Upper and lower case, since 36 digits would make the longest name a byte too long.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// `sbx-` and the uid in base 62: 5..=15 bytes, and 15 is the kernel's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName(Uid);

impl LinkName {
    #[must_use]
    pub fn of(uid: Uid) -> Self {
        Self(uid)
    }

    /// The name that is spelled so; `None` for links that are not of sandboxes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?;
        let mut uid: u64 = 0;
        for byte in digits.bytes() {
            let digit = DIGITS.iter().position(|d| *d == byte)?;
            uid = uid.checked_mul(62)?.checked_add(u64::try_from(digit).ok()?)?;
        }
        let name = Self(Uid(uid));
        // One spelling only: no leading zeros, no empty number.
        (name.to_string() == text).then_some(name)
    }

    #[must_use]
    pub fn uid(self) -> Uid {
        self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 11];
        let mut start = text.len();
        let mut rest = self.0.0;
        loop {
            start -= 1;
            text[start] = DIGITS[(rest % 62) as usize];
            rest /= 62;
            if rest == 0 {
                break;
            }
        }
        f.write_str(PREFIX)?;
        text[start..]
            .iter()
            .try_for_each(|b| write!(f, "{}", char::from(*b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(uid: u64, name: &str) {
        assert_eq!(LinkName::of(Uid(uid)).to_string(), name);
        assert_eq!(LinkName::parse(name), Some(LinkName::of(Uid(uid))));
        assert!(name.len() <= 15, "{name}");
    }

    #[test]
    fn uids_of_every_size_have_one_name_each() {
        check(0, "sbx-0");
        check(61, "sbx-z");
        check(62, "sbx-10");
        check(1_000_000, "sbx-4C92");
        check(u64::MAX, "sbx-LygHa16AHYF");
    }

    #[test]
    fn names_of_others_are_not_taken_for_ours() {
        for name in [
            "",
            "lo",
            "eth0",
            "sbx",
            "sbx-",
            "sbxd1",
            "sbx-01",
            "sbx-a.b",
            "sbx-zzzzzzzzzzz",
            "Sbx-1",
        ] {
            assert_eq!(LinkName::parse(name), None, "{name}");
        }
    }
}
