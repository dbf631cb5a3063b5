//! The machine as the remapping driver meets it.

use iommu::address::HostPhysical;
use iommu::door::{Machine, Registers, RegistersUnreachable};

use crate::cpu;
use crate::memory::{self, KernelFrames, Mmio, Owner};

/// This machine. Tables that belong to no VM are charged to the remapping units.
#[derive(Clone, Copy, Debug)]
pub struct KernelMachine {
    frames: KernelFrames,
}

impl KernelMachine {
    /// The machine.
    pub const fn new() -> Self {
        Self { frames: KernelFrames::new(Owner::RemappingUnits) }
    }
}

impl Default for KernelMachine {
    fn default() -> Self {
        Self::new()
    }
}

/// The registers of one remapping unit, mapped uncached.
#[derive(Debug)]
pub struct UnitRegisters(Mmio);

impl Registers for UnitRegisters {
    fn size(&self) -> u64 {
        self.0.length()
    }

    fn read_u32(&self, offset: u64) -> u32 {
        self.0.read_u32(offset)
    }

    fn read_u64(&self, offset: u64) -> u64 {
        self.0.read_u64(offset)
    }

    fn write_u32(&self, offset: u64, value: u32) {
        self.0.write_u32(offset, value);
    }

    fn write_u64(&self, offset: u64, value: u64) {
        self.0.write_u64(offset, value);
    }
}

impl Machine for KernelMachine {
    type Frames = KernelFrames;
    type Registers = UnitRegisters;

    fn frames(&self) -> &KernelFrames {
        &self.frames
    }

    fn registers(&self, base: HostPhysical, size: u64) -> Result<UnitRegisters, RegistersUnreachable> {
        memory::map_mmio(base, size).map(UnitRegisters).map_err(|error| {
            log::error!("the registers at {base} cannot be mapped: {error}");
            RegistersUnreachable
        })
    }

    fn nanoseconds(&self) -> u64 {
        cpu::clock::nanoseconds()
    }

    fn without_interrupts<T>(&self, critical: impl FnOnce() -> T) -> T {
        cpu::interrupts::without(critical)
    }
}
