//! The virtual-APIC page (SDM volume 3 section 30.1.1): where the processor keeps the local APIC's registers of the guest
//! that it runs. Between exit and entry they are the hypervisor's.

use core::ptr::NonNull;

use iommu::address::{HostPhysical, PAGE_SIZE};

use super::Refusal;
use crate::memory::{self, Owner};
use crate::vapic::LocalApic;
use crate::vcpu::VcpuError;

/// The task-priority register.
const TASK_PRIORITY: u32 = 0x80;
/// The processor-priority register.
const PROCESSOR_PRIORITY: u32 = 0xa0;
/// The first in-service and request registers.
const IN_SERVICE: u32 = 0x100;
const REQUESTED: u32 = 0x200;

/// A virtual CPU's page.
pub(super) struct VirtualApicPage {
    owner: Owner,
    physical: HostPhysical,
    registers: NonNull<u32>,
}

impl VirtualApicPage {
    pub(super) fn new(owner: Owner) -> Result<Self, VcpuError> {
        let physical = memory::frames().allocate_zeroed(owner, 1, PAGE_SIZE)?;
        // The direct map is never at address 0.
        let registers = NonNull::new(memory::to_pointer(physical).cast::<u32>()).ok_or(Refusal::NoVmx)?;
        Ok(Self { owner, physical, registers })
    }

    pub(super) const fn address(&self) -> HostPhysical {
        self.physical
    }

    /// The register at `offset`, a multiple of 4 below 4096.
    #[inline]
    pub(super) fn get(&self, offset: u32) -> u32 {
        // SAFETY: the frame is ours, and the offset is masked into it; the processor writes it only while the guest
        // runs.
        unsafe { self.registers.add((offset & 0xffc) as usize / 4).read_volatile() }
    }

    #[inline]
    fn set(&mut self, offset: u32, value: u32) {
        // SAFETY: as in `get`.
        unsafe { self.registers.add((offset & 0xffc) as usize / 4).write_volatile(value) }
    }

    #[inline]
    pub(super) fn task_priority(&self) -> u8 {
        self.get(TASK_PRIORITY) as u8
    }

    #[inline]
    pub(super) fn set_task_priority(&mut self, priority: u8) {
        self.set(TASK_PRIORITY, priority.into());
    }

    /// Brings `apic` up to date with what the processor did; the guest interrupt status that goes with it.
    pub(super) fn read(&self, apic: &mut LocalApic) -> u16 {
        apic.take_from_page(|offset| self.get(offset));
        self.status()
    }

    /// Brings the page up to date with `apic`; the guest interrupt status that goes with it.
    pub(super) fn write(&mut self, apic: &LocalApic) -> u16 {
        apic.give_to_page(|offset, value| self.set(offset, value));
        self.status()
    }

    /// Whether a vector is requested whose class is above the processor priority.
    pub(super) fn has_deliverable(&self) -> bool {
        u32::from(self.highest(REQUESTED) >> 4) > self.get(PROCESSOR_PRIORITY) >> 4
    }

    /// RVI, the highest requested vector, in bits 7:0, and SVI, the highest in service, in bits 15:8. The processor looks
    /// at these and not at the page.
    fn status(&self) -> u16 {
        u16::from(self.highest(IN_SERVICE)) << 8 | u16::from(self.highest(REQUESTED))
    }

    /// The highest vector of eight registers; 0: none.
    fn highest(&self, first: u32) -> u8 {
        for word in (0..8u8).rev() {
            let bits = self.get(first + u32::from(word) * 16);
            if bits != 0 {
                // A word that is not 0 has at most 31 leading zeros, and word is at most 7.
                return word << 5 | 31u8.wrapping_sub(bits.leading_zeros() as u8);
            }
        }
        0
    }
}

impl Drop for VirtualApicPage {
    fn drop(&mut self) {
        if let Err(error) = memory::frames().free(self.owner, self.physical, 1) {
            log::error!("a virtual CPU's virtual-APIC page is not given back: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_names_the_highest_of_each() {
        let mut page = VirtualApicPage::new(Owner::Hypervisor).unwrap();
        assert_eq!(page.status(), 0);
        page.set(REQUESTED + 0x10, 1 << 3);
        page.set(REQUESTED + 0x70, 1 << 31);
        page.set(IN_SERVICE + 0x20, 1);
        assert_eq!(page.status(), 0x40ff);
        page.set(PROCESSOR_PRIORITY, 0xf0);
        assert!(!page.has_deliverable());
        page.set(PROCESSOR_PRIORITY, 0xe0);
        assert!(page.has_deliverable());
        page.set_task_priority(0x53);
        assert_eq!(page.task_priority(), 0x53);
    }
}
