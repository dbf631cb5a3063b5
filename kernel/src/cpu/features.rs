//! What a processor must have, and the control registers of each CPU.

use core::fmt;

use raw_cpuid::CpuId;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::xcontrol::XCr0;

use super::msr;

/// The page attribute table of every CPU, one byte an entry: entry 1 is write-combining (its reset value,
/// write-through, is used by nobody), the others are as after reset (SDM volume 3 section 12.12.4).
const ATTRIBUTES: u64 = 0x0007_0406_0007_0106;

/// What the processor has, as far as the hypervisor chooses by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    /// Pages of 1 GiB.
    pub(crate) gigabyte_pages: bool,
    /// The local APIC can be driven by MSRs.
    pub(crate) x2apic: bool,
    /// The local APIC's timer can compare with the TSC.
    pub(crate) tsc_deadline: bool,
    /// The TSC counts on in every power state.
    pub(crate) invariant_tsc: bool,
}

/// What the processor lacks, or in which state the loader must not leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsuitable {
    /// It has no page-attribute table, no FXSAVE, or no execute-disable: it is no x86-64 processor.
    Missing(&'static str),
    /// 5-level paging is on.
    FiveLevelPaging,
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(what) => write!(f, "this processor has no {what}, without which the hypervisor cannot run"),
            Self::FiveLevelPaging => f.write_str(
                "firmware switched 5-level paging on and the loader left it on; switch it off in the firmware's setup",
            ),
        }
    }
}

impl core::error::Error for Unsuitable {}

/// Looks what this processor has.
pub(crate) fn detect() -> Result<Features, Unsuitable> {
    let cpuid = CpuId::new();
    let basic = cpuid.get_feature_info().ok_or(Unsuitable::Missing("CPUID leaf 1"))?;
    let extended = cpuid.get_extended_processor_and_feature_identifiers();
    let extended = extended.as_ref().ok_or(Unsuitable::Missing("CPUID leaf 80000001"))?;
    for (there, name) in [
        (basic.has_apic(), "local APIC"),
        (basic.has_pat(), "page attribute table"),
        (basic.has_fxsave_fxstor(), "FXSAVE"),
        (basic.has_clflush(), "CLFLUSH"),
        (extended.has_execute_disable(), "execute-disable"),
    ] {
        if !there {
            return Err(Unsuitable::Missing(name));
        }
    }
    if Cr4::read().contains(Cr4Flags::L5_PAGING) {
        return Err(Unsuitable::FiveLevelPaging);
    }
    Ok(Features {
        gigabyte_pages: extended.has_1gib_pages(),
        x2apic: basic.has_x2apic(),
        tsc_deadline: basic.has_tsc_deadline(),
        invariant_tsc: cpuid.get_advanced_power_mgmt_info().is_some_and(|info| info.has_invariant_tsc()),
    })
}

/// Sets this CPU's control registers as the hypervisor wants them: write protection and execute-disable for W^X, and
/// every processor state that XSAVE knows enabled, so that a guest's can be kept in the registers (the hypervisor's
/// own code uses none of it).
///
/// # Safety
///
/// Runs on each CPU before it uses the hypervisor's page tables, which use no bit that this does not switch on.
pub(crate) unsafe fn set_control_registers() {
    let cpuid = CpuId::new();
    let xsave = cpuid.get_feature_info().is_some_and(|info| info.has_xsave());
    // SAFETY: the loader's tables and the hypervisor's are valid with execute-disable on and write protection on;
    // CR4's bits are those that CPUID has (the others are on every x86-64 processor); XCR0 gets what CPUID leaf 0xd
    // lists, which always has x87 in it. The caching mode is normal (CD and NW clear).
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr0::update(|cr0| {
            cr0.insert(Cr0Flags::WRITE_PROTECT | Cr0Flags::MONITOR_COPROCESSOR | Cr0Flags::NUMERIC_ERROR);
            cr0.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
            cr0.remove(Cr0Flags::CACHE_DISABLE | Cr0Flags::NOT_WRITE_THROUGH);
        });
        Cr4::update(|cr4| {
            cr4.insert(Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE);
            cr4.remove(Cr4Flags::TIMESTAMP_DISABLE | Cr4Flags::PAGE_GLOBAL);
            if xsave {
                cr4.insert(Cr4Flags::OSXSAVE);
            }
        });
        if xsave {
            let leaf = core::arch::x86_64::__cpuid_count(0xd, 0);
            let all = u64::from(leaf.edx) << 32 | u64::from(leaf.eax);
            XCr0::write_raw(all);
        }
        msr::write(msr::PAT, ATTRIBUTES);
    }
}
