//! Bringing the other CPUs up, and giving all of them their work (SDM volume 3 section 8.4).

use core::fmt;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use super::apic::{self, Delivery, Mode};
use super::features::{self, Features};
use super::start_page::{self, Start};
use super::{PerCpu, clock, count, current, fault, interrupts, kick, per_cpu, timer};
use crate::memory::space::{self, StartPage};
use crate::memory::stacks::Purpose;
use crate::memory::to_pointer;

/// Between INIT and the first start-up interrupt: processors since the Pentium 4 need none, a little is harmless.
const AFTER_INIT: u64 = 10_000;
/// Until the second start-up interrupt, for a CPU that lost the first.
const FIRST_PATIENCE: u64 = 1_000_000;
/// Until a CPU is given up.
const LAST_PATIENCE: u64 = 5_000_000_000;
/// The highest local APIC id that xAPIC mode can name.
const XAPIC_LAST_ID: u32 = 254;

/// The index of the CPU that came up last; the CPU itself sets it.
static ARRIVED: AtomicU32 = AtomicU32::new(0);
/// The time-stamp counter of that CPU when it came up.
static ARRIVED_AT: AtomicU64 = AtomicU64::new(0);
/// What every CPU is to run, a `fn(u32) -> !`, once it is known.
static WORK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Why a CPU is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftOut {
    /// It did not answer.
    Silent { apic_id: u32 },
    /// Its id cannot be named in xAPIC mode.
    NeedsX2Apic { apic_id: u32 },
    /// There are more CPUs than the hypervisor keeps books for.
    TooMany { apic_id: u32 },
    /// No memory is left for its stacks, or no page below 1 MiB to start it in.
    NoMemory { apic_id: u32 },
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent { apic_id } => write!(
                f,
                "the CPU with local APIC id {apic_id} did not start within {} ms and is left out",
                LAST_PATIENCE / 1_000_000
            ),
            Self::NeedsX2Apic { apic_id } => write!(
                f,
                "the CPU with local APIC id {apic_id} is left out: ids above {XAPIC_LAST_ID} need x2APIC mode, and that \
                 needs interrupt remapping with extended interrupt mode"
            ),
            Self::TooMany { apic_id } => write!(
                f,
                "the CPU with local APIC id {apic_id} is left out: the hypervisor runs {} CPUs at most",
                super::MAXIMUM
            ),
            Self::NoMemory { apic_id } => {
                write!(f, "the CPU with local APIC id {apic_id} is left out: no memory is left for it")
            }
        }
    }
}

/// Starts the CPUs with these local APIC ids, one after the other; this CPU's own id is skipped. Gives those that are
/// left out.
pub(crate) fn start(ids: impl Iterator<Item = u32>, mut left_out: impl FnMut(LeftOut)) {
    // Choosing how local APICs are driven masked this CPU's timer.
    timer::set_up_this_cpu();
    let me = apic::id();
    let page = StartPage::new();
    // The stacks of the index that comes next are mapped and its data are made.
    let mut next: Option<&'static PerCpu> = None;
    for apic_id in ids.filter(|id| *id != me) {
        let Some(page) = &page else {
            left_out(LeftOut::NoMemory { apic_id });
            continue;
        };
        if apic::mode() == Mode::XApic && apic_id > XAPIC_LAST_ID {
            left_out(LeftOut::NeedsX2Apic { apic_id });
            continue;
        }
        let cpu = match next.take() {
            Some(cpu) => cpu,
            None => match per_cpu::prepare_next(apic_id) {
                Some(cpu) if space::map_stacks(cpu.index()).is_ok() => cpu,
                Some(_) => {
                    left_out(LeftOut::NoMemory { apic_id });
                    return;
                }
                None => {
                    left_out(LeftOut::TooMany { apic_id });
                    continue;
                }
            },
        };
        cpu.set_apic_id(apic_id);
        if start_one(page, cpu) {
            per_cpu::publish_next();
        } else {
            // Back to waiting for a start-up interrupt, so that it does not come up late, with another CPU's stack.
            apic::command(apic_id, Delivery::Init, 0);
            clock::delay(AFTER_INIT);
            left_out(LeftOut::Silent { apic_id });
            next = Some(cpu);
        }
    }
}

