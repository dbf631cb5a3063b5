//! An engine and a machine that exist only in tests: registers and RAM without a processor.

use std::collections::VecDeque;
use std::sync::Mutex;

use iommu::address::HostPhysical;

use super::body::Body;
use super::engine::{Exit, QuickExit, VcpuEngine};
use super::platform::{End, NotMemory, Platform};
use super::state::{Event, Registers, Segment, SegmentName, SystemRegister, bits};
use super::{HostTimer, Settings};
use crate::memory::{self, GuestPhysical, Owner};
use crate::vapic::{ApicBus, Bell};

/// Registers that hold what was set, and exits that were planned.
pub(super) struct FakeEngine {
    registers: Registers,
    pointer: u64,
    flags: u64,
    system: Vec<(SystemRegister, u64)>,
    segments: [Segment; 10],
    privilege: u8,
    pub(super) shadow: bool,
    pub(super) injected: Option<Event>,
    /// What was delivered, in order.
    pub(super) delivered: Vec<Event>,
    pub(super) window: Option<u8>,
    pub(super) watches_exceptions: bool,
    pub(super) external_window: bool,
    pub(super) exits: VecDeque<Exit>,
    exit: Exit,
    entries: usize,
    /// What happens at each entry, by its number from 1.
    pub(super) before_entry: Option<fn(usize)>,
    pub(super) flushes: usize,
    /// Paging's four entries, where they are wanted.
    pub(super) pointers: Option<[u64; 4]>,
    offset: u64,
}

impl FakeEngine {
    pub(super) fn new() -> Self {
        Self {
            registers: Registers::default(),
            pointer: 0,
            flags: bits::FLAGS_ONE,
            system: Vec::new(),
            segments: [Segment { limit: u32::MAX, attributes: 0xc93, ..Segment::default() }; 10],
            privilege: 0,
            shadow: false,
            injected: None,
            delivered: Vec::new(),
            window: None,
            watches_exceptions: false,
            external_window: false,
            exits: VecDeque::new(),
            exit: Exit::Shutdown,
            entries: 0,
            before_entry: None,
            flushes: 0,
            pointers: None,
            offset: 0,
        }
    }
}

impl VcpuEngine for FakeEngine {
    fn reset(&mut self) {
        *self = Self { exits: core::mem::take(&mut self.exits), ..Self::new() };
    }
    fn registers(&self) -> &Registers {
        &self.registers
    }
    fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }
    fn instruction_pointer(&self) -> u64 {
        self.pointer
    }
    fn set_instruction_pointer(&mut self, address: u64) {
        self.pointer = address;
    }
    fn flags(&self) -> u64 {
        self.flags
    }
    fn set_flags(&mut self, flags: u64) {
        self.flags = flags;
    }
    fn system(&self, register: SystemRegister) -> u64 {
        self.system.iter().find(|(name, _)| *name == register).map_or(0, |(_, value)| *value)
    }
    fn set_system(&mut self, register: SystemRegister, value: u64) {
        self.system.retain(|(name, _)| *name != register);
        self.system.push((register, value));
    }
    fn wants_page_pointers(&self) -> bool {
        self.pointers.is_some()
    }
    fn set_page_pointers(&mut self, pointers: [u64; 4]) {
        self.pointers = Some(pointers);
    }
    fn segment(&self, name: SegmentName) -> Segment {
        self.segments[name as usize]
    }
    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        self.segments[name as usize] = segment;
    }
    fn privilege(&self) -> u8 {
        self.privilege
    }
    fn set_privilege(&mut self, level: u8) {
        self.privilege = level;
    }
    fn next_instruction(&self) -> Option<u64> {
        None
    }
    fn has_interrupt_shadow(&self) -> bool {
        self.shadow
    }
    fn end_interrupt_shadow(&mut self) {
        self.shadow = false;
    }
    fn inject(&mut self, event: Event) {
        self.injected = Some(event);
    }
    fn injected(&self) -> Option<Event> {
        self.injected
    }
    fn open_window(&mut self, vector: Option<u8>) {
        self.window = vector;
        self.external_window = false;
    }
    fn open_external_window(&mut self) {
        self.external_window = true;
    }
    fn watch_interrupt_return(&mut self, _: bool) {}
    fn watch_exceptions(&mut self, watch: bool) {
        self.watches_exceptions = watch;
    }
    fn set_nested_root(&mut self, _: HostPhysical) {}
    fn flush_translations(&mut self) {
        self.flushes += 1;
    }
    fn timestamp_offset(&self) -> u64 {
        self.offset
    }
    fn set_timestamp_offset(&mut self, offset: u64) {
        self.offset = offset;
    }
    fn load(&mut self) -> Result<(), &'static str> {
        Ok(())
    }
    fn unload(&mut self) {}
    fn hold(&mut self) {}
    fn release(&mut self) {}
    fn enter(&mut self) {
        self.delivered.extend(self.injected.take());
        self.entries += 1;
        if let Some(act) = self.before_entry {
            act(self.entries);
        }
        self.exit = self.exits.pop_front().unwrap_or(Exit::Shutdown);
    }
    fn quick_exit(&self) -> Option<QuickExit> {
        match self.exit {
            Exit::Cpuid => Some(QuickExit::Cpuid),
            Exit::Hypercall => Some(QuickExit::Hypercall),
            Exit::ReadMsr => Some(QuickExit::ReadMsr),
            _ => None,
        }
    }
    fn exit(&mut self) -> Exit {
        self.exit
    }
}

