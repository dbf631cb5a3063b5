//! The local APIC of one virtual CPU (SDM volume 3 chapter 11), xAPIC and x2APIC. It knows no clock and no other APIC:
//! time comes in as an argument, and what has to happen elsewhere goes out as an [`Effect`].

use super::endpoint::{ApicAddress, Endpoint};
use super::message::{DeliveryMode, Destination, Interrupt, Trigger};
use super::timer::{Mode, Timer};
use super::vectors::VectorSet;

/// Version 0x14, 6 local vector table entries besides the first, EOI-broadcast suppression not offered.
const VERSION: u32 = 0x14 | 5 << 16;

/// IA32_APIC_BASE: this is the processor that boots.
const BASE_BOOT: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: the APIC is on.
const BASE_ENABLED: u64 = 1 << 11;
/// Where the APIC's registers are, always: a guest that moves them gets a general-protection fault.
pub(crate) const APIC_BASE: u64 = 0xfee0_0000;

/// Spurious-interrupt vector register: software enable.
const SPURIOUS_ENABLE: u32 = 1 << 8;
/// A local vector table entry is masked.
const MASKED: u32 = 1 << 16;
/// A local vector table entry's delivery mode: the vector comes from outside, from the 8259s; an NMI.
const MODE: u32 = 7 << 8;
const MODE_EXTERNAL: u32 = 7 << 8;
const MODE_NON_MASKABLE: u32 = 4 << 8;
/// A local vector table entry's timer mode: periodic.
const PERIODIC: u32 = 1 << 17;

/// Error status: an illegal vector was sent, received, or a register does not exist.
const ERROR_SEND_VECTOR: u32 = 1 << 5;
const ERROR_RECEIVE_VECTOR: u32 = 1 << 6;
const ERROR_REGISTER: u32 = 1 << 7;

/// Entries of the local vector table, in the order of their registers from 0x320.
const TIMER: usize = 0;
const THERMAL: usize = 1;
const PERFORMANCE: usize = 2;
const LINT0: usize = 3;
const LINT1: usize = 4;
const ERROR: usize = 5;

/// What a guest may write of each entry: vector 7:0, delivery mode 10:8, polarity 13, trigger 15, mask 16, timer mode
/// 18:17.
const WRITABLE: [u32; 6] = [0x0003_00ff, 0x0001_07ff, 0x0001_07ff, 0x0001_a7ff, 0x0001_a7ff, 0x0001_00ff];

/// What has to happen elsewhere after a register was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// An interrupt command: send it over the bus.
    Send(Interrupt),
    /// The end of a level-triggered interrupt: tell the I/O APIC.
    EndOfInterrupt(u8),
    /// The timer's deadline changed: see [`LocalApic::deadline`].
    Timer,
}

/// An access that raises a general-protection fault (x2APIC MSRs, IA32_APIC_BASE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterFault;

/// A local APIC.
#[derive(Debug)]
pub struct LocalApic {
    id: u32,
    base: u64,
    /// Whether the guest may switch to x2APIC mode.
    x2apic_offered: bool,
    task_priority: u8,
    requested: VectorSet,
    in_service: VectorSet,
    level: VectorSet,
    spurious: u32,
    /// What the guest reads, and what has gathered since it last wrote the register.
    error: u32,
    error_gathered: u32,
    logical: u32,
    format: u32,
    command: u64,
    local: [u32; 6],
    timer: Timer,
    /// The highest requested vector whose class is above the processor priority; 0: none (a vector below 16 is never
    /// accepted). Kept up to date by every change, so that an exit needs one test.
    deliverable: u8,
}

impl LocalApic {
    /// A local APIC as after power-on: xAPIC mode, software-disabled.
    pub fn new(id: u32, boots: bool, x2apic_offered: bool) -> Self {
        let base = APIC_BASE | BASE_ENABLED | if boots { BASE_BOOT } else { 0 };
        Self {
            id,
            base,
            x2apic_offered,
            task_priority: 0,
            requested: VectorSet::new(),
            in_service: VectorSet::new(),
            level: VectorSet::new(),
            spurious: 0xff,
            error: 0,
            error_gathered: 0,
            logical: 0,
            format: u32::MAX,
            command: 0,
            local: [MASKED; 6],
            timer: Timer::new(),
            deliverable: 0,
        }
    }

