//! The local APIC's registers in a page, as a processor keeps them that delivers interrupts by itself (SDM volume 3
//! section 30.1.1): what it changes while the guest runs comes in, everything that a guest reads there goes out.

use super::local::LocalApic;
use super::vectors::VectorSet;

/// Offsets of registers.
const TASK_PRIORITY: u32 = 0x80;
const IN_SERVICE: u32 = 0x100;
const REQUESTED: u32 = 0x200;
const COMMAND: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;

/// The registers of one value that the page holds. Not the timer's current count, which is asked for.
const SINGLE: [u32; 17] = [
    0x20,
    0x30,
    TASK_PRIORITY,
    0xa0,
    0xd0,
    0xe0,
    0xf0,
    0x280,
    COMMAND,
    COMMAND_HIGH,
    0x320,
    0x330,
    0x340,
    0x350,
    0x360,
    0x370,
    0x380,
];
const DIVIDE: u32 = 0x3e0;

impl LocalApic {
    /// Takes over what the processor changed: task priority, requests, what is in service, and the interrupt command,
    /// which it keeps where that names the processor itself. `read` gives the register at an offset.
    pub fn take_from_page(&mut self, read: impl Fn(u32) -> u32) {
        let set = |first: u32| {
            let word =
                |index: u32| u64::from(read(first + index * 0x20)) | u64::from(read(first + index * 0x20 + 0x10)) << 32;
            VectorSet::from_words([word(0), word(1), word(2), word(3)])
        };
        let command = self.is_in_memory().then(|| u64::from(read(COMMAND)) | u64::from(read(COMMAND_HIGH)) << 32);
        self.take_over(read(TASK_PRIORITY) as u8, set(REQUESTED), set(IN_SERVICE), command);
    }

    /// Gives every register to `write`, with its offset.
    pub fn give_to_page(&self, mut write: impl FnMut(u32, u32)) {
        let lists = (0..24).map(|index| IN_SERVICE + index * 0x10);
        for offset in SINGLE.into_iter().chain([DIVIDE]).chain(lists) {
            write(offset, self.held(offset));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vapic::{ApicBus, Bell, Trigger};

    #[test]
    fn what_goes_out_comes_back_and_the_processors_changes_with_it() {
        let bus = ApicBus::new(&[0], Bell::silent());
        let endpoint = &bus.endpoints()[0];
        let mut apic = LocalApic::new(0, true, true);
        let effect = apic.write(0xf0, 0x1ff, 0, endpoint);
        assert_eq!(effect, crate::vapic::Effect::Nothing);
        endpoint.post(0x41, Trigger::Edge);
        endpoint.post(0x62, Trigger::Level);
        apic.drain(endpoint);
        let mut page = [0u32; 1024];
        apic.give_to_page(|offset, value| page[offset as usize / 4] = value);
        assert_eq!((page[0xf0 / 4], page[0x30 / 4] & 0xff), (0x1ff, 0x14));
        assert_eq!((page[0x220 / 4], page[0x230 / 4], page[0x1b0 / 4]), (1 << 1, 1 << 2, 1 << 2));
        assert!(apic.level_triggered().contains(0x62) && !apic.level_triggered().contains(0x41));
        // The processor takes 0x62 into service, and the guest raises its task priority.
        page[0x230 / 4] = 0;
        page[0x130 / 4] = 1 << 2;
        page[0x80 / 4] = 0x30;
        page[0x310 / 4] = 3 << 24;
        apic.take_from_page(|offset| page[offset as usize / 4]);
        assert_eq!((apic.task_priority(), apic.processor_priority()), (0x30, 0x60));
        assert_eq!(apic.deliverable(), None);
        assert_eq!(apic.read(0x310, 0), 3 << 24);
        page[0x130 / 4] = 0;
        apic.take_from_page(|offset| page[offset as usize / 4]);
        assert_eq!(apic.deliverable(), Some(0x41));
    }
}