/// A machine with some RAM at 0 and a log of everything else.
pub(super) struct FakeMachine {
    /// Frames of the test's own memory, so that the host sees it as it sees a guest's.
    ram: HostPhysical,
    size: usize,
    pub(super) accesses: Mutex<Vec<Access>>,
    /// What every device read gives.
    pub(super) answer: u64,
    pub(super) ended: Mutex<Option<End>>,
    pub(super) lines: Mutex<Vec<Vec<u8>>>,
    /// What the machine's timers are due for next.
    pub(super) deadline: Mutex<Option<u64>>,
    /// The vectors that the 8259s will give, in order.
    pub(super) external: Mutex<VecDeque<u8>>,
}

/// An access that reached a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    In(u16, u8),
    Out(u16, u8, u32),
    Read(u64, u8),
    Write(u64, u8, u64),
    End(u8),
}

impl FakeMachine {
    pub(super) fn new(ram: usize) -> Self {
        Self {
            ram: memory::frames().allocate_zeroed(Owner::Hypervisor, ram / 4096, 4096).unwrap(),
            size: ram,
            accesses: Mutex::default(),
            answer: 0x8877_6655_4433_2211,
            ended: Mutex::default(),
            lines: Mutex::default(),
            deadline: Mutex::default(),
            external: Mutex::default(),
        }
    }

    pub(super) fn put(&self, address: u64, bytes: &[u8]) {
        self.write_memory(GuestPhysical::new(address), bytes).unwrap();
    }

    pub(super) fn get<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.read_memory(GuestPhysical::new(address), &mut bytes).unwrap();
        bytes
    }

    pub(super) fn taken(&self) -> Vec<Access> {
        core::mem::take(&mut self.accesses.lock().unwrap())
    }

    /// Where `length` bytes of RAM at this address are.
    fn place(&self, address: GuestPhysical, length: usize) -> Result<*mut u8, NotMemory> {
        let start = usize::try_from(address.as_u64()).map_err(|_| NotMemory)?;
        let end = start.checked_add(length).ok_or(NotMemory)?;
        if end <= self.size { Ok(memory::to_pointer(self.ram).wrapping_add(start)) } else { Err(NotMemory) }
    }

    fn note(&self, access: Access) {
        self.accesses.lock().unwrap().push(access);
    }
}

impl Drop for FakeMachine {
    fn drop(&mut self) {
        memory::frames().free(Owner::Hypervisor, self.ram, self.size / 4096).unwrap();
    }
}

impl Platform for FakeMachine {
    fn timers(&self, _: usize) -> Option<u64> {
        *self.deadline.lock().unwrap()
    }
    fn port_read(&self, _: usize, port: u16, size: u8) -> u32 {
        self.note(Access::In(port, size));
        self.answer as u32
    }
    fn port_write(&self, _: usize, port: u16, size: u8, value: u32) {
        self.note(Access::Out(port, size, value));
    }
    fn mmio_read(&self, _: usize, address: GuestPhysical, size: u8) -> u64 {
        self.note(Access::Read(address.as_u64(), size));
        self.answer
    }
    fn mmio_write(&self, _: usize, address: GuestPhysical, size: u8, value: u64) {
        self.note(Access::Write(address.as_u64(), size, value));
    }
    fn read_memory(&self, address: GuestPhysical, into: &mut [u8]) -> Result<(), NotMemory> {
        let place = self.place(address, into.len())?;
        // SAFETY: inside the frames, which only this test's thread uses.
        unsafe { place.copy_to(into.as_mut_ptr(), into.len()) };
        Ok(())
    }
    fn write_memory(&self, address: GuestPhysical, from: &[u8]) -> Result<(), NotMemory> {
        let place = self.place(address, from.len())?;
        // SAFETY: as in `read_memory`.
        unsafe { place.copy_from(from.as_ptr(), from.len()) };
        Ok(())
    }
    fn host_page(&self, page: GuestPhysical) -> Option<HostPhysical> {
        self.place(page, 4096).ok()?;
        self.ram.checked_add(page.as_u64())
    }
    fn nested_root(&self) -> HostPhysical {
        HostPhysical::new(0)
    }
    fn end(&self, reason: End) {
        self.ended.lock().unwrap().get_or_insert(reason);
    }
    fn broadcast_eoi(&self, vector: u8) {
        self.note(Access::End(vector));
    }
    fn acknowledge_external(&self) -> Option<u8> {
        self.external.lock().unwrap().pop_front()
    }
    fn hypercall(&self, _: usize, number: u64, arguments: [u64; 3]) -> Option<u64> {
        (number == 0x100).then(|| arguments.iter().sum())
    }
    fn guest_line(&self, _: usize, line: &[u8]) {
        self.lines.lock().unwrap().push(line.to_vec());
    }
}

/// A virtual CPU on the fake engine: 32-bit protected mode, flat, at address 0x1000.
pub(super) fn body() -> Box<Body<FakeEngine>> {
    body_of(1)
}

/// The first virtual CPU of a machine with `count`; the others are running, for all that it knows.
pub(super) fn body_of(count: u32) -> Box<Body<FakeEngine>> {
    let bus = std::sync::Arc::new(ApicBus::new(&(0..count).collect::<Vec<_>>(), Bell::silent()));
    let timer = HostTimer { nanoseconds: || 0, set_deadline: |_| (), set_handler: |_| () };
    let settings = Settings { index: 0, x2apic: true, bus, owner: Owner::Hypervisor, timer };
    let mut body = Body::new(FakeEngine::new(), settings).unwrap();
    body.start_at(super::Start::Protected { entry: 0x1000, eax: 0, ebx: 0 });
    body
}