    /// INIT: as after power-on, but id, base address and mode stay (SDM volume 3 section 11.4.7.3).
    pub fn init(&mut self, endpoint: &Endpoint) {
        let base = self.base;
        *self = Self { base, ..Self::new(self.id, base & BASE_BOOT != 0, self.x2apic_offered) };
        // Interrupts that were on their way are lost with those that had arrived.
        let _lost = endpoint.take_posted();
        self.publish(endpoint);
    }

    /// Virtual wire mode, as firmware leaves the processor that boots (MultiProcessor Specification section 3.6.2.2):
    /// software-enabled, the 8259s on LINT0, NMI on LINT1.
    pub fn set_virtual_wire(&mut self, endpoint: &Endpoint) {
        self.spurious |= SPURIOUS_ENABLE;
        for (entry, mode) in [(LINT0, MODE_EXTERNAL), (LINT1, MODE_NON_MASKABLE)] {
            if let Some(entry) = self.local.get_mut(entry) {
                *entry = mode;
            }
        }
        self.publish(endpoint);
    }

    /// Whether the 8259s' output reaches the processor: through LINT0 in ExtINT mode, or as its INTR pin while the APIC
    /// is off (SDM volume 3 sections 11.4.3 and 11.5.1).
    pub fn passes_external(&self) -> bool {
        let entry = self.local.get(LINT0).copied().unwrap_or(MASKED);
        !self.is_enabled() || entry & (MODE | MASKED) == MODE_EXTERNAL
    }

    /// Tells the bus how this APIC is addressed.
    pub fn publish(&self, endpoint: &Endpoint) {
        endpoint.set_address(ApicAddress {
            id: self.id,
            logical: (self.logical >> 24) as u8,
            flat: self.format >> 28 == 0xf,
            x2apic: self.is_x2apic(),
            enabled: self.accepts_fixed(),
        });
    }

    /// Whether the registers are at [`APIC_BASE`] in memory: xAPIC mode.
    pub const fn is_in_memory(&self) -> bool {
        self.base & (BASE_ENABLED | BASE_X2APIC) == BASE_ENABLED
    }

    /// Whether the registers are MSRs.
    pub const fn is_x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    /// Whether the APIC is on at all (CPUID shows it so).
    pub const fn is_enabled(&self) -> bool {
        self.base & BASE_ENABLED != 0
    }

    const fn accepts_fixed(&self) -> bool {
        self.is_enabled() && self.spurious & SPURIOUS_ENABLE != 0
    }

    /// IA32_APIC_BASE.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// A write of IA32_APIC_BASE. Allowed: off, xAPIC, xAPIC to x2APIC, x2APIC to off; the address cannot move.
    pub fn set_base(&mut self, value: u64, endpoint: &Endpoint) -> Result<(), RegisterFault> {
        const MODES: u64 = BASE_ENABLED | BASE_X2APIC;
        if value & !(MODES | BASE_BOOT) != APIC_BASE {
            return Err(RegisterFault);
        }
        let (from, to) = (self.base & MODES, value & MODES);
        let allowed = match to {
            0 => true,
            BASE_ENABLED => from != MODES,
            MODES => self.x2apic_offered && from != 0,
            _ => false,
        };
        if !allowed {
            return Err(RegisterFault);
        }
        let boots = self.base & BASE_BOOT;
        if to == 0 && from != 0 {
            *self = Self::new(self.id, boots != 0, self.x2apic_offered);
        }
        self.base = APIC_BASE | to | boots;
        self.update();
        self.publish(endpoint);
        Ok(())
    }

    /// Moves what the mailbox holds into the request register. The one reader of the mailbox.
    #[inline]
    pub fn drain(&mut self, endpoint: &Endpoint) {
        if let Some((posted, level)) = endpoint.take_posted() {
            self.accept(posted, level);
        }
    }