fn start_one(page: &StartPage, cpu: &'static PerCpu) -> bool {
    let address = page.address().as_u64() as u32;
    let argument = core::ptr::from_ref(cpu).expose_provenance() as u64;
    let entry = arrive as extern "C" fn(*const PerCpu) -> ! as usize as u64;
    let start = Start { root: space::root() as u32, stack: Purpose::Main.top(cpu.index()) as u64, entry, argument };
    // SAFETY: the page is the `StartPage`'s, below 1 MiB and in the direct map; no CPU runs in it now.
    let bytes = unsafe { &mut *to_pointer(page.address()).cast::<[u8; 4096]>() };
    start_page::fill(bytes, address, &start);
    core::sync::atomic::fence(Ordering::SeqCst);

    // One that was left out under this index may have come in the very last moment.
    ARRIVED.store(0, Ordering::Relaxed);
    let began = clock::ticks();
    let vector = (address >> 12) as u8;
    apic::command(cpu.apic_id(), Delivery::Init, 0);
    clock::delay(AFTER_INIT);
    let arrived = || (ARRIVED.load(Ordering::Acquire) == cpu.index()).then_some(());
    apic::command(cpu.apic_id(), Delivery::StartUp, vector);
    let came = clock::wait_for(FIRST_PATIENCE, arrived).or_else(|| {
        apic::command(cpu.apic_id(), Delivery::StartUp, vector);
        clock::wait_for(LAST_PATIENCE, arrived)
    });
    let its = ARRIVED_AT.load(Ordering::Relaxed);
    if came.is_some() && !(began..=clock::ticks()).contains(&its) {
        log::warn!(
            "the time-stamp counter of cpu {} is not in step with the boot CPU's: times in its lines are off",
            cpu.index()
        );
    }
    came.is_some()
}

/// Where another CPU enters Rust: on its own stack, on the hypervisor's page tables, interrupts off.
extern "C" fn arrive(cpu: *const PerCpu) -> ! {
    // SAFETY: `start_one` gave the address of data that live for good.
    let cpu = unsafe { &*cpu };
    // SAFETY: this is that CPU, for the first time; its stacks are mapped.
    unsafe {
        features::set_control_registers();
        cpu.install();
    }
    apic::switch_on();
    timer::set_up_this_cpu();
    ARRIVED_AT.store(clock::ticks(), Ordering::Relaxed);
    ARRIVED.store(cpu.index(), Ordering::Release);
    park()
}

/// Waits for work.
fn park() -> ! {
    loop {
        interrupts::disable();
        if let Some(work) = work() {
            work(current().index());
        }
        interrupts::wait();
    }
}

fn work() -> Option<fn(u32) -> !> {
    let work = WORK.load(Ordering::Acquire);
    // SAFETY: only `run_on_each` stores here, and it stores this type.
    (!work.is_null()).then(|| unsafe { core::mem::transmute::<*mut (), fn(u32) -> !>(work) })
}

/// Runs `work` on every CPU that is online, this one too, each with its index, with interrupts off. Called once, by the
/// boot CPU.
pub fn run_on_each(work: fn(u32) -> !) -> ! {
    WORK.store(work as *mut (), Ordering::Release);
    for index in 1..count() {
        kick(index);
    }
    interrupts::disable();
    work(current().index())
}

/// The choice of how local APICs are driven, made by the boot CPU before others start: first for its own use, then, when
/// more is known, for all.
pub(crate) fn set_up_boot_cpu(wanted: Mode, features: &Features) -> Result<Mode, apic::ApicError> {
    let chosen = apic::choose(wanted, features)?;
    per_cpu::boot().set_apic_id(apic::id());
    timer::set_up_this_cpu();
    Ok(chosen)
}

/// Makes the boot CPU's own data known to it, so that a panic can be reported from the first instructions on.
///
/// # Safety
///
/// Called on the boot CPU.
pub(crate) unsafe fn name_boot_cpu() {
    // SAFETY: the caller's promise.
    unsafe { per_cpu::boot().make_current() };
}

/// Makes the boot CPU's own data and descriptor tables known to it.
///
/// # Safety
///
/// Called once, on the boot CPU, on the hypervisor's page tables.
pub(crate) unsafe fn install_boot_cpu() {
    // SAFETY: the caller's promise.
    unsafe { per_cpu::boot().install() };
}

/// Where a CPU ends that has nothing to do for good.
pub fn stop_this_cpu() -> ! {
    fault::halt()
}
