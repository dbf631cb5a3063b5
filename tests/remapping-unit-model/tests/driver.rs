//! The driver over the model: random programs on units of random capabilities. Devices reach exactly what is mapped,
//! faults name who did what, interrupts arrive as programmed, and no rule is broken.

mod board;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use board::Board;
use iommu::Driver;
use iommu::address::{HostPhysical, Iova, PciAddress};
use iommu::door::Frames;
use iommu::driver::{ApicMode, Delivery, DomainId, DomainRequest, Handle, Origin};
use iommu::fault::Place;
use iommu::interrupt::entry::Trigger;
use iommu::paging::Permissions;
use proptest::prelude::*;
use remapping_unit_model::{
    Access, AddressType, Configuration, Interrupt, InterruptOutcome, Message, Notification, Refusal, Request, Scalable,
};

const DEVICES: [PciAddress; 3] =
    [PciAddress::new(0, 0, 1, 0), PciAddress::new(0, 0, 1, 1), PciAddress::new(0, 7, 0, 0)];
/// Where ranges start, in pages: near the ends of 4 KiB, 2 MiB and 1 GiB pages.
const STARTS: [u64; 6] = [0, 1, 0x1ff, 0x200, 0x3_ffff, 0x4_0000];
const LENGTHS: [u64; 5] = [1, 2, 3, 0x200, 0x201];
const HOSTS: [u64; 3] = [0x1_0000, 0x20_0000, 0x30_0201];

