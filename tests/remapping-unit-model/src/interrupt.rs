//! Interrupt requests and the table that remaps them (VT-d sections 5.1 and 9.10).

use crate::cache::CachedInterrupt;
use crate::command::{COMPATIBILITY, INTERRUPTS};
use crate::posting::Notification;
use crate::{Memory, Structure, Unit, Violation, reason};

/// A message that interrupts: a write of `data` to `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// An interrupt request of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Who sends it.
    pub source: u16,
    /// The write that it is.
    pub message: Message,
}

/// What becomes of an interrupt request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptOutcome {
    /// It goes on as it is: interrupt remapping is off, or compatibility format is let through.
    Unremapped(Message),
    /// It goes to processors.
    Remapped {
        /// The APIC id, or the logical destination.
        destination: u32,
        /// The destination is logical (DM).
        logical: bool,
        /// RH.
        redirection_hint: bool,
        /// TM: level-triggered.
        level: bool,
        /// DLM.
        delivery_mode: u8,
        /// The vector.
        vector: u8,
    },
    /// It was put down in a descriptor.
    Posted {
        /// The descriptor.
        descriptor: u64,
        /// The vector.
        vector: u8,
        /// The message that went to a processor, if one did.
        notification: Option<Notification>,
    },
    /// Refused, with a fault of this [`reason`].
    Refused(u8),
}

/// What is refused, and whether the entry silences that.
struct Refused {
    why: u8,
    index: u16,
    silent: bool,
}

impl<M: Memory> Unit<M> {
    /// A device sends an interrupt.
    pub fn interrupt(&mut self, interrupt: Interrupt) -> InterruptOutcome {
        self.observe();
        if self.status & INTERRUPTS == 0 {
            return InterruptOutcome::Unremapped(interrupt.message);
        }
        self.remap(interrupt).unwrap_or_else(|Refused { why, index, silent }| {
            if !silent {
                self.record_fault(interrupt.source, why, u64::from(index) << 48, false, 0);
            }
            InterruptOutcome::Refused(why)
        })
    }

    /// IRTA.EIME.
    pub(crate) fn is_extended(&self) -> bool {
        self.interrupt_table.unwrap_or(0) & 1 << 11 != 0
    }

    fn remap(&mut self, interrupt: Interrupt) -> Result<InterruptOutcome, Refused> {
        let Message { address, data } = interrupt.message;
        let plain = |why, index| Refused { why, index, silent: false };
        if address & 1 << 4 == 0 {
            if self.is_extended() || self.status & COMPATIBILITY == 0 {
                return Err(plain(reason::COMPATIBILITY, 0));
            }
            return Ok(InterruptOutcome::Unremapped(interrupt.message));
        }
        let handle = address >> 5 & 0x7fff | (address & 4) << 13;
        let with_subhandle = address & 1 << 3 != 0;
        if address >> 32 != 0 || with_subhandle && data >> 16 != 0 {
            return Err(plain(reason::INTERRUPT_REQUEST, 0));
        }
        let index = handle + if with_subhandle { u64::from(data & 0xffff) } else { 0 };
        let table = self.interrupt_table.unwrap_or(0);
        if index >= 2 << (table & 15) {
            return Err(plain(reason::INTERRUPT_INDEX, index as u16));
        }
        let index = index as u16;
        let (at, entry) = self.interrupt_entry(index).ok_or(plain(reason::INTERRUPT_ACCESS, index))?;
        let (low, high) = (entry as u64, (entry >> 64) as u64);
        let refused = |why| Refused { why, index, silent: low & 2 != 0 };
        if low & 1 == 0 {
            return Err(refused(reason::INTERRUPT_NOT_PRESENT));
        }
        if self.has_reserved(low, high) {
            self.complain(Violation::ReservedInEntry { structure: Structure::Interrupts, at });
            self.caches.interrupts.remove(&index);
            return Err(refused(reason::INTERRUPT_RESERVED));
        }
        if !is_from(high, interrupt.source) {
            return Err(refused(reason::INTERRUPT_SOURCE));
        }
        let vector = (low >> 16) as u8;
        if low & 1 << 15 != 0 {
            let descriptor = high & 0xffff_ffff_0000_0000 | low >> 32 & 0xffff_ffc0;
            let urgent = low & 1 << 14 != 0;
            return match self.post(descriptor, vector, urgent) {
                Ok(notification) => Ok(InterruptOutcome::Posted { descriptor, vector, notification }),
                Err(why) => Err(plain(why, index)),
            };
        }
        let destination = (low >> 32) as u32;
        Ok(InterruptOutcome::Remapped {
            destination: if self.is_extended() { destination } else { destination >> 8 & 0xff },
            logical: low & 1 << 2 != 0,
            redirection_hint: low & 1 << 3 != 0,
            level: low & 1 << 4 != 0,
            delivery_mode: (low >> 5 & 7) as u8,
            vector,
        })
    }

    pub(crate) fn interrupt_entry_address(&self, index: u16) -> u64 {
        (self.interrupt_table.unwrap_or(0) & self.pointer_mask()) + u64::from(index) * 16
    }

    fn interrupt_entry(&mut self, index: u16) -> Option<(u64, u128)> {
        if let Some(cached) = self.caches.interrupts.get(&index) {
            return Some((cached.at, cached.entry));
        }
        let at = self.interrupt_entry_address(index);
        let (low, high) = self.load_pair(at)?;
        let entry = u128::from(high) << 64 | u128::from(low);
        if low & 1 != 0 || self.configuration.caching_mode {
            self.caches.interrupts.insert(index, CachedInterrupt { at, entry, seen: entry, halves: 0 });
        }
        Some((at, entry))
    }

    fn has_reserved(&self, low: u64, high: u64) -> bool {
        let source_check = high >> 18 & 3;
        if low & 1 << 15 != 0 {
            return !self.configuration.posted_interrupts
                || low & 0x0000_003f_ff00_30fc != 0
                || high & 0xfff0_0000 != 0
                || source_check == 3;
        }
        let destination = if self.is_extended() { 0 } else { 0xffff_00ff_0000_0000 };
        low & (0xff00_7000 | destination) != 0 || high >> 20 != 0 || source_check == 3 || matches!(low >> 5 & 7, 3 | 6)
    }
}

/// Whether an entry with this high half is for `source`.
fn is_from(high: u64, source: u16) -> bool {
    let (expected, qualifier) = (high as u16, (high >> 16 & 3) as usize);
    match high >> 18 & 3 {
        0 => true,
        1 => (expected ^ source) & ![0, 4, 6, 7][qualifier] == 0,
        2 => (expected >> 8..=expected & 0xff).contains(&(source >> 8)),
        _ => false,
    }
}
