//! The devices of one VM, their locks, and the wires from them to the interrupt controllers.
//!
//! Locks, in the order in which they may be taken: any one device (console, timer, clock, power management), then the
//! pair of 8259s, then the I/O APIC, which posts into mailboxes and takes no lock. A device's lock is held while its
//! pin is set, so that two virtual CPUs cannot leave a pin at an old level. Nothing else is called under a lock.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::device::cmos::Cmos;
use super::device::console::{Console, Due};
use super::device::pic::Pair;
use super::device::pit::Timer;
use super::device::power::{self, Power, Request};
use crate::vapic::{ApicBus, IoApic, Requests};

/// Lines of the pair of 8259s; the I/O APIC has the same numbers, but the timer.
const TIMER_LINE: u8 = 0;
const SERIAL_LINE: u8 = 4;
const CLOCK_LINE: u8 = 8;
/// The timer's pin of the I/O APIC, as the MADT says.
const TIMER_PIN: usize = 2;

/// The devices.
#[derive(Debug)]
pub(super) struct Wiring {
    bus: Arc<ApicBus>,
    console: Mutex<Console>,
    timer: Mutex<Timer>,
    clock: Mutex<Cmos>,
    power: Mutex<Power>,
    pair: Mutex<Pair>,
    io_apic: Mutex<IoApic>,
    /// When the first virtual CPU looks after the devices; `u64::MAX`: never.
    announced: AtomicU64,
}

impl Wiring {
    /// All devices after reset at time `now` (ns), the clock at `wall` (seconds since 1970).
    pub(super) fn new(bus: Arc<ApicBus>, wall: i64, now: u64) -> Self {
        Self {
            bus,
            console: Mutex::new(Console::new(now)),
            timer: Mutex::new(Timer::new()),
            clock: Mutex::new(Cmos::new(wall, now)),
            power: Mutex::new(Power::new(now)),
            pair: Mutex::new(Pair::new()),
            io_apic: Mutex::new(IoApic::new()),
            announced: AtomicU64::new(now),
        }
    }

    pub(super) fn bus(&self) -> &ApicBus {
        &self.bus
    }

    pub(super) fn serial_read(&self, offset: u8) -> u8 {
        let mut console = self.console.lock();
        let value = console.serial.read(offset);
        self.set_line(SERIAL_LINE, console.serial.interrupt());
        value
    }

    /// One write of the serial port; the byte that it sends, if it may be shown.
    pub(super) fn serial_write(&self, offset: u8, value: u8, now: impl FnOnce() -> u64) -> Option<u8> {
        let mut console = self.console.lock();
        let written = console.serial.write(offset, value);
        if written.dipped {
            self.set_line(SERIAL_LINE, false);
        }
        self.set_line(SERIAL_LINE, console.serial.interrupt());
        let byte = written.sent.filter(|byte| console.allows(*byte, now()))?;
        self.announce(console.deadline());
        Some(byte)
    }

    /// Whether a line that does not come through the serial port may be shown.
    pub(super) fn allows_line(&self, length: usize, now: u64) -> bool {
        self.console.lock().allows_line(length, now)
    }

    /// Gives the serial port what was typed, as much as it takes.
    pub(super) fn type_in(&self, now: u64, mut next: impl FnMut() -> Option<u8>) {
        // The source is asked without the lock: it has its own. Only one processor expires the console at a time, so
        // the room cannot shrink meanwhile but by a guest in loopback, which then loses what was typed.
        let room = self.console.lock().serial.room();
        for _ in 0..room {
            let Some(byte) = next() else { return };
            let mut console = self.console.lock();
            console.typed(now);
            console.serial.receive(byte);
            self.set_line(SERIAL_LINE, console.serial.interrupt());
        }
    }

    pub(super) fn timer_read(&self, offset: u16, now: u64) -> u8 {
        self.timer.lock().read(offset, now)
    }

    pub(super) fn timer_write(&self, offset: u16, value: u8, now: u64) {
        let mut timer = self.timer.lock();
        timer.write(offset, value, now);
        self.announce(timer.deadline().unwrap_or(u64::MAX));
    }

    pub(super) fn gate_read(&self, now: u64) -> u8 {
        self.timer.lock().read_gate(now)
    }

    pub(super) fn gate_write(&self, value: u8, now: u64) {
        self.timer.lock().write_gate(value, now);
    }

    pub(super) fn clock_read(&self, offset: u16, now: u64) -> u8 {
        let mut clock = self.clock.lock();
        let value = clock.read(offset, now);
        self.set_line(CLOCK_LINE, clock.interrupt());
        self.announce(clock.deadline().unwrap_or(u64::MAX));
        value
    }

    pub(super) fn clock_write(&self, offset: u16, value: u8, now: u64) {
        let mut clock = self.clock.lock();
        clock.write(offset, value, now);
        self.set_line(CLOCK_LINE, clock.interrupt());
        self.announce(clock.deadline().unwrap_or(u64::MAX));
    }

