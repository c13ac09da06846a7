//! Sizes, cpu shares and times as types, so that no function takes a bare number of something.

use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("`{0}` is not a size: write bytes, or a number with Ki, Mi, Gi, Ti, k, M, G or T, such as 128Mi")]
    Size(String),
    #[error("`{0}` is not an amount of cpu: write cores or thousandths, such as 2, 0.5 or 250m")]
    Cpu(String),
    #[error("`{0}` is too large")]
    TooLarge(String),
    #[error("must be greater than 0")]
    Zero,
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// Cpu time in thousandths of a core.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCpu(pub u64);

/// A point in time: milliseconds since the Unix epoch, UTC. Shown as RFC 3339.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Splits `12.5Mi` in its decimal number and its suffix.
fn split(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    text.split_at(end)
}

/// `number * scale` exactly, `None` where it is malformed, has a remainder or overflows.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    if number.ends_with('.') {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    let parts = fraction.parse::<u128>().ok()? * u128::from(scale);
    let unit = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    if !parts.is_multiple_of(unit) {
        return None;
    }
    whole.checked_add(u64::try_from(parts / unit).ok()?)
}

impl Bytes {
    pub const fn mib(n: u64) -> Self {
        Self(n * MIB)
    }

    /// Reads `128Mi`, `1G`, `1.5Gi`, `1048576`.
    ///
    /// # Errors
    /// [`QuantityError`] where the text is no size or not a whole number of bytes.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (number, suffix) = split(text);
        let scale = match suffix {
            "" => 1,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            "Ki" => KIB,
            "Mi" => MIB,
            "Gi" => GIB,
            "Ti" => 1 << 40,
            _ => return Err(QuantityError::Size(text.to_owned())),
        };
        scaled(number, scale)
            .map(Self)
            .ok_or_else(|| QuantityError::Size(text.to_owned()))
    }

    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl MilliCpu {
    /// Reads `250m`, `0.5`, `2`.
    ///
    /// # Errors
    /// [`QuantityError`] where the text is no amount of cpu or finer than a thousandth.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (number, suffix) = split(text);
        let scale = match suffix {
            "m" => 1,
            "" => 1_000,
            _ => return Err(QuantityError::Cpu(text.to_owned())),
        };
        scaled(number, scale)
            .map(Self)
            .ok_or_else(|| QuantityError::Cpu(text.to_owned()))
    }

    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

macro_rules! sums {
    ($name:ident) => {
        impl std::ops::Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }
        impl std::ops::AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }
        impl std::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
                items.fold(Self(0), |a, b| a + b)
            }
        }
    };
}
sums!(Bytes);
sums!(MilliCpu);

impl fmt::Display for Bytes {
    /// The largest binary unit that leaves no remainder: `128Mi`, `1Gi`, `1000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (scale, suffix) in [(1u64 << 40, "Ti"), (GIB, "Gi"), (MIB, "Mi"), (KIB, "Ki")] {
            if self.0 >= scale && self.0.is_multiple_of(scale) {
                return write!(f, "{}{suffix}", self.0 / scale);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for MilliCpu {
    /// Whole cores as `2`, all else as `250m`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1_000) {
            write!(f, "{}", self.0 / 1_000)
        } else {
            write!(f, "{}m", self.0)
        }
    }
}

impl Timestamp {
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// Time from `earlier` to this; zero where this is earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// `None` for 0, which stands for "not yet" on the wire.
    #[must_use]
    pub fn from_wire(ms: u64) -> Option<Self> {
        (ms != 0).then_some(Self(ms))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = std::time::UNIX_EPOCH + Duration::from_millis(self.0);
        write!(f, "{}", humantime::format_rfc3339_millis(time))
    }
}

/// The text form, as a manifest has it.
macro_rules! serialize_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
serialize_as_text!(Bytes, MilliCpu, Timestamp);
