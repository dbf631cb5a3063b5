//! Interrupts on their way: what a message-signalled interrupt, an I/O APIC entry or an interrupt command says.

use core::fmt;

/// How the receiver takes an interrupt (SDM volume 3 section 11.11.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// To every processor of the destination.
    Fixed,
    /// To one processor of the destination.
    LowestPriority,
    /// A system-management interrupt: virtual CPUs have no such mode, it is dropped.
    SystemManagement,
    /// Non-maskable.
    NonMaskable,
    /// INIT: reset and wait for a start-up interrupt.
    Init,
    /// Start-up: begin at page `vector` in real mode.
    StartUp,
    /// As from an 8259; there is none behind this bus, it is dropped.
    External,
}

impl DeliveryMode {
    /// From the three bits of the encoding; 3 is reserved.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::SystemManagement,
            4 => Self::NonMaskable,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::External,
            _ => return None,
        })
    }
}

/// Which processors an interrupt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The one with this APIC id; all ones (8 or 32 bits) is everyone.
    Physical(u32),
    /// Those whose logical id has a bit in common; matching follows each receiver's own mode.
    Logical(u32),
    /// The sender itself.
    Myself,
    /// Everyone.
    All,
    /// Everyone but the sender.
    Others,
}

/// Edge or level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The interrupt is over when it is taken.
    Edge,
    /// The interrupt's end is told to the I/O APIC.
    Level,
}

/// One interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// For fixed and lowest-priority delivery 16 to 255; for start-up a page number below 1 MiB.
    pub vector: u8,
    /// How it is taken.
    pub mode: DeliveryMode,
    /// Whether its end matters.
    pub trigger: Trigger,
    /// For whom.
    pub destination: Destination,
}

/// A message-signalled interrupt in compatibility format, as a virtual device's MSI capability holds it (SDM volume 3
/// section 11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where the device writes.
    pub address: u64,
    /// What it writes.
    pub data: u32,
}

/// A write that is no interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAnInterrupt {
    /// The address is outside 0xFEE0_0000..0xFEF0_0000.
    Address(u64),
    /// The delivery mode is reserved.
    Mode(u32),
}

impl fmt::Display for NotAnInterrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => {
                write!(f, "address {address:#x} is not in the interrupt range 0xfee00000 to 0xfeefffff")
            }
            Self::Mode(data) => write!(f, "data {data:#x} has the reserved delivery mode 3"),
        }
    }
}

impl core::error::Error for NotAnInterrupt {}

impl MsiMessage {
    /// The interrupt that the message stands for.
    pub fn decode(self) -> Result<Interrupt, NotAnInterrupt> {
        if self.address >> 20 != 0xfee {
            return Err(NotAnInterrupt::Address(self.address));
        }
        let destination = (self.address >> 12 & 0xff) as u32;
        Ok(Interrupt {
            vector: self.data as u8,
            mode: DeliveryMode::from_bits((self.data >> 8) as u8).ok_or(NotAnInterrupt::Mode(self.data))?,
            trigger: if self.data & 1 << 15 == 0 { Trigger::Edge } else { Trigger::Level },
            destination: if self.address & 1 << 2 == 0 {
                Destination::Physical(destination)
            } else {
                Destination::Logical(destination)
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_decode_by_the_manual() {
        let message = MsiMessage { address: 0xfee0_300c, data: 0x0000_4141 };
        assert_eq!(
            message.decode(),
            Ok(Interrupt {
                vector: 0x41,
                mode: DeliveryMode::LowestPriority,
                trigger: Trigger::Edge,
                destination: Destination::Logical(3),
            })
        );
        let level = MsiMessage { address: 0xfee0_1000, data: 0xc055 };
        let decoded = level.decode().unwrap();
        assert_eq!((decoded.trigger, decoded.destination), (Trigger::Level, Destination::Physical(1)));
    }

    #[test]
    fn what_is_no_interrupt_is_refused() {
        for address in [0, 0xfed0_0000, 0xfef0_0000, 0x1_fee0_0000] {
            assert_eq!(MsiMessage { address, data: 0x41 }.decode(), Err(NotAnInterrupt::Address(address)));
        }
        assert_eq!(MsiMessage { address: 0xfee0_0000, data: 0x341 }.decode(), Err(NotAnInterrupt::Mode(0x341)));
    }
}
