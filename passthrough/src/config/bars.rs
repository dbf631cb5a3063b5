//! BARs of the guest: fully virtual, with sizing, kinds kept.

use super::{VirtualConfiguration, register};
use crate::region::{BarKind, Bars};

/// Where the guest put a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Its number: 0 to 5, or 6 for the expansion ROM.
    pub bar: u8,
    /// What it decodes; the ROM counts as 32-bit memory.
    pub kind: BarKind,
    /// The guest's address, a multiple of `size`.
    pub address: u64,
    /// Its bytes.
    pub size: u64,
    /// Whether the function answers there now: decoding is on, and for the ROM its own bit too.
    pub enabled: bool,
}

impl VirtualConfiguration {
    /// The BARs of the function.
    pub fn bars(&self) -> &Bars {
        &self.bars
    }

    /// Where the guest put BAR `bar` (0 to 5, or 6 for the ROM). `None` where there is none.
    pub fn placement(&self, bar: u8) -> Option<Placement> {
        let command = self.command();
        if bar == 6 {
            let rom = self.bars.rom?;
            let value = self.copy(register::ROM, 4);
            return Some(Placement {
                bar,
                kind: BarKind::Memory32 { prefetchable: true },
                address: u64::from(value & register::ROM_ADDRESS),
                size: rom.size,
                enabled: command & register::command::MEMORY != 0 && value & register::ROM_ENABLE != 0,
            });
        }
        let found = self.bars.get(bar)?;
        let offset = register::bar(usize::from(bar));
        let low = self.copy(offset, 4);
        let (address, decoding) = match found.kind {
            BarKind::Io => (u64::from(low & !0b11), register::command::IO),
            BarKind::Memory32 { .. } => (u64::from(low & !0b1111), register::command::MEMORY),
            BarKind::Memory64 { .. } => {
                let high = self.copy(offset.saturating_add(4), 4);
                (u64::from(low & !0b1111) | u64::from(high) << 32, register::command::MEMORY)
            }
        };
        Some(Placement { bar, kind: found.kind, address, size: found.size, enabled: command & decoding != 0 })
    }

    /// Brings each BAR register into the shape that the function's would have: bits below the size read 0, kind bits
    /// read as they are. That is what makes sizing work.
    pub(super) fn settle_bars(&mut self) {
        let mut index = 0usize;
        while index < 6 {
            let offset = register::bar(index);
            let Some(Some(bar)) = self.bars.bars.get(index).copied() else {
                // An empty slot that is no upper half reads 0.
                self.set_copy(offset, 4, 0);
                index = index.saturating_add(1);
                continue;
            };
            let mask = !bar.size.saturating_sub(1);
            let [low_mask, high_mask] = halves(mask);
            let low = self.copy(offset, 4) & low_mask | bar.kind.flags();
            self.set_copy(offset, 4, low);
            index = index.saturating_add(1);
            if let BarKind::Memory64 { .. } = bar.kind {
                let offset = offset.saturating_add(4);
                let high = self.copy(offset, 4) & high_mask;
                self.set_copy(offset, 4, high);
                index = index.saturating_add(1);
            }
        }
        let rom = match self.bars.rom {
            Some(rom) => {
                let [mask, _] = halves(!rom.size.saturating_sub(1));
                self.copy(register::ROM, 4) & (mask & register::ROM_ADDRESS | register::ROM_ENABLE)
            }
            None => 0,
        };
        self.set_copy(register::ROM, 4, rom);
    }
}

/// Low and high half.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}
