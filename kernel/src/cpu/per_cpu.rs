//! What each CPU has for itself, reached through its GS base.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use spin::Once;

use super::descriptors::{self, Descriptors};
use super::msr;
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
    /// Segments and task state.
    descriptors: Once<Descriptors>,
    /// Handlers of this CPU's vectors.
    pub(super) slots: Slots,
    /// When this CPU's timer is to fire, in nanoseconds of the clock; `u64::MAX` for never.
    pub(super) deadline: AtomicU64,
    /// Who is told when it fires: a function as an address, 0 for nobody, and its argument. See [`super::timer`].
    pub(super) timer_handler: [AtomicUsize; 2],
    /// Interrupts that no handler wanted.
    pub(super) unexpected: AtomicU64,
    /// This CPU failed and has its report to make.
    pub(super) failing: AtomicBool,
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
            timer_handler: [const { AtomicUsize::new(0) }; 2],
            unexpected: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            descriptors: Once::new(),
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

impl PerCpu {
    /// Makes this structure the one that [`current`] finds on this CPU, and loads its descriptor tables and the
    /// interrupt gates.
    ///
    /// # Safety
    ///
    /// This CPU is the one that the structure is for and has not installed one before; it runs on the hypervisor's page
    /// tables, in which its stacks are mapped.
    pub(super) unsafe fn install(&'static self) {
        // SAFETY: the caller's promise. The segments come first: loading GS clears its base.
        unsafe {
            self.descriptors.call_once(|| Descriptors::new(self.index)).load();
            self.make_current();
            descriptors::load_gates();
        }
    }

    /// Makes this structure the one that [`current`] finds on this CPU.
    ///
    /// # Safety
    ///
    /// This CPU is the one that the structure is for.
    pub(super) unsafe fn make_current(&'static self) {
        let this: *const Self = self;
        self.this.store(this.cast_mut(), Ordering::Relaxed);
        // SAFETY: nobody but `current` uses the base.
        unsafe { msr::write(msr::GS_BASE, this.expose_provenance() as u64) };
    }

    /// Sets the local APIC id, when it is known.
    pub(super) fn set_apic_id(&self, id: u32) {
        self.apic_id.store(id, Ordering::Relaxed);
    }
}

/// The boot CPU's data.
pub(super) fn boot() -> &'static PerCpu {
    &BOOT
}

/// The data of the CPU that will have the next index, kept for good. `None` where there are [`MAXIMUM`] already.
pub(super) fn prepare_next(apic_id: u32) -> Option<&'static PerCpu> {
    let index = count();
    let place = TABLE.get(index as usize)?;
    let cpu: &'static PerCpu = Box::leak(Box::new(PerCpu::new(index, apic_id)));
    place.store(core::ptr::from_ref(cpu).cast_mut(), Ordering::Release);
    Some(cpu)
}

/// Counts the CPU that [`prepare_next`] gave as online.
pub(super) fn publish_next() {
    COUNT.fetch_add(1, Ordering::AcqRel);
}
