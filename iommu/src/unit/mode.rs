//! Legacy or scalable mode (VT-d section 3.4): chosen for each unit by what it can do and what firmware left.
//!
//! Second-stage tables are the same in both, so a domain may span units of both modes; only first-stage tables need
//! scalable mode in all of a domain's units.

use core::fmt;

use crate::door::Machine;
use crate::registers::map;
use crate::unit::probe::{ALL_LEVELS, Probe};

/// The mode of a unit's root table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Context entries lead to second-stage tables.
    Legacy,
    /// Context entries lead to process entries, and those to tables of either stage.
    Scalable,
}

impl Mode {
    /// RTADDR.TTM.
    pub const fn code(self) -> u8 {
        match self {
            Self::Legacy => 0,
            Self::Scalable => 1,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy mode",
            Self::Scalable => "scalable mode",
        })
    }
}

/// Which mode a unit is to be in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeChoice {
    /// Scalable where a unit can, unless firmware left translation on in legacy mode: changing it would need a gap.
    #[default]
    ByCapability,
    /// Legacy wherever a unit can.
    Legacy,
}

impl<M: Machine> Probe<M> {
    /// The unit's mode, and why.
    pub(crate) fn choose_mode(&self, choice: ModeChoice) -> (Mode, &'static str) {
        let legacy = ALL_LEVELS.iter().any(|levels| self.capability.walks_levels(levels.count()));
        let scalable = scalable(self);
        let on = self.window.read(map::GLOBAL_STATUS).translation();
        let left = self.window.read(map::ROOT_TABLE_ADDRESS).mode();
        match (scalable, legacy) {
            (false, _) => (Mode::Legacy, "it has no other that can be used"),
            (true, false) => (Mode::Scalable, "it has no other that can be used"),
            (true, true) if on && left == 0 => (Mode::Legacy, "firmware left translation on in it"),
            (true, true) if on && left == 1 => (Mode::Scalable, "firmware left translation on in it"),
            (true, true) if choice == ModeChoice::Legacy => (Mode::Legacy, "the owner asked for it"),
            (true, true) => (Mode::Scalable, "the unit has it (SMTS=1)"),
        }
    }
}

/// Whether the unit can translate in scalable mode. Its process entries are invalidated by queue alone.
pub(super) fn scalable<M: Machine>(probe: &Probe<M>) -> bool {
    let extended = probe.extended;
    let second =
        extended.second_stage() && ALL_LEVELS.iter().any(|levels| probe.capability.walks_levels(levels.count()));
    extended.scalable_mode() && extended.queued_invalidation() && (second || extended.first_stage())
}
