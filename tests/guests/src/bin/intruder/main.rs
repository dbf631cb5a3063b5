//! A hostile guest: with a device of its own it aims DMA at memory, registers and interrupts of others.
//!
//! Each try begins with a line `attack name=... kind=read|write|interrupt ...` and ends with `result attack=...
//! outcome=...`: `blocked` where the guest saw no effect (a read that was blocked leaves the device's buffer as it was,
//! or zeroes or ones in it; a write to others cannot be seen from here), `passed` where it saw one, `own` where it hit
//! what is its own, `unobservable` where the emulator cannot block it. The last line, `result ended=intruder`, has the
//! counts.
//!
//! Command line: `linux=ADDRESS,...` and `hypervisor=ADDRESS,...` say where (hexadecimal) in the machine's memory the
//! neighbour and the hypervisor are; `pause=MILLISECONDS` waits before each try, so that the neighbour is at work
//! meanwhile; `rounds=N` repeats everything; `handles=N` forges messages with handles 0 to N - 1; `nmi=yes` also forges
//! a non-maskable interrupt, which an emulator that lets it pass delivers to the hypervisor.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod attack;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod messages;

#[cfg(target_os = "none")]
guest::main!(run);

/// Finds the device and attacks.
#[cfg(target_os = "none")]
fn run(multiboot: &guest::multiboot::Information) {
    use guest::{clock::Clock, edu::Edu, power, println};

    let Some(clock) = Clock::find() else {
        println!("result clock=absent");
        power::exit(1)
    };
    let Some(edu) = Edu::find(clock).filter(Edu::is_alive) else {
        println!("result device=absent");
        power::exit(1)
    };
    println!("result device={}", edu.function);
    let failures = attack::Attack::new(multiboot, clock, edu).run();
    power::exit(failures)
}

/// Elsewhere there is nobody to attack.
#[cfg(not(target_os = "none"))]
fn main() {
    println!("This is a guest: build it for x86_64-unknown-none.");
}