    pub(super) fn power_read(&self, offset: u16, size: u8, now: u64) -> u32 {
        let mut power = self.power.lock();
        let value = power.read(offset, size, now);
        self.set_line(power::SYSTEM_CONTROL_INTERRUPT, power.interrupt());
        value
    }

    pub(super) fn power_write(&self, offset: u16, size: u8, value: u32, now: u64) -> Request {
        let mut power = self.power.lock();
        let request = power.write(offset, size, value, now);
        self.set_line(power::SYSTEM_CONTROL_INTERRUPT, power.interrupt());
        self.announce(power.deadline().unwrap_or(u64::MAX));
        request
    }

    pub(super) fn pair_read(&self, port: u16) -> Option<u8> {
        let mut pair = self.pair.lock();
        let value = pair.read(port);
        self.tell_external(&mut pair);
        value
    }

    pub(super) fn pair_write(&self, port: u16, value: u8) {
        let mut pair = self.pair.lock();
        pair.write(port, value);
        self.tell_external(&mut pair);
    }

    /// The first virtual CPU takes what the pair of 8259s asks for. `None`: nothing.
    pub(super) fn acknowledge_external(&self) -> Option<u8> {
        let mut pair = self.pair.lock();
        let vector = pair.pending().then(|| pair.acknowledge())?;
        // With automatic end of interrupt the next may ask at once.
        self.tell_external(&mut pair);
        Some(vector)
    }

    /// Tells the first virtual CPU when the pair's output has risen. It remembers that until it acknowledges.
    fn tell_external(&self, pair: &mut Pair) {
        if pair.has_risen()
            && let Some(endpoint) = self.bus.endpoint(0)
        {
            endpoint.request(Requests::EXTERNAL);
        }
    }

    pub(super) fn io_apic_read(&self, offset: u64) -> u32 {
        self.io_apic.lock().read(offset)
    }

    pub(super) fn io_apic_write(&self, offset: u64, value: u32) {
        self.io_apic.lock().write(offset, value, &self.bus);
    }

    pub(super) fn end_of_interrupt(&self, vector: u8) {
        self.io_apic.lock().end_of_interrupt(vector, &self.bus);
    }

    /// Sets a pin of the I/O APIC alone: 16 to 23 are those of the PCI slots.
    pub(super) fn set_pin(&self, pin: u8, high: bool) {
        self.io_apic.lock().set_pin(pin.into(), high, &self.bus);
    }

    /// What is announced: when the first virtual CPU has to look after the devices (ns). Not before the earliest
    /// deadline of any was announced; perhaps earlier than needed.
    pub(super) fn announced(&self) -> u64 {
        self.announced.load(Ordering::SeqCst)
    }

    /// Announces the earliest deadline of any device, and forgets what was announced before.
    pub(super) fn announce_all(&self) {
        // Before the devices are asked: one that announces an earlier deadline meanwhile is not overwritten.
        self.announced.store(u64::MAX, Ordering::SeqCst);
        let timer = self.timer.lock().deadline().unwrap_or(u64::MAX);
        let clock = self.clock.lock().deadline().unwrap_or(u64::MAX);
        let power = self.power.lock().deadline().unwrap_or(u64::MAX);
        let earliest = self.console.lock().deadline().min(timer).min(clock).min(power);
        self.announced.fetch_min(earliest, Ordering::SeqCst);
    }

    /// Lets every device do what is due by `now` (ns); what the console wants done.
    pub(super) fn expire(&self, now: u64) -> Due {
        {
            let mut timer = self.timer.lock();
            if timer.expire(now) {
                self.set_line(TIMER_LINE, false);
                self.set_line(TIMER_LINE, true);
            }
        }
        {
            let mut clock = self.clock.lock();
            clock.update(now);
            self.set_line(CLOCK_LINE, clock.interrupt());
        }
        {
            let mut power = self.power.lock();
            power.update(now);
            self.set_line(power::SYSTEM_CONTROL_INTERRUPT, power.interrupt());
        }
        self.console.lock().expire(now)
    }

    fn set_line(&self, line: u8, high: bool) {
        {
            let mut pair = self.pair.lock();
            pair.set_line(line, high);
            self.tell_external(&mut pair);
        }
        let pin = if line == TIMER_LINE { TIMER_PIN } else { line.into() };
        self.io_apic.lock().set_pin(pin, high, &self.bus);
    }

    /// A device's next deadline: when it comes before all that were announced, the first virtual CPU is asked to look.
    fn announce(&self, deadline: u64) {
        if deadline < self.announced.fetch_min(deadline, Ordering::SeqCst)
            && let Some(endpoint) = self.bus.endpoint(0)
        {
            endpoint.request(Requests::TIMER);
        }
    }
}
