//! A VM's functions over doors that keep books: in which order everything goes back, and what does not.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use iommu::paging::PageSizes;
use passthrough::fake::bench::{Bench, ENDPOINT};
use passthrough::fake::{FakeMachine, FakeRemapping, offset};
use passthrough::group::Registry;

use super::*;
use crate::memory::{GuestPhysical, NestedFormat, NestedPaging, frames};
use crate::vm::pci::VirtualFunction;

const RAM: u64 = 4 << 20;
/// Where the guest puts the endpoint's BAR 0 of 16 KiB.
const BAR: u64 = 0xc000_0000;
const COMMAND: u16 = 0x04;
const MEMORY: u32 = 1 << 1;
const BUS_MASTER: u32 = 1 << 2;

/// The bench's endpoint as the kernel knows it.
struct Supplied {
    bench: Bench,
    function: pci::Function,
}

impl Supplied {
    fn new() -> Self {
        let mut function = pci::Function::bare(ENDPOINT);
        let kind = pci::BarKind::Memory64 { prefetchable: false };
        function.bars[0] = Some(pci::Bar { kind, address: 0xfe00_0000, size: 0x4000 });
        Self { bench: Bench::new(), function }
    }

    fn recipient(&self, vm: u16) -> Recipient {
        let paging = NestedPaging {
            format: NestedFormat::Npt,
            page_sizes: PageSizes::all(),
            output_bits: 46,
            apic_access: false,
        };
        Recipient {
            owner: self.bench.owner.clone(),
            memory: Arc::new(GuestMemory::new(vm, core::iter::once(0..RAM), &[], paging).unwrap()),
            bus: Arc::new(ApicBus::new(&[0], crate::vapic::Bell::silent())),
            liberties: Liberties::default(),
            complaints: Complaints::default(),
        }
    }

    fn assign(&self, recipient: &Recipient, doubt: Doubt) -> Assigned<FakeMachine> {
        let assigned = Assigned::take(self, recipient, &[ENDPOINT], doubt).unwrap();
        self.bench.trace.lock().unwrap().clear();
        assigned
    }
}

impl Supply for Supplied {
    type Machine = FakeMachine;

    fn registry(&self) -> &Registry {
        &self.bench.registry
    }

    fn remapping(&self) -> &FakeRemapping {
        &self.bench.remapping
    }

    fn function(&self, address: PciAddress) -> Option<&pci::Function> {
        (address == ENDPOINT).then_some(&self.function)
    }

    fn parts(&self, _: &pci::Function) -> Result<Parts<FakeMachine>, AssignError> {
        Ok(Parts { line: false, ..self.bench.parts() })
    }

    fn forgive(&self, _: PciAddress) {}
}

/// The guest decodes memory, sends requests, and has MSI-X on with one vector.
fn put_to_work(function: &AssignedFunction<FakeMachine>) {
    function.config_write(COMMAND, 2, MEMORY | BUS_MASTER);
    function.place(0, Some(BAR));
    let (table, message) = (0x2200, 0xfee0_0000u64);
    function.bar_write(0, table, 4, message);
    function.bar_write(0, table + 8, 4, 0x41);
    function.bar_write(0, table + 12, 4, 0);
    function.config_write(offset::MSI_X + 2, 2, 0x8000);
}

/// What of this happened, in this order.
fn order<'a>(trace: &[String], wanted: &[&'a str]) -> Vec<&'a str> {
    let mut rest = trace.iter();
    wanted.iter().copied().filter(|wanted| rest.any(|line| line.starts_with(wanted))).collect()
}

