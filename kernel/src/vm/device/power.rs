//! Power management: the ACPI fixed hardware (ACPI 6.5, section 4.8) at ports 0x600 to 0x60b, and the reset register.
//!
//! | port | register |
//! |---|---|
//! | 0x600 | PM1a status, write 1 to clear |
//! | 0x602 | PM1a enable |
//! | 0x604 | PM1a control |
//! | 0x608 | PM timer, 32 bits |

/// First port of the block.
pub const BLOCK: u16 = 0x600;
/// PM1a event block (4 bytes).
pub const EVENT_BLOCK: u16 = BLOCK;
/// PM1a control block (2 bytes).
pub const CONTROL_BLOCK: u16 = BLOCK + 4;
/// PM timer block (4 bytes).
pub const TIMER_BLOCK: u16 = BLOCK + 8;
/// Behind the block.
pub const BLOCK_END: u16 = BLOCK + BLOCK_LENGTH;
/// Bytes of the whole block.
pub const BLOCK_LENGTH: u16 = 12;
/// The system control interrupt's number.
pub const SYSTEM_CONTROL_INTERRUPT: u8 = 9;
/// SLP_TYP of the soft-off state, as \_S5 names it.
pub const SOFT_OFF: u8 = 5;
/// The reset register, and the value that resets.
pub const RESET_REGISTER: u16 = 0xcf9;
/// See [`RESET_REGISTER`]: bits 2 (reset the processors) and 1 (the system).
pub const RESET_VALUE: u8 = 0x06;

/// The PM timer's clock, in Hz.
pub const FREQUENCY: u64 = 3_579_545;

/// Status and enable: the timer's highest bit changed.
const TIMER: u16 = 1 << 0;
/// Enable bits that exist: timer, global lock, power and sleep button, clock.
const ENABLE: u16 = TIMER | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10;
/// Control: ACPI mode. Always on: there is no other.
const ACPI_MODE: u16 = 1 << 0;
/// Control: SLP_EN, reads 0.
const SLEEP: u16 = 1 << 13;
/// Control: bits that keep what is written: bus-master reload and SLP_TYP.
const CONTROL_KEPT: u16 = 1 << 1 | 7 << 10;
/// One bit beyond: how many ticks until the timer's highest bit changes.
const HALF_RANGE: u64 = 1 << 31;

/// What a write asks of the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing.
    None,
    /// Soft off.
    PowerOff,
}

/// The fixed hardware.
#[derive(Debug)]
pub struct Power {
    status: u16,
    enable: u16,
    control: u16,
    /// How often the timer's highest bit had changed when its status bit was last brought up to date.
    halves: u64,
    /// The time at which the timer stood at 0 (ns).
    start: u64,
}

impl Power {
    /// After reset, with the timer at 0 at time `now` (ns).
    pub const fn new(now: u64) -> Self {
        Self { status: 0, enable: 0, control: 0, halves: 0, start: now }
    }

    /// The timer at time `now` (ns).
    pub fn timer(&self, now: u64) -> u32 {
        self.ticks(now) as u32
    }

    /// One read of `size` bytes (1, 2 or 4) at [`BLOCK`] + `offset`.
    pub fn read(&mut self, offset: u16, size: u8, now: u64) -> u32 {
        self.update(now);
        let control = self.control | ACPI_MODE;
        let [status0, status1] = self.status.to_le_bytes();
        let [enable0, enable1] = self.enable.to_le_bytes();
        let [control0, control1] = control.to_le_bytes();
        let [timer0, timer1, timer2, timer3] = self.timer(now).to_le_bytes();
        let block = [status0, status1, enable0, enable1, control0, control1, 0, 0, timer0, timer1, timer2, timer3];
        (0..u16::from(size.min(4))).rev().fold(0, |value, byte| {
            let byte = block.get(usize::from(offset.saturating_add(byte))).copied().unwrap_or(0xff);
            value << 8 | u32::from(byte)
        })
    }

