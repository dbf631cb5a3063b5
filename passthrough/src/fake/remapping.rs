//! Remapping hardware that keeps books and fails on demand.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::vec;
use std::vec::Vec;
use std::{format, println};

use iommu::address::{HostPhysical, Iova, PciAddress, SourceId};

use super::Trace;
use crate::door::*;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeDomain {
    pub owner: u16,
    /// By address: host, length, access.
    pub mappings: BTreeMap<u64, (u64, u64, bool, bool)>,
    pub attached: Vec<(PciAddress, SourceId)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeEntries {
    pub function: PciAddress,
    pub block: bool,
    pub bound: Vec<Option<Event>>,
}

/// The books. Two moments with equal books hold the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    pub domains: BTreeMap<u32, FakeDomain>,
    pub entries: BTreeMap<u32, FakeEntries>,
    /// Function, event, masked.
    pub lines: BTreeMap<u32, (PciAddress, Option<Event>, bool)>,
}

#[derive(Debug, Default)]
struct State {
    books: Books,
    next: u32,
    /// How many more calls that can fail succeed before one fails.
    fail_after: Option<u32>,
    signalled: Vec<Event>,
    reserved: BTreeMap<PciAddress, Vec<Reserved>>,
    capabilities: BTreeMap<PciAddress, RemappingCapabilities>,
    /// Functions that need a domain of their own kind.
    odd: Vec<PciAddress>,
    entries_left: Option<u16>,
}

#[derive(Clone, Debug, Default)]
pub struct FakeRemapping {
    state: Arc<Mutex<State>>,
    pub trace: Trace,
}

const CAPABLE: RemappingCapabilities = RemappingCapabilities {
    interrupt_remapping: true,
    page_sizes: 1 << 12 | 1 << 21 | 1 << 30,
    last_address: (1 << 39) - 1,
    snoop_control: true,
};

/// An event that nobody gave out.
pub const UNKNOWN: Event = Event(u64::MAX);

impl FakeRemapping {
    pub fn books(&self) -> Books {
        self.state.lock().unwrap().books.clone()
    }

    /// Lets the call after `calls` more fail; `None` lets all succeed.
    pub fn fail_after(&self, calls: Option<u32>) {
        self.state.lock().unwrap().fail_after = calls;
    }

    pub fn take_signalled(&self) -> Vec<Event> {
        core::mem::take(&mut self.state.lock().unwrap().signalled)
    }

    pub fn reserve(&self, function: PciAddress, range: RangeInclusive<u64>, kind: ReservedKind) {
        self.state.lock().unwrap().reserved.entry(function).or_default().push(Reserved { range, kind });
    }

    pub fn set_capabilities(&self, function: PciAddress, capabilities: RemappingCapabilities) {
        self.state.lock().unwrap().capabilities.insert(function, capabilities);
    }

    pub fn make_odd(&self, function: PciAddress) {
        self.state.lock().unwrap().odd.push(function);
    }

    pub fn limit_entries(&self, left: u16) {
        self.state.lock().unwrap().entries_left = Some(left);
    }

    fn log(&self, text: std::string::String) {
        self.trace.lock().unwrap().push(text);
    }
}

