//! One scenario, step by step.

use std::collections::BTreeMap;
use std::format;
use std::rc::Rc;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use core::cell::RefCell;

use iommu::address::{HostPhysical, Iova, PciAddress};
use serde_json::Value;

use super::machine::{Recording, number};
use crate::container::{Container, Mapping, Policy};
use crate::device::{Device, Parts};
use crate::door::{Access, Event, Owner, RemappingHardware};
use crate::errno::Errno;
use crate::fake::{FakeClock, FakeFunction, FakeMachine, FakeRemapping, FakeWindows, Trace, UNKNOWN};
use crate::group::{Group, Registry};
use crate::interrupt::{IrqData, IrqSet};
use crate::reset::BusReset;
use crate::uapi::{self, DataKind, IrqSetHeader};

/// How a scenario went.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) compared: usize,
    /// Steps that are a front end's business, or concern what this crate does not have.
    pub(super) left_out: usize,
    pub(super) divergence: Option<String>,
}

/// What a call answers: VFIO's non-negative result, or the error.
type Answer = Result<i64, Errno>;

/// What became of a step.
enum Step {
    Answered(Answer),
    /// Answered, and a field of the answer beside it is wrong.
    Wrong(String),
    LeftOut,
    /// The rest of the scenario depends on what this crate does not have.
    Stop,
}

type SharedDevice = Rc<RefCell<Device<FakeMachine>>>;

#[derive(Clone)]
enum Handle {
    Container(Container<FakeRemapping>),
    Group(Rc<Group<FakeRemapping>>),
    Device(SharedDevice),
    /// An event by its number.
    Event(u64),
    Other,
}

struct Replay<'a> {
    recording: &'a Recording,
    remapping: FakeRemapping,
    registry: Registry,
    owner: Owner,
    handles: BTreeMap<String, Handle>,
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

