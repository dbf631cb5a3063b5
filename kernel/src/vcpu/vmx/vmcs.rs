//! The current virtual-machine control structure, and what is known of it: a guest's state is read when it is asked
//! for and written when it was changed, since each access costs as much as a dozen loads.

use core::cell::Cell;

use super::field::{Field, Field16, Field32, FieldNatural};
use super::machine;
use crate::vcpu::state::SegmentName;

/// Reads a field of the current VMCS, counted.
#[derive(Debug, Default)]
pub(super) struct Accesses {
    count: Cell<u32>,
    /// The last field that could not be written, which would be a defect; 0: none.
    refused: Cell<u32>,
}

impl Accesses {
    #[inline]
    pub(super) fn read<F: Field>(&self, field: F) -> F::Value {
        F::narrow(self.read_raw(field.encoding()))
    }

    #[inline]
    pub(super) fn write<F: Field>(&self, field: F, value: F::Value) {
        self.write_raw(field.encoding(), F::widen(value));
    }

    #[inline]
    fn read_raw(&self, encoding: u32) -> u64 {
        self.count.set(self.count.get().wrapping_add(1));
        machine::read(encoding)
    }

    #[inline]
    fn write_raw(&self, encoding: u32, value: u64) {
        self.count.set(self.count.get().wrapping_add(1));
        // SAFETY: only this engine's modules write fields: host state is the host's own, memory is reached through the
        // guest's extended page tables alone, and the pages that are named belong to the guest or hold permissions.
        if unsafe { machine::write(encoding, value) }.is_err() {
            self.refused.set(encoding);
        }
    }

    /// How many reads and writes there were since the last call.
    pub(super) fn take(&self) -> u32 {
        self.count.replace(0)
    }

    /// The last field that the processor did not take.
    pub(super) fn take_refused(&self) -> Option<u32> {
        Some(self.refused.replace(0)).filter(|field| *field != 0)
    }
}

/// A part of the guest's state that is kept here between accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Rip,
    Flags,
    Cr0,
    Cr3,
    Dr7,
    Interruptibility,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    Selector(SegmentName),
    Rights(SegmentName),
    Limit(SegmentName),
    Base(SegmentName),
}

/// Parts before those of the segments.
const PLAIN: [u32; 9] = [
    FieldNatural::GuestRip as u32,
    FieldNatural::GuestFlags as u32,
    FieldNatural::GuestCr0 as u32,
    FieldNatural::GuestCr3 as u32,
    FieldNatural::GuestDr7 as u32,
    Field32::Interruptibility as u32,
    Field32::GuestSysenterCs as u32,
    FieldNatural::GuestSysenterEsp as u32,
    FieldNatural::GuestSysenterEip as u32,
];

/// Selector, access rights, limit and base of each segment, in the order of [`SegmentName`]; 0: there is no such field.
const SEGMENTS: [[u32; 4]; 10] = {
    const fn four(selector: Field16, rights: Field32, limit: Field32, base: FieldNatural) -> [u32; 4] {
        [selector as u32, rights as u32, limit as u32, base as u32]
    }
    const fn table(limit: Field32, base: FieldNatural) -> [u32; 4] {
        [0, 0, limit as u32, base as u32]
    }
    [
        four(Field16::GuestEs, Field32::GuestEsRights, Field32::GuestEsLimit, FieldNatural::GuestEsBase),
        four(Field16::GuestCs, Field32::GuestCsRights, Field32::GuestCsLimit, FieldNatural::GuestCsBase),
        four(Field16::GuestSs, Field32::GuestSsRights, Field32::GuestSsLimit, FieldNatural::GuestSsBase),
        four(Field16::GuestDs, Field32::GuestDsRights, Field32::GuestDsLimit, FieldNatural::GuestDsBase),
        four(Field16::GuestFs, Field32::GuestFsRights, Field32::GuestFsLimit, FieldNatural::GuestFsBase),
        four(Field16::GuestGs, Field32::GuestGsRights, Field32::GuestGsLimit, FieldNatural::GuestGsBase),
        table(Field32::GuestGdtrLimit, FieldNatural::GuestGdtrBase),
        four(Field16::GuestLdtr, Field32::GuestLdtrRights, Field32::GuestLdtrLimit, FieldNatural::GuestLdtrBase),
        table(Field32::GuestIdtrLimit, FieldNatural::GuestIdtrBase),
        four(Field16::GuestTr, Field32::GuestTrRights, Field32::GuestTrLimit, FieldNatural::GuestTrBase),
    ]
};

const PLACES: usize = PLAIN.len() + 4 * SEGMENTS.len();
const _: () = assert!(PLACES <= 64);

