//! Amounts of memory.

use core::fmt;

/// The granularity of a VM's memory, in bytes.
pub(crate) const GRANULARITY: u64 = 2 << 20;

/// A number of bytes, shown with the largest of the suffixes K, M and G that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl Bytes {
    /// Reads a decimal number with a suffix K, M or G (powers of 1024). `None` without a suffix, with anything else
    /// in it, or past the 64-bit range.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let suffix = text.chars().last()?;
        let unit: u64 = match suffix {
            'K' => 1 << 10,
            'M' => 1 << 20,
            'G' => 1 << 30,
            _ => return None,
        };
        let digits = text.strip_suffix(suffix)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        digits.parse::<u64>().ok()?.checked_mul(unit).map(Self)
    }

    /// Whether a VM can have this much.
    pub(crate) fn is_whole(self) -> bool {
        self.0 != 0 && self.0.is_multiple_of(GRANULARITY)
    }

    /// The most of it that a VM can have.
    pub(crate) fn whole(self) -> Self {
        Self(self.0 / GRANULARITY * GRANULARITY)
    }

    /// The next amount that a VM can have.
    pub(crate) fn next_multiple(self) -> Self {
        Self(self.0.max(1).checked_next_multiple_of(GRANULARITY).unwrap_or(Self(u64::MAX).whole().0))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (suffix, shift) in [("G", 30), ("M", 20), ("K", 10)] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn sizes_have_a_suffix() {
        assert_eq!(Bytes::parse("512M"), Some(Bytes(512 << 20)));
        assert_eq!(Bytes::parse("2048K"), Some(Bytes(2 << 20)));
        assert_eq!(Bytes::parse("3G"), Some(Bytes(3 << 30)));
        for bad in ["", "M", "512", "512m", "+1M", "-1M", "1.5G", " 1G", "1G ", "1MB", "17179869184G", "0x10M", "1Ä"] {
            assert_eq!(Bytes::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_shown_with_the_largest_suffix_that_fits() {
        assert_eq!(Bytes(512 << 20).to_string(), "512M");
        assert_eq!(Bytes(1 << 30).to_string(), "1G");
        assert_eq!(Bytes(1025 << 10).to_string(), "1025K");
        assert_eq!(Bytes(0).to_string(), "0 bytes");
        assert_eq!(Bytes(1000).to_string(), "1000 bytes");
    }

    #[test]
    fn the_next_multiple_is_whole() {
        assert_eq!(Bytes(0).next_multiple(), Bytes(2 << 20));
        assert_eq!(Bytes(3 << 20).next_multiple(), Bytes(4 << 20));
        assert!(Bytes(u64::MAX).next_multiple().is_whole());
    }
}