#[test]
fn everything_goes_back_in_order_and_the_ram_last() {
    let supplied = Supplied::new();
    let recipient = supplied.recipient(41);
    let owner = crate::memory::Owner::Vm(41);
    let assigned = supplied.assign(&recipient, Doubt::default());
    put_to_work(&assigned.functions()[0]);
    assert_eq!(u32::from(supplied.bench.function.command()) & BUS_MASTER, BUS_MASTER);
    assert_eq!(supplied.bench.remapping.books().entries.len(), 1);
    assert!(frames().in_use(owner) > 0);
    drop(recipient);
    supplied.bench.trace.lock().unwrap().clear();
    assigned.close();
    let trace = supplied.bench.trace.lock().unwrap().clone();
    let wanted = [
        "endpoint command 0x402",
        "endpoint msix",
        "free interrupts",
        "endpoint reset",
        "detach 0000:01:00.0",
        "destroy",
    ];
    assert_eq!(order(&trace, &wanted), wanted, "{trace:#?}");
    assert_eq!(supplied.bench.remapping.books(), Default::default());
    assert_eq!(u32::from(supplied.bench.function.command()) & BUS_MASTER, 0);
    assert_eq!(frames().in_use(owner), 0);
}

#[test]
fn ram_that_a_unit_may_still_reach_is_kept() {
    let supplied = Supplied::new();
    let recipient = supplied.recipient(42);
    let (doubt, owner) = (Doubt::default(), crate::memory::Owner::Vm(42));
    let assigned = supplied.assign(&recipient, doubt.clone());
    let held = frames().in_use(owner);
    drop(recipient);
    // As `Remapping::detach` does where a unit does not confirm.
    doubt.raise();
    assigned.close();
    assert_eq!(supplied.bench.remapping.books(), Default::default(), "what can be given back is");
    assert_eq!(frames().in_use(owner), held);
}

#[test]
fn a_function_that_sleeps_is_not_in_the_guests_memory() {
    let supplied = Supplied::new();
    let recipient = supplied.recipient(43);
    let assigned = supplied.assign(&recipient, Doubt::default());
    let function = &assigned.functions()[0];
    let reaches = || recipient.memory.translate(GuestPhysical::new(BAR)).map(|host| host.as_u64());
    put_to_work(function);
    assert_eq!(reaches(), Some(0xfe00_0000));
    function.config_write(offset::POWER + 4, 2, 3);
    assert_eq!(reaches(), None, "D3hot");
    function.place(0, None);
    function.place(0, Some(BAR));
    assert_eq!(reaches(), None, "moved while it sleeps");
    function.config_write(offset::POWER + 4, 2, 0);
    assert_eq!(reaches(), Some(0xfe00_0000));
    assert_eq!(recipient.memory.translate(GuestPhysical::new(BAR + 0x2000)), None, "the MSI-X page stays trapped");
}

/// Another CPU is in the middle of something long, such as a reset: quarantine does not wait for it, and holds after.
#[test]
fn quarantine_waits_for_nobody() {
    let supplied = Supplied::new();
    let recipient = supplied.recipient(44);
    let assigned = supplied.assign(&recipient, Doubt::default());
    let function = assigned.functions()[0].clone();
    put_to_work(&function);
    let command = || u32::from(supplied.bench.function.command());
    let released = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (holds, held) = channel();
        let (release, may_end) = channel::<()>();
        let (other, released) = (&function, &released);
        scope.spawn(move || {
            other.device.with(|device| {
                holds.send(()).unwrap();
                may_end.recv().unwrap();
                // What the holder had begun before, with the guest's bits.
                device.reset().unwrap();
                released.store(true, Ordering::SeqCst);
            });
        });
        held.recv().unwrap();
        function.quarantine();
        assert!(!released.load(Ordering::SeqCst), "the device was held all the time");
        assert_eq!(command() & (BUS_MASTER | MEMORY), MEMORY);
        release.send(()).unwrap();
    });
    assert_eq!(command() & (BUS_MASTER | MEMORY), MEMORY, "a reset gives it nothing back");
    function.config_write(COMMAND, 2, MEMORY | BUS_MASTER);
    assert_eq!(command() & (BUS_MASTER | MEMORY), MEMORY, "nor does the guest");
}
