//! Naming PCI functions.

use core::fmt;

/// A PCI function by its place: segment, bus, device (0 to 31) and function (0 to 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionAddress {
    /// The PCI segment group.
    pub segment: u16,
    /// The bus.
    pub bus: u8,
    /// The device, 0 to 31.
    pub device: u8,
    /// The function, 0 to 7.
    pub function: u8,
}

/// How a configuration names a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// `segment:bus:device.function`: the function at this place.
    Address(FunctionAddress),
    /// `vendor:device`: the first function with these ids that nothing before it in the file has claimed.
    Identity {
        /// The vendor id.
        vendor: u16,
        /// The device id.
        device: u16,
    },
}

impl Selector {
    /// Reads `0000:01:00.0` or `8086:10d3`: hexadecimal, every digit written.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (first, second, third) = (parts.next()?, parts.next()?, parts.next());
        if parts.next().is_some() {
            return None;
        }
        let Some(third) = third else {
            return Some(Self::Identity { vendor: hexadecimal(first, 4)?, device: hexadecimal(second, 4)? });
        };
        let (device, function) = third.split_once('.')?;
        let address = FunctionAddress {
            segment: hexadecimal(first, 4)?,
            bus: hexadecimal(second, 2)?.try_into().ok()?,
            device: hexadecimal(device, 2)?.try_into().ok()?,
            function: hexadecimal(function, 1)?.try_into().ok()?,
        };
        (address.device < 32 && address.function < 8).then_some(Self::Address(address))
    }
}

/// A number of exactly so many hexadecimal digits.
fn hexadecimal(text: &str, digits: usize) -> Option<u16> {
    if text.len() != digits || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(text, 16).ok()
}

impl fmt::Display for FunctionAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, bus, device, function } = self;
        write!(f, "{segment:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Identity { vendor, device } => write!(f, "{vendor:04x}:{device:04x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn selectors_read_back_as_written() {
        for text in ["0000:01:00.0", "ffff:ff:1f.7", "8086:10d3", "1234:11e8"] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let bad = [
            "",
            ":",
            "01:00.0",
            "0000:01:20.0",
            "0000:01:00.8",
            "0000:01:00",
            "0000:01:00.0.0",
            "0000:01:00.0:0",
            "8086",
            "8086:10d",
            "8086:+0d3",
            "808g:10d3",
            "0x8086:10d3",
            " 8086:10d3",
            "0000:001:00.0",
        ];
        for text in bad {
            assert_eq!(Selector::parse(text), None, "{text:?}");
        }
    }
}