impl State {
    fn step(&mut self) -> Result<(), RemappingError> {
        match &mut self.fail_after {
            Some(0) => {
                self.fail_after = None;
                Err(RemappingError::OutOfMemory)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn next(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}

impl RemappingHardware for FakeRemapping {
    type Domain = u32;
    type Interrupts = u32;
    type Line = u32;

    fn capabilities(&self, function: PciAddress) -> Result<RemappingCapabilities, RemappingError> {
        let mut state = self.state.lock().unwrap();
        state.step()?;
        Ok(state.capabilities.get(&function).copied().unwrap_or(CAPABLE))
    }

    fn reserved(&self, function: PciAddress) -> Vec<Reserved> {
        self.state.lock().unwrap().reserved.get(&function).cloned().unwrap_or_default()
    }

    fn create_domain(&self, owner: &Owner, _: PciAddress) -> Result<u32, RemappingError> {
        let mut state = self.state.lock().unwrap();
        state.step()?;
        let id = state.next();
        state.books.domains.insert(id, FakeDomain { owner: owner.id, ..FakeDomain::default() });
        Ok(id)
    }

    fn destroy_domain(&self, domain: u32) {
        self.log(format!("destroy {domain}"));
        let removed = self.state.lock().unwrap().books.domains.remove(&domain).expect("destroyed twice");
        assert_eq!(removed.attached, vec![], "destroyed while attached");
    }

    fn enforces_snoop(&self, _: u32) -> bool {
        true
    }

    fn attach(&self, domain: u32, function: PciAddress, ids: &[SourceId]) -> Result<(), RemappingError> {
        let mut state = self.state.lock().unwrap();
        state.step()?;
        let is_odd = state.odd.contains(&function);
        let odd = state.odd.clone();
        let others = &state.books.domains[&domain].attached;
        if others.iter().any(|(other, _)| odd.contains(other) != is_odd) {
            return Err(RemappingError::Incompatible);
        }
        for &id in ids {
            let taken =
                state.books.domains.values().any(|domain| domain.attached.iter().any(|(_, other)| *other == id));
            assert!(!taken, "{id} is attached already");
            state.books.domains.get_mut(&domain).unwrap().attached.push((function, id));
        }
        Ok(())
    }

    fn detach(&self, domain: u32, function: PciAddress, ids: &[SourceId]) {
        self.log(format!("detach {function}"));
        let mut state = self.state.lock().unwrap();
        let attached = &mut state.books.domains.get_mut(&domain).unwrap().attached;
        for &id in ids {
            let at = attached.iter().position(|entry| *entry == (function, id)).expect("was not attached");
            attached.remove(at);
        }
    }

    fn map(
        &self,
        domain: u32,
        iova: Iova,
        host: HostPhysical,
        length: u64,
        access: Access,
    ) -> Result<(), RemappingError> {
        let mut state = self.state.lock().unwrap();
        state.step()?;
        let mappings = &mut state.books.domains.get_mut(&domain).unwrap().mappings;
        let (first, end) = (iova.as_u64(), iova.as_u64() + length);
        assert!(!mappings.iter().any(|(at, (_, length, ..))| *at < end && first < at + length), "overlap");
        mappings.insert(first, (host.as_u64(), length, access.read, access.write));
        Ok(())
    }

    fn unmap(&self, domain: u32, iova: Iova, length: u64) {
        let mut state = self.state.lock().unwrap();
        let removed = state.books.domains.get_mut(&domain).unwrap().mappings.remove(&iova.as_u64());
        assert_eq!(removed.map(|mapping| mapping.1), Some(length), "not a whole mapping");
    }

    fn allocate_interrupts(
        &self,
        _: &Owner,
        function: PciAddress,
        count: u16,
        block: bool,
    ) -> Result<u32, InterruptError> {
        let mut state = self.state.lock().unwrap();
        state.step().map_err(|_| InterruptError::OutOfMemory)?;
        if let Some(left) = &mut state.entries_left {
            if *left < count {
                return Err(InterruptError::TooFew { available: *left });
            }
            *left -= count;
        }
        assert!(!block || count.is_power_of_two());
        let id = state.next();
        let entries = FakeEntries { function, block, bound: vec![None; usize::from(count)] };
        state.books.entries.insert(id, entries);
        Ok(id)
    }

    fn message(&self, interrupts: &u32, index: u16) -> Message {
        assert!(self.state.lock().unwrap().books.entries.contains_key(interrupts));
        Message { address: 0xfee0_0010 | u64::from(*interrupts) << 5, data: u32::from(index) }
    }

    fn bind(&self, interrupts: &u32, index: u16, event: Event) -> Result<(), InterruptError> {
        let mut state = self.state.lock().unwrap();
        state.step().map_err(|_| InterruptError::OutOfMemory)?;
        if event == UNKNOWN {
            return Err(InterruptError::UnknownEvent(event));
        }
        let entries = state.books.entries.get_mut(interrupts).unwrap();
        entries.bound[usize::from(index)] = Some(event);
        Ok(())
    }

    fn unbind(&self, interrupts: &u32, index: u16) {
        let mut state = self.state.lock().unwrap();
        state.books.entries.get_mut(interrupts).unwrap().bound[usize::from(index)] = None;
    }

    fn free_interrupts(&self, interrupts: u32) {
        self.log(format!("free interrupts {interrupts}"));
        let mut state = self.state.lock().unwrap();
        let entries = state.books.entries.remove(&interrupts).expect("freed twice");
        assert!(entries.bound.iter().all(Option::is_none), "freed while bound");
        if let Some(left) = &mut state.entries_left {
            *left += entries.bound.len() as u16;
        }
    }

    fn connect_line(
        &self,
        _: &Owner,
        function: PciAddress,
        pin: u8,
        event: Option<Event>,
    ) -> Result<u32, InterruptError> {
        let mut state = self.state.lock().unwrap();
        state.step().map_err(|_| InterruptError::NoLine)?;
        assert!((1..=4).contains(&pin));
        if event == Some(UNKNOWN) {
            return Err(InterruptError::UnknownEvent(UNKNOWN));
        }
        let id = state.next();
        state.books.lines.insert(id, (function, event, false));
        Ok(id)
    }

    fn mask_line(&self, line: &u32, masked: bool) {
        self.state.lock().unwrap().books.lines.get_mut(line).unwrap().2 = masked;
    }

    fn retarget_line(&self, line: &u32, event: Option<Event>) -> Result<(), InterruptError> {
        let mut state = self.state.lock().unwrap();
        state.step().map_err(|_| InterruptError::OutOfMemory)?;
        if event == Some(UNKNOWN) {
            return Err(InterruptError::UnknownEvent(UNKNOWN));
        }
        state.books.lines.get_mut(line).unwrap().1 = event;
        Ok(())
    }

    fn disconnect_line(&self, line: u32) {
        self.log(format!("disconnect line {line}"));
        self.state.lock().unwrap().books.lines.remove(&line).expect("disconnected twice");
    }

    fn signal(&self, event: Event) {
        println!("signal {event:?}");
        self.state.lock().unwrap().signalled.push(event);
    }
}
