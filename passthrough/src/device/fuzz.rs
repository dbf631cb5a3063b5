//! A guest that writes anything anywhere: what must hold all the same.

use std::vec::Vec;

use proptest::prelude::*;

use crate::config::{Changes, register};
use crate::door::{Event, Message, Width};
use crate::fake::bench::Bench;
use crate::fake::offset;

#[derive(Clone, Debug)]
enum Access {
    Configuration { offset: u16, width: Width, value: u32 },
    Region { bar: u8, offset: u64, width: Width, value: u64 },
    Line,
    Quarantine(bool),
}

fn width() -> impl Strategy<Value = Width> {
    prop_oneof![Just(Width::Byte), Just(Width::Word), Just(Width::Double)]
}

fn access() -> impl Strategy<Value = Access> {
    let known = prop_oneof![
        0u16..0x40,
        offset::POWER..offset::POWER + 8,
        offset::MSI..offset::MSI + 24,
        offset::EXPRESS..offset::EXPRESS + 44,
        offset::MSI_X..offset::MSI_X + 12,
        offset::ADVANCED..offset::ADVANCED + 6,
        any::<u16>(),
    ];
    let value = prop_oneof![any::<u32>(), Just(u32::MAX), Just(0), Just(0x8000_0006), Just(0xc001_8001)];
    let table = prop_oneof![0x2200..0x2640u64, 0x21f0..0x2300u64, 0x3000..0x3010u64, any::<u64>()];
    prop_oneof![
        6 => (known, width(), value.clone())
            .prop_map(|(offset, width, value)| Access::Configuration { offset, width, value }),
        6 => (0..8u8, table, prop_oneof![width(), Just(Width::Quad)], any::<u64>())
            .prop_map(|(bar, offset, width, value)| Access::Region { bar, offset, width, value }),
        1 => Just(Access::Line),
        1 => any::<bool>().prop_map(Access::Quarantine),
    ]
}

/// Half of all messages lead somewhere.
fn route(message: Message) -> Option<Event> {
    (message.data & 1 == 0).then_some(Event(u64::from(message.data & 0xff)))
}

proptest! {
    #[test]
    fn a_guest_reaches_only_what_is_its_own(accesses in prop::collection::vec(access(), 1..80)) {
        let bench = Bench::new();
        let mut device = bench.open_decoding();
        let mut quarantined = false;
        for access in accesses {
            match access {
                Access::Configuration { offset, width, value } => {
                    let changes = device.config_write(offset, width, value);
                    if changes.contains(Changes::RESET) {
                        device.reset().unwrap();
                    }
                    if changes.intersects(Changes::MSI | Changes::MSI_X) {
                        device.follow_messages(route).unwrap();
                    }
                    device.config_read(offset, width);
                }
                Access::Region { bar, offset, width, value } => {
                    if let Some(vector) = device.region_write(bar, offset, width, value) {
                        device.follow_vector(vector, route).unwrap();
                    }
                    device.region_read(bar, offset, width);
                }
                Access::Line => drop(device.handle_line()),
                Access::Quarantine(on) => {
                    quarantined = on;
                    device.set_quarantined(on);
                }
            }
            // The host's addresses never move.
            prop_assert_eq!(bench.function.peek(register::bar(0), 4), 0xfe00_0004);
            prop_assert_eq!(bench.function.peek(register::bar(4), 4), 0xfe01_0000);
            // Requests only as the owner lets it, and system errors never by the guest.
            prop_assert!(!quarantined || bench.function.command() & register::command::BUS_MASTER == 0);
            prop_assert_eq!(bench.function.command() & register::command::SYSTEM_ERROR, 0);
            // What the function may send is what the remapping hardware gave out, and nothing else.
            let given: Vec<u32> = bench.remapping.books().entries.keys().map(|id| 0xfee0_0010 | id << 5).collect();
            let msi_on = bench.function.peek(offset::MSI + 2, 2) & 1 != 0;
            let msix_on = bench.function.peek(offset::MSI_X + 2, 2) & 0x8000 != 0;
            prop_assert!(!(msi_on && msix_on));
            prop_assert!(!msi_on || given.contains(&bench.function.peek(offset::MSI + 4, 4)));
            for vector in 0..65 {
                let entry = bench.windows.entry(0, 0x2200, vector);
                prop_assert!(!msix_on || entry[3] & 1 != 0 || given.contains(&entry[0]), "vector {vector}: {entry:x?}");
            }
            // Every entry that is present delivers to an event, one at most a vector.
            prop_assert!(given.len() <= 65);
        }
        device.close().unwrap();
        prop_assert_eq!(bench.remapping.books(), Default::default());
        prop_assert_eq!(bench.function.command() & register::command::BUS_MASTER, 0);
    }
}
