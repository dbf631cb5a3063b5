//! From PCI functions to groups: the smallest sets of functions that remapping can keep apart.
//!
//! Two functions share a group when one can reach the other without passing a remapping unit, or when both sign their
//! requests with the same id: a bridge signs for what is below it, a switch or a multifunction device turns requests
//! around by itself unless Access Control Services (PCI Express Base section 6.12) forbid it. The rules are those by
//! which Linux makes its IOMMU groups.

mod alias;
mod enable;
mod function;
mod isolation;
pub mod quirks;
mod tree;

#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

pub use enable::enable_isolation;
pub use function::{Acs, AcsFlags, Buses, Function, Kind, PortType};
use iommu::address::{PciAddress, SourceId};
pub use isolation::Leak;
use tree::Tree;

/// Why a function is in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing forced it: it is the first of its group.
    First,
    /// The bridge above signs requests with an id of its own, or one that all below it share.
    Alias {
        /// The bridge.
        bridge: PciAddress,
    },
    /// The function signs requests with the id of a neighbour.
    NeighbourAlias {
        /// The neighbour.
        neighbour: PciAddress,
    },
    /// On the way up a function does not send every request up to a remapping unit.
    NotIsolated {
        /// The bridge right above, whose group this function joined.
        bridge: PciAddress,
        /// The function that leaks, at or above that bridge.
        at: PciAddress,
        /// What it lacks.
        leak: Leak,
    },
    /// Functions of one device reach one another inside it.
    Multifunction {
        /// A function of the same device, in this group already.
        sibling: PciAddress,
        /// What this function lacks.
        leak: Leak,
    },
    /// The function sends its requests under the id of another device (Intel VMD).
    SubordinateTo {
        /// The function that signs.
        device: PciAddress,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("stands alone or came first"),
            Self::Alias { bridge } => {
                write!(f, "is below {bridge}, which signs the requests of all functions below it")
            }
            Self::NeighbourAlias { neighbour } => write!(f, "signs its requests with the id of {neighbour}"),
            Self::NotIsolated { at, leak, .. } => write!(f, "is below {at}, which {leak}"),
            Self::Multifunction { sibling, leak } => {
                write!(f, "is a function of the same device as {sibling}, and {leak}")
            }
            Self::SubordinateTo { device } => write!(f, "sends its requests under the id of {device}"),
        }
    }
}

/// One function in a group.
#[derive(Clone, Debug)]
pub struct Member {
    /// The function.
    pub function: Function,
    /// Why it is in this group.
    pub reason: Reason,
    /// The ids under which its requests arrive at the remapping unit, its own first.
    pub requester_ids: Vec<SourceId>,
}

impl Member {
    /// Where it is.
    pub fn address(&self) -> PciAddress {
        self.function.address
    }
}

/// The index of a group in its [`Groups`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {}", self.0)
    }
}

/// What can be given away only as a whole.
#[derive(Clone, Debug)]
pub struct IsolationGroup {
    /// Its number, in the order of its first member's address.
    pub id: GroupId,
    /// Its functions in the order of their addresses.
    pub members: Vec<Member>,
}

/// The groups of a machine. They do not change while the machine runs.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    groups: Vec<IsolationGroup>,
    by_address: BTreeMap<PciAddress, GroupId>,
}

impl Groups {
    /// Groups the functions of a machine. A second function at the same address is left out; a bridge whose bus
    /// numbers make no sense leads nowhere.
    pub fn build(functions: &[Function]) -> Self {
        let tree = Tree::new(functions);
        // The set that each function is in, named by an index into the tree; sets only ever merge.
        let mut sets: Vec<usize> = (0..tree.len()).collect();
        let mut reasons: Vec<Reason> = alloc::vec![Reason::First; tree.len()];
        for index in tree.indices() {
            if let Some((other, reason)) = isolation::joins(&tree, index) {
                merge(&mut sets, index, other);
                if let Some(slot) = reasons.get_mut(index) {
                    *slot = reason;
                }
            }
        }

        let mut by_set: BTreeMap<usize, Vec<Member>> = BTreeMap::new();
        let mut reasons = reasons.into_iter();
        for (index, function) in tree.functions() {
            let member = Member {
                function: function.clone(),
                reason: reasons.next().unwrap_or(Reason::First),
                requester_ids: alias::requester_ids(&tree, index),
            };
            by_set.entry(root(&sets, index)).or_default().push(member);
        }
        let mut members: Vec<Vec<Member>> = by_set.into_values().collect();
        members.sort_by_key(|members| members.first().map(Member::address));

        let mut groups = Self::default();
        for (id, members) in (0..).map(GroupId).zip(members) {
            groups.by_address.extend(members.iter().map(|member| (member.address(), id)));
            groups.groups.push(IsolationGroup { id, members });
        }
        groups
    }

    /// Every group.
    pub fn iter(&self) -> impl Iterator<Item = &IsolationGroup> {
        self.groups.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The group with this number.
    pub fn get(&self, id: GroupId) -> Option<&IsolationGroup> {
        self.groups.get(usize::try_from(id.0).ok()?)
    }

    /// The group of a function.
    pub fn of(&self, address: PciAddress) -> Option<&IsolationGroup> {
        self.get(*self.by_address.get(&address)?)
    }

    /// The entry of a function in its group.
    pub fn member(&self, address: PciAddress) -> Option<&Member> {
        self.of(address)?.members.iter().find(|member| member.address() == address)
    }
}

impl<'a> IntoIterator for &'a Groups {
    type Item = &'a IsolationGroup;
    type IntoIter = core::slice::Iter<'a, IsolationGroup>;

    fn into_iter(self) -> Self::IntoIter {
        self.groups.iter()
    }
}

fn root(sets: &[usize], mut index: usize) -> usize {
    // Every link leads to a smaller index, so the walk ends.
    while let Some(&parent) = sets.get(index)
        && parent < index
    {
        index = parent;
    }
    index
}

fn merge(sets: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(sets, a), root(sets, b));
    if let Some(slot) = sets.get_mut(a.max(b)) {
        *slot = a.min(b);
    }
}
