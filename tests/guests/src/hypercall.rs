//! Postern's hypercalls: VMMCALL, or VMCALL on Intel's processors, with the number in RAX and arguments in RBX, RCX and RDX; the answer is in RAX.

use crate::instructions::{cpuid, in_postern};

/// The answer to a call that does not exist or was refused.
const REFUSED: u64 = u64::MAX;

const GET_VERSION: u64 = 0;
const GET_EXITS: u64 = 2;
const MAP_FOR_DEVICES: u64 = 0x100;
const UNMAP_FOR_DEVICES: u64 = 0x101;

/// The hypervisor refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Whether this is a processor of Intel, which has VMCALL and not VMMCALL.
fn is_intel() -> bool {
    let [_, b, c, d] = cpuid(0, 0);
    [b, d, c] == [*b"Genu", *b"ineI", *b"ntel"].map(u32::from_le_bytes)
}

/// A call with these arguments.
///
/// # Errors
///
/// [`Refused`], also where there is no hypervisor that can be called.
pub fn call(number: u64, arguments: [u64; 3]) -> Result<u64, Refused> {
    if !in_postern() {
        return Err(Refused);
    }
    let [first, second, third] = arguments;
    let answer;
    // RBX cannot be named as an operand, so it is exchanged for the call.
    // SAFETY: a call takes memory away only where its caller says so, and then the caller answers for it.
    unsafe {
        core::arch::asm!(
            "xchg rbx, {first}",
            "test {vmcall:e}, {vmcall:e}",
            "jnz 2f",
            "vmmcall",
            "jmp 3f",
            "2:",
            "vmcall",
            "3:",
            "xchg rbx, {first}",
            first = inout(reg) first => _,
            vmcall = in(reg) u32::from(is_intel()),
            inout("rax") number => answer,
            in("rcx") second,
            in("rdx") third,
        );
    }
    if answer == REFUSED { Err(Refused) } else { Ok(answer) }
}

/// The version of the interface.
///
/// # Errors
///
/// [`Refused`].
pub fn version() -> Result<u64, Refused> {
    call(GET_VERSION, [0; 3])
}

/// How often this processor was left for this kind of exit.
///
/// # Errors
///
/// [`Refused`] for a kind that does not exist.
pub fn exits(kind: u64) -> Result<u64, Refused> {
    call(GET_EXITS, [kind, 0, 0])
}

/// Lets the VM's devices reach `length` bytes of its RAM from `address` on at `window`, too.
///
/// # Errors
///
/// [`Refused`] for what is not whole pages of the VM's RAM, where devices reach something already, for more than the
/// hypervisor allows, and without devices.
pub fn map_for_devices(window: u64, address: u64, length: u64) -> Result<(), Refused> {
    call(MAP_FOR_DEVICES, [window, address, length]).map(drop)
}

/// Takes such a window away. When the call returns, no device reaches anything through it.
///
/// # Errors
///
/// [`Refused`] for what is not exactly one window.
pub fn unmap_for_devices(window: u64, length: u64) -> Result<(), Refused> {
    call(UNMAP_FOR_DEVICES, [window, length, 0]).map(drop)
}
