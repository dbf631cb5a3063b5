//! Firmware's tables. The crate `acpi` finds them and checks headers and checksums; what is in them is read here, from
//! plain bytes, so that no length in a table is believed.

mod bytes;
mod fadt;
mod madt;
mod mcfg;
mod soft_off;
mod tables;

pub use self::fadt::{AddressSpace, Fadt, GenericAddress};
pub use self::madt::{IoApic, Madt, MadtProblem};
pub use self::mcfg::{EcamRegion, McfgProblem, parse as parse_mcfg};
pub use self::soft_off::{NoSoftOff, SoftOff};
pub use self::tables::{AcpiFault, Tables};

/// The ACPI timer: counts up 3,579,545 times a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmTimer {
    port: u16,
    wide: bool,
}

impl PmTimer {
    /// The timer that the FADT names, if it names one.
    pub fn new(fadt: &Fadt) -> Option<Self> {
        fadt.pm_timer.map(|port| Self { port, wide: fadt.pm_timer_is_wide })
    }

    /// The bits that count.
    pub fn mask(&self) -> u32 {
        if self.wide { u32::MAX } else { 0xff_ffff }
    }

    /// Its count.
    pub fn read(&self) -> u32 {
        // SAFETY: firmware names the port as this timer's; reading it has no effect.
        unsafe { x86_64::instructions::port::PortReadOnly::<u32>::new(self.port).read() & self.mask() }
    }
}
