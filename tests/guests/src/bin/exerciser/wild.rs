//! `test=wild`: whatever a guest executes gets an answer of the architecture, and the hypervisor and the guest go on.

use core::arch::asm;

use guest::fault::{Fault, attempt};
use guest::instructions::{
    cpuid, disable_interrupts, enable_interrupts, in_postern, in8, in16, in32, out8, out16, out32, read_msr, write_msr,
};
use guest::memory::{Page, Registers};
use guest::{apic, hypercall, interrupts};

use crate::check::Check;

const EFER: u32 = 0xC000_0080;
const EFER_SVM: u64 = 1 << 12;

/// Registers that no guest has: of the machine's virtualisation, its system management, its power.
const FOREIGN_MSRS: &[u32] = &[
    0x480,
    0x48F,
    0x3A,
    0x9B,
    0x9E,
    0x1A0,
    0x610,
    0xC001_0010,
    0xC001_0015,
    0xC001_0111,
    0xC001_0112,
    0xC001_0113,
    0xC001_0114,
    0xC001_0115,
    0xC001_0117,
    0xC001_0118,
    0xC001_0140,
    0xC001_1004,
    0x0000_4000,
    0x4000_0000,
    0xFFFF_FFFF,
];
/// Where nothing is, and a little of what is: addresses in the PCI window, between the interrupt controllers, above.
const ADDRESSES: &[u64] =
    &[0xFD00_0000, 0xFEC0_0400, 0xFED0_0000, 0xFED9_0000, 0xFEF0_0000, 0xFF00_0000, 0x70_0000_0000];

pub(crate) fn run(check: &mut Check<'_>) {
    instructions(check);
    registers(check);
    machine_registers(check);
    ports(check);
    addresses(check);
    strings(check);
    single_step(check);
    lowered_priority(check);
    modes(check);
    check.that("alive", true);
}

/// An interrupt waits for the interrupt flag while the task priority moves.
fn lowered_priority(check: &mut Check<'_>) {
    const VECTOR: u8 = 0x71;
    let Some(clock) = check.clock() else { return };
    disable_interrupts();
    apic::send_self(VECTOR);
    for priority in [0u64, 5, 7, 0xF, 3, 0] {
        // SAFETY: the task priority holds interrupts back and nothing else.
        unsafe { asm!("mov cr8, {}", in(reg) priority) };
        cpuid(0, 0);
    }
    let held = interrupts::count(VECTOR) == 0;
    enable_interrupts();
    check.that("lowered-priority", held && clock.await_for(1000, || interrupts::count(VECTOR) == 1));
    disable_interrupts();
}

