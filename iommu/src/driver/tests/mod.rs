//! The driver against the test unit: what it does, in which order, and what a device can reach at every moment.

use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use super::*;
use crate::address::{HostPhysical, Iova, SourceId};
use crate::dmar::{Dmar, Flags, Hop, ReservedMemory, Scope, ScopeKind};
use crate::door::Registers;
use crate::fault::{Limits, Place};
use crate::fixture::{
    DEFAULT_CAPABILITY, DEFAULT_EXTENDED, Event, Memory, TestMachine, TestUnit, Trouble, single_unit_table,
};
use crate::interrupt::entry::{Source, Trigger};
use crate::paging::Permissions;
use crate::unit::UnitError;

mod attachments;
mod bring_up;
mod domains;
mod fail_nth;
mod faults;
mod interrupts;
mod prior_art;
mod scalable;

const TE: u32 = 1 << 31;
const SRTP: u32 = 1 << 30;
const WBF: u32 = 1 << 27;
const QIE: u32 = 1 << 26;
const IRE: u32 = 1 << 25;
const SIRTP: u32 = 1 << 24;
const CAP_RWBF: u64 = 1 << 4;
const CAP_CM: u64 = 1 << 7;
const CAP_PI: u64 = 1 << 59;
const ECAP_C: u64 = 1 << 0;
const ECAP_QI: u64 = 1 << 1;
const ECAP_DT: u64 = 1 << 2;
const ECAP_IR: u64 = 1 << 3;
const ECAP_EIM: u64 = 1 << 4;
const ECAP_PT: u64 = 1 << 6;
const ECAP_SC: u64 = 1 << 7;
const ECAP_SMTS: u64 = 1 << 43;
const ECAP_SSADS: u64 = 1 << 45;
const ECAP_SSTS: u64 = 1 << 46;
const ECAP_FSTS: u64 = 1 << 47;
const ECAP_SMPWCS: u64 = 1 << 48;

const DEVICE: PciAddress = PciAddress::new(0, 1, 0, 0);
const OTHER: PciAddress = PciAddress::new(0, 2, 0, 0);
const RW: Permissions = Permissions::READ_WRITE;
const HOST: HostPhysical = HostPhysical::new(0x4000_0000);

fn taken(kind: u8, granularity: u8, subject: u16) -> Event {
    Event::Taken { kind, granularity, subject }
}

fn bring_up(machine: &TestMachine) -> Driver<TestMachine> {
    let options = Options { apic_mode: ApicMode::X2Apic, interrupt_order: 8, ..Options::default() };
    Driver::bring_up(machine.clone(), &single_unit_table(), machine, &options).unwrap()
}

fn started(capability: u64, extended: u64) -> (TestMachine, Driver<TestMachine>) {
    let machine = TestMachine::with(capability, extended);
    let driver = bring_up(&machine);
    machine.unit().events();
    (machine, driver)
}

/// Two ranges for `DEVICE`, of which the second lies within the first, as some firmware has it.
fn with_reserved_memory() -> Dmar {
    let mut table = single_unit_table();
    for (first, last) in [(0x7000_0000, 0x7000_1fff), (0x7000_1000, 0x7000_1fff)] {
        table.reserved_memory.push(reserved(first, last, vec![endpoint(DEVICE)]));
    }
    table
}

fn reserved(first: u64, last: u64, scopes: Vec<Scope>) -> ReservedMemory {
    ReservedMemory { segment: 0, first: HostPhysical::new(first), last: HostPhysical::new(last), scopes, defect: None }
}

fn endpoint(device: PciAddress) -> Scope {
    let source = device.source;
    let path = vec![Hop { device: source.device(), function: source.function() }];
    Scope { kind: ScopeKind::Endpoint, flags: 0, enumeration_id: 0, start_bus: source.bus(), path }
}

fn domain(driver: &Driver<TestMachine>) -> DomainId {
    driver.create_domain(&DomainRequest::for_devices(&[DEVICE])).unwrap()
}

fn read(unit: &TestUnit, device: PciAddress, address: u64) -> Result<u64, u8> {
    unit.access(device.source.bits(), address, false)
}
