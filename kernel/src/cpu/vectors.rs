//! Interrupt vectors of each CPU: which are taken, and who handles them.
//!
//! | vectors | use |
//! |---|---|
//! | 0x00 - 0x1f | exceptions |
//! | 0x20 - 0x2f | the 8259s, masked: whatever they send is spurious |
//! | 0x30 - 0xdf | devices: [`allocate`] |
//! | 0xe0 - 0xef | fixed uses by name |
//! | 0xf0 - 0xff | the local APIC's own |

use alloc::vec::Vec;

use spin::{Mutex, Once};

use super::{PerCpu, get, interrupts};

/// Makes a CPU leave its guest; does nothing else.
pub const KICK: u8 = 0xe0;
/// Posted interrupts wait for the virtual CPU that this CPU runs. A guest takes them without an exit where the processor
/// can; else this makes the CPU leave it, does nothing else, and the entry after it looks.
pub const NOTIFICATION: u8 = 0xe1;
/// Posted interrupts wait for a virtual CPU that sleeps on this CPU: calls what [`set_wake_up`] said.
pub const WAKE_UP: u8 = 0xe2;
/// The timer of the local APIC: ends HLT or the guest's turn, does nothing else.
pub const TIMER: u8 = 0xf0;
/// The local APIC found an error in what it was told to send or was sent.
pub const APIC_ERROR: u8 = 0xfe;
/// What the local APIC delivers when an interrupt went away too late; there is no EOI for it.
pub const SPURIOUS: u8 = 0xff;

const FIRST_DEVICE: u8 = 0x30;
const LAST_DEVICE: u8 = 0xdf;
const DEVICES: usize = (LAST_DEVICE - FIRST_DEVICE + 1) as usize;

/// A vector that [`allocate`] gave. It is the holder's until [`free`].
#[derive(Debug, PartialEq, Eq)]
pub struct HostVector {
    cpu: u32,
    vector: u8,
}

impl HostVector {
    /// The CPU on which the vector was allocated.
    pub fn cpu(&self) -> u32 {
        self.cpu
    }

    /// Its number.
    pub fn number(&self) -> u8 {
        self.vector
    }
}

/// What runs when the interrupt comes: in interrupt context, interrupts off, EOI after it. It takes the argument that
/// was given with it, is short, waits for nothing, and frees no vector.
pub type Handler = fn(usize);

#[derive(Clone, Copy, Debug)]
enum Slot {
    Free,
    Taken,
    Handled(Handler, usize),
}

/// The device vectors of one CPU. A handler runs under its slot's lock: who has changed or freed a slot knows that the
/// old handler is not running any more.
pub(super) struct Slots([Mutex<Slot>; DEVICES]);

impl Slots {
    pub(super) const fn new() -> Self {
        Self([const { Mutex::new(Slot::Free) }; DEVICES])
    }

    fn slot(&self, vector: u8) -> Option<&Mutex<Slot>> {
        self.0.get(usize::from(vector.checked_sub(FIRST_DEVICE)?))
    }

    fn allocate(&self) -> Option<u8> {
        (FIRST_DEVICE..=LAST_DEVICE).find(|vector| self.take(*vector))
    }

    /// The first of `count` vectors in a row that were free, aligned to `count`, a power of two.
    fn allocate_block(&self, count: u8) -> Option<u8> {
        let mut first = FIRST_DEVICE.checked_next_multiple_of(count)?;
        while let Some(last) = first.checked_add(count.checked_sub(1)?).filter(|last| *last <= LAST_DEVICE) {
            let taken = (first..=last).take_while(|vector| self.take(*vector)).count();
            if taken == usize::from(count) {
                return Some(first);
            }
            (first..=last).take(taken).for_each(|vector| self.set(vector, Slot::Free));
            first = first.checked_add(count)?;
        }
        None
    }

    /// Takes this very vector, if it is free.
    fn take(&self, vector: u8) -> bool {
        self.slot(vector).is_some_and(|slot| {
            interrupts::without(|| {
                let mut slot = slot.lock();
                let free = matches!(*slot, Slot::Free);
                if free {
                    *slot = Slot::Taken;
                }
                free
            })
        })
    }

    fn set(&self, vector: u8, content: Slot) {
        if let Some(slot) = self.slot(vector) {
            interrupts::without(|| *slot.lock() = content);
        }
    }