// From 64-bit mode down to paging off and CR4.PAE off, with EFER.LME on all the while; CPUID there; and back.
#[cfg(target_os = "none")]
core::arch::global_asm!(
    "wild_paging_off:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "pushfq",
    "cli",
    "lea rax, [rip + 2f]",
    // The 32-bit code segment.
    "push 0x18",
    "push rax",
    "retfq",
    ".code32",
    "2:",
    "mov eax, cr0",
    "and eax, 0x7FFFFFFF",
    "mov cr0, eax",
    "mov edi, cr4",
    "mov eax, edi",
    "and eax, ~0x20",
    "mov cr4, eax",
    "xor eax, eax",
    "cpuid",
    "mov cr4, edi",
    "mov eax, cr0",
    "or eax, 0x80000000",
    "mov cr0, eax",
    "mov eax, offset wild_paging_on",
    "push 8",
    "push eax",
    "retf",
    ".code64",
    "wild_paging_on:",
    "mov esp, esp",
    "popfq",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

/// Long mode enabled but not active, and exits in every state on the way.
#[cfg(target_os = "none")]
fn modes(check: &mut Check<'_>) {
    unsafe extern "sysv64" {
        fn wild_paging_off();
    }
    // SAFETY: code, stack and page tables of the guest are mapped where they are; everything is as before at the end.
    unsafe { wild_paging_off() };
    check.that("long-mode-without-pae", true);
}

/// An ordinary process cannot.
#[cfg(not(target_os = "none"))]
fn modes(_: &mut Check<'_>) {}

/// The vector of the exception that the action raises, if it raises one.
fn vector(action: impl FnOnce()) -> Option<u8> {
    attempt(action).err().map(|fault| fault.vector)
}

/// The vector of the exception that some instructions raise, if they raise one.
macro_rules! execute {
    ($($code:tt)*) => {
        // SAFETY: the instructions raise an exception, which `attempt` takes, or have no effect on Rust's state.
        vector(|| unsafe { asm!($($code)*) })
    };
}

macro_rules! raises {
    ($check:expr, $what:literal, $vector:expr, $($code:tt)*) => {
        $check.that($what, execute!($($code)*) == $vector)
    };
}

/// The vector of the exception that WRMSR raises, if it raises one.
fn write(register: u32, value: u64) -> Option<u8> {
    // SAFETY: refused, or without effect on the guest's memory: no caller has a value that has one.
    vector(|| unsafe { write_msr(register, value) })
}

fn instructions(check: &mut Check<'_>) {
    let page = Page::take().address();
    // Virtualisation is not offered, whatever the guest writes to EFER.
    let enabled = write(EFER, read_msr(EFER) | EFER_SVM);
    if in_postern() {
        check.that("no-svm", enabled == Some(Fault::PROTECTION) && cpuid(0x8000_0001, 0)[2] & 1 << 2 == 0);
        raises!(check, "vmrun", Some(Fault::UNDEFINED), "vmrun", in("rax") page);
        raises!(check, "vmload", Some(Fault::UNDEFINED), "vmload", in("rax") page);
        raises!(check, "vmsave", Some(Fault::UNDEFINED), "vmsave", in("rax") page);
        raises!(check, "stgi", Some(Fault::UNDEFINED), "stgi");
        raises!(check, "clgi", Some(Fault::UNDEFINED), "clgi");
        raises!(check, "invlpga", Some(Fault::UNDEFINED), "invlpga rax, ecx", in("rax") 0, in("ecx") 1);
        raises!(check, "vmxoff", Some(Fault::UNDEFINED), "vmxoff");
        check.that("hypercall", hypercall::version().is_ok() && hypercall::call(0xDEAD_BEEF, [u64::MAX; 3]).is_err());
    }
    raises!(check, "invd", None, "invd");
    raises!(check, "wbinvd", None, "wbinvd");
    raises!(check, "rdtsc", None, "rdtsc", out("rax") _, out("rdx") _);
    raises!(check, "undefined", Some(Fault::UNDEFINED), "ud2");
    raises!(check, "breakpoint", Some(3), "int3");
    // What RDPMC, MONITOR, SKINIT and the like come to depends on the processor; the guest has to survive it.
    for (what, found) in [
        ("rdpmc", execute!("rdpmc", in("ecx") 0x7FFF, out("eax") _, out("edx") _)),
        ("monitor", execute!("monitor", in("rax") page, in("ecx") 0, in("edx") 0)),
        ("xsetbv", execute!("xsetbv", in("ecx") 0, in("eax") 0, in("edx") 0)),
        ("software-interrupt", execute!("int 0x0d")),
    ] {
        check.note(what, found.map_or("none", name));
    }
}

fn registers(check: &mut Check<'_>) {
    let protection = Some(Fault::PROTECTION);
    if in_postern() {
        // The emulator without a hypervisor checks none of these.
        raises!(check, "cr0-reserved", protection, "mov cr0, {}", in(reg) 1u64 << 63 | 0x8000_0011);
        raises!(check, "cr0-paging-alone", protection, "mov cr0, {}", in(reg) 0x8000_0000u64);
        raises!(check, "cr0-not-write-through", protection, "mov cr0, {}", in(reg) 0xA000_0011u64);
        raises!(check, "cr4-without-pae", protection, "mov cr4, {}", in(reg) 0u64);
        raises!(check, "dr7-reserved", protection, "mov dr7, {}", in(reg) 1u64 << 40);

        raises!(check, "cr4-reserved", protection, "mov cr4, {}", in(reg) 1u64 << 50 | 1 << 5);
        raises!(check, "cr4-vmx", protection, "mov cr4, {}", in(reg) 1u64 << 13 | 1 << 5);
        raises!(check, "cr3-reserved", protection, "mov cr3, {}", in(reg) 1u64 << 62 | 0x1000);
    }
    // Debug registers and CR2 hold what is written.
    let (debug, address): (u64, u64);
    // SAFETY: no breakpoint is enabled, and CR2 is the guest's own.
    unsafe {
        asm!("mov dr0, {}", in(reg) 0x1234_5678u64);
        asm!("mov cr2, {}", in(reg) 0x9ABC_DEF0u64);
        cpuid(0, 0);
        asm!("mov {}, dr0", out(reg) debug);
        asm!("mov {}, cr2", out(reg) address);
    }
    check.that("kept", debug == 0x1234_5678 && address == 0x9ABC_DEF0);
}

fn machine_registers(check: &mut Check<'_>) {
    let (mut refused, mut read) = (0, 0);
    for register in FOREIGN_MSRS {
        match attempt(|| read_msr(*register)) {
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
        let _ = write(*register, u64::MAX);
    }
    check.note("foreign-msrs", format_args!("refused:{refused},read:{read}"));
    let wild = [
        ("efer-reserved", write(EFER, u64::MAX)),
        ("pat-reserved", write(0x277, 0x0202_0202_0202_0202)),
        ("apic-base-reserved", write(0x1B, u64::MAX)),
    ];
    for (what, found) in wild {
        if in_postern() {
            check.that(what, found == Some(Fault::PROTECTION));
        } else {
            check.note(what, found.map_or("none", name));
        }
    }
}

/// Every port is read in every size, and those that cannot end the machine are written.
fn ports(check: &mut Check<'_>) {
    if !in_postern() {
        // QEMU's own devices stop the emulator when some ports are read in the wrong size.
        return;
    }
    for port in (0..=0xFFFF).step_by(3).filter(|port| *port < 0x1000 || *port % 0x33 == 0) {
        let _ = (in8(port), in16(port), in32(port));
    }
    for port in (0x1000..0xC000).step_by(0x151) {
        out8(port, 0xFF);
        out16(port, 0xFFFF);
        out32(port, u32::MAX);
    }
    // More than anybody would want to read of in a log.
    for _ in 0..2000 {
        out8(0x1234, 0xAA);
    }
    check.that("ports", true);
}

fn addresses(check: &mut Check<'_>) {
    for address in ADDRESSES {
        let registers = Registers::at(*address);
        let _ = (registers.read32(0), registers.read64(0), registers.read32(0xFFC));
        registers.write32(0, u32::MAX);
        registers.write64(8, u64::MAX);
    }
    let apic = Registers::at(0xFEE0_0000);
    for offset in (0..0x1000).step_by(4).filter(|offset| *offset != 0x300 && *offset != 0x380) {
        let _ = vector(|| {
            let _ = apic.read32(offset);
        });
    }
    // Offsets between and beside the registers.
    for offset in [0x01, 0x22, 0x84, 0x3FE, 0xFF0, 0xFFC] {
        let _ = vector(|| apic.write32(offset, 0));
        let _ = vector(|| {
            let _ = apic.read64(offset);
        });
    }
    for _ in 0..2000 {
        Registers::at(0xFD00_0000).write32(0, 1);
    }
    apic::enable();
    check.that("addresses", true);
}

/// String instructions from and to ports and empty addresses.
fn strings(check: &mut Check<'_>) {
    let page = Page::take();
    let nothing = Registers::at(0xFD00_0000).address();
    let mut buffer = [0u8; 16];
    // SAFETY: both sides have as many bytes as are moved.
    let found = vector(|| unsafe {
        asm!("rep insb", inout("rdi") buffer.as_mut_ptr() => _, inout("rcx") 16u64 => _, in("dx") 0x1235u16);
        asm!("rep outsb", inout("rsi") buffer.as_ptr() => _, inout("rcx") 16u64 => _, in("dx") 0x1235u16);
    });
    check.that("port-strings", found.is_none() && buffer == [0xFF; 16]);
    // SAFETY: likewise.
    let found = vector(|| unsafe {
        asm!("rep movsb", inout("rdi") page.address() => _, inout("rsi") nothing => _, inout("rcx") 64u64 => _);
        asm!("rep movsd", inout("rsi") page.address() => _, inout("rdi") nothing => _, inout("rcx") 16u64 => _);
        asm!("rep stosq", inout("rdi") nothing => _, inout("rcx") 8u64 => _, in("rax") 0u64);
    });
    check.that("memory-strings", found.is_none());
    if in_postern() {
        check.that("memory-strings-data", page.is(64, |_| 0xFF));
    }
}

/// An instruction that the hypervisor carries out is followed by the trap that the guest asked for: the trap flag is
/// cleared on the way back, and the stack is restored.
fn single_step(check: &mut Check<'_>) {
    const TRAP: Option<u8> = Some(1);
    raises!(
        check, "step-over-cpuid", TRAP,
        "mov r8, rbx", "pushfq", "or qword ptr [rsp], 0x100", "popfq", "cpuid", "mov rbx, r8",
        inout("eax") 0 => _, out("ecx") _, out("edx") _, out("r8") _,
    );
    raises!(
        check, "step-over-in", TRAP,
        "pushfq", "or qword ptr [rsp], 0x100", "popfq", "in al, 0x80", "nop", out("al") _,
    );
}

fn name(vector: u8) -> &'static str {
    match vector {
        1 => "#DB",
        3 => "#BP",
        6 => "#UD",
        13 => "#GP",
        14 => "#PF",
        _ => "exception",
    }
}