impl Kept {
    #[inline]
    const fn place(self) -> usize {
        match self {
            Self::Rip => 0,
            Self::Flags => 1,
            Self::Cr0 => 2,
            Self::Cr3 => 3,
            Self::Dr7 => 4,
            Self::Interruptibility => 5,
            Self::SysenterCs => 6,
            Self::SysenterEsp => 7,
            Self::SysenterEip => 8,
            Self::Selector(name) => PLAIN.len() + 4 * name as usize,
            Self::Rights(name) => PLAIN.len() + 4 * name as usize + 1,
            Self::Limit(name) => PLAIN.len() + 4 * name as usize + 2,
            Self::Base(name) => PLAIN.len() + 4 * name as usize + 3,
        }
    }
}

const fn encoding(place: usize) -> u32 {
    if place < PLAIN.len() { PLAIN[place] } else { SEGMENTS[(place - PLAIN.len()) / 4][(place - PLAIN.len()) % 4] }
}

const ENCODINGS: [u32; PLACES] = {
    let mut all = [0; PLACES];
    let mut place = 0;
    while place < PLACES {
        all[place] = encoding(place);
        place += 1;
    }
    all
};

/// The guest's state as far as it is known.
#[derive(Debug)]
pub(super) struct GuestState {
    values: [Cell<u64>; PLACES],
    /// Places whose value is the guest's.
    known: Cell<u64>,
    /// Places whose value the VMCS does not have yet; they are known.
    changed: Cell<u64>,
}

impl GuestState {
    pub(super) const fn new() -> Self {
        Self { values: [const { Cell::new(0) }; PLACES], known: Cell::new(0), changed: Cell::new(0) }
    }

    #[inline]
    pub(super) fn get(&self, part: Kept, vmcs: &Accesses) -> u64 {
        let place = part.place();
        let Some(value) = self.values.get(place) else { return 0 };
        if self.known.get() & 1 << place == 0 {
            value.set(vmcs.read_raw(ENCODINGS[place]));
            self.known.set(self.known.get() | 1 << place);
        }
        value.get()
    }

    #[inline]
    pub(super) fn set(&self, part: Kept, value: u64) {
        let place = part.place();
        if let Some(kept) = self.values.get(place) {
            kept.set(value);
            self.known.set(self.known.get() | 1 << place);
            self.changed.set(self.changed.get() | 1 << place);
        }
    }

    /// Brings the current VMCS up to date.
    #[inline]
    pub(super) fn write_back(&self, vmcs: &Accesses) {
        let mut changed = self.changed.replace(0);
        while changed != 0 {
            let place = changed.trailing_zeros() as usize;
            changed &= changed.wrapping_sub(1);
            let (Some(value), Some(encoding)) = (self.values.get(place), ENCODINGS.get(place)) else { continue };
            if *encoding != 0 {
                vmcs.write_raw(*encoding, value.get());
            }
        }
    }

    /// The guest has run: nothing is known any more.
    #[inline]
    pub(super) fn forget(&self) {
        self.known.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_read_once_and_written_once() {
        let (state, vmcs) = (GuestState::new(), Accesses::default());
        vmcs.write(FieldNatural::GuestRip, 0x1000);
        vmcs.take();
        assert_eq!(state.get(Kept::Rip, &vmcs), 0x1000);
        assert_eq!(state.get(Kept::Rip, &vmcs), 0x1000);
        assert_eq!(vmcs.take(), 1);
        state.set(Kept::Rip, 0x1002);
        state.set(Kept::Rip, 0x1003);
        assert_eq!(vmcs.take(), 0);
        state.write_back(&vmcs);
        state.write_back(&vmcs);
        assert_eq!(vmcs.take(), 1);
        assert_eq!(vmcs.read(FieldNatural::GuestRip), 0x1003);
        state.forget();
        vmcs.write(FieldNatural::GuestRip, 7);
        assert_eq!(state.get(Kept::Rip, &vmcs), 7);
    }

    #[test]
    fn every_part_has_a_place_of_its_own() {
        use SegmentName::{Cs, Es, Gdtr, Tr};
        let parts = [
            (Kept::SysenterEip, FieldNatural::GuestSysenterEip as u32),
            (Kept::Selector(Es), Field16::GuestEs as u32),
            (Kept::Base(Es), FieldNatural::GuestEsBase as u32),
            (Kept::Rights(Cs), Field32::GuestCsRights as u32),
            (Kept::Limit(Gdtr), Field32::GuestGdtrLimit as u32),
            (Kept::Base(Tr), FieldNatural::GuestTrBase as u32),
        ];
        for (part, field) in parts {
            assert_eq!(ENCODINGS[part.place()], field, "{part:?}");
        }
    }
}
