//! One scenario, step by step.

use std::collections::BTreeMap;
use std::format;
use std::rc::Rc;
use std::string::{String, ToString};
use std::vec;

use core::cell::RefCell;

use iommu::address::PciAddress;
use serde_json::Value;

use super::machine::{Recording, number};
use crate::container::{Container, Policy};
use crate::device::{Device, Parts};
use crate::door::{Owner, RemappingHardware};
use crate::errno::Errno;
use crate::fake::{FakeClock, FakeFunction, FakeMachine, FakeRemapping, FakeWindows, Trace};
use crate::group::{Group, Registry};
use crate::reset::BusReset;
use crate::uapi;

/// How a scenario went.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) compared: usize,
    /// Steps that are a front end's business, or concern what this crate does not have.
    pub(super) left_out: usize,
    pub(super) divergence: Option<String>,
}

/// What a call answers: VFIO's non-negative result, or the error.
pub(super) type Answer = Result<i64, Errno>;

/// What became of a step.
pub(super) enum Step {
    Answered(Answer),
    /// Answered, and a field of the answer beside it is wrong.
    Wrong(String),
    LeftOut,
    /// The rest of the scenario depends on what this crate does not have.
    Stop,
}

pub(super) type SharedDevice = Rc<RefCell<Device<FakeMachine>>>;

#[derive(Clone)]
pub(super) enum Handle {
    Container(Container<FakeRemapping>),
    Group(Rc<Group<FakeRemapping>>),
    Device(SharedDevice),
    /// An event by its number.
    Event(u64),
    Other,
}

pub(super) struct Replay<'a> {
    recording: &'a Recording,
    remapping: FakeRemapping,
    registry: Registry,
    owner: Owner,
    pub(super) handles: BTreeMap<String, Handle>,
    events: BTreeMap<u64, u64>,
    policy: Policy,
}

pub(super) fn run(recording: &Recording, scenario: &Value) -> Outcome {
    let remapping = FakeRemapping::default();
    let registry = Registry::new(recording.groups());
    let owner = Owner::new(1, "process");
    for device in recording.devices.values() {
        registry.claim(device.address, &owner).unwrap();
        if scenario["machine"] == "N" {
            let mut capabilities = remapping.capabilities(device.address).unwrap();
            capabilities.interrupt_remapping = false;
            capabilities.last_address = (1 << 48) - 1;
            remapping.set_capabilities(device.address, capabilities);
        }
    }
    let mut replay = Replay {
        recording,
        remapping,
        registry,
        owner,
        handles: BTreeMap::new(),
        events: BTreeMap::new(),
        policy: Policy::default(),
    };
    let mut outcome = Outcome::default();
    let steps = scenario["steps"].as_array().unwrap();
    for (index, step) in steps.iter().enumerate() {
        let expected = expected(step);
        let divergence = match replay.step(step) {
            Step::LeftOut => {
                outcome.left_out += 1;
                continue;
            }
            Step::Stop => {
                outcome.left_out += steps.len() - index;
                break;
            }
            Step::Wrong(text) => Some(text),
            Step::Answered(answer) => {
                let ours = answer.map_err(|errno| format!("{errno:?}"));
                (ours != expected).then(|| format!("{ours:?}, VFIO {expected:?}"))
            }
        };
        outcome.compared += 1;
        if let Some(text) = divergence {
            outcome.divergence = Some(format!("step {index}: {text} at {step}"));
            break;
        }
    }
    replay.handles.clear();
    let books = replay.remapping.books();
    if outcome.divergence.is_none() && books != Default::default() {
        outcome.divergence = Some(format!("not everything was given back: {books:?}"));
    }
    outcome
}

fn expected(step: &Value) -> Result<i64, String> {
    match step["errno"].as_str() {
        Some(errno) => Err(errno.to_string()),
        None => Ok(step["ret"].as_i64().unwrap_or(0)),
    }
}

pub(super) fn int(value: &Value) -> u64 {
    value.as_str().map(number).or(value.as_u64()).unwrap_or(0)
}