#[derive(Clone, Copy, Debug)]
enum Step {
    Create,
    Destroy { domain: usize },
    Map { domain: usize, start: usize, length: usize, host: usize, permissions: u8 },
    Unmap { domain: usize, start: usize, length: usize },
    UnmapTwo { domain: usize, start: usize, other: usize, length: usize },
    Protect { domain: usize, start: usize, length: usize, permissions: u8 },
    Attach { device: usize, domain: usize, device_tlb: bool },
    Detach { device: usize },
    Remap { device: usize, index: u16, apic_id: u8, vector: u8 },
    Post { device: usize, index: u16, vector: u8, urgent: bool },
    Mask { device: usize, index: u16 },
    Renew { device: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let (domain, device) = (0..3usize, 0..DEVICES.len());
    let (start, length, permissions) = (0..STARTS.len(), 0..LENGTHS.len(), 1..4u8);
    prop_oneof![
        2 => Just(Step::Create),
        1 => domain.clone().prop_map(|domain| Step::Destroy { domain }),
        5 => (domain.clone(), start.clone(), length.clone(), 0..HOSTS.len(), permissions.clone()).prop_map(
            |(domain, start, length, host, permissions)| Step::Map { domain, start, length, host, permissions }
        ),
        3 => (domain.clone(), start.clone(), length.clone())
            .prop_map(|(domain, start, length)| Step::Unmap { domain, start, length }),
        1 => (domain.clone(), start.clone(), start.clone(), length.clone())
            .prop_map(|(domain, start, other, length)| Step::UnmapTwo { domain, start, other, length }),
        2 => (domain.clone(), start, length, permissions).prop_map(|(domain, start, length, permissions)| {
            Step::Protect { domain, start, length, permissions }
        }),
        4 => (device.clone(), domain, any::<bool>())
            .prop_map(|(device, domain, device_tlb)| Step::Attach { device, domain, device_tlb }),
        2 => device.clone().prop_map(|device| Step::Detach { device }),
        2 => (device.clone(), 0..2u16, 0..4u8, 16..=255u8)
            .prop_map(|(device, index, apic_id, vector)| Step::Remap { device, index, apic_id, vector }),
        2 => (device.clone(), 0..2u16, 16..=255u8, any::<bool>())
            .prop_map(|(device, index, vector, urgent)| Step::Post { device, index, vector, urgent }),
        1 => (device.clone(), 0..2u16).prop_map(|(device, index)| Step::Mask { device, index }),
        1 => device.prop_map(|device| Step::Renew { device }),
    ]
}

/// What a unit can do in scalable mode: one stage or both.
fn scalable() -> impl Strategy<Value = Scalable> {
    (1..4u8, any::<u8>(), prop::option::of(1..=20u8)).prop_map(|(stages, flags, pasid_bits)| Scalable {
        first_stage: stages & 1 != 0,
        second_stage: stages & 2 != 0,
        nested: flags & 1 != 0,
        pasid_bits,
        rid_pasid: flags & 2 != 0,
        coherent: flags & 4 != 0,
        supervisor: flags & 8 != 0,
        huge_pages: flags & 16 != 0,
        five_levels: flags & 32 != 0,
    })
}

prop_compose! {
    fn configuration()(
        scalable in prop::option::of(scalable()),
        flags in any::<u16>(),
        queue in prop::sample::select(vec![true, true, true, false]),
        levels in prop::sample::select(vec![0b0010u8, 0b0100, 0b0110, 0b1000, 0b1110]),
        large_pages in prop::sample::select(vec![0u8, 1, 3]),
        page_selective in prop::sample::select(vec![None, Some(0u8), Some(6), Some(18)]),
        domains in 0..=6u8,
        version in 1..=6u8,
        fault_records in prop::sample::select(vec![1u16, 2, 8, 256]),
        delay in prop::sample::select(vec![0u32, 0, 1, 3]),
    ) -> Configuration {
        let flag = |bit: u32| flags >> bit & 1 != 0;
        // From version 6 on, a unit has a queue or nothing.
        let queue = queue || version >= 6;
        Configuration {
            queue,
            device_tlb: flag(9) && queue,
            scalable, version, domains, levels, large_pages, page_selective, fault_records, delay,
            width: if levels & 8 != 0 { 57 } else if levels & 4 != 0 { 48 } else { 39 },
            host_width: 46,
            draining: flag(0),
            write_buffer: flag(1),
            caching_mode: flag(2),
            protected_low: flag(3),
            protected_high: flag(4),
            posted_interrupts: flag(5),
            root_invalidates: flag(6),
            interrupt_table_invalidates: flag(7),
            coherent: flag(8),
            extended_interrupts: flag(10),
            pass_through: flag(11),
            snoop_control: flag(12),
            handle_mask: if flag(13) { 15 } else { 0 },
            ..Configuration::default()
        }
    }
}

#[derive(Default)]
struct Domain {
    id: Option<DomainId>,
    pages: BTreeMap<u64, (u64, u8)>,
}

struct Run {
    board: Board,
    driver: Driver<Board>,
    domains: [Domain; 3],
    attached: [Option<(usize, bool)>; 3],
    handles: [Option<Handle>; 3],
    deliveries: BTreeMap<(usize, u16), Delivery>,
    descriptor: HostPhysical,
}

fn pages(start: usize, length: usize) -> std::ops::Range<u64> {
    STARTS[start]..STARTS[start] + LENGTHS[length]
}

impl Run {
    fn new(configuration: Configuration, apic_mode: ApicMode, exchange: bool) -> Self {
        let board = Board::new(configuration);
        board.ram.set_exchange(exchange);
        let driver = Driver::bring_up(board.clone(), &board::table(), &board, &board::options(apic_mode)).unwrap();
        driver.set_fault_interrupt(1, 0x41).unwrap();
        let descriptor = board.ram.allocate(1).unwrap();
        let handles = DEVICES.map(|device| driver.interrupts().allocate(Origin::function(device), 2).ok());
        board.assert_clean("bring-up");
        Self {
            board,
            driver,
            domains: Default::default(),
            attached: [None; 3],
            handles,
            deliveries: BTreeMap::new(),
            descriptor,
        }
    }

