use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::vapic::{Bell, Effect, LocalApic};
use crate::vcpu::ResetCause;
use crate::vm::memory::tests::FakeMemory;

const MILLISECOND: u64 = 1_000_000;

#[derive(Default)]
struct FakeHost {
    now: AtomicU64,
    shown: StdMutex<Vec<u8>>,
    typed: StdMutex<Vec<u8>>,
    dropped: AtomicU64,
    flushed: AtomicU64,
}

impl FakeHost {
    fn shown(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.shown.lock().unwrap())).unwrap()
    }

    fn pass(&self, nanoseconds: u64) {
        self.now.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl Host for FakeHost {
    fn hypercall(&self, number: u64, arguments: [u64; 3]) -> Option<u64> {
        (number == 0x100).then(|| arguments.iter().sum())
    }

    fn nanoseconds(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn console_write(&self, byte: u8) {
        self.shown.lock().unwrap().push(byte);
    }

    fn console_flush(&self) {
        self.flushed.fetch_add(1, Ordering::Relaxed);
    }

    fn console_read(&self) -> Option<u8> {
        let mut typed = self.typed.lock().unwrap();
        (!typed.is_empty()).then(|| typed.remove(0))
    }

    fn console_line(&self, line: &[u8]) {
        self.shown.lock().unwrap().extend_from_slice(line);
    }

    fn console_dropped(&self, bytes: u64) {
        self.dropped.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A multiboot image of four bytes.
fn image() -> Vec<u8> {
    let flags = 0x1_0000u32;
    let mut file = Vec::new();
    let checksum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    for field in [0x1bad_b002, flags, checksum, 0x10_0000, 0x10_0000, 0, 0, 0x10_0000] {
        file.extend_from_slice(&field.to_le_bytes());
    }
    file
}

struct Bench {
    vm: Vm<FakeMemory>,
    host: Arc<FakeHost>,
    bus: Arc<ApicBus>,
    apic: LocalApic,
}

impl Bench {
    fn new(cpus: u32, debug_exit: bool) -> Self {
        let host = Arc::new(FakeHost::default());
        let bus = Arc::new(ApicBus::new(&(0..cpus).collect::<Vec<_>>(), Bell::silent()));
        let map = AddressMap::new(16 << 20, 0).unwrap();
        let memory = Arc::new(FakeMemory::new(&map));
        let file = image();
        let multiboot = Multiboot { name: "test", image: &file, command_line: "", modules: &[] };
        let vm = Vm::build(Parts {
            map,
            memory,
            functions: Vec::new(),
            bus: Arc::clone(&bus),
            image: Image::Multiboot(multiboot),
            debug_exit,
            host: Arc::clone(&host) as Arc<dyn Host>,
            wall: 0,
        })
        .unwrap();
        let mut apic = LocalApic::new(0, true, false);
        let endpoint = bus.endpoint(0).unwrap();
        assert_eq!(apic.write(0xf0, 0x1ff, 0, endpoint), Effect::Nothing);
        vm.timers(0);
        Self { vm, host, bus, apic }
    }

    fn out(&self, port: u16, value: u8) {
        self.vm.port_write(0, port, 1, value.into());
    }

    fn input(&self, port: u16) -> u8 {
        self.vm.port_read(0, port, 1) as u8
    }

    /// Unmasks a pin of the I/O APIC with this vector, for the first virtual CPU.
    fn route(&self, pin: u64, entry: u64) {
        for (register, value) in [(0x11 + 2 * pin, entry >> 32), (0x10 + 2 * pin, entry & 0xffff_ffff)] {
            self.vm.mmio_write(0, GuestPhysical::new(IO_APIC.start), 4, register);
            self.vm.mmio_write(0, GuestPhysical::new(IO_APIC.start + 0x10), 4, value);
        }
    }

    /// The vector that the first virtual CPU would take now; it is ended at once.
    fn interrupt(&mut self) -> Option<u8> {
        let endpoint = self.bus.endpoint(0).unwrap();
        self.apic.drain(endpoint);
        let vector = self.apic.acknowledge()?;
        if let Effect::EndOfInterrupt(vector) = self.apic.write(0xb0, 0, 0, endpoint) {
            self.vm.broadcast_eoi(vector);
        }
        Some(vector)
    }

    fn asks_for_a_look(&self) -> bool {
        self.bus.endpoint(0).unwrap().take_requests().contains(Requests::TIMER)
    }
}

#[test]
fn the_timer_interrupts_through_pin_two_at_its_deadline() {
    let mut bench = Bench::new(1, false);
    bench.route(2, 0x30);
    assert!(!bench.asks_for_a_look());
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        bench.out(port, value);
    }
    assert!(bench.asks_for_a_look(), "the first virtual CPU must learn of the new deadline");
    let due = bench.vm.timers(0).unwrap();
    assert!((9 * MILLISECOND..11 * MILLISECOND).contains(&due), "{due}");
    bench.host.pass(due - 1);
    bench.vm.timers(0);
    assert_eq!(bench.interrupt(), None);
    for _ in 0..3 {
        bench.host.pass(10 * MILLISECOND);
        bench.vm.timers(0);
        assert_eq!(bench.interrupt(), Some(0x30));
        assert_eq!(bench.interrupt(), None);
    }
}

#[test]
fn the_console_prints_interrupts_and_reads() {
    let mut bench = Bench::new(1, false);
    bench.route(4, 0x34);
    for (port, value) in [(0x3fa, 0x01), (0x3fc, 0x0b), (0x3f9, 0x03)] {
        bench.out(port, value);
    }
    assert_eq!(bench.interrupt(), Some(0x34), "the transmitter is empty");
    assert_eq!(bench.input(0x3fa), 0xc2);
    for byte in *b"hi\n" {
        bench.out(0x3f8, byte);
        assert_eq!(bench.interrupt(), Some(0x34), "each byte is an edge");
    }
    assert_eq!(bench.host.shown(), "hi\n");
    bench.input(0x3fa);
    bench.host.typed.lock().unwrap().extend_from_slice(b"ls\n");
    bench.host.pass(100 * MILLISECOND);
    bench.vm.timers(0);
    assert_eq!(bench.interrupt(), Some(0x34));
    let read: Vec<u8> = (0..3).map(|_| bench.input(0x3f8)).collect();
    assert_eq!(read, b"ls\n");
    assert_eq!(bench.input(0x3fd) & 1, 0);
}

#[test]
fn a_prompt_is_shown_once_after_a_pause() {
    let bench = Bench::new(1, false);
    bench.vm.timers(0);
    bench.vm.timers(0);
    bench.asks_for_a_look();
    bench.host.pass(10 * MILLISECOND);
    for byte in *b"login: " {
        bench.out(0x3f8, byte);
    }
    let due = bench.vm.timers(0).unwrap();
    bench.host.pass(due);
    bench.vm.timers(0);
    for _ in 0..3 {
        bench.host.pass(2000 * MILLISECOND);
        bench.vm.timers(0);
    }
    assert_eq!(bench.host.flushed.load(Ordering::Relaxed), 1);
}

#[test]
fn a_flood_does_not_reach_the_host() {
    let bench = Bench::new(1, false);
    for _ in 0..1_000_000 {
        bench.out(0x3f8, b'x');
    }
    let shown = bench.host.shown().len();
    assert!(shown < 700_000, "{shown}");
    bench.host.pass(1000 * MILLISECOND);
    bench.vm.timers(0);
    assert_eq!(bench.host.dropped.load(Ordering::Relaxed) as usize, 1_000_000 - shown);
    bench.vm.guest_line(0, b"line");
    assert_eq!(bench.host.shown(), "line");
}

#[test]
fn every_way_to_end_ends_all_virtual_cpus_with_its_reason() {
    let cases: [(u16, u8, u32, End); 6] = [
        (0xcf9, 1, 0x06, End::Reset(ResetCause::ResetRegister)),
        (0x64, 1, 0xfe, End::Reset(ResetCause::KeyboardController)),
        (0x92, 1, 0x03, End::Reset(ResetCause::ResetControl)),
        (0x604, 2, 0x3400, End::PowerOff),
        (0xf4, 4, 0x123, End::DebugExit(0x123)),
        (0xf4, 1, 0, End::DebugExit(0)),
    ];
    for (port, size, value, end) in cases {
        let bench = Bench::new(2, true);
        bench.vm.port_write(1, port, size, value);
        assert_eq!(bench.vm.ended(), Some(end), "port {port:#x}");
        bench.vm.end(End::PowerOff);
        assert_eq!(bench.vm.ended(), Some(end), "the first reason counts");
        assert!(bench.bus.endpoints().iter().all(|endpoint| endpoint.requests().contains(Requests::STOP)));
    }
    let bench = Bench::new(1, false);
    for (port, value) in [(0xf4, 1), (0x64, 0xd1), (0xcf9, 0x02), (0x80, 0xff), (0x92, 0x02)] {
        bench.out(port, value);
    }
    assert_eq!(bench.vm.ended(), None);
}

#[test]
fn hypercalls_of_the_machine_are_the_hosts() {
    let bench = Bench::new(1, false);
    assert_eq!(bench.vm.hypercall(0, 0x100, [1, 2, 3]), Some(6));
    assert_eq!(bench.vm.hypercall(0, 0x101, [1, 2, 3]), None);
}

#[test]
fn nothing_there_reads_all_ones() {
    let bench = Bench::new(1, false);
    assert_eq!(bench.vm.port_read(0, 0x1234, 4), u32::MAX);
    assert_eq!(bench.vm.port_read(0, 0xffff, 4), u32::MAX);
    assert_eq!(bench.vm.port_read(0, 0x80, 1), 0xff);
    assert_eq!(bench.vm.port_read(0, 0xc000, 2) & 0xffff, 0xffff);
    assert_eq!(bench.vm.mmio_read(0, GuestPhysical::new(0xc000_0000), 4) as u32, u32::MAX);
    assert_eq!(bench.vm.mmio_read(0, GuestPhysical::new(0xa000_0000), 8), u64::MAX);
    bench.vm.port_write(0, 0xffff, 4, 0);
}

#[test]
fn wide_accesses_reach_byte_wide_devices_port_by_port() {
    let bench = Bench::new(1, false);
    bench.vm.port_write(0, 0x70, 2, 0x550f);
    assert_eq!(bench.vm.port_read(0, 0x70, 2), 0x55ff, "the index reads ones, the register what was written");
}

#[test]
fn configuration_space_and_tables_agree_with_the_map() {
    let bench = Bench::new(1, false);
    let configuration = bench.vm.map().configuration().start;
    assert_eq!(bench.vm.mmio_read(0, GuestPhysical::new(configuration + 8), 4) >> 16, 0x0600);
    let mut signature = [0; 8];
    bench.vm.read_memory(GuestPhysical::new(0xe_0000), &mut signature).unwrap();
    assert_eq!(&signature, b"RSD PTR ");
    assert_eq!(bench.vm.start(), Start::Protected { entry: 0x10_0000, eax: 0x2bad_b002, ebx: 0x1_0000 });
}

#[test]
fn a_level_pin_of_a_slot_fires_until_it_falls() {
    let mut bench = Bench::new(1, false);
    bench.route(17, 0x41 | 1 << 15 | 1 << 13);
    bench.vm.set_function_pin(1, 0, true);
    assert_eq!(bench.interrupt(), Some(0x41));
    assert_eq!(bench.interrupt(), Some(0x41), "still up after its end");
    bench.vm.set_function_pin(1, 0, false);
    bench.interrupt();
    assert_eq!(bench.interrupt(), None);
}

proptest::proptest! {
    /// Whatever a guest does to its ports and registers: no panic, no deadline in the past, and time goes on.
    #[test]
    fn no_sequence_of_accesses_breaks_the_machine(
        steps in proptest::collection::vec((0u8..4, 0usize..24, 0u64..16, proptest::prelude::any::<u64>(), 0u8..4, 0u64..1 << 22), 0..150),
    ) {
        const PORTS: [u16; 24] = [
            0x20, 0x40, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92, 0xa0, 0xf4, 0x3f8, 0x3fa, 0x4d0, 0x600, 0x604,
            0x608, 0xcf8, 0xcf9, 0xcfc, 0xc000, 0xfffd, 0xffff,
        ];
        const REGISTERS: [u64; 6] = [0xb000_0000, 0xb0ff_fff8, 0xc000_0000, 0xfec0_0000, 0xfec0_0010, u64::MAX - 7];
        let bench = Bench::new(2, true);
        for (kind, place, offset, value, size, pause) in steps {
            bench.host.pass(pause);
            let (port, size) = (PORTS[place], 1 << size);
            let address = GuestPhysical::new(REGISTERS[place % REGISTERS.len()].saturating_add(offset & 7));
            match kind {
                0 => { bench.vm.port_read(0, port, size.min(4)); }
                1 => bench.vm.port_write(1, port, size.min(4), value as u32),
                2 => { bench.vm.mmio_read(1, address, size); }
                _ => bench.vm.mmio_write(0, address, size, value),
            }
            bench.vm.broadcast_eoi(value as u8);
            let now = bench.host.nanoseconds();
            proptest::prop_assert!(bench.vm.timers(0).is_none_or(|due| due > now));
        }
    }
}
