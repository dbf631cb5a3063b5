//! What the test guests share: from a Multiboot loader to 64-bit code with interrupts, PCI and a console.
//!
//! The guests run in a VM of Postern as well as in a bare QEMU (`qemu-system-x86_64 -kernel`), so that a test can be
//! tried without the hypervisor that it tests. They print to COM1; lines that begin with `result` are what the system
//! tests read.
//!
//! One processor runs everything but what [`processors`] starts, memory is mapped at its physical address (the first
//! 512 GiB, from 2 GiB on uncached where it is below 4 GiB), and nothing is ever freed.

#![cfg_attr(target_os = "none", no_std)]

pub mod acpi;
pub mod apic;
pub mod clock;
pub mod edu;
pub mod fault;
pub mod hypercall;
pub mod instructions;
pub mod interrupts;
pub mod legacy;
pub mod memory;
pub mod msi;
pub mod multiboot;
pub mod nvme;
pub mod pci;
pub mod power;
pub mod processors;
pub mod serial;
#[cfg(target_os = "none")]
mod start;

/// Declares the guest's main function, which gets the Multiboot information.
#[macro_export]
macro_rules! main {
    ($main:path) => {
        /// Called once, on the first processor, by the entry code.
        #[unsafe(no_mangle)]
        extern "sysv64" fn guest_main(magic: u32, information: u32) -> ! {
            $crate::interrupts::load();
            $crate::interrupts::mask_legacy();
            // SAFETY: the entry code passes on what the loader left in EAX and EBX.
            let multiboot = unsafe { $crate::multiboot::Information::new(magic, information) };
            match multiboot {
                Some(multiboot) => $main(&multiboot),
                None => $crate::println!("result multiboot=absent"),
            }
            $crate::power::off()
        }
    };
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(information: &core::panic::PanicInfo<'_>) -> ! {
    println!("result panic: {information}");
    power::off()
}
