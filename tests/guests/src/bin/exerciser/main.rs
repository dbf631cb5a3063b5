//! A guest that tries out its VM. The word `test=NAME` on its command line says what to try; every finding is a line
//! `result test=NAME WHAT=VALUE`, and the last line is `result test=NAME ended failures=N`. The number of failures is
//! also what it writes to the debug exit port.
//!
//! | test | further words | what |
//! |---|---|---|
//! | `smoke` | | what the loader left, exceptions, empty addresses, the local APIC's timer |
//! | `msi` | `count=N` | interrupts of an edu device, one after the other, counted |
//! | `directed` | `count=N state=spin\|halt` | interrupts of an edu device to the other processor, counted |
//! | `msix` | `count=N` | the same of an NVMe controller's first MSI-X entry, masked and unmasked |
//! | `processors` | `count=N` | another processor is started, answers interrupts and an NMI, and is started again |
//! | `x2apic` | | the local APIC in x2APIC mode |
//! | `stale` | | DMA through a translation that is made, used, taken away and made anew |
//! | `reset` | `way=cf9\|keyboard\|acpi\|triple-fault` | clean memory, DMA, then a reset with DMA under way |
//! | `crash` | `how=fetch\|tables\|descriptors\|instruction\|halt` | what the hypervisor must end the VM for |
//! | `wild` | | what no guest should do, and what each has to come to |
//! | `legacy` | | interrupts of the 8259s, with the local APIC as it was found and switched off |
//! | `off` | | ACPI's power-off |

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod check;
#[cfg(target_os = "none")]
mod crash;
#[cfg(target_os = "none")]
mod devices;
#[cfg(target_os = "none")]
mod legacy;
#[cfg(target_os = "none")]
mod many;
#[cfg(target_os = "none")]
mod smoke;
#[cfg(target_os = "none")]
mod wild;

#[cfg(target_os = "none")]
guest::main!(run);

/// Runs the test that the command line names, and leaves with the number of failures.
#[cfg(target_os = "none")]
fn run(multiboot: &guest::multiboot::Information) {
    let name = multiboot.option("test").unwrap_or("smoke");
    let mut check = check::Check::new(name);
    match name {
        "smoke" => smoke::run(multiboot, &mut check),
        "msi" => devices::msi(multiboot, &mut check),
        "directed" => devices::directed(multiboot, &mut check),
        "msix" => devices::msi_x(multiboot, &mut check),
        "stale" => devices::stale(&mut check),
        "reset" => devices::reset(multiboot, &mut check),
        "processors" => many::processors(multiboot, &mut check),
        "x2apic" => many::extended(&mut check),
        "crash" => crash::run(multiboot, &mut check),
        "wild" => wild::run(&mut check),
        "legacy" => legacy::run(&mut check),
        "off" => guest::power::acpi_off(),
        _ => check.that("known", false),
    }
    check.finish();
}

/// Elsewhere there is nothing to try.
#[cfg(not(target_os = "none"))]
fn main() {
    println!("This is a guest: build it for x86_64-unknown-none.");
}
