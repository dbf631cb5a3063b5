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
