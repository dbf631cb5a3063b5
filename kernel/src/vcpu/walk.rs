//! The guest's own page tables, walked by software: from a linear address to a guest-physical one, with the page fault
//! that the processor would raise (SDM volume 3 chapter 5, APM volume 2 chapter 5).

use core::sync::atomic::{AtomicU64, Ordering};

use super::body::Trouble;
use super::engine::VcpuEngine;
use super::platform::{CrashReason, Platform};
use super::state::{SegmentName, SystemRegister, bits};
use crate::memory::{self, GuestPhysical};

/// What the access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reads data.
    Read,
    /// Writes data.
    Write,
    /// Fetches an instruction.
    Fetch,
}

/// Page-fault error code: the page is present, the access is not allowed.
const ERROR_PRESENT: u32 = 1 << 0;
/// Page-fault error code: it was a write.
const ERROR_WRITE: u32 = 1 << 1;
/// Page-fault error code: it came from user mode.
const ERROR_USER: u32 = 1 << 2;
/// Page-fault error code: a reserved bit is set in an entry.
const ERROR_RESERVED: u32 = 1 << 3;
/// Page-fault error code: it was an instruction fetch.
const ERROR_FETCH: u32 = 1 << 4;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12: the address in an 8-byte entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How the guest translates addresses now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paging {
    mode: Mode,
    root: u64,
    write_protect: bool,
    no_execute: bool,
    smep: bool,
    /// SMAP, and RFLAGS.AC does not suspend it.
    smap: bool,
    page_size_extension: bool,
    user: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Off,
    /// Two levels of 4-byte entries.
    Legacy,
    /// Three levels, the first one of four entries.
    Extended,
    /// Four levels.
    Long,
}

impl Paging {
    /// The guest's paging as its registers say it.
    pub(super) fn of(engine: &impl VcpuEngine) -> Self {
        let cr0 = engine.system(SystemRegister::Cr0);
        let cr4 = engine.system(SystemRegister::Cr4);
        let efer = engine.system(SystemRegister::Efer);
        let mode = if cr0 & bits::CR0_PG == 0 {
            Mode::Off
        } else if efer & bits::EFER_LMA != 0 {
            Mode::Long
        } else if cr4 & bits::CR4_PAE != 0 {
            Mode::Extended
        } else {
            Mode::Legacy
        };
        Self {
            mode,
            root: engine.system(SystemRegister::Cr3),
            write_protect: cr0 & bits::CR0_WP != 0,
            no_execute: efer & bits::EFER_NXE != 0,
            smep: cr4 & bits::CR4_SMEP != 0,
            smap: cr4 & bits::CR4_SMAP != 0 && engine.flags() & bits::FLAGS_AC == 0,
            page_size_extension: cr4 & bits::CR4_PSE != 0,
            user: engine.privilege() == 3,
        }
    }

    /// The same for an access that the processor makes in supervisor mode whatever the privilege level.
    #[cfg(test)]
    fn with_user(self, user: bool) -> Self {
        Self { user, ..self }
    }

    /// Where `linear` leads.
    pub(super) fn translate(
        &self,
        linear: u64,
        access: Access,
        platform: &dyn Platform,
    ) -> Result<GuestPhysical, Trouble> {
        self.translate_by(linear, access, platform, None)
    }

    /// The same, and by which entries.
    pub(super) fn translate_by(
        &self,
        linear: u64,
        access: Access,
        platform: &dyn Platform,
        trail: Option<&mut Trail>,
    ) -> Result<GuestPhysical, Trouble> {
        match self.mode {
            Mode::Off => Ok(GuestPhysical::new(linear & 0xffff_ffff)),
            Mode::Legacy => {
                // Entries of 4 bytes are not noted.
                if let Some(trail) = trail {
                    *trail = Trail::LOST;
                }
                self.walk_legacy(linear, access, platform)
            }
            Mode::Extended => self.walk(linear & 0xffff_ffff, 3, access, platform, trail),
            Mode::Long => {
                if !is_canonical(linear) {
                    return Err(super::state::Exception::GENERAL_PROTECTION.into());
                }
                self.walk(linear, 4, access, platform, trail)
            }
        }
    }

