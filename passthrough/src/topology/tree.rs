//! The functions of a machine by address, with the bridge above each bus.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use iommu::address::{PciAddress, SourceId};

use super::function::{Buses, Function};

/// Functions in the order of their addresses. An index is a place in that order.
pub(super) struct Tree<'a> {
    functions: Vec<&'a Function>,
    /// The bridge right above a bus of a segment.
    above: BTreeMap<(u16, u8), usize>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(functions: &'a [Function]) -> Self {
        let by_address: BTreeMap<PciAddress, &Function> =
            functions.iter().rev().map(|function| (function.address, function)).collect();
        let functions: Vec<&Function> = by_address.into_values().collect();
        let mut above = BTreeMap::new();
        for (index, function) in functions.iter().enumerate() {
            let Some(Buses { secondary, subordinate }) = function.bridge else { continue };
            // Bus numbers grow downwards, so walks up the tree end. A bridge that says otherwise leads nowhere.
            if secondary > function.address.source.bus() && subordinate >= secondary {
                above.entry((function.address.segment, secondary)).or_insert(index);
            }
        }
        Self { functions, above }
    }

    pub(super) fn len(&self) -> usize {
        self.functions.len()
    }

    pub(super) fn indices(&self) -> core::ops::Range<usize> {
        0..self.functions.len()
    }

    pub(super) fn functions(&self) -> impl Iterator<Item = (usize, &'a Function)> {
        self.functions.iter().copied().enumerate()
    }

    pub(super) fn get(&self, index: usize) -> Option<&'a Function> {
        self.functions.get(index).copied()
    }

    pub(super) fn find(&self, address: PciAddress) -> Option<usize> {
        self.functions.binary_search_by_key(&address, |function| function.address).ok()
    }

    /// The bridge right above the bus that a function is on.
    pub(super) fn bridge_above(&self, function: &Function) -> Option<(usize, &'a Function)> {
        let index = *self.above.get(&(function.address.segment, function.address.source.bus()))?;
        Some((index, self.get(index)?))
    }

    /// The bridges above a function, the nearest first.
    pub(super) fn bridges_above(&self, function: &'a Function) -> impl Iterator<Item = (usize, &'a Function)> {
        core::iter::successors(self.bridge_above(function), |(_, bridge)| self.bridge_above(bridge))
    }

    /// The other functions of the same device.
    pub(super) fn siblings(&self, function: &'a Function) -> impl Iterator<Item = (usize, &'a Function)> {
        let PciAddress { segment, source } = function.address;
        (0..8)
            .map(move |number| PciAddress { segment, source: SourceId::new(source.bus(), source.device(), number) })
            .filter(move |&address| address != function.address)
            .filter_map(|address| self.find(address))
            .filter_map(|index| Some((index, self.get(index)?)))
    }
}
