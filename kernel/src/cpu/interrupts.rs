//! The interrupt flag of this CPU.

/// Runs `act` with maskable interrupts off on this CPU, and puts the flag back as it was.
///
/// In an ordinary process (host tests) there is nothing to mask.
pub fn without<T>(act: impl FnOnce() -> T) -> T {
    #[cfg(target_os = "none")]
    return x86_64::instructions::interrupts::without_interrupts(act);
    #[cfg(not(target_os = "none"))]
    act()
}

/// Whether maskable interrupts are on.
pub fn are_enabled() -> bool {
    cfg!(target_os = "none") && x86_64::instructions::interrupts::are_enabled()
}

/// Switches maskable interrupts on for this CPU.
pub fn enable() {
    #[cfg(target_os = "none")]
    x86_64::instructions::interrupts::enable();
}

/// Switches maskable interrupts off for this CPU.
pub fn disable() {
    #[cfg(target_os = "none")]
    x86_64::instructions::interrupts::disable();
}

/// Stops this CPU until an interrupt comes.
pub fn halt() {
    #[cfg(target_os = "none")]
    x86_64::instructions::hlt();
    #[cfg(not(target_os = "none"))]
    std_park();
}

/// Switches interrupts on and stops this CPU until one comes, with no moment between in which it could come unseen;
/// then switches them off.
pub fn wait() {
    #[cfg(target_os = "none")]
    {
        x86_64::instructions::interrupts::enable_and_hlt();
        x86_64::instructions::interrupts::disable();
    }
}

/// An ordinary process does not stop a CPU.
#[cfg(not(target_os = "none"))]
fn std_park() {
    core::hint::spin_loop();
}