    fn walk(
        &self,
        linear: u64,
        levels: u32,
        access: Access,
        platform: &dyn Platform,
        mut trail: Option<&mut Trail>,
    ) -> Result<GuestPhysical, Trouble> {
        // CR3 of three-level paging has a table of 32 bytes.
        let mut table = if levels == 3 { self.root & 0xffff_ffe0 } else { self.root & ADDRESS };
        let mut rights = Rights { writable: true, user: true, executable: true };
        for level in (1..=levels).rev() {
            let shift = 12 + 9 * (level - 1);
            let index = linear >> shift & if level == 3 && levels == 3 { 3 } else { 511 };
            let at = GuestPhysical::new(table.wrapping_add(index * 8));
            let entry = read_entry(at, platform)?;
            if let Some(trail) = &mut trail {
                trail.note(at, entry, platform);
            }
            if entry & PRESENT == 0 {
                return Err(self.fault(linear, access, 0));
            }
            let root_of_three = level == 3 && levels == 3;
            let large = entry & LARGE != 0 && !root_of_three;
            if level > 3 && large || entry & NO_EXECUTE != 0 && !self.no_execute {
                return Err(self.fault(linear, access, ERROR_PRESENT | ERROR_RESERVED));
            }
            if !root_of_three {
                rights.writable &= entry & WRITABLE != 0;
                rights.user &= entry & USER != 0;
                rights.executable &= entry & NO_EXECUTE == 0;
            }
            let leaf = level == 1 || large;
            if leaf {
                let offset = (1u64 << shift) - 1;
                // Bits between the address and bit 12 of a large page's entry are reserved, but for PAT in bit 12.
                if level > 1 && entry & ADDRESS & offset & !0x1fff != 0 {
                    return Err(self.fault(linear, access, ERROR_PRESENT | ERROR_RESERVED));
                }
                self.check(linear, rights, access)?;
                mark(at, entry, if access == Access::Write { ACCESSED | DIRTY } else { ACCESSED }, platform);
                return Ok(GuestPhysical::new(entry & ADDRESS & !offset | linear & offset));
            }
            if !root_of_three {
                mark(at, entry, ACCESSED, platform);
            }
            table = entry & ADDRESS;
        }
        // The last level is a leaf.
        Err(self.fault(linear, access, 0))
    }

    fn walk_legacy(&self, linear: u64, access: Access, platform: &dyn Platform) -> Result<GuestPhysical, Trouble> {
        let linear = linear & 0xffff_ffff;
        let directory = GuestPhysical::new((self.root & 0xffff_f000) + (linear >> 22) * 4);
        let entry = read_short_entry(directory, platform)?;
        if entry & PRESENT == 0 {
            return Err(self.fault(linear, access, 0));
        }
        let mut rights = Rights { writable: entry & WRITABLE != 0, user: entry & USER != 0, executable: true };
        if entry & LARGE != 0 && self.page_size_extension {
            self.check(linear, rights, access)?;
            // Bits 20:13 of the entry are bits 39:32 of the address.
            let high = (entry >> 13 & 0xff) << 32;
            return Ok(GuestPhysical::new(high | entry & 0xffc0_0000 | linear & 0x3f_ffff));
        }
        let table = GuestPhysical::new((entry & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4);
        let entry = read_short_entry(table, platform)?;
        if entry & PRESENT == 0 {
            return Err(self.fault(linear, access, 0));
        }
        rights.writable &= entry & WRITABLE != 0;
        rights.user &= entry & USER != 0;
        self.check(linear, rights, access)?;
        Ok(GuestPhysical::new(entry & 0xffff_f000 | linear & 0xfff))
    }

    fn check(&self, linear: u64, rights: Rights, access: Access) -> Result<(), Trouble> {
        let allowed = if self.user {
            rights.user
                && match access {
                    Access::Read => true,
                    Access::Write => rights.writable,
                    Access::Fetch => rights.executable,
                }
        } else {
            match access {
                Access::Read => !(rights.user && self.smap),
                Access::Write => !(rights.user && self.smap) && (rights.writable || !self.write_protect),
                Access::Fetch => rights.executable && !(rights.user && self.smep),
            }
        };
        if allowed { Ok(()) } else { Err(self.fault(linear, access, ERROR_PRESENT)) }
    }

    fn fault(&self, linear: u64, access: Access, mut error: u32) -> Trouble {
        if access == Access::Write {
            error |= ERROR_WRITE;
        }
        if self.user {
            error |= ERROR_USER;
        }
        if access == Access::Fetch && (self.no_execute || self.smep) {
            error |= ERROR_FETCH;
        }
        Trouble::Page { address: linear, error }
    }
}

/// The entries by which a walk went, to see later whether it would still go the same way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trail {
    steps: [(*const AtomicU64, u64); 4],
    count: usize,
}