    fn accept(&mut self, posted: VectorSet, level: VectorSet) {
        if !self.accepts_fixed() {
            return;
        }
        let (mut requested, mut trigger) = (self.requested.words(), self.level.words());
        for (((requested, trigger), posted), level) in
            requested.iter_mut().zip(&mut trigger).zip(posted.words()).zip(level.words())
        {
            *requested |= posted;
            *trigger = *trigger & !posted | level;
        }
        // Vectors 0 to 15 are not accepted.
        if let Some(first) = requested.first_mut()
            && *first & 0xffff != 0
        {
            *first &= !0xffff;
            self.error_gathered |= ERROR_RECEIVE_VECTOR;
        }
        self.requested = VectorSet::from_words(requested);
        self.level = VectorSet::from_words(trigger);
        self.update();
    }

    /// Requests a vector from inside: the local vector table.
    fn raise(&mut self, vector: u8) {
        if vector < 16 {
            self.error_gathered |= ERROR_RECEIVE_VECTOR;
        } else if self.accepts_fixed() {
            self.requested.insert(vector);
            self.level.remove(vector);
            self.update();
        }
    }

    fn update(&mut self) {
        let priority = self.processor_priority();
        self.deliverable = match self.requested.highest() {
            Some(vector) if vector >> 4 > priority >> 4 && self.is_enabled() => vector,
            _ => 0,
        };
    }

    /// The processor priority (SDM volume 3 section 11.8.3.1).
    pub fn processor_priority(&self) -> u8 {
        let service = self.in_service.highest().unwrap_or(0);
        if self.task_priority >> 4 >= service >> 4 { self.task_priority } else { service & 0xf0 }
    }

    /// The vector that would be delivered next, were the virtual CPU to take interrupts.
    #[inline]
    pub const fn deliverable(&self) -> Option<u8> {
        match self.deliverable {
            0 => None,
            vector => Some(vector),
        }
    }

    /// The highest requested vector, if only the task priority or the interrupt flag can hold it back: nothing of its
    /// class or above is in service.
    pub fn waiting(&self) -> Option<u8> {
        let serviced = self.in_service.highest().unwrap_or(0);
        self.requested.highest().filter(|vector| self.is_enabled() && vector >> 4 > serviced >> 4)
    }

