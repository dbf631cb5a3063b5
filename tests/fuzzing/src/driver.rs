//! Programs of driver calls over the model of a remapping unit: what a device reaches is what is mapped, at every step,
//! and no rule of the hardware is broken.

use std::collections::BTreeMap;

use iommu::Driver;
use iommu::address::{HostPhysical, Iova, PciAddress};
use iommu::driver::{ApicMode, Delivery, DomainId, DomainRequest, Handle, Origin};
use iommu::interrupt::entry::Trigger;
use iommu::paging::Permissions;
use remapping_unit_model::{
    Access, AddressType, Configuration, Interrupt, InterruptOutcome, Message, Request, Scalable,
};

use crate::Input;
use crate::board::{self, Board};

const DEVICES: [PciAddress; 3] =
    [PciAddress::new(0, 0, 1, 0), PciAddress::new(0, 0, 1, 1), PciAddress::new(0, 7, 0, 0)];
/// Where ranges start, in pages: near the ends of 4 KiB, 2 MiB and 1 GiB pages.
const STARTS: [u64; 6] = [0, 1, 0x1ff, 0x200, 0x3_ffff, 0x4_0000];
const LENGTHS: [u64; 5] = [1, 2, 3, 0x200, 0x201];
const HOSTS: [u64; 3] = [0x1_0000, 0x20_0000, 0x30_0201];
/// Calls of one program: enough to fill, split and empty tables several times.
const MOST_CALLS: usize = 200;

/// The first bytes choose the unit, each further group one call.
pub fn driver(data: &[u8]) {
    let mut input = Input(data);
    let configuration = configuration(&mut input);
    let apic_mode = if input.below(2) == 1 { ApicMode::X2Apic } else { ApicMode::XApic };
    let mut run = Run::new(configuration, apic_mode, input.below(2) == 1);
    for _ in 0..MOST_CALLS {
        if input.is_empty() {
            break;
        }
        run.call(&mut input);
        run.board.assert_clean("a call");
        run.probe(&mut input);
        run.board.assert_clean("a probe");
    }
    run.end();
}

fn configuration(input: &mut Input<'_>) -> Configuration {
    let flags = u16::from_le_bytes([input.byte(), input.byte()]);
    let flag = |bit: u32| flags >> bit & 1 != 0;
    let levels = [0b0010u8, 0b0100, 0b0110, 0b1000, 0b1110][input.below(5)];
    let version = 1 + input.below(6) as u8;
    let queue = flag(14) || version >= 6;
    let stages = input.below(8);
    let scalable = (queue && stages & 3 != 0).then(|| Scalable {
        first_stage: stages & 1 != 0,
        second_stage: stages & 2 != 0,
        coherent: stages & 4 != 0,
        ..Scalable::default()
    });
    Configuration {
        version,
        scalable,
        domains: input.below(7) as u8,
        levels,
        width: if levels & 8 != 0 {
            57
        } else if levels & 4 != 0 {
            48
        } else {
            39
        },
        host_width: 46,
        large_pages: [0, 1, 3][input.below(3)],
        page_selective: [None, Some(0), Some(6), Some(18)][input.below(4)],
        fault_records: [1, 2, 8, 256][input.below(4)],
        delay: [0, 0, 1, 3][input.below(4)],
        draining: flag(0),
        write_buffer: flag(1),
        caching_mode: flag(2),
        protected_low: flag(3),
        protected_high: flag(4),
        posted_interrupts: flag(5),
        root_invalidates: flag(6),
        interrupt_table_invalidates: flag(7),
        coherent: flag(8),
        queue,
        device_tlb: flag(9) && queue,
        extended_interrupts: flag(10),
        pass_through: flag(11),
        snoop_control: flag(12),
        handle_mask: if flag(13) { 15 } else { 0 },
        ..Configuration::default()
    }
}

#[derive(Default)]
struct Domain {
    id: Option<DomainId>,
    /// The host page and the permissions of each page.
    pages: BTreeMap<u64, (u64, u8)>,
}

