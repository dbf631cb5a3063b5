//! What went wrong in the hypervisor itself: exceptions and panics. The report comes in one piece, whichever CPUs fail
//! at the same time, and then the machine stands still: nothing is known to be right any more.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use x86_64::registers::control::{Cr0, Cr2, Cr3, Cr4};

use super::backtrace::{self, Entry, StackMemory};
use super::symbols::Symbol;
use super::trap::{self, TrapFrame};
use super::{apic, clock, count, current, get, interrupts, msr};
use crate::console::output::emergency;
use crate::memory::stacks::{self, Place};
use crate::memory::{image, space};

/// The room that reports name.
const ROOM: &str = "fault";
/// No CPU is reporting.
const NOBODY: u32 = u32::MAX;
/// How long a failing CPU waits for another one's report: a full report at 9600 baud takes less.
const PATIENCE: u64 = 5_000_000_000;

/// The CPU that reports now.
static REPORTING: AtomicU32 = AtomicU32::new(NOBODY);
/// Some CPU failed: the others are to stop.
static FAILED: AtomicBool = AtomicBool::new(false);

/// The names of the exceptions (SDM volume 3 table 6-1).
fn name(vector: u8) -> &'static str {
    match vector {
        0 => "divide error (#DE)",
        1 => "debug exception (#DB)",
        2 => "non-maskable interrupt",
        3 => "breakpoint (#BP)",
        4 => "overflow (#OF)",
        5 => "bound range exceeded (#BR)",
        6 => "invalid opcode (#UD)",
        7 => "device not available (#NM)",
        8 => "double fault (#DF)",
        10 => "invalid TSS (#TS)",
        11 => "segment not present (#NP)",
        12 => "stack-segment fault (#SS)",
        13 => "general protection fault (#GP)",
        14 => "page fault (#PF)",
        16 => "x87 error (#MF)",
        17 => "alignment check (#AC)",
        18 => "machine check (#MC)",
        19 => "SIMD error (#XM)",
        20 => "virtualization exception (#VE)",
        21 => "control protection exception (#CP)",
        28 => "hypervisor injection exception (#HV)",
        29 => "VMM communication exception (#VC)",
        30 => "security exception (#SX)",
        _ => "reserved exception",
    }
}

/// An exception in the hypervisor: where it was foreseen, execution goes on as foreseen; else it is the end.
pub(super) fn exception(frame: &mut TrapFrame) {
    if frame.vector == u64::from(trap::GENERAL_PROTECTION) && msr::recover(frame) {
        return;
    }
    let vector = frame.vector as u8;
    report(|| {
        emergency(ROOM, format_args!("cpu {}: {}, error code {:#x}", current().index(), name(vector), frame.error));
        if let Some(explanation) = explain(frame) {
            emergency(ROOM, format_args!("{explanation}"));
        }
        registers(frame);
        emergency(ROOM, format_args!("  at {}", Symbol(frame.rip)));
        print_backtrace(frame.rbp, frame.rsp);
    });
    halt()
}

/// A panic.
pub fn panicked(information: &PanicInfo<'_>) -> ! {
    interrupts::disable();
    report(|| {
        emergency(ROOM, format_args!("cpu {}: {information}", current().index()));
        let (rbp, rsp): (u64, u64);
        // SAFETY: it only reads two registers.
        unsafe { core::arch::asm!("mov {}, rbp", "mov {}, rsp", out(reg) rbp, out(reg) rsp, options(nomem, nostack)) };
        // What the others held was computed with by now.
        emergency(ROOM, format_args!("  rbp {rbp:016x} rsp {rsp:016x}\n{}", ControlRegisters));
        print_backtrace(rbp, rsp);
    });
    halt()
}

/// A non-maskable interrupt: another CPU that failed stops this one with it, unless this one has to report too. Others
/// are counted.
pub(super) fn non_maskable(_: &mut TrapFrame) {
    let failed = FAILED.load(Ordering::Acquire);
    if failed && !current().failing.load(Ordering::Relaxed) {
        halt();
    }
    if failed {
        return;
    }
    current().stray_nmis.fetch_add(1, Ordering::Relaxed);
}

/// Runs `print` when no other CPU reports, then stops the others. A CPU that fails while it reports stops at once.
fn report(print: impl FnOnce()) {
    let me = current().index();
    current().failing.store(true, Ordering::Relaxed);
    let turn = clock::wait_for(PATIENCE, || {
        match REPORTING.compare_exchange(NOBODY, me, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Some(true),
            Err(holder) if holder == me => Some(false),
            Err(_) => None,
        }
    });
    if turn == Some(false) {
        emergency(ROOM, format_args!("cpu {me}: failed again while it reported"));
        halt();
    }
    // Where the other one's report does not end, this one comes all the same.
    REPORTING.store(me, Ordering::Release);
    print();
    if !FAILED.swap(true, Ordering::AcqRel) {
        emergency(ROOM, format_args!("the machine is halted; this is a defect of the hypervisor or of the machine"));
    }
    stop_others(me);
    REPORTING.store(NOBODY, Ordering::Release);
}

