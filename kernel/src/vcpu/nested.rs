//! Accesses that the nested page table does not allow: device registers, the local APIC, and what lies outside
//! everything.

use super::body::{Body, Trouble};
use super::engine::{NestedFault, VcpuEngine};
use super::memory::ones;
use super::platform::{CrashReason, Platform};
use super::quick::{Move, What};
use crate::memory::GuestPhysical;
use crate::vapic::APIC_BASE;

impl<E: VcpuEngine> Body<E> {
    pub(super) fn handle_nested(&mut self, fault: NestedFault, platform: &dyn Platform) -> Result<(), Trouble> {
        let address = fault.address;
        if let Some(vector) = fault.delivering {
            return Err(Trouble::Crash(CrashReason::DeliveryOutsideMemory { vector, address }));
        }
        if fault.fetch {
            let instruction = self.engine.instruction_pointer();
            return Err(Trouble::Crash(CrashReason::FetchOutsideMemory { instruction, address }));
        }
        if fault.walk {
            return Err(Trouble::Crash(CrashReason::PageTableOutsideMemory { address }));
        }
        if self.move_quickly(fault, platform) {
            return Ok(());
        }
        self.remember_driver_page(platform)?;
        self.emulate(address, platform)
    }

    /// Carries out a simple move. False: it is none, or not known well enough; nothing was done.
    fn move_quickly(&mut self, fault: NestedFault, platform: &dyn Platform) -> bool {
        let Some(Move { length, size, what }) = self.quick_move() else { return false };
        // Aligned, it lies in one page, and the fault's address is its first byte.
        if !fault.address.is_aligned(u64::from(size)) || fault.write == matches!(what, What::Load(_)) {
            return false;
        }
        match what {
            What::Load(register) => {
                let value = self.load_at(fault.address, size, platform);
                self.engine.registers_mut().set(register, value);
            }
            What::Store(register) => {
                let value = self.engine.registers().get(register);
                self.store_at(fault.address, size, value & ones(size), platform);
            }
            What::StoreImmediate(value) => self.store_at(fault.address, size, value & ones(size), platform),
        }
        // The whole instruction is in one page: there is no wrapping around.
        self.go_on_at(self.engine.instruction_pointer().wrapping_add(u64::from(length)));
        true
    }

    /// The crash for an instruction that cannot be carried out here.
    pub(super) fn cannot_emulate(&self, address: GuestPhysical, platform: &dyn Platform) -> Trouble {
        match self.instruction_bytes(platform) {
            Ok((bytes, _)) => {
                let instruction = self.engine.instruction_pointer();
                Trouble::Crash(CrashReason::Undecodable { instruction, bytes, address })
            }
            Err(trouble) => trouble,
        }
    }

    /// Whether the address is in the local APIC's page and the APIC is there.
    pub(super) fn is_local_apic(&self, address: GuestPhysical) -> bool {
        address.as_u64() & !0xfff == APIC_BASE && self.apic.is_in_memory()
    }

    /// A read of the local APIC: registers are the first 4 of every 16 bytes.
    pub(super) fn read_local_apic(&mut self, address: GuestPhysical, size: u8) -> u64 {
        self.take_interrupts();
        self.read_task_priority();
        let offset = address.as_u64() as u32 & 0xfff;
        let value = u64::from(self.apic.read(offset & !0xf, (self.timer.nanoseconds)()));
        // Bytes 4 to 15 of each register are undefined: zero here.
        let shifted = if offset & 0xf < 4 { value >> (8 * (offset & 0xf)) } else { 0 };
        shifted & ones(size)
    }

    /// A write of the local APIC. Only aligned 4-byte writes are defined; others are dropped, as processors do.
    pub(super) fn write_local_apic(&mut self, address: GuestPhysical, size: u8, value: u64, platform: &dyn Platform) {
        let offset = address.as_u64() as u32 & 0xfff;
        if size < 4 || offset & 0xf != 0 {
            return;
        }
        self.write_local_apic_register(offset, value as u32, platform);
    }

    /// A write of a local APIC's register.
    pub(super) fn write_local_apic_register(&mut self, offset: u32, value: u32, platform: &dyn Platform) {
        self.take_interrupts();
        self.read_task_priority();
        let Some(endpoint) = self.bus.endpoint(self.index) else { return };
        let effect = self.apic.write(offset, value, (self.timer.nanoseconds)(), endpoint);
        self.carry_out(effect, platform);
    }
}
