//! As much of an NVMe controller as one MSI-X vector needs: its administrative queues (NVMe Base 2.0, sections 3 and 7).

use crate::clock::Clock;
use crate::memory::{Page, Registers};
use crate::msi;
use crate::pci::{self, Function};

/// Class of an NVMe controller.
const CLASS: u32 = 0x01_08_02;

const CAPABILITIES: u64 = 0x00;
const CONFIGURATION: u64 = 0x14;
const STATUS: u64 = 0x1C;
const QUEUE_SIZES: u64 = 0x24;
const SUBMISSION_QUEUE: u64 = 0x28;
const COMPLETION_QUEUE: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;

const ENABLE: u32 = 1 << 0;
/// 64-byte submission and 16-byte completion entries.
const ENTRY_SIZES: u32 = 6 << 16 | 4 << 20;
/// Entries of each queue.
const ENTRIES: u32 = 16;
const IDENTIFY: u32 = 0x06;
const IDENTIFY_CONTROLLER: u32 = 1;

/// A controller with its administrative queues.
#[derive(Debug)]
pub struct Nvme {
    /// Its function.
    pub function: Function,
    /// Its interrupt messages.
    pub messages: msi::Table,
    registers: Registers,
    clock: Clock,
    submissions: Page,
    completions: Page,
    data: Page,
    tail: u32,
    head: u32,
    phase: bool,
}

impl Nvme {
    /// The first controller, enabled; its administrative queue signals MSI-X entry 0, which is masked. MSI-X is on
    /// before the controller is, as QEMU's keeps silent on queues that were made without.
    pub fn find(clock: Clock) -> Option<Self> {
        let function = pci::find_class(CLASS)?;
        let registers = function.bar(0)?;
        function.enable();
        let messages = msi::Table::of(function)?;
        messages.set(0, 0, true);
        messages.enable();
        let (submissions, completions, data) = (Page::take(), Page::take(), Page::take());
        registers.write32(CONFIGURATION, 0);
        clock.await_for(2000, || registers.read32(STATUS) & 1 == 0).then_some(())?;
        registers.write32(QUEUE_SIZES, (ENTRIES - 1) << 16 | (ENTRIES - 1));
        registers.write64(SUBMISSION_QUEUE, submissions.address());
        registers.write64(COMPLETION_QUEUE, completions.address());
        registers.write32(CONFIGURATION, ENABLE | ENTRY_SIZES);
        clock.await_for(2000, || registers.read32(STATUS) & 1 == 1).then_some(())?;
        Some(Self {
            function,
            messages,
            registers,
            clock,
            submissions,
            completions,
            data,
            tail: 0,
            head: 0,
            phase: true,
        })
    }

    /// Has the controller identify itself, by DMA to a page of the guest's; `false` if it does not.
    pub fn identify(&mut self) -> bool {
        let mut command = [0u32; 16];
        command[0] = IDENTIFY | self.tail << 16;
        command[6] = self.data.address() as u32;
        command[7] = (self.data.address() >> 32) as u32;
        command[10] = IDENTIFY_CONTROLLER;
        for (index, word) in command.iter().enumerate() {
            for (offset, byte) in word.to_le_bytes().into_iter().enumerate() {
                self.submissions.set(self.tail as usize * 64 + index * 4 + offset, byte);
            }
        }
        self.tail = (self.tail + 1) % ENTRIES;
        self.registers.write32(DOORBELLS, self.tail);
        let status = self.head as usize * 16 + 14;
        let done = self.clock.await_for(1000, || (self.completions.get(status) & 1 != 0) == self.phase);
        if !done {
            return false;
        }
        let succeeded = self.completions.get(status) >> 1 == 0 && self.completions.get(status + 1) & 0x0F == 0;
        self.head = (self.head + 1) % ENTRIES;
        if self.head == 0 {
            self.phase = !self.phase;
        }
        let stride = 4 << (self.registers.read64(CAPABILITIES) >> 32 & 0xF);
        self.registers.write32(DOORBELLS + stride, self.head);
        succeeded
    }

    /// The controller's vendor as it identified itself.
    pub fn vendor(&self) -> u16 {
        u16::from_le_bytes([self.data.get(0), self.data.get(1)])
    }
}
