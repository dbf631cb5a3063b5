//! Forged interrupts: DMA writes to the addresses that interrupts are made of (VT-d specification, section 5.1.2).
//!
//! QEMU is the only machine with an edu device, and its interrupt remapping does not learn the source of a DMA write:
//! it cannot compare it with the entry's, and reports none with a fault. It also delivers messages in compatibility
//! format whatever the unit was told. So the guest says for these that nothing can be shown here; where its own
//! processor takes an interrupt that it did not ask for, it says that, too.

use guest::edu::Direction;
use guest::{interrupts, msi, println};

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

const NO_SOURCE: &str = "QEMU's interrupt remapping does not learn the source of a DMA write";
const ALWAYS_DELIVERED: &str = "QEMU delivers messages in compatibility format whatever the unit is told";

impl Attack<'_> {
    /// Sends messages that are not the guest's to send.
    pub(crate) fn attack_interrupts(&mut self) {
        let handles = self.number("handles", 8).min(1 << 16);
        for handle in (0..handles).chain([0x7FFF]) {
            self.forge("forged-handle", handle.into(), remappable(handle), 0, NO_SOURCE);
        }
        // Handle 0 with a subhandle reaches any entry, too.
        for subhandle in [1, 7] {
            self.forge("forged-handle-sub", subhandle, remappable(0) | SUBHANDLE_VALID, subhandle as u32, NO_SOURCE);
        }
        for vector in VECTORS {
            let data = u32::from(vector);
            self.forge("compatibility-format", vector.into(), MESSAGES, data, ALWAYS_DELIVERED);
        }
        if self.multiboot.option("nmi") == Some("yes") {
            self.forge("compatibility-format-nmi", 2, MESSAGES, NON_MASKABLE, ALWAYS_DELIVERED);
        }
        self.misuse_capability();
    }

    /// Has the device write `data` to `address`.
    fn forge(&mut self, name: &str, number: u64, address: u64, data: u32, why: &str) {
        self.begin(name, "interrupt", format_args!("interrupt={number:#x} address={address:#x} data={data:#x}"));
        self.counts.messages += 1;
        for (offset, byte) in data.to_le_bytes().into_iter().enumerate() {
            self.own.set(offset, byte);
        }
        self.edu.transfer(Direction::Read, self.own.address(), 4);
        let before = taken();
        self.edu.transfer(Direction::Write, address, 4);
        let (own, strange) = taken_since(before);
        if strange != 0 {
            self.counts.leaks += 1;
            println!("result attack={name} outcome=passed own-interrupts={own} strange-interrupts={strange}");
        } else if own != 0 && address & REMAPPABLE != 0 {
            // The guest has hit the entry of its own device, which that device may use.
            println!("result attack={name} outcome=own own-interrupts={own}");
        } else {
            println!("result attack={name} outcome=unobservable own-interrupts={own} because={why}");
        }
    }

    /// Writes forged messages where a device's own are programmed. The hypervisor makes what the device sends, so
    /// nothing may arrive that the guest could not have asked for by right.
    fn misuse_capability(&mut self) {
        for (what, address, data) in [
            ("remappable-handle", remappable(0) as u32, 0),
            ("no-message-address", 0x0010_0000, 0x77),
            ("system-management", MESSAGES as u32, 2 << 8),
        ] {
            msi::enable_with(self.edu.function, address, data);
            let before = taken();
            self.edu.raise();
            self.clock.sleep(20);
            self.edu.acknowledge();
            let (own, strange) = taken_since(before);
            println!("result misuse={what} own-interrupts={own} strange-interrupts={strange}");
        }
        msi::enable(self.edu.function, VECTOR);
    }
}

/// The address of a message with this handle.
fn remappable(handle: u32) -> u64 {
    MESSAGES | u64::from(handle & 0x7FFF) << 5 | u64::from(handle >> 15 & 1) << 2 | REMAPPABLE
}

/// Interrupts so far: the device's own, and all that are no exceptions.
fn taken() -> (u32, u32) {
    (interrupts::count(VECTOR), (32..=255).map(interrupts::count).sum())
}

/// Interrupts since then: the device's own, and others.
fn taken_since(before: (u32, u32)) -> (u32, u32) {
    let now = taken();
    let own = now.0 - before.0;
    (own, now.1 - before.1 - own)
}
