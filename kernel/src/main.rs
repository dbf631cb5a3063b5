//! The kernel's binary: the entry point and the panic handler. Everything else is the library's.

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

/// Where the boot loader jumps to; see the crate `handoff` for what it promises.
#[cfg(target_os = "none")]
#[unsafe(no_mangle)]
extern "sysv64" fn _start(handoff: *const handoff::Handoff) -> ! {
    // SAFETY: the loader calls this once, on the boot processor, with a handoff as the crate of that name promises.
    unsafe { postern_kernel::start::start(handoff, postern_kernel::schedule::begin) }
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(information: &core::panic::PanicInfo<'_>) -> ! {
    postern_kernel::cpu::fault::panicked(information)
}

/// The kernel does not run as an ordinary process.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is the hypervisor's kernel: it is built for x86_64-unknown-none, and `cargo xtask run` starts it");
    std::process::exit(2);
}