impl Trail {
    /// No entries: there is no paging.
    pub(super) const NEW: Self = Self { steps: [(core::ptr::null(), 0); 4], count: 0 };
    /// Not noted: never the same.
    pub(super) const LOST: Self = Self { count: usize::MAX, ..Self::NEW };

    fn note(&mut self, at: GuestPhysical, entry: u64, platform: &dyn Platform) {
        match (self.steps.get_mut(self.count), entry_word(at, platform)) {
            (Some(step), Some(word)) => {
                *step = (word, entry & !(ACCESSED | DIRTY));
                self.count = self.count.saturating_add(1);
            }
            _ => *self = Self::LOST,
        }
    }

    /// Whether every entry still says the same.
    #[inline]
    pub(super) fn holds(&self) -> bool {
        let Some(steps) = self.steps.get(..self.count) else { return false };
        steps.iter().all(|(word, entry)| {
            // SAFETY: `note` got the pointer from `entry_word`: guest RAM that stays while the machine exists.
            let now = unsafe { &**word }.load(Ordering::Relaxed);
            now & !(ACCESSED | DIRTY) == *entry
        })
    }
}

/// What all levels of a walk allow together.
#[derive(Clone, Copy)]
struct Rights {
    writable: bool,
    user: bool,
    executable: bool,
}

/// Whether bits 63:47 are all the same.
pub(super) const fn is_canonical(linear: u64) -> bool {
    let high = linear >> 47;
    high == 0 || high == 0x1_ffff
}

/// The linear address of the instruction pointer.
pub(super) fn linear_instruction_pointer(engine: &impl VcpuEngine) -> u64 {
    let pointer = engine.instruction_pointer();
    if is_long(engine) { pointer } else { engine.segment(SegmentName::Cs).base.wrapping_add(pointer) & 0xffff_ffff }
}

/// Whether the guest executes 64-bit code.
pub(super) fn is_long(engine: &impl VcpuEngine) -> bool {
    engine.system(SystemRegister::Efer) & bits::EFER_LMA != 0
        && engine.segment(SegmentName::Cs).attributes & super::state::Segment::LONG != 0
}

fn read_entry(at: GuestPhysical, platform: &dyn Platform) -> Result<u64, Trouble> {
    let mut bytes = [0; 8];
    match platform.read_memory(at, &mut bytes) {
        Ok(()) => Ok(u64::from_le_bytes(bytes)),
        Err(_) => Err(Trouble::Crash(CrashReason::PageTableOutsideMemory { address: at })),
    }
}

fn read_short_entry(at: GuestPhysical, platform: &dyn Platform) -> Result<u64, Trouble> {
    let mut bytes = [0; 4];
    match platform.read_memory(at, &mut bytes) {
        Ok(()) => Ok(u64::from(u32::from_le_bytes(bytes))),
        Err(_) => Err(Trouble::Crash(CrashReason::PageTableOutsideMemory { address: at })),
    }
}

/// An entry of 8 bytes where the host sees it.
fn entry_word(at: GuestPhysical, platform: &dyn Platform) -> Option<*const AtomicU64> {
    let host = platform.host_page(GuestPhysical::new(at.as_u64() & !0xfff))?;
    // Tables are aligned to at least 32 bytes, so an entry is aligned and in one page.
    Some(memory::to_pointer(host).wrapping_add((at.as_u64() & 0xff8) as usize).cast::<AtomicU64>())
}

/// Sets accessed and dirty bits as the processor does, unless the entry has changed since it was read.
fn mark(at: GuestPhysical, entry: u64, flags: u64, platform: &dyn Platform) {
    if entry & flags == flags {
        return;
    }
    let Some(word) = entry_word(at, platform) else { return };
    // SAFETY: `entry_word` gives guest RAM that stays while the machine exists. The guest shares it: only atomics look
    // at it.
    let word = unsafe { &*word };
    // Lost races are the guest's own: it changed the entry while the access was under way.
    let _ = word.compare_exchange(entry, entry | flags, Ordering::AcqRel, Ordering::Relaxed);
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