    /// One write of `size` bytes (1, 2 or 4) at [`BLOCK`] + `offset`.
    pub fn write(&mut self, offset: u16, size: u8, value: u32, now: u64) -> Request {
        self.update(now);
        let mut request = Request::None;
        for (index, byte) in value.to_le_bytes().into_iter().enumerate().take(size.into()) {
            let byte = u16::from(byte);
            match usize::from(offset).saturating_add(index) {
                0 => self.status &= !byte,
                1 => self.status &= !(byte << 8),
                2 => self.enable = (self.enable & 0xff00 | byte) & ENABLE,
                3 => self.enable = (self.enable & 0x00ff | byte << 8) & ENABLE,
                4 => self.control = (self.control & 0xff00 | byte) & CONTROL_KEPT,
                5 => {
                    self.control = (self.control & 0x00ff | byte << 8) & CONTROL_KEPT;
                    if byte << 8 & SLEEP != 0 && (self.control >> 10) as u8 & 7 == SOFT_OFF {
                        request = Request::PowerOff;
                    }
                }
                _ => {}
            }
        }
        request
    }

    /// Whether the system control interrupt is asserted.
    pub fn interrupt(&self) -> bool {
        self.status & self.enable != 0
    }

    /// When the timer's highest bit changes next (ns), if that interrupts.
    pub fn deadline(&self) -> Option<u64> {
        if self.enable & TIMER == 0 || self.status & TIMER != 0 {
            return None;
        }
        let ticks = self.halves.saturating_add(1).saturating_mul(HALF_RANGE);
        Some(self.start.saturating_add(super::nanoseconds(ticks, FREQUENCY)))
    }

    /// Brings the timer's status bit up to date.
    pub fn update(&mut self, now: u64) {
        let halves = self.ticks(now) / HALF_RANGE;
        if halves != self.halves {
            self.halves = halves;
            self.status |= TIMER;
        }
    }

    fn ticks(&self, now: u64) -> u64 {
        super::ticks(now.saturating_sub(self.start), FREQUENCY)
    }
}

/// Whether a write of the reset register resets.
pub fn is_reset(value: u8) -> bool {
    value & 0x04 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_timer_counts_at_its_rate_and_wraps_at_32_bits() {
        let mut power = Power::new(5 * SECOND);
        assert_eq!(power.read(8, 4, 5 * SECOND), 0);
        assert_eq!(power.read(8, 4, 6 * SECOND), FREQUENCY as u32);
        let wrap = super::super::nanoseconds(1 << 32, FREQUENCY);
        assert_eq!(power.read(8, 4, 5 * SECOND + wrap), 0);
    }

    #[test]
    fn soft_off_needs_type_and_enable() {
        let mut power = Power::new(0);
        assert_eq!(power.write(4, 2, u32::from(SOFT_OFF) << 10, 0), Request::None);
        assert_eq!(power.read(4, 2, 0), u32::from(SOFT_OFF) << 10 | 1, "ACPI mode reads as on");
        assert_eq!(power.write(4, 2, u32::from(SOFT_OFF) << 10 | 0x2000, 0), Request::PowerOff);
        assert_eq!(power.read(4, 2, 0) & 0x2000, 0);
        assert_eq!(power.write(4, 2, 0x2000 | 1 << 10, 0), Request::None, "a state that does not exist");
    }

    #[test]
    fn the_timer_interrupts_when_its_highest_bit_changes() {
        let mut power = Power::new(0);
        assert_eq!(power.deadline(), None);
        power.write(2, 2, TIMER.into(), 0);
        let due = power.deadline().unwrap();
        power.update(due - 1);
        assert!(!power.interrupt());
        power.update(due);
        assert!(power.interrupt());
        assert_eq!(power.read(0, 2, due), u32::from(TIMER));
        power.write(0, 2, TIMER.into(), due);
        assert!(!power.interrupt());
        assert!(power.deadline().unwrap() > due);
    }

    #[test]
    fn enable_bits_that_do_not_exist_read_zero() {
        let mut power = Power::new(0);
        power.write(0, 4, 0xffff_0000, 0);
        assert_eq!(power.read(2, 2, 0), u32::from(ENABLE));
        assert_eq!(power.read(10, 4, 0) >> 16, 0xffff, "behind the block");
    }

    #[test]
    fn only_the_reset_bit_resets() {
        assert!(is_reset(RESET_VALUE) && !is_reset(0x02));
    }
}
