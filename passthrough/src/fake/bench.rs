//! One endpoint below a root port, claimed, in a container, ready to be opened.

use std::vec;
use std::vec::Vec;

use iommu::address::PciAddress;

use super::{FakeClock, FakeFunction, FakeMachine, FakeRemapping, FakeWindows, Trace};
use crate::container::{Container, Policy};
use crate::device::{Device, DeviceError, Parts};
use crate::door::{Owner, Width};
use crate::group::{Group, Registry};
use crate::reset::BusReset;
use crate::topology::{Acs, AcsFlags, Buses, Function, Groups, Kind, PortType};

pub const PORT: PciAddress = PciAddress::new(0, 0, 4, 0);
pub const ENDPOINT: PciAddress = PciAddress::new(0, 1, 0, 0);
/// A second function of the endpoint's device.
pub const SIBLING: PciAddress = PciAddress::new(0, 1, 0, 1);

pub struct Bench {
    pub trace: Trace,
    pub remapping: FakeRemapping,
    pub registry: Registry,
    pub owner: Owner,
    pub container: Container<FakeRemapping>,
    pub function: FakeFunction,
    pub sibling: FakeFunction,
    pub windows: FakeWindows,
}

pub fn function(address: PciAddress, port: PortType) -> Function {
    let isolating = Acs { capability: AcsFlags::ISOLATION, control: AcsFlags::ISOLATION };
    Function {
        address,
        vendor: 0x1234,
        device: 0x5678,
        class: 0,
        kind: Kind::Express(port),
        multifunction: address == SIBLING || address == ENDPOINT,
        bridge: (port == PortType::RootPort).then_some(Buses { secondary: 1, subordinate: 1 }),
        acs: (port == PortType::RootPort).then_some(isolating),
        chipset_isolation: false,
        subordinate_to: None,
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

impl Bench {
    pub fn new() -> Self {
        let functions = [(PORT, PortType::RootPort), (ENDPOINT, PortType::Endpoint), (SIBLING, PortType::Endpoint)];
        let functions: Vec<Function> = functions.iter().map(|&(address, port)| function(address, port)).collect();
        let remapping = FakeRemapping::default();
        let trace = remapping.trace.clone();
        let registry = Registry::new(Groups::build(&functions));
        let owner = Owner::new(1, "one");
        registry.claim(ENDPOINT, &owner).unwrap();
        let container = Container::new(remapping.clone(), owner.clone(), Policy::default());
        let function = FakeFunction::endpoint(&trace);
        let sibling = FakeFunction::new("sibling", 256, &trace);
        let windows = FakeWindows::default();
        Self { trace, remapping, registry, owner, container, function, sibling, windows }
    }

    pub fn group(&self) -> Group<FakeRemapping> {
        let id = self.registry.groups().of(ENDPOINT).unwrap().id;
        let group = Group::open(&self.registry, id, &self.owner).unwrap();
        group.set_container(&self.container).unwrap();
        self.container.set_type(3).unwrap();
        group
    }

    pub fn parts(&self) -> Parts<FakeMachine> {
        let below = [self.function.clone(), self.sibling.clone()];
        Parts {
            configuration: self.function.clone(),
            windows: self.windows.clone(),
            clock: FakeClock::default(),
            bus: Some(BusReset {
                bridge: FakeFunction::bridge(&self.trace, &below),
                is_express: true,
                others: vec![(SIBLING, self.sibling.clone())],
            }),
            line: true,
        }
    }

    pub fn try_open(&self) -> Result<Device<FakeMachine>, DeviceError> {
        let device = Device::open(&self.group(), ENDPOINT, self.parts());
        self.function.take_writes();
        self.trace.lock().unwrap().clear();
        device
    }

    pub fn open(&self) -> Device<FakeMachine> {
        self.try_open().unwrap()
    }

    /// With memory decoding on, and BAR 0 at 4 GiB.
    pub fn open_decoding(&self) -> Device<FakeMachine> {
        let mut device = self.open();
        device.config_write(0x14, Width::Double, 1);
        device.config_write(0x04, Width::Word, 0x6);
        self.function.take_writes();
        device
    }
}