    /// Runs the vector's handler; false where there is none. Interrupts are off.
    pub(super) fn run(&self, vector: u8) -> bool {
        let Some(slot) = self.slot(vector) else { return false };
        let content = slot.lock();
        match *content {
            Slot::Handled(handler, argument) => {
                handler(argument);
                true
            }
            _ => false,
        }
    }
}

/// Takes a device vector of the CPU with index `cpu`. `None` where all are taken or there is no such CPU. Interrupts on
/// it are counted and dropped until it has a handler.
pub fn allocate(cpu: u32) -> Option<HostVector> {
    let vector = slots(cpu)?.allocate()?;
    Some(HostVector { cpu, vector })
}

/// Takes `count` vectors in a row of the CPU with index `cpu`, the first of them a multiple of `count`, a power of two:
/// what a function needs that counts its messages in the low bits.
pub fn allocate_block(cpu: u32, count: u8) -> Option<Vec<HostVector>> {
    if !count.is_power_of_two() {
        return None;
    }
    let first = slots(cpu)?.allocate_block(count)?;
    Some((first..).take(count.into()).map(|vector| HostVector { cpu, vector }).collect())
}

/// Gives a vector back. Its handler does not run any more when this returns; the device that used the vector was
/// silenced before. Not to be called by a handler, nor while holding a lock that the handler takes.
pub fn free(vector: HostVector) {
    if let Some(slots) = slots(vector.cpu) {
        slots.set(vector.vector, Slot::Free);
    }
}

/// Says who handles the interrupts of an allocated vector: `handler`, given `argument`. The handler before it does not
/// run any more when this returns. Not to be called by a handler, nor while holding a lock that the handler takes.
pub fn set_handler(vector: &HostVector, handler: Handler, argument: usize) {
    if let Some(slots) = slots(vector.cpu) {
        slots.set(vector.vector, Slot::Handled(handler, argument));
    }
}

/// Handles an interrupt that the processor acknowledged as it left a guest, as if it had come through its gate.
/// Interrupts are off.
pub fn handle_acknowledged(vector: u8) {
    super::trap::interrupt(vector);
}

static ON_WAKE_UP: Once<fn()> = Once::new();

/// Says what handles [`WAKE_UP`] on every CPU, in interrupt context. The first one stays.
pub fn set_wake_up(handler: fn()) {
    ON_WAKE_UP.call_once(|| handler);
}

pub(super) fn wake_up() {
    if let Some(handler) = ON_WAKE_UP.get() {
        handler();
    }
}

fn slots(cpu: u32) -> Option<&'static Slots> {
    get(cpu).map(|cpu: &PerCpu| &cpu.slots)
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn vectors_run_out_come_back_and_run_their_handlers() {
        static SUM: AtomicUsize = AtomicUsize::new(0);
        fn add(argument: usize) {
            SUM.fetch_add(argument, Ordering::Relaxed);
        }
        let slots = Slots::new();
        let all: Vec<u8> = core::iter::from_fn(|| slots.allocate()).collect();
        assert_eq!(all, (0x30..=0xdf).collect::<Vec<u8>>());
        assert!(!slots.run(0x40), "no handler yet");
        slots.set(0x40, Slot::Handled(add, 5));
        slots.set(0x41, Slot::Handled(add, 100));
        assert!(slots.run(0x40) && slots.run(0x41));
        assert_eq!(SUM.load(Ordering::Relaxed), 105);
        slots.set(0x40, Slot::Free);
        assert!(!slots.run(0x40));
        assert_eq!(slots.allocate(), Some(0x40));
        assert_eq!(slots.allocate(), None);
        assert!(!slots.run(0x20) && !slots.run(0xff));
    }

    #[test]
    fn blocks_are_aligned_and_taken_whole_or_not_at_all() {
        let slots = Slots::new();
        assert!(slots.take(0x42));
        assert_eq!(slots.allocate_block(32), Some(0x60), "0x40 is broken by 0x42");
        assert_eq!(slots.allocate_block(2), Some(0x30));
        assert_eq!(slots.allocate(), Some(0x32), "what a refused block had taken is free again");
        assert_eq!(
            [slots.allocate_block(32), slots.allocate_block(32), slots.allocate_block(32)],
            [Some(0x80), Some(0xa0), Some(0xc0)]
        );
        assert_eq!((slots.allocate_block(32), slots.allocate_block(128)), (None, None));
        assert!(slots.take(0x41));
    }

    #[test]
    fn a_cpu_that_is_not_there_has_no_vectors() {
        assert_eq!(allocate(u32::MAX), None);
    }
}