    /// A first stage has no pages that are only written.
    fn possible(&self, permissions: u8) -> u8 {
        let scalable = self.board.unit.borrow().configuration().scalable;
        if scalable.is_some_and(|scalable| !scalable.second_stage) { permissions | 1 } else { permissions }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Create => {
                if let Some(domain) = self.domains.iter_mut().find(|domain| domain.id.is_none()) {
                    *domain = Domain {
                        id: Some(self.driver.create_domain(&DomainRequest::default()).unwrap()),
                        pages: BTreeMap::new(),
                    };
                }
            }
            Step::Destroy { domain } => {
                let used = self.attached.iter().flatten().any(|(attached, _)| *attached == domain);
                if let Some(id) = self.domains[domain].id {
                    assert_eq!(self.driver.destroy_domain(id).is_err(), used);
                    if !used {
                        self.domains[domain].id = None;
                    }
                }
            }
            Step::Map { domain, start, length, host, permissions } => {
                let permissions = self.possible(permissions);
                let Domain { id: Some(id), pages: mapped } = &mut self.domains[domain] else { return };
                let range = pages(start, length);
                let free = mapped.range(range.clone()).next().is_none();
                let (iova, bytes) = (Iova::new(range.start << 12), (range.end - range.start) << 12);
                let host = HOSTS[host];
                let wanted = Permissions::from_bits_truncate(permissions);
                let done = self.driver.map(*id, iova, HostPhysical::new(host << 12), bytes, wanted);
                assert_eq!(done.is_ok(), free, "{done:?}");
                if free {
                    mapped.extend(range.clone().map(|page| (page, (host + page - range.start, permissions))));
                }
            }
            Step::Unmap { domain, start, length } => self.unmap(domain, &[pages(start, length)]),
            Step::UnmapTwo { domain, start, other, length } => {
                self.unmap(domain, &[pages(start, length), pages(other, length)]);
            }
            Step::Protect { domain, start, length, permissions } => {
                let permissions = self.possible(permissions);
                let Domain { id: Some(id), pages: mapped } = &mut self.domains[domain] else { return };
                let range = pages(start, length);
                if mapped.range(range.clone()).count() as u64 != range.end - range.start {
                    return;
                }
                let (iova, bytes) = (Iova::new(range.start << 12), (range.end - range.start) << 12);
                let wanted = Permissions::from_bits_truncate(permissions);
                self.driver.protect(*id, iova, bytes, wanted).unwrap();
                mapped.range_mut(range).for_each(|(_, (_, allowed))| *allowed = permissions);
            }
            Step::Attach { device, domain, device_tlb } => {
                let Some(id) = self.domains[domain].id else { return };
                let device_tlb = device_tlb && self.board.unit.borrow().configuration().device_tlb;
                let done = if device_tlb {
                    self.driver.attach_with_device_tlb(id, DEVICES[device], &[], 8)
                } else {
                    self.driver.attach(id, DEVICES[device], &[])
                };
                assert_eq!(done.is_ok(), self.attached[device].is_none(), "{done:?}");
                if done.is_ok() {
                    self.attached[device] = Some((domain, device_tlb));
                }
            }
            Step::Detach { device } => {
                assert_eq!(self.driver.detach(DEVICES[device]).is_ok(), self.attached[device].take().is_some());
            }
            Step::Remap { device, index, apic_id, vector } => {
                let destination_apic_id = u32::from(apic_id);
                let delivery = Delivery::Remapped { destination_apic_id, vector, trigger: Trigger::Edge };
                self.program(device, index, delivery);
            }
            Step::Post { device, index, vector, urgent } => {
                if self.board.unit.borrow().configuration().posted_interrupts {
                    let descriptor = self.descriptor;
                    self.program(device, index, Delivery::Posted { descriptor, vector, urgent });
                }
            }
            Step::Mask { device, index } => {
                if let Some(handle) = &self.handles[device] {
                    self.driver.interrupts().mask(handle, index).unwrap();
                    self.deliveries.remove(&(device, index));
                }
            }
            Step::Renew { device } => {
                if let Some(handle) = self.handles[device].take() {
                    self.driver.interrupts().free(handle).unwrap();
                    self.deliveries.retain(|(owner, _), _| *owner != device);
                    let origin = Origin::function(DEVICES[device]);
                    self.handles[device] = self.driver.interrupts().allocate(origin, 2).ok();
                }
            }
        }
    }

    fn unmap(&mut self, domain: usize, ranges: &[std::ops::Range<u64>]) {
        let Domain { id: Some(id), pages: mapped } = &mut self.domains[domain] else { return };
        let before = mapped.len();
        mapped.retain(|page, _| !ranges.iter().any(|range| range.contains(page)));
        let wanted: Vec<_> =
            ranges.iter().map(|range| (Iova::new(range.start << 12), (range.end - range.start) << 12)).collect();
        assert_eq!(self.driver.unmap_ranges(*id, &wanted), Ok(((before - mapped.len()) as u64) << 12));
    }

    fn program(&mut self, device: usize, index: u16, delivery: Delivery) {
        if let Some(handle) = &self.handles[device] {
            self.driver.interrupts().program(handle, index, delivery).unwrap();
            self.deliveries.insert((device, index), delivery);
        }
    }

    /// Every device tries addresses at and around all ends of ranges, and every interrupt.
    fn probe(&self) {
        for device in 0..DEVICES.len() {
            for start in STARTS {
                for page in [start, start + 2, start + 0x200] {
                    for (access, bit) in [(Access::Read, 1), (Access::Write, 2)] {
                        self.reach(device, page, access, bit);
                    }
                }
            }
            (0..2).for_each(|index| self.interrupt(device, index));
        }
    }