struct Run {
    board: Board,
    driver: Driver<Board>,
    domains: [Domain; 3],
    attached: [Option<usize>; 3],
    handles: [Option<Handle>; 3],
    vectors: BTreeMap<(usize, u16), u8>,
    /// What every entry permits: the first stage has none that can be written alone.
    always: Permissions,
}

impl Run {
    fn new(configuration: Configuration, apic_mode: ApicMode, exchange: bool) -> Self {
        let board = Board::new(configuration);
        board.ram.set_exchange(exchange);
        let options = board::options(apic_mode);
        let driver = Driver::bring_up(board.clone(), &board::table(), &board, &options).expect("the unit is usable");
        let handles = DEVICES.map(|device| driver.interrupts().allocate(Origin::function(device), 2).ok());
        board.assert_clean("bring-up");
        let first_stage = configuration.scalable.is_some_and(|scalable| !scalable.second_stage);
        let always = if first_stage { Permissions::READ } else { Permissions::empty() };
        let (domains, attached) = (Default::default(), [None; 3]);
        Self { board, driver, domains, attached, handles, vectors: BTreeMap::new(), always }
    }

    fn call(&mut self, input: &mut Input<'_>) {
        let (what, which) = (input.below(10), input.below(3));
        match what {
            0 => self.create(which),
            1 => self.destroy(which),
            2 | 3 => self.map(which, input),
            4 => self.unmap(which, input),
            5 => self.protect(which, input),
            6 => self.attach(input.below(3), which, input.below(2) == 1),
            7 => {
                let was = self.attached[which].take();
                assert_eq!(self.driver.detach(DEVICES[which]).is_ok(), was.is_some());
            }
            8 => self.program(which, input),
            _ => {
                if let Some(handle) = self.handles[which].take() {
                    self.driver.interrupts().free(handle).expect("the unit confirms");
                    self.vectors.retain(|(device, _), _| *device != which);
                    let origin = Origin::function(DEVICES[which]);
                    self.handles[which] = self.driver.interrupts().allocate(origin, 2).ok();
                }
            }
        }
    }

    fn create(&mut self, which: usize) {
        if self.domains[which].id.is_none() {
            let id = self.driver.create_domain(&DomainRequest::default()).expect("ids and frames are left");
            self.domains[which] = Domain { id: Some(id), pages: BTreeMap::new() };
        }
    }

    fn destroy(&mut self, which: usize) {
        let used = self.attached.contains(&Some(which));
        if let Some(id) = self.domains[which].id {
            assert_eq!(self.driver.destroy_domain(id).is_err(), used);
            if !used {
                self.domains[which] = Domain::default();
            }
        }
    }

    fn range(input: &mut Input<'_>) -> (std::ops::Range<u64>, Iova, u64) {
        let (start, length) = (STARTS[input.below(STARTS.len())], LENGTHS[input.below(LENGTHS.len())]);
        (start..start + length, Iova::new(start << 12), length << 12)
    }

    fn permissions(&self, input: &mut Input<'_>) -> Permissions {
        Permissions::from_bits_truncate(1 + input.below(3) as u8) | self.always
    }

    fn map(&mut self, which: usize, input: &mut Input<'_>) {
        let (range, iova, length) = Self::range(input);
        let (host, permissions) = (HOSTS[input.below(HOSTS.len())], self.permissions(input));
        let Domain { id: Some(id), pages } = &mut self.domains[which] else { return };
        let free = pages.range(range.clone()).next().is_none();
        let done = self.driver.map(*id, iova, HostPhysical::new(host << 12), length, permissions);
        assert_eq!(done.is_ok(), free, "{done:?}");
        if free {
            let first = range.start;
            pages.extend(range.map(|page| (page, (host + page - first, permissions.bits()))));
        }
    }

