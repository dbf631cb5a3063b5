//! Forged interrupts: DMA writes to the addresses that interrupts are made of (VT-d specification, section 5.1.2).

use guest::edu::Direction;
use guest::{interrupts, println};

use crate::attack::{Attack, VECTOR};

/// Interrupt messages are writes here.
const MESSAGES: u64 = 0xFEE0_0000;
/// Bit 4 of the address: remappable format.
const REMAPPABLE: u64 = 1 << 4;
/// Bit 3 of the address: the data's low half is added to the handle.
const SUBHANDLE_VALID: u64 = 1 << 3;

/// Vectors of messages in compatibility format, all above those of exceptions.
const VECTORS: [u8; 3] = [0x31, 0x77, 0xEE];
/// The delivery mode of a non-maskable interrupt, in a message's data.
const NON_MASKABLE: u32 = 4 << 8;

impl Attack<'_> {
    /// Sends messages that are not the guest's to send.
    pub(crate) fn attack_interrupts(&mut self) {
        let handles = self.number("handles", 8).min(1 << 16);
        for handle in 0..handles {
            self.forge("remappable", u64::from(handle), remappable(handle), 0);
        }
        // Handle 0 with a subhandle reaches any entry, too.
        for subhandle in [1, 7] {
            self.forge("subhandle", u64::from(subhandle), remappable(0) | SUBHANDLE_VALID, subhandle);
        }
        for vector in VECTORS {
            self.forge("compatibility", u64::from(vector), MESSAGES, u32::from(vector));
        }
        if self.multiboot.option("nmi") == Some("yes") {
            self.forge("compatibility-nmi", 0, MESSAGES, NON_MASKABLE);
        }
    }

    /// Has the device write `data` to `address`.
    fn forge(&mut self, format: &str, number: u64, address: u64, data: u32) {
        self.pause();
        self.counts.messages += 1;
        for (offset, byte) in data.to_le_bytes().into_iter().enumerate() {
            self.own.set(offset, byte);
        }
        self.edu.transfer(Direction::Read, self.own.address(), 4);
        let before = all_interrupts();
        let own = interrupts::count(VECTOR);
        let finished = self.edu.transfer(Direction::Write, address, 4);
        let (own, all) = (interrupts::count(VECTOR) - own, all_interrupts() - before);
        println!(
            "result intruder message format={format} number={number:#x} address={address:#x} data={data:#x} \
             finished={finished} own-interrupts={own} strange-interrupts={}",
            all - own
        );
    }
}

/// The address of a message with this handle.
fn remappable(handle: u32) -> u64 {
    MESSAGES | u64::from(handle & 0x7FFF) << 5 | u64::from(handle >> 15 & 1) << 2 | REMAPPABLE
}

/// Interrupts of every vector that is not an exception's.
fn all_interrupts() -> u32 {
    (32..=255).map(interrupts::count).sum()
}