    fn reach(&self, device: usize, page: u64, access: Access, bit: u8) {
        let source = DEVICES[device].source.bits();
        let mapped = self.attached[device].and_then(|(domain, _)| self.domains[domain].pages.get(&page));
        let expected = mapped.filter(|(_, allowed)| allowed & bit != 0).map(|(host, _)| host << 12 | 0x123);
        let address = page << 12 | 0x123;
        if self.attached[device].is_some_and(|(_, device_tlb)| device_tlb) {
            let got = self.board.unit.borrow_mut().request_through_device_tlb(source, address, access);
            assert_eq!(got.ok(), expected, "device {device} {access:?} {address:#x} by its own TLB");
        }
        let request = Request { source, address, access, address_type: AddressType::Untranslated };
        let got = self.board.unit.borrow_mut().request(request);
        assert_eq!(got.ok(), expected, "device {device} {access:?} {address:#x}");
        let mut reports = Vec::new();
        self.driver.drain_faults(|report| reports.push(*report));
        let Err(refusal) = got else { return assert!(reports.is_empty()) };
        let Refusal::Fault(why) = refusal else { panic!("{refusal:?}") };
        let [report] = reports[..] else { panic!("{reports:?}") };
        assert_eq!((report.device, report.fault.place), (DEVICES[device], Place::Memory(page << 12)));
        assert_eq!(report.fault.reason.code(), why);
        assert_eq!(report.fault.access == iommu::fault::Access::Read, access == Access::Read);
        assert_eq!(report.domain, self.attached[device].and_then(|(domain, _)| self.domains[domain].id));
        let messages = self.board.unit.borrow_mut().take_messages();
        assert_eq!(messages, [Message { address: 0xfee0_1000, data: 0x41 }]);
    }

    fn interrupt(&self, device: usize, index: u16) {
        let Some(handle) = &self.handles[device] else { return };
        let message = self.driver.interrupts().message(handle, index).unwrap();
        let message = Message { address: message.address, data: message.data };
        let control = &self.board.ram.words(self.descriptor)[4];
        control.store(2 << 40 | 0xf2 << 16, Ordering::Relaxed);
        let send = |source| self.board.unit.borrow_mut().interrupt(Interrupt { source, message });
        let got = send(DEVICES[device].source.bits());
        match self.deliveries.get(&(device, index)) {
            None => assert!(matches!(got, InterruptOutcome::Refused(_)), "{got:?}"),
            Some(Delivery::Remapped { destination_apic_id, vector, .. }) => {
                let InterruptOutcome::Remapped { destination, vector: arrived, level: false, .. } = got else {
                    panic!("{got:?}")
                };
                assert_eq!((destination, arrived), (*destination_apic_id, *vector));
            }
            Some(Delivery::Posted { vector, .. }) => {
                let extended = self.board.unit.borrow().configuration().extended_interrupts;
                let InterruptOutcome::Posted { notification: Some(Notification { vector: 0xf2, .. }), .. } = got else {
                    panic!("{got:?}, EIM {extended}")
                };
                let requests =
                    self.board.ram.words(self.descriptor)[usize::from(vector / 64)].swap(0, Ordering::Relaxed);
                assert_eq!(requests, 1 << (vector % 64));
            }
        }
        // Nobody else's id passes.
        let forged = send(DEVICES[(device + 1) % 3].source.bits());
        assert!(matches!(forged, InterruptOutcome::Refused(_)), "{forged:?}");
        self.driver.drain_faults(|report| assert!(matches!(report.fault.place, Place::Interrupt(_))));
        self.board.unit.borrow_mut().take_messages();
    }

    fn end(self) {
        let Self { board, driver, descriptor, .. } = self;
        driver.shut_down().unwrap();
        board.assert_clean("shutting down");
        board.ram.free(descriptor, 1);
        assert_eq!(board.ram.in_use(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn devices_reach_what_is_mapped_and_nothing_else(
        configuration in configuration(),
        wide in any::<bool>(),
        exchange in any::<bool>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut run = Run::new(configuration, if wide { ApicMode::X2Apic } else { ApicMode::XApic }, exchange);
        for step in steps {
            run.step(step);
            run.board.assert_clean(&format!("{step:?}"));
            run.probe();
            run.board.assert_clean(&format!("probing after {step:?}"));
        }
        run.end();
    }
}