    fn unmap(&mut self, which: usize, input: &mut Input<'_>) {
        let Domain { id: Some(id), pages } = &mut self.domains[which] else { return };
        let ranges: Vec<_> = (0..1 + input.below(3)).map(|_| Self::range(input)).collect();
        let before = pages.len();
        pages.retain(|page, _| !ranges.iter().any(|(range, ..)| range.contains(page)));
        let wanted: Vec<_> = ranges.iter().map(|(_, iova, length)| (*iova, *length)).collect();
        assert_eq!(self.driver.unmap_ranges(*id, &wanted), Ok(((before - pages.len()) as u64) << 12));
    }

    fn protect(&mut self, which: usize, input: &mut Input<'_>) {
        let ((range, iova, length), permissions) = (Self::range(input), self.permissions(input));
        let Domain { id: Some(id), pages } = &mut self.domains[which] else { return };
        self.driver.protect(*id, iova, length, permissions).expect("frames are left");
        pages.range_mut(range).for_each(|(_, (_, allowed))| *allowed = permissions.bits());
    }

    fn attach(&mut self, device: usize, which: usize, device_tlb: bool) {
        let Some(id) = self.domains[which].id else { return };
        let done = if device_tlb && self.board.unit.borrow().configuration().device_tlb {
            self.driver.attach_with_device_tlb(id, DEVICES[device], &[], 8)
        } else {
            self.driver.attach(id, DEVICES[device], &[])
        };
        assert_eq!(done.is_ok(), self.attached[device].is_none(), "{done:?}");
        if done.is_ok() {
            self.attached[device] = Some(which);
        }
    }

    fn program(&mut self, which: usize, input: &mut Input<'_>) {
        let Some(handle) = &self.handles[which] else { return };
        let (index, vector) = (input.below(2) as u16, input.byte());
        if vector < 16 {
            self.driver.interrupts().mask(handle, index).expect("the unit confirms");
            self.vectors.remove(&(which, index));
            return;
        }
        let delivery = Delivery::Remapped { destination_apic_id: 1, vector, trigger: Trigger::Edge };
        self.driver.interrupts().program(handle, index, delivery).expect("the unit confirms");
        self.vectors.insert((which, index), vector);
    }

    /// One address and one interrupt of one device.
    fn probe(&self, input: &mut Input<'_>) {
        let device = input.below(DEVICES.len());
        let page = STARTS[input.below(STARTS.len())] + [0, 2, 0x200][input.below(3)];
        let (access, bit) = if input.below(2) == 0 { (Access::Read, 1) } else { (Access::Write, 2) };
        let mapped = self.attached[device].and_then(|which| self.domains[which].pages.get(&page));
        let expected = mapped.filter(|(_, allowed)| allowed & bit != 0).map(|(host, _)| host << 12);
        let source = DEVICES[device].source.bits();
        let request = Request { source, address: page << 12, access, address_type: AddressType::Untranslated };
        let got = self.board.unit.borrow_mut().request(request);
        assert_eq!(got.ok(), expected, "device {device} {access:?} {page:#x}");
        let Some(handle) = &self.handles[device] else { return };
        let index = input.below(2) as u16;
        let message = self.driver.interrupts().message(handle, index).expect("the handle has two");
        let message = Message { address: message.address, data: message.data };
        let outcome = self.board.unit.borrow_mut().interrupt(Interrupt { source, message });
        match (self.vectors.get(&(device, index)), outcome) {
            (Some(vector), InterruptOutcome::Remapped { vector: arrived, .. }) => assert_eq!(arrived, *vector),
            (None, InterruptOutcome::Refused(_)) => {}
            (expected, outcome) => panic!("{outcome:?} instead of {expected:?}"),
        }
        let refused = u64::from(expected.is_none());
        let mut reported = 0;
        self.driver.drain_faults(|_| reported += 1);
        assert!(reported >= refused, "a refused request is reported");
        self.board.unit.borrow_mut().take_messages();
    }

    fn end(self) {
        let Self { board, driver, .. } = self;
        driver.shut_down().expect("the unit turns off");
        board.assert_clean("shutting down");
        assert_eq!(board.ram.in_use(), 0);
    }
}