impl Replay<'_> {
    fn step(&mut self, step: &Value) -> Step {
        // Copying arguments and looking up descriptors is a front end's business; such calls change nothing.
        let errno = step["errno"].as_str().unwrap_or("");
        let op = step["op"].as_str().unwrap();
        if matches!(errno, "EFAULT" | "EBADF" | "EBADFD") && op != "device.set_irqs" {
            return Step::LeftOut;
        }
        // Tokens between the owners of physical and virtual functions are not here.
        if errno == "EACCES" && op == "group.get_device_fd" {
            return Step::Stop;
        }
        match op {
            "container.open" => {
                let container = Container::new(self.remapping.clone(), self.owner.clone(), self.policy);
                self.name(step, Handle::Container(container));
                Step::Answered(Ok(0))
            }
            "eventfd.new" => {
                let id = self.events.len() as u64 + 1;
                self.events.insert(id, int(&step["initial"]));
                self.name(step, Handle::Event(id));
                Step::Answered(Ok(0))
            }
            "eventfd.read" => self.read_event(step),
            "close" | "munmap" => {
                self.handles.remove(step["on"].as_str().unwrap());
                Step::Answered(Ok(0))
            }
            "group.open" => self.open_group(step),
            "region.mmap" => self.map_region(step),
            "fd.open" => {
                self.name(step, Handle::Other);
                Step::LeftOut
            }
            "host.param" => self.set_policy(step),
            "host.bind_driver" => Step::Stop,
            "group.get_status" | "group.set_container" | "group.unset_container" | "group.get_device_fd" => {
                self.group(step)
            }
            op if op.starts_with("container.") => self.container(step),
            "device.get_info"
            | "device.get_region_info"
            | "device.get_irq_info"
            | "device.set_irqs"
            | "device.reset" => self.device(step),
            _ => Step::LeftOut,
        }
    }

    fn name(&mut self, step: &Value, handle: Handle) {
        if let Some(name) = step["as"].as_str() {
            self.handles.insert(name.to_string(), handle);
        }
    }

    pub(super) fn handle(&self, step: &Value, key: &str) -> Option<Handle> {
        self.handles.get(step[key].as_str()?).cloned()
    }

    /// Parameters of the type1 driver are a container's policy here, settled when it is made.
    fn set_policy(&mut self, step: &Value) -> Step {
        if self.handles.values().any(|handle| matches!(handle, Handle::Container(container) if !container.has_type())) {
            return Step::Stop;
        }
        let value = step["value"].as_str().unwrap();
        match step["name"].as_str().unwrap() {
            "allow_unsafe_interrupts" => self.policy.unsafe_interrupts = matches!(value, "Y" | "1"),
            "dma_entry_limit" => self.policy.mappings = value.parse().unwrap(),
            _ => return Step::Stop,
        }
        Step::LeftOut
    }

    fn read_event(&mut self, step: &Value) -> Step {
        let Some(Handle::Event(id)) = self.handle(step, "on") else { return Step::LeftOut };
        for event in self.remapping.take_signalled() {
            *self.events.entry(event.0).or_default() += 1;
        }
        let count = core::mem::take(self.events.get_mut(&id).unwrap());
        if count != int(&step["value"]) {
            return Step::Wrong(format!("{count} signals"));
        }
        Step::Answered(if count == 0 { Err(Errno::EAGAIN) } else { Ok(8) })
    }

    fn open_group(&mut self, step: &Value) -> Step {
        let device = &self.recording.devices[step["group_of"].as_str().unwrap()];
        let id = self.registry.groups().of(device.address).unwrap().id;
        match Group::open(&self.registry, id, &self.owner) {
            Ok(group) => {
                self.name(step, Handle::Group(Rc::new(group)));
                Step::Answered(Ok(0))
            }
            Err(error) => Step::Answered(Err(error.errno())),
        }
    }

    /// A mapping keeps the device open.
    fn map_region(&mut self, step: &Value) -> Step {
        if step["ret"].as_i64() == Some(0)
            && let Some(handle) = self.handle(step, "on")
        {
            self.name(step, handle);
        }
        Step::LeftOut
    }

    fn group(&mut self, step: &Value) -> Step {
        let Some(Handle::Group(group)) = self.handle(step, "on") else { return Step::LeftOut };
        let short = step["argsz"].as_u64().is_some_and(|size| size < uapi::GroupStatus::SIZE as u64);
        let answer = match step["op"].as_str().unwrap() {
            "group.get_status" if short => Err(Errno::EINVAL),
            "group.get_status" => {
                let flags = u64::from(group.status().bits());
                if step.get("flags").is_some() && flags != int(&step["flags"]) {
                    return Step::Wrong(format!("flags {flags}"));
                }
                Ok(0)
            }
            "group.set_container" => {
                let Some(Handle::Container(container)) = self.handle(step, "container") else { return Step::LeftOut };
                group.set_container(&container).map(|()| 0).map_err(|error| error.errno())
            }
            "group.unset_container" => group.unset_container().map(|()| 0).map_err(|error| error.errno()),
            _ => return self.open_device(step, &group),
        };
        Step::Answered(answer)
    }

    fn open_device(&mut self, step: &Value, group: &Group<FakeRemapping>) -> Step {
        let name = step["name"].as_str().unwrap();
        let known = self.recording.devices.values().find(|device| format!("{}", device.address) == name);
        let Some(device) = known else { return Step::LeftOut };
        let address = device.address;
        // A second handle on the same device shares it.
        let open = self.handles.values().find_map(|handle| match handle {
            Handle::Device(device) if device.borrow().address() == address => Some(device.clone()),
            _ => None,
        });
        let is_in_group = self.registry.groups().of(address).is_some_and(|of| of.id == group.id());
        if let Some(open) = open.filter(|_| is_in_group) {
            self.name(step, Handle::Device(open));
            return Step::Answered(Ok(0));
        }
        match Device::open(group, address, self.parts(address)) {
            Ok(device) => {
                self.name(step, Handle::Device(Rc::new(RefCell::new(device))));
                Step::Answered(Ok(0))
            }
            Err(error) => Step::Answered(Err(error.errno())),
        }
    }

    fn parts(&self, address: PciAddress) -> Parts<FakeMachine> {
        let methods = &self.recording.device_at(address).reset_methods;
        // VFIO's RESET leaves a bus with other functions on it alone, whoever has them.
        let bus_of = |address: PciAddress| (address.segment, address.source.bus());
        let on_bus = self.recording.functions.iter().filter(|other| bus_of(other.address) == bus_of(address)).count();
        let bus = (methods.contains("bus") && on_bus == 1).then(|| BusReset {
            bridge: FakeFunction::bridge(&Trace::default(), &[]),
            is_express: true,
            others: vec![],
        });
        Parts {
            configuration: self.recording.space(address),
            windows: FakeWindows::default(),
            clock: FakeClock::default(),
            bus,
            line: true,
        }
    }

    fn device(&mut self, step: &Value) -> Step {
        let Some(Handle::Device(device)) = self.handle(step, "on") else { return Step::LeftOut };
        let mut device = device.borrow_mut();
        let argsz = int(&step["argsz"]);
        let index = int(&step["index"]) as u32;
        let wrong = |text| Step::Wrong(text);
        match step["op"].as_str().unwrap() {
            "device.get_info" if argsz < 16 => Step::Answered(Err(Errno::EINVAL)),
            "device.get_info" => {
                let info = device.info();
                let flags = 2 | u64::from(info.can_reset);
                let same = flags == int(&step["flags"])
                    && u64::from(info.regions) == int(&step["num_regions"])
                    && u64::from(info.irqs) == int(&step["num_irqs"]);
                if same { Step::Answered(Ok(0)) } else { wrong(format!("{info:?}")) }
            }
            "device.get_region_info" if argsz < 32 => Step::Answered(Err(Errno::EINVAL)),
            "device.get_region_info" => match device.region_info(index) {
                Err(error) => Step::Answered(Err(error.errno())),
                Ok(info) => {
                    // What fits is mapped here without the flag for capabilities, and less than a page never.
                    let same =
                        info.size == int(&step["size"]) && u64::from(info.flags.bits()) & 3 == int(&step["flags"]) & 3;
                    if same { Step::Answered(Ok(0)) } else { wrong(format!("{info:?}")) }
                }
            },
            "device.get_irq_info" if argsz < 16 => Step::Answered(Err(Errno::EINVAL)),
            "device.get_irq_info" => match device.irq_info(index) {
                Err(error) => Step::Answered(Err(error.errno())),
                Ok(info) => {
                    let same = u64::from(info.count) == int(&step["count"])
                        && u64::from(info.flags.bits()) == int(&step["flags"]);
                    if same { Step::Answered(Ok(0)) } else { wrong(format!("{info:?}")) }
                }
            },
            "device.set_irqs" => self.set_irqs(step, &mut device),
            _ => Step::Answered(device.reset().map(|()| 0).map_err(|error| error.errno())),
        }
    }
}
