//! Every call that takes memory, with the n-th allocation failing, for every n until it succeeds: the result is the
//! error, and the tables, the caches and what devices reach are exactly what they were.

use super::*;

const BOTH: u64 = ECAP_SMTS | ECAP_SSTS | ECAP_FSTS;
const GIGABYTE: u64 = 1 << 30;
const THIRD: PciAddress = PciAddress::new(0, 9, 0x12, 3);

type Call = fn(&Driver<TestMachine>, DomainId) -> Result<(), String>;

/// What one call does in a driver whose domain maps 1 GiB at 0 (one leaf) and 4 KiB behind 4 GiB, with a device attached.
const CALLS: [(&str, Call); 12] = [
    ("create a domain", |driver, _| said(driver.create_domain(&DomainRequest::for_devices(&[OTHER])).map(drop))),
    ("create a wide domain", |driver, _| {
        said(driver.create_domain(&DomainRequest { address_bits: 40, ..DomainRequest::default() }).map(drop))
    }),
    ("map a page far away", |driver, id| said(driver.map(id, Iova::new(1 << 40), HOST, 0x1000, RW))),
    ("map pages of three tables", |driver, id| {
        said(driver.map(id, Iova::new(0x8000_0000 - 0x3000), HOST, 0x40_4000, RW))
    }),
    ("map a large page", |driver, id| said(driver.map(id, Iova::new(1 << 41), HostPhysical::new(0), GIGABYTE, RW))),
    ("unmap a page of a large one", |driver, id| said(driver.unmap(id, Iova::new(0x5000), 0x1000).map(drop))),
    ("unmap across the end of a large page", |driver, id| {
        said(driver.unmap(id, Iova::new(GIGABYTE - 0x1000), 4 * GIGABYTE).map(drop))
    }),
    ("unmap scattered pages", |driver, id| {
        let pages =
            [4 * GIGABYTE, 0x5000, 0x20_0000 + 0x7000, 0x5000, 0x3fff_f000].map(|iova| (Iova::new(iova), 0x1000));
        said(driver.unmap_ranges(id, &pages).map(drop))
    }),
    ("protect a page of a large one", |driver, id| {
        said(driver.protect(id, Iova::new(0x5000), 0x1000, Permissions::READ))
    }),
    ("attach", |driver, id| said(driver.attach(id, THIRD, &[]))),
    ("attach with aliases on three buses", |driver, id| {
        said(driver.attach(id, THIRD, &[SourceId::new(8, 0, 0), SourceId::new(9, 0, 0), SourceId::new(7, 31, 7)]))
    }),
    ("attach with a device TLB", |driver, id| said(driver.attach_with_device_tlb(id, THIRD, &[], 8))),
];

fn said<E: ToString>(result: Result<(), E>) -> Result<(), String> {
    result.map_err(|error| error.to_string())
}

/// A driver in the middle of its life, the same each time.
fn prepared(capability: u64, extended: u64, stage: Stage) -> (TestMachine, Driver<TestMachine>, DomainId) {
    let (machine, driver) = started(capability, extended);
    let request = DomainRequest { stage, ..DomainRequest::for_devices(&[DEVICE]) };
    let id = driver.create_domain(&request).unwrap();
    driver.map(id, Iova::new(0), HostPhysical::new(0), GIGABYTE, RW).unwrap();
    driver.map(id, Iova::new(4 * GIGABYTE), HOST, 0x1000, RW).unwrap();
    driver.attach(id, DEVICE, &[]).unwrap();
    for address in [0x5000, 0x20_7000, 4 * GIGABYTE] {
        read(machine.unit(), DEVICE, address).unwrap();
    }
    machine.unit().events();
    (machine, driver, id)
}

/// What can be told apart from outside.
#[derive(PartialEq)]
struct State {
    memory: Vec<(usize, Vec<u64>)>,
    reached: Vec<Result<u64, u8>>,
}

fn state(machine: &TestMachine) -> State {
    let mut reached = Vec::new();
    for device in [DEVICE, OTHER, THIRD] {
        for address in [0x5000, 0x20_7000, GIGABYTE - 0x1000, 4 * GIGABYTE, 1 << 40, 1 << 41] {
            reached.push(read(machine.unit(), device, address));
        }
    }
    State { memory: machine.memory.snapshot(), reached }
}

fn fail_each(capability: u64, extended: u64, stage: Stage) {
    for (name, call) in CALLS {
        for allocations in 0.. {
            let (machine, driver, id) = prepared(capability, extended, stage);
            let before = state(&machine);
            machine.memory.set_budget(allocations);
            let result = call(&driver, id);
            machine.memory.set_budget(usize::MAX);
            let Err(error) = result else {
                assert!(allocations > 0, "{name} takes no memory: it does not belong here");
                break;
            };
            assert!(error.contains("no memory is left"), "{name}: {error}");
            assert_eq!(machine.unit().events(), [], "{name}: nothing to tell the unit");
            assert!(state(&machine) == before, "{name} with {allocations} allocations left something behind");
            call(&driver, id).unwrap_or_else(|error| panic!("{name} once more, with memory: {error}"));
            machine.assert_no_violations();
        }
    }
}

#[test]
fn in_legacy_mode() {
    fail_each(0, ECAP_DT, Stage::Second);
}

#[test]
fn in_scalable_mode() {
    fail_each(0, ECAP_DT | BOTH, Stage::Second);
}

#[test]
fn in_the_first_stage() {
    fail_each(1 << 56, ECAP_DT | BOTH, Stage::First);
}
