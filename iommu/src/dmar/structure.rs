//! A table as a whole: its structures in the order in which they stand, and as a tree for people.

use core::fmt;

use super::{
    AcpiDevice, AddressTranslationCaches, Affinity, Dmar, Flags, Hop, ReservedMemory, RootPorts, Scope, ScopeKind,
    SpecialDevices, UnitDefinition,
};

/// Which list of [`Dmar`] a structure is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StructureKind {
    /// [`Dmar::units`].
    Unit,
    /// [`Dmar::reserved_memory`].
    ReservedMemory,
    /// [`Dmar::root_ports`].
    RootPorts,
    /// [`Dmar::affinities`].
    Affinity,
    /// [`Dmar::acpi_devices`].
    AcpiDevice,
    /// [`Dmar::address_translation_caches`].
    AddressTranslationCaches,
    /// [`Dmar::special_devices`].
    SpecialDevices,
}

/// One structure of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure<'a> {
    /// DRHD.
    Unit(&'a UnitDefinition),
    /// RMRR.
    ReservedMemory(&'a ReservedMemory),
    /// ATSR.
    RootPorts(&'a RootPorts),
    /// RHSA.
    Affinity(&'a Affinity),
    /// ANDD.
    AcpiDevice(&'a AcpiDevice),
    /// SATC.
    AddressTranslationCaches(&'a AddressTranslationCaches),
    /// SIDP.
    SpecialDevices(&'a SpecialDevices),
}

impl<'a> Structure<'a> {
    /// The manual's name of its type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unit(_) => "DRHD",
            Self::ReservedMemory(_) => "RMRR",
            Self::RootPorts(_) => "ATSR",
            Self::Affinity(_) => "RHSA",
            Self::AcpiDevice(_) => "ANDD",
            Self::AddressTranslationCaches(_) => "SATC",
            Self::SpecialDevices(_) => "SIDP",
        }
    }

    /// The devices that it names.
    pub fn scopes(self) -> &'a [Scope] {
        match self {
            Self::Unit(unit) => &unit.scopes,
            Self::ReservedMemory(region) => &region.scopes,
            Self::RootPorts(ports) => &ports.scopes,
            Self::AddressTranslationCaches(caches) => &caches.scopes,
            Self::SpecialDevices(devices) => &devices.scopes,
            Self::Affinity(_) | Self::AcpiDevice(_) => &[],
        }
    }
}

/// One line, without the scopes.
impl fmt::Display for Structure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Unit(unit) => {
                write!(f, " segment {:04x}, registers {} to {}", unit.segment, unit.base, unit.last())?;
                f.write_str(if unit.includes_all { ", all that no other unit names" } else { "" })
            }
            Self::ReservedMemory(region) => {
                write!(f, " segment {:04x}, memory {} to {}", region.segment, region.first, region.last)?;
                f.write_str(if region.defect.is_some() { ", not usable" } else { "" })
            }
            Self::RootPorts(ports) => {
                write!(f, " segment {:04x}, root ports", ports.segment)?;
                f.write_str(if ports.all { ", all of them" } else { "" })
            }
            Self::Affinity(affinity) => {
                write!(f, " unit {}, proximity domain {}", affinity.base, affinity.proximity_domain)
            }
            Self::AcpiDevice(device) => write!(f, " ACPI device {}, {}", device.number, device.name),
            Self::AddressTranslationCaches(caches) => {
                write!(f, " segment {:04x}, devices with TLBs of their own", caches.segment)?;
                f.write_str(if caches.required { ", which they need" } else { "" })
            }
            Self::SpecialDevices(devices) => write!(f, " segment {:04x}, special devices", devices.segment),
        }
    }
}

impl ScopeKind {
    /// The manual's name, short.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Bridge => "bridge",
            Self::IoApic => "ioapic",
            Self::Hpet => "hpet",
            Self::AcpiDevice => "acpi",
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{}", self.device, self.function)
    }
}

/// `endpoint 00:1c.0 > 00.0`: the start bus, then device and function of each step.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if !matches!(self.kind, ScopeKind::Endpoint | ScopeKind::Bridge) {
            write!(f, " {}", self.enumeration_id)?;
        }
        write!(f, " {:02x}:", self.start_bus)?;
        for (index, hop) in self.path.iter().enumerate() {
            write!(f, "{}{hop}", if index == 0 { "" } else { " > " })?;
        }
        if self.flags != 0 {
            write!(f, ", flags {:#04x}", self.flags)?;
        }
        Ok(())
    }
}

impl Dmar {
    /// Every structure that was kept, with the offset in the table at which it stands, in the table's order.
    pub fn structures(&self) -> impl Iterator<Item = (usize, Structure<'_>)> {
        let mut units = self.units.iter().map(Structure::Unit);
        let mut regions = self.reserved_memory.iter().map(Structure::ReservedMemory);
        let mut ports = self.root_ports.iter().map(Structure::RootPorts);
        let mut affinities = self.affinities.iter().map(Structure::Affinity);
        let mut devices = self.acpi_devices.iter().map(Structure::AcpiDevice);
        let mut caches = self.address_translation_caches.iter().map(Structure::AddressTranslationCaches);
        let mut special = self.special_devices.iter().map(Structure::SpecialDevices);
        self.order.iter().filter_map(move |&(offset, kind)| {
            let structure = match kind {
                StructureKind::Unit => units.next(),
                StructureKind::ReservedMemory => regions.next(),
                StructureKind::RootPorts => ports.next(),
                StructureKind::Affinity => affinities.next(),
                StructureKind::AcpiDevice => devices.next(),
                StructureKind::AddressTranslationCaches => caches.next(),
                StructureKind::SpecialDevices => special.next(),
            };
            structure.map(|structure| (offset, structure))
        })
    }
}

/// The table as a tree: a line for the whole, one for each structure with those of its scopes below, and the warnings.
impl fmt::Display for Dmar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "DMAR revision {}, \"{}\" \"{}\", addresses of {} bits",
            self.revision,
            self.oem.trim_ascii_end().escape_ascii(),
            self.oem_table.trim_ascii_end().escape_ascii(),
            self.host_address_width
        )?;
        for (flag, means) in [
            (Flags::INTERRUPT_REMAPPING, "interrupt remapping"),
            (Flags::X2APIC_OPT_OUT, "x2APIC mode unwanted"),
            (Flags::DMA_CONTROL_OPT_IN, "DMA blocked until now"),
        ] {
            if self.flags.contains(flag) {
                write!(f, ", {means}")?;
            }
        }
        let last = self.structures().count();
        for (number, (offset, structure)) in (1..).zip(self.structures()) {
            let (corner, bar) = if number == last { ("`-", "  ") } else { ("|-", "| ") };
            write!(f, "\n{corner} {offset:#06x} {structure}")?;
            for scope in structure.scopes() {
                write!(f, "\n{bar}          {scope}")?;
            }
        }
        for warning in &self.warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}