/// Stops the other CPUs. One that waits for its turn to report goes on waiting, and stops when it has reported.
fn stop_others(me: u32) {
    for index in (0..count()).filter(|index| *index != me) {
        if let Some(cpu) = get(index) {
            apic::command(cpu.apic_id(), apic::Delivery::NonMaskable, 0);
        }
    }
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        interrupts::disable();
        interrupts::halt();
    }
}

/// What an exception means, where more than its name is known.
fn explain(frame: &TrapFrame) -> Option<Explanation> {
    let address = Cr2::read_raw();
    let vector = frame.vector as u8;
    if vector != trap::PAGE_FAULT && vector != trap::DOUBLE_FAULT {
        return None;
    }
    match stacks::place(address as usize) {
        Some(place @ Place::Guard(..)) => Some(Explanation::Guard { address, place }),
        _ if vector == trap::PAGE_FAULT => Some(Explanation::Page { address, error: frame.error }),
        _ => None,
    }
}

enum Explanation {
    Guard { address: u64, place: Place },
    Page { address: u64, error: u64 },
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guard { address, place } => match place {
                Place::Guard(cpu, purpose) | Place::Stack(cpu, purpose) => {
                    write!(f, "{address:#x} is in the guard below the {purpose} of cpu {cpu}: the stack is used up")
                }
            },
            Self::Page { address, error } => {
                // Page-fault error code, SDM volume 3 section 4.7.
                let how = match (error & 1 << 4 != 0, error & 1 << 1 != 0) {
                    (true, _) => "executing",
                    (false, true) => "writing",
                    (false, false) => "reading",
                };
                let why = match (error & 1 << 3 != 0, error & 1) {
                    (true, _) => "a reserved bit is set in the page tables",
                    (false, 0) => "nothing is mapped there",
                    (false, _) => "the mapping does not allow it",
                };
                write!(f, "{how} {address:#x}: {why}")?;
                match space::look_up(*address as usize) {
                    Some((physical, access)) => write!(f, " (it leads to physical {physical:#x}, {access:?})"),
                    None => Ok(()),
                }
            }
        }
    }
}

fn registers(frame: &TrapFrame) {
    let TrapFrame { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, rip, rflags, .. } = frame;
    let TrapFrame { r8, r9, r10, r11, r12, r13, r14, r15, cs, ss, .. } = frame;
    emergency(
        ROOM,
        format_args!(
            "  rip {rip:016x} rflags {rflags:016x} cs {cs:04x} ss {ss:04x}\n\
             \x20 rax {rax:016x} rbx {rbx:016x} rcx {rcx:016x} rdx {rdx:016x}\n\
             \x20 rsi {rsi:016x} rdi {rdi:016x} rbp {rbp:016x} rsp {rsp:016x}\n\
             \x20 r8  {r8:016x} r9  {r9:016x} r10 {r10:016x} r11 {r11:016x}\n\
             \x20 r12 {r12:016x} r13 {r13:016x} r14 {r14:016x} r15 {r15:016x}\n\
             {}",
            ControlRegisters
        ),
    );
}

/// This CPU's control registers.
struct ControlRegisters;

impl fmt::Display for ControlRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cr3, _) = Cr3::read_raw();
        write!(
            f,
            "  cr0 {:016x} cr2 {:016x} cr3 {:016x} cr4 {:016x}",
            Cr0::read_raw(),
            Cr2::read_raw(),
            cr3.start_address().as_u64(),
            Cr4::read_raw()
        )
    }
}

fn print_backtrace(rbp: u64, rsp: u64) {
    let place = stacks::place(rsp as usize).or_else(|| stacks::place(rbp as usize));
    let Some(Place::Stack(cpu, purpose) | Place::Guard(cpu, purpose)) = place else {
        emergency(ROOM, format_args!("  rsp {rsp:#x} is on no stack: there is no backtrace"));
        return;
    };
    let stack = StackMemory {
        range: purpose.range(cpu),
        read: |address: usize| {
            // SAFETY: `StackMemory` asks only for aligned addresses in the range, and every stack that was ever used is
            // mapped whole.
            unsafe { core::ptr::with_exposed_provenance::<u64>(address).read_volatile() }
        },
    };
    emergency(ROOM, format_args!("  on the {purpose} of cpu {cpu}, called from:"));
    backtrace::walk(
        &stack,
        rbp,
        rsp,
        |address| image::is_code(address as usize),
        |Entry { address, certain }| {
            // The address behind a call may be the next function's first.
            let symbol = Symbol(address - 1);
            emergency(ROOM, format_args!("  {} {symbol}", if certain { " " } else { "?" }));
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_faults_are_explained() {
        let text = |address, error| Explanation::Page { address, error }.to_string();
        assert_eq!(text(0x10, 0), "reading 0x10: nothing is mapped there");
        assert_eq!(text(0x10, 3), "writing 0x10: the mapping does not allow it");
        assert_eq!(text(0x10, 0x11), "executing 0x10: the mapping does not allow it");
        assert_eq!(text(0x10, 9), "reading 0x10: a reserved bit is set in the page tables");
        let range = stacks::Purpose::Main.range(3);
        let (address, place) = (range.start as u64 - 8, stacks::place(range.start - 8).unwrap());
        let text = Explanation::Guard { address, place }.to_string();
        assert!(text.ends_with("is in the guard below the main stack of cpu 3: the stack is used up"), "{text}");
    }
}
