//! Putting an interrupt down in a posted-interrupt descriptor (VT-d sections 5.2 and 9.11).

use crate::{Memory, Unit, reason};

/// The message that tells a processor to look into a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// NV.
    pub vector: u8,
    /// NDST: the APIC id.
    pub destination: u32,
}

/// ON, SN, NV and NDST in the word at byte 32.
const OUTSTANDING: u64 = 1;
const SUPPRESS: u64 = 2;
const DEFINED: u64 = 0xffff_ffff_00ff_0003;

impl<M: Memory> Unit<M> {
    /// The request first, then ON if a notification is due: an observer never finds ON without the request.
    pub(crate) fn post(&self, descriptor: u64, vector: u8, urgent: bool) -> Result<Option<Notification>, u8> {
        let control_at = descriptor + 32;
        let read = |address| self.memory.read(address).ok_or(reason::DESCRIPTOR_ACCESS);
        let rest = [read(control_at + 8)?, read(control_at + 16)?, read(control_at + 24)?];
        if read(control_at)? & !DEFINED != 0 || rest.iter().any(|word| *word != 0) {
            return Err(reason::DESCRIPTOR_RESERVED);
        }
        self.change(descriptor + u64::from(vector / 64) * 8, |requests| Some(requests | 1 << (vector % 64)))?;
        let control = self.change(control_at, |control| {
            let due = control & OUTSTANDING == 0 && (control & SUPPRESS == 0 || urgent);
            due.then_some(control | OUTSTANDING)
        })?;
        Ok(control.map(|control| {
            let destination = (control >> 32) as u32;
            Notification {
                vector: (control >> 16) as u8,
                destination: if self.is_extended() { destination } else { destination >> 8 & 0xff },
            }
        }))
    }

    /// Changes a word in one step. Gives what was there, or `None` where nothing was to change.
    fn change(&self, address: u64, new: impl Fn(u64) -> Option<u64>) -> Result<Option<u64>, u8> {
        let mut current = self.memory.read(address).ok_or(reason::DESCRIPTOR_ACCESS)?;
        loop {
            let Some(wanted) = new(current) else { return Ok(None) };
            match self.memory.exchange(address, current, wanted) {
                Some(Ok(())) => return Ok(Some(current)),
                Some(Err(other)) => current = other,
                None => return Err(reason::DESCRIPTOR_ACCESS),
            }
        }
    }
}
