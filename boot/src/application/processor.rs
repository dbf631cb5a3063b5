//! What the kernel needs of the processor that starts it.

use core::arch::asm;
use core::arch::x86_64::__cpuid;

use super::error::BootError;

const CPUID_EXTENDED_FEATURES: u32 = 0x8000_0001;
const NO_EXECUTE: u32 = 1 << 20;
const GIGABYTE_PAGES: u32 = 1 << 26;
const CR4_FIVE_LEVELS: u64 = 1 << 12;

/// What the processor can do that matters to the loader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Processor {
    /// Whether it knows pages of 1 GiB.
    pub(super) gigabyte_pages: bool,
}

/// Looks at the processor.
///
/// # Errors
///
/// [`BootError::Processor`] with what it lacks.
pub(super) fn check() -> Result<Processor, BootError> {
    if __cpuid(0x8000_0000).eax < CPUID_EXTENDED_FEATURES {
        return Err(BootError::Processor("it has no extended CPUID leaves"));
    }
    let features = __cpuid(CPUID_EXTENDED_FEATURES).edx;
    if features & NO_EXECUTE == 0 {
        return Err(BootError::Processor(
            "it cannot forbid execution of data (NX). Enable \"Execute Disable\" in the firmware's setup",
        ));
    }
    let cr4: u64;
    // SAFETY: firmware runs applications at privilege level 0, where reading CR4 has no effect.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags)) };
    if cr4 & CR4_FIVE_LEVELS != 0 {
        return Err(BootError::Processor(
            "firmware runs it with 5-level paging, which this loader cannot switch off. Disable \"LA57\" or \"5-level \
             paging\" in the firmware's setup",
        ));
    }
    Ok(Processor { gigabyte_pages: features & GIGABYTE_PAGES != 0 })
}