fn int(value: &Value) -> u64 {
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

    fn handle(&self, step: &Value, key: &str) -> Option<Handle> {
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

    fn container(&mut self, step: &Value) -> Step {
        let Some(Handle::Container(container)) = self.handle(step, "on") else { return Step::LeftOut };
        let argsz = int(&step["argsz"]);
        let flags = int(&step["flags"]);
        let answer = match step["op"].as_str().unwrap() {
            "container.set_iommu" => container.set_type(int(&step["type"])).map(|()| 0).map_err(|error| error.errno()),
            "container.iommu_get_info" => return information(step, &container),
            "container.map_dma_loop" => return map_loop(step, &container),
            "container.map_dma" => {
                if argsz < uapi::DmaMap::SIZE as u64 || flags & !7 != 0 {
                    Err(Errno::EINVAL)
                } else if flags & 4 != 0 {
                    return if step["ret"] == 0 { Step::Stop } else { Step::LeftOut };
                } else {
                    let (iova, length) = (Iova::new(int(&step["iova"])), int(&step["size"]));
                    let access = Access { read: flags & 1 != 0, write: flags & 2 != 0 };
                    let host = HostPhysical::new(host(step["vaddr"].as_str().unwrap_or("0")));
                    container.map(Mapping { iova, host, length, access }).map(|()| 0).map_err(|error| error.errno())
                }
            }
            "container.unmap_dma" => {
                let (iova, length) = (Iova::new(int(&step["iova"])), int(&step["size"]));
                // Bitmaps and invalidation of addresses are not here; such a call counts if it unmaps all the same.
                if flags & 4 != 0 || (flags & 1 != 0 && step["ret"] != 0) {
                    return if step["ret"] == 0 { Step::Stop } else { Step::LeftOut };
                }
                let result = match flags {
                    _ if argsz < uapi::DmaUnmap::SIZE as u64 || flags & !7 != 0 => Err(Errno::EINVAL),
                    2 if container.has_type() && (iova.as_u64() | length) != 0 => Err(Errno::EINVAL),
                    2 => container.unmap_all().map_err(|error| error.errno()),
                    0 | 1 => container.unmap(iova, length).map_err(|error| error.errno()),
                    _ => Err(Errno::EINVAL),
                };
                match result {
                    Ok(bytes) if step.get("size_out").is_some() && bytes != int(&step["size_out"]) => {
                        return Step::Wrong(format!("{bytes:#x} bytes unmapped"));
                    }
                    other => other.map(|_| 0),
                }
            }
            _ => return Step::LeftOut,
        };
        Step::Answered(answer)
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

    fn set_irqs(&self, step: &Value, device: &mut Device<FakeMachine>) -> Step {
        let field = |name: &str| int(&step[name]) as u32;
        let head = uapi::IrqSet {
            argsz: step["argsz"].as_u64().unwrap() as u32,
            flags: field("flags"),
            index: field("index"),
            start: field("start"),
            count: field("count"),
        };
        let of = |index| device.irq_info(index).ok().map(|info| info.count);
        let head = match IrqSetHeader::check(&head, of) {
            Ok(head) => head,
            Err(errno) => return Step::Answered(Err(errno)),
        };
        let count = head.count as usize;
        let elements = |key: &str| step[key].as_array().cloned().unwrap_or_default();
        let flags: Vec<u8> = elements("data_bool").iter().map(|flag| flag.as_u64().unwrap() as u8).collect();
        let mut events: Vec<Option<Event>> = elements("data_fds").iter().map(|fd| self.event(fd)).collect();
        // What the recording does not show of a long call is zero: descriptor 0 is no event.
        events.resize(count, Some(UNKNOWN));
        let mut flags = flags;
        flags.resize(count, 0);
        let is_unknown = head.data == DataKind::Event && events.contains(&Some(UNKNOWN));
        let is_low = elements("data_fds").iter().any(|fd| fd.as_i64().is_some_and(|fd| fd < -1));
        // Descriptors that no hardware is asked about are the front end's to check.
        let is_software = matches!(head.index, 3 | 4) || head.action.bits() & 0x18 != 0;
        if is_software && head.data == DataKind::Event && (is_unknown || is_low) {
            return Step::LeftOut;
        }
        let data = match head.data {
            DataKind::None => IrqData::None,
            DataKind::Bool => IrqData::Bool(&flags),
            DataKind::Event => IrqData::Events(&events),
        };
        let (index, start, count, action) = (head.index, head.start, head.count, head.action);
        let answer = device.set_irqs(IrqSet { index, start, count, action, data });
        let answer = answer.map(|()| 0).map_err(|error| error.errno());
        // A descriptor that exists and is no event is EINVAL, one that does not exist EBADF; here both are unknown.
        if answer == Err(Errno::EBADF) && is_unknown && step["errno"] == "EINVAL" {
            return Step::Answered(Err(Errno::EINVAL));
        }
        Step::Answered(answer)
    }

    fn event(&self, descriptor: &Value) -> Option<Event> {
        if let Some(number) = descriptor.as_i64() {
            return (number >= 0).then_some(UNKNOWN);
        }
        match self.handles.get(descriptor.as_str().unwrap()) {
            Some(Handle::Event(id)) => Some(Event(*id)),
            _ => Some(UNKNOWN),
        }
    }
}

/// Many mappings, each a stride further: how many succeed, and where and why the first one does not.
fn map_loop(step: &Value, container: &Container<FakeRemapping>) -> Step {
    let (iova, stride) = (int(&step["iova"]), int(&step["iova_stride"]));
    let (start, host_stride) = (host(step["vaddr"].as_str().unwrap()), int(&step["vaddr_stride"]));
    let flags = int(&step["flags"]);
    let access = Access { read: flags & 1 != 0, write: flags & 2 != 0 };
    if matches!(step["first_errno"].as_str(), Some("ENOMEM")) {
        return Step::Stop;
    }
    let mut done = 0;
    let mut first: Option<(u64, Errno)> = None;
    for number in 0..int(&step["count"]) {
        let mapping = Mapping {
            iova: Iova::new(iova + number * stride),
            host: HostPhysical::new(start + number * host_stride),
            length: int(&step["size"]),
            access,
        };
        match container.map(mapping) {
            Ok(()) => done += 1,
            Err(error) => first = first.or(Some((number, error.errno()))),
        }
    }
    let theirs = step["first_fail"].as_i64().filter(|at| *at >= 0).map(|at| at as u64);
    let same = done == int(&step["ok"])
        && first.map(|(at, _)| at) == theirs
        && first.is_none_or(|(_, errno)| format!("{errno:?}") == step["first_errno"].as_str().unwrap_or(""));
    if same { Step::Answered(Ok(0)) } else { Step::Wrong(format!("{done} mapped, first failure {first:?}")) }
}

/// `handle+0xoffset`, or a number: somewhere in host memory.
fn host(text: &str) -> u64 {
    match text.split_once('+') {
        Some((_, offset)) => 0x1_0000_0000 + number(offset),
        None if text.starts_with(|first: char| first.is_ascii_digit()) => number(text),
        None => 0x1_0000_0000,
    }
}

fn information(step: &Value, container: &Container<FakeRemapping>) -> Step {
    let info = match container.information() {
        Ok(_) if int(&step["argsz"]) < 16 => return Step::Answered(Err(Errno::EINVAL)),
        Ok(info) => info,
        Err(error) => return Step::Answered(Err(error.errno())),
    };
    for capability in step["caps"].as_array().into_iter().flatten() {
        match capability["id"].as_u64() {
            Some(1) => {
                let ranges: Vec<_> = capability["iova_ranges"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|range| int(&range[0])..=int(&range[1]))
                    .collect();
                if ranges != info.ranges {
                    return Step::Wrong(format!("{:?}", info.ranges));
                }
            }
            Some(3) if int(&capability["dma_avail"]) != u64::from(info.available) => {
                return Step::Wrong(format!("{} mappings left", info.available));
            }
            _ => {}
        }
    }
    match step.get("iova_pgsizes") {
        Some(sizes) if int(sizes) != info.page_sizes => Step::Wrong(format!("page sizes {:#x}", info.page_sizes)),
        _ => Step::Answered(Ok(0)),
    }
}
