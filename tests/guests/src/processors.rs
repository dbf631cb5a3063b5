//! The other processors: INIT and SIPI (Intel SDM volume 3A, section 9.4).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::clock::Clock;
use crate::{apic, interrupts};

/// The page below 1 MiB where another processor begins.
const START_PAGE: usize = 0x8000;

/// How many have arrived.
static ARRIVED: AtomicU32 = AtomicU32::new(0);
/// What they run: a `fn()` as a number.
static WORK: AtomicU64 = AtomicU64::new(0);

/// Starts the processor with this APIC id, which runs `work` and then waits for interrupts for ever. `false` if it
/// has not arrived within a second. One at a time.
#[cfg(target_os = "none")]
pub fn start(id: u32, clock: Clock, work: fn()) -> bool {
    use crate::apic::Command;
    use crate::memory::{PAGE, Page};

    unsafe extern "C" {
        static other_real_mode_start: u8;
        static other_real_mode_end: u8;
        static mut other_stack_end: u32;
    }
    let code = &raw const other_real_mode_start;
    let length = (&raw const other_real_mode_end) as usize - code as usize;
    // SAFETY: the page below 1 MiB is RAM that nothing else of the guest uses; the code is no longer than a page.
    unsafe { core::ptr::copy_nonoverlapping(code, START_PAGE as *mut u8, length) };
    // Four pages in a row, as nobody else takes pages meanwhile.
    let stack = [(); 4].map(|()| Page::take());
    let end = stack.iter().map(Page::address).max().unwrap_or(0) + PAGE as u64;
    // SAFETY: read only by the processor that is about to start.
    unsafe { (&raw mut other_stack_end).write_volatile(end as u32) };
    WORK.store(work as usize as u64, Ordering::SeqCst);
    let before = ARRIVED.load(Ordering::SeqCst);
    apic::send(id, Command::Init);
    clock.sleep(10);
    for _ in 0..2 {
        apic::send(id, Command::StartUp((START_PAGE / PAGE) as u8));
        if clock.await_for(500, || ARRIVED.load(Ordering::SeqCst) != before) {
            return true;
        }
    }
    false
}

/// Nothing to start.
#[cfg(not(target_os = "none"))]
pub fn start(_: u32, _: Clock, _: fn()) -> bool {
    let _ = (START_PAGE, guest_other_main as *const ());
    false
}

/// Where another processor comes from its entry code.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
extern "sysv64" fn guest_other_main() -> ! {
    interrupts::load();
    apic::enable();
    let work = WORK.load(Ordering::SeqCst) as usize;
    ARRIVED.fetch_add(1, Ordering::SeqCst);
    if work != 0 {
        // SAFETY: `start` stored a function of this type.
        let work: fn() = unsafe { core::mem::transmute::<usize, fn()>(work) };
        work();
    }
    loop {
        crate::instructions::wait_for_interrupt();
    }
}
