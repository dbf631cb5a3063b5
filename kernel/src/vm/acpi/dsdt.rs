//! The DSDT: host bridge with its windows, interrupt routing, the devices at legacy ports, and soft off.
//!
//! ```text
//! \_SB.PCI0   host bridge: bus range, configuration ports, windows, _PRT
//! \_SB.MBRS   what is reserved: the memory-mapped configuration space, the ports of power management
//! \_SB.COM1   console
//! \_SB.RTC_   clock
//! \_SB.TIMR   timer
//! \_S5_       soft off
//! ```

use alloc::vec;
use alloc::vec::Vec;

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package,
    ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::vm::device::power;
use crate::vm::map::{AddressMap, PCI_PORTS};
use crate::vm::pci;

const HEAD: u32 = 36;
const REVISION: u8 = 2;

/// The table.
pub(super) fn build(map: &AddressMap) -> Sdt {
    let mut aml = Vec::new();
    host_bridge(map, &mut aml);
    reserved(map, &mut aml);
    legacy_devices(&mut aml);
    let off = power::SOFT_OFF;
    Name::new("_S5_".into(), &Package::new(vec![&off, &off, &ZERO, &ZERO])).to_aml_bytes(&mut aml);
    let mut table = Sdt::new(*b"DSDT", HEAD, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&aml);
    table
}

fn host_bridge(map: &AddressMap, aml: &mut Vec<u8>) {
    let (window_32, window_64) = (map.window_32(), map.window_64());
    let last_32 = (window_32.end() - 1) as u32;
    let not_cacheable = AddressSpaceCacheable::NotCacheable;
    // The crate writes a window as long as its range, so no range may be the whole 16-bit space.
    let resources = Name::new(
        "_CRS".into(),
        &ResourceTemplate::new(vec![
            &AddressSpace::<u16>::new_bus_number(0, map.last_bus().into()),
            &IO::new(pci::ADDRESS_PORT, pci::ADDRESS_PORT, 1, 8),
            &AddressSpace::<u16>::new_io(PCI_PORTS.start as u16, (PCI_PORTS.end() - 1) as u16, None),
            &AddressSpace::<u32>::new_memory(not_cacheable, true, window_32.start as u32, last_32, None),
            &AddressSpace::<u64>::new_memory(not_cacheable, true, window_64.start, window_64.end() - 1, None),
        ]),
    );
    let routes: Vec<Route> = (0..pci::SLOTS).flat_map(|slot| (0..4).map(move |pin| Route { slot, pin })).collect();
    let routing = Package::new(routes.iter().map(|route| route as &dyn Aml).collect());
    Scope::new(
        "\\_SB_".into(),
        vec![&Device::new(
            "PCI0".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
                &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
                &Name::new("_SEG".into(), &ZERO),
                &Name::new("_BBN".into(), &ZERO),
                &Name::new("_UID".into(), &ZERO),
                &resources,
                &Name::new("_PRT".into(), &routing),
            ],
        )],
    )
    .to_aml_bytes(aml);
}

fn reserved(map: &AddressMap, aml: &mut Vec<u8>) {
    let configuration = map.configuration();
    Scope::new(
        "\\_SB_".into(),
        vec![&Device::new(
            "MBRS".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![
                        &Memory32Fixed::new(true, configuration.start as u32, configuration.length as u32),
                        &IO::new(power::BLOCK, power::BLOCK, 1, power::BLOCK_LENGTH as u8),
                        &IO::new(0x4d0, 0x4d0, 1, 2),
                    ]),
                ),
            ],
        )],
    )
    .to_aml_bytes(aml);
}

fn legacy_devices(aml: &mut Vec<u8>) {
    let device = |name: &str, id: &str, resources: Vec<&dyn Aml>, aml: &mut Vec<u8>| {
        Scope::new(
            "\\_SB_".into(),
            vec![&Device::new(
                name.into(),
                vec![
                    &Name::new("_HID".into(), &EISAName::new(id)),
                    &Name::new("_UID".into(), &ZERO),
                    &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
                ],
            )],
        )
        .to_aml_bytes(aml);
    };
    let interrupt = |number| Interrupt::new(true, true, false, false, number);
    device("COM1", "PNP0501", vec![&IO::new(0x3f8, 0x3f8, 1, 8), &interrupt(4)], aml);
    device("RTC_", "PNP0B00", vec![&IO::new(0x70, 0x70, 1, 2), &interrupt(8)], aml);
    device("TIMR", "PNP0100", vec![&IO::new(0x40, 0x40, 1, 4)], aml);
}

/// A row of _PRT: any function of `slot`, its `pin`, the I/O APIC's pin that it hangs on.
struct Route {
    slot: u8,
    pin: u8,
}

impl Aml for Route {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let address = u32::from(self.slot) << 16 | 0xffff;
        let interrupt = pci::interrupt_pin(self.slot, self.pin);
        Package::new(vec![&address, &self.pin, &ZERO, &interrupt]).to_aml_bytes(sink);
    }
}
