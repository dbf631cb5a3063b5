//! The reasons of faults, by name (VT-d chapter 7 and appendix A).

use core::fmt;

/// A fault reason as hardware records it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason(u8);

impl Reason {
    /// From the record's field.
    pub const fn from_code(code: u8) -> Self {
        Self(code)
    }

    /// The field.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// Whether an interrupt was refused, not a memory access.
    pub const fn is_of_an_interrupt(self) -> bool {
        self.0 >= 0x20 && self.0 <= 0x2f
    }

    /// What it means; `None` for codes that no manual lists.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0x01 => "its bus has no context table (default deny)",
            0x02 => "it is attached to nothing (default deny)",
            0x03 => "its context entry is invalid",
            0x04 => "the address is beyond the domain's width",
            0x05 => "writing there is not permitted",
            0x06 => "reading there is not permitted",
            0x07 => "a page table could not be read",
            0x08 => "the root table could not be read",
            0x09 => "a context table could not be read",
            0x0a => "a reserved bit is set in the root entry",
            0x0b => "a reserved bit is set in the context entry",
            0x0c => "a reserved bit is set in a page-table entry",
            0x0d => "its context entry blocks this kind of request",
            0x0e => "the page leads to the interrupt addresses",
            0x20 => "a reserved field is set in the message",
            0x21 => "the handle is beyond the interrupt table",
            0x22 => "the handle's entry is not present",
            0x23 => "the interrupt table could not be read",
            0x24 => "a reserved bit is set in the interrupt entry",
            0x25 => "compatibility format is blocked",
            0x26 => "the handle belongs to another device",
            0x27 => "the posted-interrupt descriptor could not be read",
            0x28 => "a reserved bit is set in the posted-interrupt descriptor",
            0x29 => "a request to the interrupt addresses is no interrupt",
            0x30 => "the root table's address or mode is invalid",
            0x31 => "requests with a process id are not translated in this mode",
            0x32 => "page requests are not taken in this mode",
            0x33 => "all DMA is aborted",
            0x38 => "the scalable root table could not be read",
            0x39 => "its bus has no scalable context table (default deny)",
            0x3a => "a reserved bit is set in the scalable root entry",
            0x40 => "a scalable context table could not be read",
            0x41 => "it is attached to nothing in scalable mode (default deny)",
            0x42 => "a reserved bit is set in the scalable context entry",
            0x43 => "its scalable context entry is invalid",
            0x44 => "it may not use a TLB of its own",
            0x45 => "it may not use process ids",
            0x46 => "the process id is beyond its directory",
            0x47 => "it may not send page requests",
            0x48 => "its process id for plain requests is invalid",
            0x50 => "the process directory could not be read",
            0x51 => "the process directory has no such entry",
            0x52 => "a reserved bit is set in the process directory",
            0x58 => "a process table could not be read",
            0x59 => "the process id is attached to nothing",
            0x5a => "a reserved bit is set in the process entry",
            0x5b => "the process entry is invalid",
            0x5c => "execute requests are not enabled",
            0x5d => "supervisor requests are not enabled",
            0x70 => "a first-stage table could not be read",
            0x71 => "nothing is mapped there in the first stage",
            0x72 => "a reserved bit is set in a first-stage entry",
            0x73 => "the first-stage table's address is invalid",
            0x74 => "the second stage refused a first-stage table's address",
            0x75 => "the second stage could not be read for a first-stage table",
            0x76 => "the second stage refused to read a first-stage table",
            0x77 => "the second stage refused to write a first-stage table",
            0x78 => "a second-stage table could not be read",
            0x79 => "the second stage does not permit this",
            0x7a => "a reserved bit is set in a second-stage entry",
            0x7b => "the second-stage table's address is invalid",
            0x7c => "the second stage's accessed flag could not be set: the walk does not snoop",
            0x7d => "the second stage failed",
            0x80 => "the address is not canonical",
            0x81 => "user and supervisor do not mix there",
            0x82 => "executing there is not permitted",
            0x83 => "the address is beyond the first stage's width",
            0x84 => "the address is beyond the second stage's width",
            0x85 => "writing there is not permitted in this process",
            0x86 => "reading there is not permitted in this process",
            0x87 => "the translation leads to the interrupt addresses",
            0x88 | 0x89 => "translation failed",
            0x90 => "the first stage's accessed flag could not be set: the walk does not snoop",
            0x91 => "the first stage's accessed flag could not be set",
            _ => return None,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} (reason {:#04x})", self.0),
            None => write!(f, "unknown reason {:#04x}", self.0),
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reason({:#04x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::string::ToString;

    use super::*;

    #[test]
    fn names_tell_reasons_apart() {
        let named: BTreeSet<_> = (0..=255).filter_map(|code| Reason::from_code(code).name()).collect();
        let count = (0..=255).filter(|code| Reason::from_code(*code).name().is_some()).count();
        assert_eq!(count, 75);
        assert_eq!(named.len(), count - 1, "0x88 and 0x89 share a name");
        assert_eq!(Reason::from_code(0).to_string(), "unknown reason 0x00");
        assert_eq!(Reason::from_code(0x26).to_string(), "the handle belongs to another device (reason 0x26)");
        assert!(Reason::from_code(0x26).is_of_an_interrupt() && !Reason::from_code(0x06).is_of_an_interrupt());
    }
}
