//! The unit as a whole: what it holds, and what tests arrange.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::cache::Caches;
use crate::command::Pending;
use crate::fault::Faults;
use crate::queue::Queue;
use crate::{Configuration, Memory, Message, Violation};

/// One remapping unit.
#[derive(Debug)]
pub struct Unit<M> {
    pub(crate) configuration: Configuration,
    pub(crate) memory: M,
    /// Registers without behaviour of their own, by 4 bytes.
    pub(crate) registers: BTreeMap<u64, u32>,
    /// GSTS.
    pub(crate) status: u32,
    pub(crate) pending: Option<Pending>,
    pub(crate) pending_contexts: Option<u32>,
    pub(crate) pending_pages: Option<u32>,
    pub(crate) faults: Faults,
    pub(crate) queue: Queue,
    pub(crate) caches: Caches,
    /// RTADDR as the last SRTP took it.
    pub(crate) root: Option<u64>,
    /// IRTA as the last SIRTP took it.
    pub(crate) interrupt_table: Option<u64>,
    /// Bit 0: contexts of an earlier root table may be cached; bit 1: translations; bit 2: PASID entries.
    pub(crate) root_debt: u8,
    pub(crate) interrupt_debt: bool,
    pub(crate) buffer_flushed: bool,
    pub(crate) violations: Vec<Violation>,
    pub(crate) messages: Vec<Message>,
    pub(crate) silent: BTreeSet<u16>,
    pub(crate) wrong: BTreeSet<u16>,
}

impl<M: Memory> Unit<M> {
    /// A unit after reset: everything off.
    pub fn new(configuration: Configuration, memory: M) -> Self {
        Self {
            configuration,
            memory,
            registers: BTreeMap::new(),
            status: 0,
            pending: None,
            pending_contexts: None,
            pending_pages: None,
            faults: Faults::new(usize::from(configuration.fault_records.clamp(1, 256))),
            queue: Queue::default(),
            caches: Caches::default(),
            root: None,
            interrupt_table: None,
            root_debt: 0,
            interrupt_debt: false,
            buffer_flushed: false,
            violations: Vec::new(),
            messages: Vec::new(),
            silent: BTreeSet::new(),
            wrong: BTreeSet::new(),
        }
    }

    /// What it can do.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The memory behind it.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The rules that were broken so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The event messages (faults, finished waits) sent since the last call.
    pub fn take_messages(&mut self) -> Vec<Message> {
        core::mem::take(&mut self.messages)
    }

    /// The device does not answer invalidations of its own TLB (or does again).
    pub fn set_silent(&mut self, source: u16, silent: bool) {
        if silent {
            self.silent.insert(source);
        } else {
            self.silent.remove(&source);
        }
    }

    /// The device answers invalidations of its own TLB wrongly (or no longer).
    pub fn set_wrong(&mut self, source: u16, wrong: bool) {
        if wrong {
            self.wrong.insert(source);
        } else {
            self.wrong.remove(&source);
        }
    }

    pub(crate) fn complain(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    /// A word of a table, as this unit's walk sees it.
    pub(crate) fn load(&self, address: u64) -> Option<u64> {
        if self.configuration.coherent { self.memory.read(address) } else { self.memory.read_flushed(address) }
    }

    /// A word of a page table, as a walk sees it that snoops or does not.
    pub(crate) fn load_of_walk(&self, snoops: bool, address: u64) -> Option<u64> {
        if snoops { self.memory.read(address) } else { self.memory.read_flushed(address) }
    }

    pub(crate) fn load_pair(&self, address: u64) -> Option<(u64, u64)> {
        Some((self.load(address)?, self.load(address.checked_add(8)?)?))
    }

    /// Bits of an address that a table's pointer may have.
    pub(crate) fn pointer_mask(&self) -> u64 {
        ((1u64 << self.configuration.host_width.clamp(32, 52)) - 1) & !0xfff
    }
}
