//! Stacks: one for what a CPU does, and one for each exception that must be served even where that one is used up.
//! Below each lies a guard that is never mapped.

use core::fmt;
use core::ops::Range;

use x86_64::structures::paging::{FrameAllocator, Size4KiB};

use super::layout;
use super::page_tables::{Access, Caching, MapError, PageTables};

/// What a stack is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Everything that is not below.
    Main,
    /// Double faults (#DF), what a used-up main stack ends in.
    DoubleFault,
    /// Non-maskable interrupts.
    NonMaskable,
    /// Machine checks (#MC).
    MachineCheck,
}

const ALL: [Purpose; 4] = [Purpose::Main, Purpose::DoubleFault, Purpose::NonMaskable, Purpose::MachineCheck];

/// Bytes below each stack that are not mapped.
const GUARD: usize = 16 * 1024;
/// Bytes between one stack's place and the next.
const SLOT: usize = 128 * 1024;
/// Bytes between one CPU's stacks and the next one's.
const CPU: usize = SLOT * ALL.len();

impl Purpose {
    /// Bytes.
    const fn size(self) -> usize {
        match self {
            Self::Main => 64 * 1024,
            _ => 16 * 1024,
        }
    }

    /// The addresses of the stack of the CPU with index `cpu`.
    pub(crate) fn range(self, cpu: u32) -> Range<usize> {
        let guard = layout::STACKS + cpu as usize * CPU + self as usize * SLOT;
        guard + GUARD..guard + GUARD + self.size()
    }

    /// Where the stack begins: its first push goes right below.
    pub(crate) fn top(self, cpu: u32) -> usize {
        self.range(cpu).end
    }
}

const _: () = assert!(GUARD + Purpose::Main.size() <= SLOT);

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Main => "main stack",
            Self::DoubleFault => "double-fault stack",
            Self::NonMaskable => "NMI stack",
            Self::MachineCheck => "machine-check stack",
        })
    }
}

/// What an address among the stacks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this CPU's stack of this purpose.
    Stack(u32, Purpose),
    /// In the guard below it: the stack is used up.
    Guard(u32, Purpose),
}

/// What lies at `address`, if that is among the stacks.
pub(crate) fn place(address: usize) -> Option<Place> {
    let offset = address.checked_sub(layout::STACKS)?;
    let cpu = u32::try_from(offset / CPU).ok().filter(|cpu| (*cpu as usize) < crate::cpu::MAXIMUM)?;
    let purpose = ALL.get(offset % CPU / SLOT).copied()?;
    let range = purpose.range(cpu);
    if range.contains(&address) {
        return Some(Place::Stack(cpu, purpose));
    }
    (address < range.start).then_some(Place::Guard(cpu, purpose))
}

/// Maps the stacks of one CPU. They stay.
///
/// # Errors
///
/// [`MapError`] where memory runs out, or where the CPU has its stacks already. What was mapped until then stays.
pub(super) fn map(
    tables: &mut PageTables,
    cpu: u32,
    frames: &mut impl FrameAllocator<Size4KiB>,
) -> Result<(), MapError> {
    for range in ALL.map(|purpose| purpose.range(cpu)) {
        for page in range.step_by(4096) {
            let frame = frames.allocate_frame().ok_or(MapError::OutOfMemory)?.start_address().as_u64();
            // SAFETY: the frame is fresh, and the address is only ever this stack.
            unsafe { tables.map(page, frame, 4096, (Access::ReadWrite, Caching::WriteBack), true, frames)? };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stack_has_a_guard_below() {
        for cpu in [0, 1, 511] {
            for purpose in ALL {
                let range = purpose.range(cpu);
                assert_eq!(place(range.start), Some(Place::Stack(cpu, purpose)));
                assert_eq!(place(range.end - 1), Some(Place::Stack(cpu, purpose)));
                assert_eq!(place(range.start - 1), Some(Place::Guard(cpu, purpose)));
                assert_eq!(place(range.start - GUARD), Some(Place::Guard(cpu, purpose)));
                assert_ne!(place(range.end), Some(Place::Stack(cpu, purpose)));
                assert_eq!(purpose.top(cpu) % 16, 0);
            }
        }
        assert_eq!(place(layout::STACKS - 1), None);
        assert_eq!(place(layout::STACKS + 512 * CPU), None);
    }
}
