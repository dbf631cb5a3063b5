//! What each CPU has for itself, reached through its GS base.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use super::vectors::Slots;

/// As many CPUs as can be online.
pub const MAXIMUM: usize = 512;

/// One CPU's data. It lives for good.
#[repr(C)]
pub struct PerCpu {
    /// This structure's own address, so that one load through GS finds it.
    this: AtomicPtr<PerCpu>,
    index: u32,
    apic_id: AtomicU32,
    /// Handlers of this CPU's vectors.
    pub(super) slots: Slots,
    /// When this CPU's timer is to fire, in nanoseconds of the clock; `u64::MAX` for never.
    pub(super) deadline: AtomicU64,
    /// Interrupts that no handler wanted.
    pub(super) unexpected: AtomicU64,
    /// Non-maskable interrupts that nobody asked for.
    pub(super) stray_nmis: AtomicU64,
}

static BOOT: PerCpu = PerCpu::new(0, 0);
static TABLE: [AtomicPtr<PerCpu>; MAXIMUM] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAXIMUM];
static COUNT: AtomicU32 = AtomicU32::new(1);

impl PerCpu {
    pub(super) const fn new(index: u32, apic_id: u32) -> Self {
        Self {
            this: AtomicPtr::new(core::ptr::null_mut()),
            index,
            apic_id: AtomicU32::new(apic_id),
            slots: Slots::new(),
            deadline: AtomicU64::new(u64::MAX),
            unexpected: AtomicU64::new(0),
            stray_nmis: AtomicU64::new(0),
        }
    }

    /// Which CPU it is.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its local APIC's id.
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    /// How many interrupts came on vectors without a handler.
    pub fn unexpected_interrupts(&self) -> u64 {
        self.unexpected.load(Ordering::Relaxed)
    }

    /// How many non-maskable interrupts came that the hypervisor did not send.
    pub fn stray_nmis(&self) -> u64 {
        self.stray_nmis.load(Ordering::Relaxed)
    }
}

/// The CPU that runs the caller.
pub fn current() -> &'static PerCpu {
    #[cfg(target_os = "none")]
    {
        let this: *const PerCpu;
        // SAFETY: `install` put the address of a PerCpu, which begins with its own address, in the GS base of every
        // CPU before any other code of the hypervisor ran on it; world switches keep the host's GS base.
        unsafe {
            core::arch::asm!("mov {}, gs:[0]", out(reg) this, options(nostack, preserves_flags, readonly));
            &*this
        }
    }
    #[cfg(not(target_os = "none"))]
    &BOOT
}

/// The CPU with this index, once it is online.
pub fn get(index: u32) -> Option<&'static PerCpu> {
    if index == 0 {
        return Some(&BOOT);
    }
    let place = TABLE.get(usize::try_from(index).ok()?)?.load(Ordering::Acquire);
    // SAFETY: `publish` stored a reference that lives for good, or the pointer is null.
    unsafe { place.as_ref() }
}

pub(super) fn count() -> u32 {
    COUNT.load(Ordering::Acquire)
}