    /// Takes the deliverable interrupt into service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        self.requested.remove(vector);
        self.in_service.insert(vector);
        self.update();
        Some(vector)
    }

    /// An interrupt that was acknowledged last but could not be delivered: it is requested again.
    pub fn put_back(&mut self, vector: u8) {
        self.in_service.remove(vector);
        self.requested.insert(vector);
        self.update();
    }

    /// The task priority (CR8 is its upper half).
    #[inline]
    pub const fn task_priority(&self) -> u8 {
        self.task_priority
    }

    /// Sets the task priority.
    pub fn set_task_priority(&mut self, priority: u8) {
        self.task_priority = priority;
        self.update();
    }

    /// The vectors that were last requested as level-triggered: of their end others have to be told.
    pub fn level_triggered(&self) -> VectorSet {
        self.level
    }

    /// When the timer has to be looked at again, in absolute nanoseconds.
    #[inline]
    pub const fn deadline(&self) -> Option<u64> {
        self.timer.deadline()
    }

    /// Lets the timer catch up with `now`. True when its deadline changed.
    pub fn tick(&mut self, now: u64) -> bool {
        if !self.timer.expire(now) {
            return false;
        }
        let entry = self.local[TIMER];
        if entry & MASKED == 0 {
            self.raise(entry as u8);
        }
        true
    }

    /// A read of the register at `offset` (a multiple of 16 below 0x400) in xAPIC mode. Reserved ones read 0.
    pub fn read(&mut self, offset: u32, now: u64) -> u32 {
        match self.register(offset, now) {
            Some(value) => value,
            None => {
                self.error_gathered |= ERROR_REGISTER;
                0
            }
        }
    }

    /// The register at `offset`, none of those that depend on the time; 0 where there is none.
    pub(super) fn held(&self, offset: u32) -> u32 {
        self.register(offset, 0).unwrap_or(0)
    }

    /// What a processor that delivers interrupts by itself changed.
    pub(super) fn take_over(
        &mut self,
        task_priority: u8,
        requested: VectorSet,
        in_service: VectorSet,
        command: Option<u64>,
    ) {
        self.task_priority = task_priority;
        self.requested = requested;
        self.in_service = in_service;
        self.command = command.unwrap_or(self.command);
        self.update();
    }

    fn register(&self, offset: u32, now: u64) -> Option<u32> {
        let index = (offset >> 4 & 7) as usize;
        Some(match offset {
            0x20 if self.is_x2apic() => self.id,
            0x20 => self.id << 24,
            0x30 => VERSION,
            0x80 => u32::from(self.task_priority),
            0xa0 => u32::from(self.processor_priority()),
            0xd0 if self.is_x2apic() => self.id >> 4 << 16 | 1 << (self.id & 15),
            0xd0 => self.logical,
            0xe0 if !self.is_x2apic() => self.format,
            0xf0 => self.spurious,
            0x100..=0x170 => self.in_service.register(index),
            0x180..=0x1f0 => self.level.register(index),
            0x200..=0x270 => self.requested.register(index),
            0x280 => self.error,
            0x300 => self.command as u32,
            0x310 if !self.is_x2apic() => (self.command >> 32) as u32,
            // Write-only or, for arbitration priority and remote read, without meaning here.
            0x90 | 0xb0 | 0xc0 if !self.is_x2apic() => 0,
            0x320 | 0x330 | 0x340 | 0x350 | 0x360 | 0x370 => *self.local.get((offset >> 4) as usize - 0x32)?,
            0x380 => self.timer.initial(),
            0x390 => self.timer.current(now),
            0x3e0 => self.timer.divide(),
            _ => return None,
        })
    }

    /// A write of the register at `offset` (a multiple of 16 below 0x400) in xAPIC mode.
    pub fn write(&mut self, offset: u32, value: u32, now: u64, endpoint: &Endpoint) -> Effect {
        match offset {
            0x300 => {
                self.command = self.command & !u64::from(u32::MAX) | u64::from(value);
                return self.send();
            }
            0x310 => self.command = self.command & u64::from(u32::MAX) | u64::from(value) << 32,
            0xd0 => {
                self.logical = value & 0xff00_0000;
                self.publish(endpoint);
            }
            0xe0 => {
                self.format = value | 0x0fff_ffff;
                self.publish(endpoint);
            }
            // The id is fixed; the others are read-only.
            0x20 | 0x30 | 0x90 | 0xa0 | 0xc0 | 0x100..=0x270 | 0x390 => {}
            _ => match self.write_common(offset, value, now, endpoint) {
                Some(effect) => return effect,
                None => self.error_gathered |= ERROR_REGISTER,
            },
        }
        Effect::Nothing
    }

    /// The registers that are written the same way in both modes; `None`: there is no such register.
    fn write_common(&mut self, offset: u32, value: u32, now: u64, endpoint: &Endpoint) -> Option<Effect> {
        match offset {
            0x80 => self.set_task_priority(value as u8),
            0xb0 => return Some(self.end_of_interrupt()),
            0xf0 => {
                self.spurious = value & 0x3ff;
                if value & SPURIOUS_ENABLE == 0 {
                    self.local.iter_mut().for_each(|entry| *entry |= MASKED);
                }
                self.publish(endpoint);
            }
            0x280 => {
                self.error = self.error_gathered;
                self.error_gathered = 0;
            }
            0x320 | 0x330 | 0x340 | 0x350 | 0x360 | 0x370 => {
                let entry = (offset >> 4) as usize - 0x32;
                let masked = if self.spurious & SPURIOUS_ENABLE == 0 { MASKED } else { 0 };
                *self.local.get_mut(entry)? = value & WRITABLE.get(entry)? | masked;
                if entry == TIMER {
                    let mode = if value & PERIODIC == 0 { Mode::OneShot } else { Mode::Periodic };
                    self.timer.set_mode(mode);
                    return Some(Effect::Timer);
                }
                debug_assert!([THERMAL, PERFORMANCE, LINT0, LINT1, ERROR].contains(&entry));
            }
            0x380 => {
                self.timer.set_initial(value, now);
                return Some(Effect::Timer);
            }
            0x3e0 => {
                self.timer.set_divide(value, now);
                return Some(Effect::Timer);
            }
            _ => return None,
        }
        Some(Effect::Nothing)
    }

    /// RDMSR of 0x800 + `index`.
    pub fn read_msr(&self, index: u32, now: u64) -> Result<u64, RegisterFault> {
        if !self.is_x2apic() {
            return Err(RegisterFault);
        }
        if index == 0x30 {
            return Ok(self.command);
        }
        self.register(index << 4, now).map(u64::from).ok_or(RegisterFault)
    }

    /// WRMSR of 0x800 + `index`.
    pub fn write_msr(
        &mut self,
        index: u32,
        value: u64,
        now: u64,
        endpoint: &Endpoint,
    ) -> Result<Effect, RegisterFault> {
        if !self.is_x2apic() {
            return Err(RegisterFault);
        }
        if index == 0x30 {
            // Bit 12 (delivery status) is read-only in xAPIC mode and reserved here.
            if value & 0xffff_ffff & !0x000c_cfff != 0 {
                return Err(RegisterFault);
            }
            self.command = value;
            return Ok(self.send());
        }
        let value = u32::try_from(value).map_err(|_| RegisterFault)?;
        match index {
            // EOI and error status take only 0; reserved bits fault.
            0x0b | 0x28 if value != 0 => Err(RegisterFault),
            0x08 if value > 0xff => Err(RegisterFault),
            0x0f if value & !0x3ff != 0 => Err(RegisterFault),
            0x3e if value & !0xb != 0 => Err(RegisterFault),
            0x32..=0x37 if WRITABLE.get((index - 0x32) as usize).is_none_or(|writable| value & !writable != 0) => {
                Err(RegisterFault)
            }
            0x3f if value > 0xff => Err(RegisterFault),
            0x3f => Ok(self.self_interrupt(value as u8)),
            _ => self.write_common(index << 4, value, now, endpoint).ok_or(RegisterFault),
        }
    }

    fn self_interrupt(&mut self, vector: u8) -> Effect {
        if vector < 16 {
            self.error_gathered |= ERROR_SEND_VECTOR;
        } else {
            self.raise(vector);
        }
        Effect::Nothing
    }

    /// EOI: the highest vector in service is done.
    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.in_service.highest() else { return Effect::Nothing };
        self.in_service.remove(vector);
        self.update();
        if self.level.contains(vector) { Effect::EndOfInterrupt(vector) } else { Effect::Nothing }
    }

    /// The interrupt that the command register asks for.
    fn send(&mut self) -> Effect {
        let low = self.command as u32;
        let id = if self.is_x2apic() { (self.command >> 32) as u32 } else { (self.command >> 56) as u32 };
        let Some(mode) = DeliveryMode::from_bits((low >> 8) as u8) else { return Effect::Nothing };
        let vector = low as u8;
        let level = low & 1 << 15 != 0;
        match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if vector < 16 => {
                self.error_gathered |= ERROR_SEND_VECTOR;
                return Effect::Nothing;
            }
            // INIT level de-assert only sets arbitration ids.
            DeliveryMode::Init if level && low & 1 << 14 == 0 => return Effect::Nothing,
            _ => {}
        }
        let destination = match low >> 18 & 3 {
            1 => Destination::Myself,
            2 => Destination::All,
            3 => Destination::Others,
            _ if low & 1 << 11 == 0 => Destination::Physical(id),
            _ => Destination::Logical(id),
        };
        // The trigger mode is ignored for all but INIT de-assert: an IPI is an edge.
        Effect::Send(Interrupt { vector, mode, trigger: Trigger::Edge, destination })
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
