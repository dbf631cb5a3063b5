//! Reading what a unit can do, and refusing by name what cannot be used.

use log::info;

use crate::address::HostPhysical;
use crate::dmar::UnitDefinition;
use crate::door::Machine;
use crate::paging::{Levels, PageSizes};
use crate::queue::Abilities;
use crate::registers::capability::{Capability, ExtendedCapability, Version, window_size};
use crate::registers::{Window, map};
use crate::unit::UnitError;

/// A unit that can be used, with nothing changed about it yet.
pub struct Probe<M: Machine> {
    pub(super) segment: u16,
    pub(super) base: HostPhysical,
    pub(super) window: Window<M::Registers>,
    pub(super) capability: Capability,
    pub(super) extended: ExtendedCapability,
}

impl<M: Machine> Probe<M> {
    /// Maps the registers, as far as they go, and judges the capabilities. Says in the log what it found.
    pub fn new(machine: &M, definition: &UnitDefinition) -> Result<Self, UnitError> {
        let map_window = |size| machine.registers(definition.base, size).map_err(|_| UnitError::Unreachable);
        let mut window = Window::new(map_window(definition.size)?);
        let capability = window.read(map::CAPABILITY);
        let extended = window.read(map::EXTENDED_CAPABILITY);
        if capability.bits() == u64::MAX || extended.bits() == u64::MAX {
            return Err(UnitError::Gone);
        }
        let needed = window_size(capability, extended);
        if needed > window.size() {
            drop(window);
            window = Window::new(map_window(needed)?);
        }
        if needed > window.size() {
            return Err(UnitError::Window { needed, mapped: window.size() });
        }
        let version = window.read(map::VERSION);
        let base = definition.base;
        info!(
            "unit {base}: segment {:04x}, version {}.{}, CAP {:#018x}, ECAP {:#018x}",
            definition.segment,
            version.major(),
            version.minor(),
            capability.bits(),
            extended.bits()
        );
        judge(version, capability, extended)?;
        let probe = Self { segment: definition.segment, base, window, capability, extended };
        probe.describe();
        Ok(probe)
    }

    /// CAP.
    pub fn capability(&self) -> Capability {
        self.capability
    }

    /// ECAP.
    pub fn extended(&self) -> ExtendedCapability {
        self.extended
    }

    /// Its registers' address.
    pub fn base(&self) -> HostPhysical {
        self.base
    }

    pub(super) fn abilities(&self) -> Abilities {
        Abilities::of(self.capability, self.extended)
    }

    /// One line for each decision that follows from the capabilities alone.
    fn describe(&self) {
        let (base, capability, extended) = (self.base, self.capability, self.extended);
        let sizes = page_sizes(capability);
        info!(
            "unit {base}: addresses of {} bits, tables of{}{}{} levels, pages of 4K{}{}, {} domains, {} fault records",
            capability.maximum_width(),
            if capability.walks_levels(3) { " 3" } else { "" },
            if capability.walks_levels(4) { " 4" } else { "" },
            if capability.walks_levels(5) { " 5" } else { "" },
            if sizes.contains(PageSizes::TWO_MEBIBYTES) { " 2M" } else { "" },
            if sizes.contains(PageSizes::ONE_GIBIBYTE) { " 1G" } else { "" },
            capability.domain_ids().unwrap_or(0),
            capability.fault_records()
        );
        info!(
            "unit {base}: {}; {}; {}",
            if extended.coherent() {
                "tables are read through the caches"
            } else {
                "tables are read past the caches, so every change is flushed (C=0)"
            },
            if capability.caching_mode() {
                "absent entries may be cached, so every change is invalidated (CM=1)"
            } else {
                "absent entries are not cached, so mapping needs no invalidation (CM=0)"
            },
            match self.abilities().page_mask {
                Some(mask) if mask < 8 => "invalidation by small blocks of pages, larger ranges by domain",
                Some(_) => "invalidation by blocks of pages",
                None => "invalidation by domain only (PSI=0)",
            }
        );
        let drains = |can| if can { "wait" } else { "do not wait" };
        info!(
            "unit {base}: invalidations {} for writes and {} for reads under way (DWD={}, DRD={})",
            drains(capability.write_drain()),
            drains(capability.read_drain()),
            u8::from(capability.write_drain()),
            u8::from(capability.read_drain())
        );
        if capability.write_buffer_flush() {
            info!("unit {base}: has a write buffer, flushed after changes (RWBF=1)");
        }
        info!(
            "unit {base}: {}; {}; {}; {}",
            if extended.snoop_control() {
                "can force devices to snoop (SC=1)"
            } else {
                "cannot force devices to snoop (SC=0)"
            },
            if extended.pass_through() {
                "could pass devices through, which no entry asks for (PT=1)"
            } else {
                "cannot pass devices through (PT=0)"
            },
            if extended.device_tlb() { "serves device TLBs (DT=1)" } else { "serves no device TLBs (DT=0)" },
            if capability.posted_interrupts() {
                "can post interrupts (PI=1)"
            } else {
                "cannot post interrupts (PI=0), so the host's handlers do"
            }
        );
    }
}

/// The leaves beyond 4 KiB that a unit's second stage takes.
pub(crate) fn page_sizes(capability: Capability) -> PageSizes {
    let mut sizes = PageSizes::empty();
    sizes.set(PageSizes::TWO_MEBIBYTES, capability.large_pages() & 1 != 0);
    sizes.set(PageSizes::ONE_GIBIBYTE, capability.large_pages() & 2 != 0);
    sizes
}

/// The leaves beyond 4 KiB that a unit's first stage takes.
pub(crate) fn first_stage_sizes(capability: Capability) -> PageSizes {
    let mut sizes = PageSizes::TWO_MEBIBYTES;
    sizes.set(PageSizes::ONE_GIBIBYTE, capability.first_stage_1g());
    sizes
}

/// Every number of levels, deepest first.
pub(crate) const ALL_LEVELS: [Levels; 3] = [Levels::Five, Levels::Four, Levels::Three];

fn judge(version: Version, capability: Capability, extended: ExtendedCapability) -> Result<(), UnitError> {
    if capability.domain_ids().is_none() {
        return Err(UnitError::DomainIds);
    }
    // The registers are gone then.
    if !extended.queued_invalidation() && version.major() >= 6 {
        return Err(UnitError::NoQueue);
    }
    let walks = ALL_LEVELS.iter().any(|levels| capability.walks_levels(levels.count()));
    let first_stage = extended.scalable_mode() && extended.first_stage() && extended.queued_invalidation();
    if !(walks || first_stage) || capability.maximum_width() < 13 {
        return Err(UnitError::Widths { sagaw: capability.adjusted_widths() as u8, width: capability.maximum_width() });
    }
    Ok(())
}
