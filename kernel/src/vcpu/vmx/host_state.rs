//! The host's state as a VMCS holds it (SDM volume 3 section 25.5): what an exit loads.

use super::field::{Field16, Field32, Field64, FieldNatural};
use super::machine;
use super::vmcs::Accesses;

/// Writes this CPU's state, as it stays for good, to the current VMCS. RSP is written by each entry that finds it changed.
pub(super) fn write(vmcs: &Accesses) {
    vmcs.write(Field32::HostSysenterCs, 0);
    vmcs.write(FieldNatural::HostSysenterEsp, 0);
    vmcs.write(FieldNatural::HostSysenterEip, 0);
    vmcs.write(FieldNatural::HostRip, machine::landing());
    #[cfg(target_os = "none")]
    silicon::write(vmcs);
    #[cfg(not(target_os = "none"))]
    {
        let _ = (Field16::HostTr, Field64::HostPat);
    }
}

#[cfg(target_os = "none")]
mod silicon {
    use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
    use x86_64::instructions::tables::{sgdt, sidt};
    use x86_64::registers::control::{Cr0, Cr3, Cr4};

    use super::{Accesses, Field16, Field64, FieldNatural};
    use crate::cpu::msr;

    const FS_BASE: u32 = 0xc000_0100;

    pub(super) fn write(vmcs: &Accesses) {
        let task: u16;
        // SAFETY: STR reads a register.
        unsafe { core::arch::asm!("str {:x}", out(reg) task, options(nomem, nostack, preserves_flags)) };
        let descriptors = sgdt();
        for (field, selector) in [
            (Field16::HostEs, ES::get_reg().0),
            (Field16::HostCs, CS::get_reg().0),
            (Field16::HostSs, SS::get_reg().0),
            (Field16::HostDs, DS::get_reg().0),
            (Field16::HostFs, FS::get_reg().0),
            (Field16::HostGs, GS::get_reg().0),
            (Field16::HostTr, task),
        ] {
            vmcs.write(field, selector);
        }
        let (frame, flags) = Cr3::read_raw();
        // SAFETY: the registers are on every processor with VMX; reading them has no effect.
        let [fs_base, gs_base, attributes, efer] =
            [FS_BASE, msr::GS_BASE, msr::PAT, msr::EFER].map(|number| unsafe { msr::read(number) });
        // SAFETY: the table that is loaded lives for good, and TR names a descriptor of a task in it.
        let task_base = unsafe { base_of_task(descriptors.base.as_u64(), task) };
        for (field, value) in [
            (FieldNatural::HostCr0, Cr0::read_raw()),
            (FieldNatural::HostCr3, frame.start_address().as_u64() | u64::from(flags)),
            (FieldNatural::HostCr4, Cr4::read_raw()),
            (FieldNatural::HostFsBase, fs_base),
            (FieldNatural::HostGsBase, gs_base),
            (FieldNatural::HostTrBase, task_base),
            (FieldNatural::HostGdtrBase, descriptors.base.as_u64()),
            (FieldNatural::HostIdtrBase, sidt().base.as_u64()),
        ] {
            vmcs.write(field, value);
        }
        vmcs.write(Field64::HostPat, attributes);
        vmcs.write(Field64::HostEfer, efer);
    }

    /// The base in the descriptor of a 64-bit task (SDM volume 3 section 9.2.3).
    ///
    /// # Safety
    ///
    /// `table` is the address of a descriptor table in which `selector` names such a descriptor.
    unsafe fn base_of_task(table: u64, selector: u16) -> u64 {
        let address = table.wrapping_add(u64::from(selector & !7));
        let descriptor = core::ptr::with_exposed_provenance::<[u64; 2]>(address as usize);
        // SAFETY: the caller's promise; the entries are 8 bytes each and aligned so.
        let [low, high] = unsafe { descriptor.read_unaligned() };
        low >> 16 & 0x00ff_ffff | low >> 32 & 0xff00_0000 | high << 32
    }
}
