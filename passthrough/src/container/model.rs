//! Random histories of a container against the plainest model: one entry a page.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use iommu::address::{HostPhysical, Iova, PciAddress};
use proptest::prelude::*;

use super::{Candidate, Container, INTERRUPT_WINDOW, Mapping, Policy};
use crate::door::{Access, Owner};
use crate::fake::FakeRemapping;
use crate::topology::GroupId;

const PAGE: u64 = 4096;
/// The pages before the interrupt window that histories play in, and as many behind its start.
const PAGES: u64 = 24;
const BASE: u64 = *INTERRUPT_WINDOW.start() - PAGES * PAGE;

#[derive(Clone, Debug)]
enum Step {
    Map {
        page: u64,
        pages: u64,
        host: u64,
    },
    Unmap {
        page: u64,
        pages: u64,
    },
    UnmapAll,
    /// The second group, which needs a domain of its own, joins or leaves.
    Toggle,
}

fn step() -> impl Strategy<Value = Step> {
    let (page, pages) = (0..PAGES + 2, 1..6u64);
    prop_oneof![
        6 => (page.clone(), pages.clone(), 0..64u64).prop_map(|(page, pages, host)| Step::Map { page, pages, host }),
        6 => (page, pages).prop_map(|(page, pages)| Step::Unmap { page, pages }),
        1 => Just(Step::UnmapAll),
        2 => Just(Step::Toggle),
    ]
}

/// Page to (first page of its mapping, host page).
type Model = BTreeMap<u64, (u64, u64)>;

fn map(model: &mut Model, page: u64, pages: u64, host: u64) -> bool {
    let range = page..page + pages;
    if range.end > PAGES || range.clone().any(|page| model.contains_key(&page)) {
        return false;
    }
    model.extend(range.map(|at| (at, (page, host + at - page))));
    true
}

fn unmap(model: &mut Model, page: u64, pages: u64) -> Option<u64> {
    let range = page..page + pages;
    let firsts: Vec<u64> = range.clone().filter_map(|page| model.get(&page).map(|(first, _)| *first)).collect();
    if model.iter().any(|(page, (first, _))| firsts.contains(first) && !range.contains(page)) {
        return None;
    }
    let before = model.len();
    model.retain(|page, _| !range.contains(page));
    Some((before - model.len()) as u64)
}

/// Every domain's pages, as the hardware has them.
fn domains(remapping: &FakeRemapping) -> Vec<BTreeMap<u64, u64>> {
    let books = remapping.books();
    let pages = |(first, (host, length, ..)): (&u64, &(u64, u64, bool, bool))| {
        let (first, host) = ((first - BASE) / PAGE, host / PAGE);
        (0..length / PAGE).map(move |at| (first + at, host + at)).collect::<Vec<_>>()
    };
    books.domains.values().map(|domain| domain.mappings.iter().flat_map(pages).collect()).collect()
}

proptest! {
    #[test]
    fn every_domain_holds_what_the_history_says(steps in prop::collection::vec(step(), 1..60)) {
        let remapping = FakeRemapping::default();
        let container = Container::new(remapping.clone(), Owner::new(1, "one"), Policy::default());
        let group = |number: u32| {
            let function = PciAddress::new(0, number as u8, 0, 0);
            Candidate { group: GroupId(number), functions: vec![(function, vec![function.source])] }
        };
        remapping.make_odd(PciAddress::new(0, 2, 0, 0));
        container.join(group(1)).unwrap();
        container.set_type(3).unwrap();
        let mut model = Model::new();
        let mut has_second = false;
        for step in steps {
            match step {
                Step::Map { page, pages, host } => {
                    let mapping = Mapping {
                        iova: Iova::new(BASE + page * PAGE),
                        host: HostPhysical::new(host * PAGE),
                        length: pages * PAGE,
                        access: Access::READ_WRITE,
                    };
                    prop_assert_eq!(container.map(mapping).is_ok(), map(&mut model, page, pages, host));
                }
                Step::Unmap { page, pages } => {
                    let ours = container.unmap(Iova::new(BASE + page * PAGE), pages * PAGE).ok();
                    prop_assert_eq!(ours, unmap(&mut model, page, pages).map(|pages| pages * PAGE));
                }
                Step::UnmapAll => {
                    prop_assert_eq!(container.unmap_all(), Ok(model.len() as u64 * PAGE));
                    model.clear();
                }
                Step::Toggle if has_second => {
                    container.leave(GroupId(2));
                    has_second = false;
                }
                Step::Toggle => {
                    container.join(group(2)).unwrap();
                    has_second = true;
                }
            }
            let expected: BTreeMap<u64, u64> = model.iter().map(|(page, (_, host))| (*page, *host)).collect();
            let domains = domains(&remapping);
            prop_assert_eq!(domains.len(), 1 + usize::from(has_second));
            for domain in domains {
                prop_assert_eq!(&domain, &expected);
            }
        }
    }
}
