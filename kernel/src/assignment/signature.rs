//! The ids that a function signs its requests with, as faults name them and as interrupt entries check them.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use iommu::address::{PciAddress, SourceId};
use iommu::driver::Origin;
use iommu::interrupt::entry::Source;
use passthrough::topology::Groups;

/// How one function signs: with its own id, with that of a bridge above it, or with either.
#[derive(Clone, Debug)]
pub struct Signature {
    function: PciAddress,
    /// Its own first, that of the topmost bridge last.
    ids: Box<[SourceId]>,
}

impl Signature {
    /// As the topology says. A function that is not in it signs with its own id.
    pub fn of(function: PciAddress, groups: &Groups) -> Self {
        let known = groups.member(function).map(|member| member.requester_ids.as_slice());
        let own = [function.source];
        let ids = known.filter(|ids| !ids.is_empty()).unwrap_or(&own);
        Self { function, ids: ids.into() }
    }

    /// Whether a request that `sender` signed may be the function's.
    pub fn covers(&self, sender: PciAddress) -> bool {
        sender.segment == self.function.segment && self.ids.contains(&sender.source)
    }

    /// Every id, as the function that it names.
    pub fn ids(&self) -> impl Iterator<Item = PciAddress> {
        self.ids.iter().map(|&source| PciAddress { source, ..self.function })
    }

    /// Who sends the function's interrupts, as narrow as an entry can say it (VT-d section 9.9, SVT and SQ).
    pub fn origin(&self) -> Origin {
        let signs = match (&*self.ids, self.ids.first(), self.ids.last()) {
            (_, None, _) | (_, _, None) => Source::Exact(self.function.source),
            ([one], ..) => Source::Exact(*one),
            // Neighbours in its own device. An entry can ignore bit 2 of the function number, bits 2:1, or all three: the
            // fewest that cover the ids.
            (all, Some(own), Some(_)) if all.iter().all(|id| (id.bus(), id.device()) == (own.bus(), own.device())) => {
                let differing = all.iter().fold(0, |bits, id| bits | (id.function() ^ own.function()));
                let ignored = match differing {
                    0b000 => return Origin::Function { device: self.function, signs: Source::Exact(*own) },
                    0b100 => 1,
                    0b010 | 0b110 => 2,
                    _ => 3,
                };
                Source::Functions { source: *own, ignored }
            }
            // A bridge from PCI Express to PCI signs with devfn 0 of the bus below it, but not for all requests: any id
            // from that bus to the function's own may come. All of them are in the function's group.
            (_, Some(own), Some(last)) if last.device() == 0 && last.function() == 0 && last.bus() <= own.bus() => {
                Source::Buses { first: last.bus(), last: own.bus() }
            }
            // Any other bridge signs for all that is below it.
            (_, _, Some(last)) => Source::Exact(*last),
        };
        Origin::Function { device: self.function, signs }
    }

    /// Whose messages the function's interrupt entries take, in words; `None` where it is one id alone. All of them are
    /// in the function's group, or share its device.
    pub fn senders(&self) -> Option<String> {
        let Origin::Function { signs, .. } = self.origin() else { return None };
        match signs {
            Source::Exact(_) => None,
            Source::Functions { source, ignored } => {
                let mask = match ignored {
                    1 => 0b100,
                    2 => 0b110,
                    _ => 0b111,
                };
                let like = |function: &u8| (function ^ source.function()) & !mask == 0;
                let functions: Vec<String> = (0..8).filter(like).map(|function| function.to_string()).collect();
                Some(format!("device {:02x}:{:02x}, functions {}", source.bus(), source.device(), functions.join(", ")))
            }
            Source::Buses { first, last } => Some(format!("any function on the buses {first:02x} to {last:02x}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(own: (u8, u8, u8), further: &[(u8, u8, u8)]) -> Source {
        let id = |(bus, device, function)| SourceId::new(bus, device, function);
        let ids = core::iter::once(own).chain(further.iter().copied()).map(id).collect();
        let signature = Signature { function: PciAddress::new(0, own.0, own.1, own.2), ids };
        match signature.origin() {
            Origin::Function { signs, .. } => signs,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn entries_check_the_ids_that_really_arrive() {
        assert_eq!(signs((1, 0, 0), &[]), Source::Exact(SourceId::new(1, 0, 0)));
        let neighbours = Source::Functions { source: SourceId::new(3, 0, 0), ignored: 3 };
        assert_eq!(signs((3, 0, 0), &[(3, 0, 1)]), neighbours);
        let functions = |function, ignored| Source::Functions { source: SourceId::new(3, 0, function), ignored };
        assert_eq!(signs((3, 0, 0), &[(3, 0, 4)]), functions(0, 1));
        assert_eq!(signs((3, 0, 1), &[(3, 0, 3)]), functions(1, 2));
        assert_eq!(signs((3, 0, 1), &[(3, 0, 5), (3, 0, 3)]), functions(1, 2));
        assert_eq!(signs((3, 0, 0), &[(3, 0, 4), (3, 0, 1)]), functions(0, 3));
        assert_eq!(signs((3, 0, 0), &[(3, 0, 0)]), Source::Exact(SourceId::new(3, 0, 0)));
        assert_eq!(signs((5, 2, 0), &[(5, 0, 0)]), Source::Buses { first: 5, last: 5 });
        assert_eq!(signs((6, 2, 0), &[(5, 4, 0), (5, 0, 0)]), Source::Buses { first: 5, last: 6 });
        let below_a_bridge_of_the_root_bus = Source::Exact(SourceId::new(0, 0x1e, 0));
        assert_eq!(signs((5, 2, 0), &[(0, 0x1e, 0)]), below_a_bridge_of_the_root_bus);
    }

    #[test]
    fn an_entry_that_takes_more_than_one_id_says_whose() {
        let senders = |own: (u8, u8, u8), further: (u8, u8, u8)| {
            let id = |(bus, device, function)| SourceId::new(bus, device, function);
            Signature { function: PciAddress::new(0, own.0, own.1, own.2), ids: [id(own), id(further)].into() }
                .senders()
        };
        assert_eq!(senders((3, 0, 1), (3, 0, 3)).as_deref(), Some("device 03:00, functions 1, 3, 5, 7"));
        assert_eq!(senders((3, 0, 1), (3, 0, 5)).as_deref(), Some("device 03:00, functions 1, 5"));
        assert_eq!(senders((6, 2, 0), (5, 0, 0)).as_deref(), Some("any function on the buses 05 to 06"));
        assert_eq!(senders((5, 2, 0), (0, 0x1e, 0)), None);
    }

    #[test]
    fn a_bridges_id_stands_for_what_is_below_it_on_its_own_segment() {
        let function = PciAddress::new(1, 5, 2, 0);
        let ids = [function.source, SourceId::new(5, 0, 0)].into();
        let signature = Signature { function, ids };
        assert!(signature.covers(function) && signature.covers(PciAddress::new(1, 5, 0, 0)));
        assert!(!signature.covers(PciAddress::new(0, 5, 0, 0)) && !signature.covers(PciAddress::new(1, 5, 1, 0)));
    }
}
