//! A hostile guest: with a device of its own it aims DMA at memory, registers and interrupts of others.
//!
//! Each try is a line `result intruder read|write|message ...` with what was aimed at and what became of the data, as
//! far as the guest can see. A read that was blocked leaves the device's buffer as it was, or zeroes or ones in it; a
//! write to somewhere else cannot be seen from here, so it is only said that it was sent. The last line has the counts.
//!
//! Command line: `aim=ADDRESS,...` adds hexadecimal addresses; `pause=MILLISECONDS` waits before each try, so that the
//! neighbour is at work meanwhile; `rounds=N` repeats everything; `handles=N` forges messages with handles 0 to N - 1;
//! `nmi=yes` also forges a non-maskable interrupt, which an emulator that lets it pass delivers to the hypervisor.

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
        println!("result intruder clock=absent");
        power::exit(1)
    };
    let Some(edu) = Edu::find(clock).filter(Edu::is_alive) else {
        println!("result intruder device=absent");
        power::exit(1)
    };
    println!("result intruder device={}", edu.function);
    let failures = attack::Attack::new(multiboot, clock, edu).run();
    power::exit(failures)
}

/// Elsewhere there is nobody to attack.
#[cfg(not(target_os = "none"))]
fn main() {
    println!("This is a guest: build it for x86_64-unknown-none.");
}
