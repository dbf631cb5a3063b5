//! The BAR registers of one function: what a guest writes, reads back and so learns of size and kind.

use super::{BARS, Bar, BarKind};

/// The first BAR's register.
pub(super) const FIRST_BAR: u16 = 0x10;
/// The register behind the last BAR's.
pub(super) const BARS_END: u16 = 0x28;
/// The expansion ROM's register: there is none on this bus.
pub(super) const ROM: u16 = 0x30;
/// The command register.
pub(super) const COMMAND: u16 = 0x04;
/// Command: ports are decoded.
pub(super) const DECODE_PORTS: u32 = 1 << 0;
/// Command: memory is decoded.
pub(super) const DECODE_MEMORY: u32 = 1 << 1;

/// The registers.
#[derive(Clone, Debug)]
pub(super) struct BarRegisters {
    bars: [Option<Bar>; BARS],
    values: [u32; BARS],
}

impl BarRegisters {
    pub(super) fn new(bars: [Option<Bar>; BARS]) -> Self {
        Self { bars, values: [0; BARS] }
    }

    /// Reads the double word of BAR `index`.
    pub(super) fn read(&self, index: usize) -> u32 {
        self.values.get(index).copied().unwrap_or(0) | self.kind_bits(index)
    }

    /// Writes the bytes of `mask` of BAR `index`.
    pub(super) fn write(&mut self, index: usize, value: u32, mask: u32) {
        let writable = self.writable(index) & mask;
        if let Some(register) = self.values.get_mut(index) {
            *register = *register & !writable | value & writable;
        }
    }

    /// Sets a BAR's address, as firmware does.
    pub(super) fn set(&mut self, index: usize, address: u64) {
        self.write(index, address as u32, u32::MAX);
        if self.bars.get(index).copied().flatten().is_some_and(|bar| bar.kind == BarKind::Memory64) {
            self.write(index + 1, (address >> 32) as u32, u32::MAX);
        }
    }

    /// The address in a BAR.
    pub(super) fn address(&self, index: usize) -> u64 {
        let value = |index| u64::from(self.values.get(index).copied().unwrap_or(0));
        match self.bars.get(index).copied().flatten() {
            Some(Bar { kind: BarKind::Memory64, .. }) => value(index) | value(index + 1) << 32,
            _ => value(index),
        }
    }

    fn kind_bits(&self, index: usize) -> u32 {
        match self.bars.get(index).copied().flatten() {
            Some(Bar { kind: BarKind::Ports, .. }) => 1,
            Some(Bar { kind: BarKind::Memory32, prefetchable, .. }) => u32::from(prefetchable) << 3,
            Some(Bar { kind: BarKind::Memory64, prefetchable, .. }) => 4 | u32::from(prefetchable) << 3,
            None => 0,
        }
    }

    /// Which bits of a register hold what is written: those of the address above the size.
    fn writable(&self, index: usize) -> u32 {
        let above = |bar: Bar| !bar.size.saturating_sub(1);
        if let Some(bar) = self.bars.get(index).copied().flatten() {
            return above(bar) as u32;
        }
        match index.checked_sub(1).and_then(|low| self.bars.get(low).copied().flatten()) {
            Some(bar) if bar.kind == BarKind::Memory64 => (above(bar) >> 32) as u32,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Bar = Bar { kind: BarKind::Memory64, size: 0x4000, prefetchable: true };

    fn registers() -> BarRegisters {
        let ports = Bar { kind: BarKind::Ports, size: 0x20, prefetchable: false };
        let large = Bar { kind: BarKind::Memory64, size: 1 << 33, prefetchable: true };
        let small = Bar { kind: BarKind::Memory32, size: 0x1000, prefetchable: false };
        BarRegisters::new([Some(MEMORY), None, Some(ports), Some(small), Some(large), None])
    }

    #[test]
    fn writing_ones_shows_size_and_kind() {
        let mut registers = registers();
        for index in 0..BARS {
            registers.write(index, u32::MAX, u32::MAX);
        }
        let read: Vec<u32> = (0..BARS).map(|index| registers.read(index)).collect();
        assert_eq!(read, [0xffff_c00c, 0xffff_ffff, 0xffff_ffe1, 0xffff_f000, 0x0000_000c, 0xffff_fffe]);
    }

    #[test]
    fn an_address_is_kept_above_the_size() {
        let mut registers = registers();
        registers.set(0, 0x12_3456_7abc);
        assert_eq!(registers.address(0), 0x12_3456_4000);
        registers.write(0, 0xff, 0x0000_ff00);
        assert_eq!(registers.address(0), 0x12_3456_0000, "only the bytes written change");
        registers.set(2, 0xc040);
        assert_eq!((registers.address(2), registers.read(2)), (0xc040, 0xc041));
    }
}
