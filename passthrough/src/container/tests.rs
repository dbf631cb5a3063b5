use std::vec;
use std::vec::Vec;

use iommu::address::{PciAddress, SourceId};

use super::*;
use crate::door::{RemappingError, ReservedKind};
use crate::errno::Errno;
use crate::fake::FakeRemapping;
use crate::topology::GroupId;

const A: PciAddress = PciAddress::new(0, 1, 0, 0);
const B: PciAddress = PciAddress::new(0, 2, 0, 0);

fn candidate(group: u32, functions: &[PciAddress]) -> Candidate {
    let functions = functions.iter().map(|&function| (function, vec![function.source])).collect();
    Candidate { group: GroupId(group), functions }
}

fn container(remapping: &FakeRemapping) -> Container<FakeRemapping> {
    Container::new(remapping.clone(), Owner::new(1, "one"), Policy::default())
}

/// A container of type v2 with group 0 (function A).
fn ready(remapping: &FakeRemapping) -> Container<FakeRemapping> {
    let container = container(remapping);
    container.join(candidate(0, &[A])).unwrap();
    container.set_type(3).unwrap();
    container
}

fn mapping(iova: u64, length: u64) -> Mapping {
    let host = HostPhysical::new(0x1_0000_0000 + iova);
    Mapping { iova: Iova::new(iova), host, length, access: Access::READ_WRITE }
}

#[test]
fn the_life_cycle_has_an_order() {
    let remapping = FakeRemapping::default();
    let container = container(&remapping);
    assert_eq!(container.map(mapping(0, 0x1000)), Err(ContainerError::NoType));
    assert_eq!(container.unmap(Iova::new(0), 0x1000), Err(ContainerError::NoType));
    assert_eq!(container.information().unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(container.set_type(3), Err(ContainerError::NoGroup));
    container.join(candidate(0, &[A])).unwrap();
    assert_eq!(container.join(candidate(0, &[A])), Err(ContainerError::AlreadyAttached(GroupId(0))));
    assert_eq!(container.set_type(7).unwrap_err().errno(), Errno::ENODEV);
    assert!(remapping.books().domains.is_empty());
    container.set_type(3).unwrap();
    assert_eq!(container.set_type(3), Err(ContainerError::TypeIsSet));
    container.map(mapping(0, 0x1000)).unwrap();

    container.leave(GroupId(0));
    assert_eq!(remapping.books(), Default::default(), "with the last group everything goes");
    assert!(!container.has_type());
    assert!(container.mappings().is_empty());
    container.join(candidate(0, &[A])).unwrap();
    container.set_type(1).unwrap();
}

#[test]
fn mappings_follow_the_rules_in_their_order() {
    let remapping = FakeRemapping::default();
    let container = ready(&remapping);
    let nothing = Access { read: false, write: false };
    assert_eq!(container.map(Mapping { access: nothing, ..mapping(1, 0) }), Err(ContainerError::NoAccess));
    for (iova, length) in [(0, 0), (0x800, 0x1000), (0, 0x800)] {
        assert!(matches!(container.map(mapping(iova, length)), Err(ContainerError::Misaligned { .. })));
    }
    let odd = Mapping { host: HostPhysical::new(0x123), ..mapping(0, 0x1000) };
    assert!(matches!(container.map(odd), Err(ContainerError::Misaligned { .. })));
    let wraps = Mapping { iova: Iova::new(u64::MAX - 0xfff), ..mapping(0, 0x2000) };
    assert!(matches!(container.map(wraps), Err(ContainerError::Wraps { .. })));

    container.map(mapping(0x10_0000, 0x4000)).unwrap();
    for (iova, length) in [(0x10_0000, 0x4000), (0xf_f000, 0x2000), (0x10_3000, 0x1000), (0xf_0000, 0x10_0000)] {
        assert_eq!(container.map(mapping(iova, length)).unwrap_err().errno(), Errno::EEXIST, "{iova:#x}");
    }
    container.map(mapping(0x10_4000, 0x1000)).unwrap();
    container.map(mapping(0xf_f000, 0x1000)).unwrap();

    assert_eq!(container.map(mapping(0xfee0_0000, 0x1000)), Err(ContainerError::NotUsable(0xfee0_0000..=0xfee0_0fff)));
    assert_eq!(container.map(mapping(0xfed0_0000, 0x40_0000)).unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(container.map(mapping(1 << 39, 0x1000)).unwrap_err().errno(), Errno::EINVAL);
    container.map(mapping((1 << 39) - 0x1000, 0x1000)).unwrap();
    assert_eq!(container.mappings().len(), 4);
}

#[test]
fn so_many_mappings_and_no_more() {
    let remapping = FakeRemapping::default();
    let policy = Policy { mappings: 2, ..Policy::default() };
    let container = Container::new(remapping.clone(), Owner::new(1, "one"), policy);
    container.join(candidate(0, &[A])).unwrap();
    container.set_type(3).unwrap();
    container.map(mapping(0, 0x1000)).unwrap();
    container.map(mapping(0x1000, 0x1000)).unwrap();
    assert_eq!(container.information().unwrap().available, 0);
    assert_eq!(container.map(mapping(0x2000, 0x1000)).unwrap_err().errno(), Errno::ENOSPC);
    assert_eq!(container.map(mapping(0x1000, 0x1000)).unwrap_err().errno(), Errno::EEXIST, "overlap comes first");
    container.unmap(Iova::new(0), 0x1000).unwrap();
    container.map(mapping(0x2000, 0x1000)).unwrap();
}

#[test]
fn unmapping_takes_whole_mappings() {
    let remapping = FakeRemapping::default();
    let container = ready(&remapping);
    for iova in [0x1000, 0x5000, 0x9000] {
        container.map(mapping(iova, 0x4000)).unwrap();
    }
    let cut =
        |iova, length| matches!(container.unmap(Iova::new(iova), length), Err(ContainerError::CutsMapping { .. }));
    assert!(cut(0x2000, 0x3000));
    assert!(cut(0x1000, 0x3000));
    assert!(cut(0x0, 0x6000));
    assert!(cut(0x2000, 0x1000));
    assert!(cut(0x8000, 0x5000));
    assert_eq!(container.unmap(Iova::new(0x10_0000), 0x1000), Ok(0));
    assert_eq!(container.unmap(Iova::new(0x0), 0x9000), Ok(0x8000));
    assert_eq!(container.mappings(), [mapping(0x9000, 0x4000)]);
    for (iova, length) in [(0, 0), (0x10, 0x1000), (0, 0x10)] {
        assert!(matches!(container.unmap(Iova::new(iova), length), Err(ContainerError::Misaligned { .. })));
    }
    assert_eq!(container.unmap_all(), Ok(0x4000));
    assert_eq!(container.unmap_all(), Ok(0));
    let books = remapping.books();
    assert!(books.domains.values().next().unwrap().mappings.is_empty());
}

#[test]
fn the_old_type_unmaps_in_its_own_way() {
    let remapping = FakeRemapping::default();
    let container = container(&remapping);
    container.join(candidate(0, &[A])).unwrap();
    container.set_type(1).unwrap();
    container.map(mapping(0x1000, 0x4000)).unwrap();
    assert_eq!(container.unmap(Iova::new(0x2000), 0x8000), Ok(0), "starts inside");
    assert_eq!(container.unmap(Iova::new(0x0), 0x2000), Ok(0x4000), "ends inside");
}

#[test]
fn a_second_group_shares_the_domain_or_gets_its_own_with_every_mapping() {
    let remapping = FakeRemapping::default();
    let container = ready(&remapping);
    container.map(mapping(0x1000, 0x4000)).unwrap();
    container.join(candidate(1, &[B])).unwrap();
    assert_eq!(remapping.books().domains.len(), 1);
    container.leave(GroupId(1));

    remapping.make_odd(B);
    container.join(candidate(1, &[B])).unwrap();
    let domains: Vec<_> = remapping.books().domains.into_values().collect();
    assert_eq!(domains.len(), 2);
    assert_eq!(domains[0].mappings, domains[1].mappings);
    assert_eq!((domains[0].owner, domains[1].owner), (1, 1));
    container.map(mapping(0x8000, 0x1000)).unwrap();
    container.unmap(Iova::new(0x1000), 0x4000).unwrap();
    let domains: Vec<_> = remapping.books().domains.into_values().collect();
    assert_eq!(domains[0].mappings, domains[1].mappings);
    assert_eq!(domains[0].mappings.len(), 1);
    container.leave(GroupId(0));
    assert_eq!(remapping.books().domains.len(), 1);
    assert_eq!(container.mappings().len(), 1, "the other group keeps the mappings");
}

#[test]
fn reserved_ranges_narrow_what_is_usable() {
    let remapping = FakeRemapping::default();
    remapping.reserve(A, 0xa_0000..=0xf_ffff, ReservedKind::DirectRelaxable);
    remapping.reserve(B, 0x1000..=0x1fff, ReservedKind::Reserved);
    let container = ready(&remapping);
    let before = container.information().unwrap();
    assert_eq!(before.ranges, [0..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1]);
    assert_eq!(before.page_sizes & (1 << 22 | 1 << 21 | 1 << 12), 1 << 21 | 1 << 12);

    container.map(mapping(0x0, 0x2000)).unwrap();
    let refusal = container.join(candidate(1, &[B])).unwrap_err();
    assert_eq!(refusal, ContainerError::MappingNotUsable { function: B, existing: 0..=0x1fff });
    container.unmap_all().unwrap();
    container.join(candidate(1, &[B])).unwrap();
    assert_eq!(container.information().unwrap().ranges[0], 0..=0xfff);
    assert!(matches!(container.map(mapping(0, 0x2000)), Err(ContainerError::NotUsable(_))));
    container.leave(GroupId(1));
    assert_eq!(container.information().unwrap(), before);
}

#[test]
fn functions_that_cannot_be_isolated_are_refused_by_name() {
    let remapping = FakeRemapping::default();
    let mut capabilities = remapping.capabilities(A).unwrap();
    capabilities.interrupt_remapping = false;
    remapping.set_capabilities(A, capabilities);
    remapping.reserve(B, 0x7000_0000..=0x70ff_ffff, ReservedKind::Direct);
    let safe = container(&remapping);
    safe.join(candidate(0, &[A])).unwrap();
    assert_eq!(safe.set_type(3), Err(ContainerError::NoInterruptRemapping(A)));
    assert_eq!(safe.set_type(3).unwrap_err().errno(), Errno::EPERM);

    let policy = Policy { unsafe_interrupts: true, ..Policy::default() };
    let allowed = Container::new(remapping.clone(), Owner::new(2, "two"), policy);
    allowed.join(candidate(0, &[A])).unwrap();
    allowed.set_type(3).unwrap();
    let refusal = allowed.join(candidate(1, &[B])).unwrap_err();
    assert_eq!(refusal, ContainerError::RequiredMemory { function: B, range: 0x7000_0000..=0x70ff_ffff });
    assert!(std::format!("{refusal}").contains("0000:02:00.0"));
}

#[test]
fn a_function_is_judged_as_a_container_would_without_taking_anything() {
    let remapping = FakeRemapping::default();
    remapping.reserve(B, 0x1000..=0x1fff, ReservedKind::Reserved);
    let judge = |function, range| check_function(&remapping, Policy::default(), function, [range]);
    assert_eq!(judge(A, 0..=(1 << 39) - 1).unwrap_err().errno(), Errno::EINVAL, "the interrupt window is in it");
    let beyond = 1 << 39..=(1 << 39) + 0xfff;
    assert_eq!(judge(A, beyond.clone()), Err(ContainerError::MappingNotUsable { function: A, existing: beyond }));
    assert_eq!(judge(A, 0..=0x1fff), Ok(()));
    assert_eq!(judge(B, 0..=0x1fff), Err(ContainerError::MappingNotUsable { function: B, existing: 0..=0x1fff }));
    let mut capabilities = remapping.capabilities(A).unwrap();
    capabilities.interrupt_remapping = false;
    remapping.set_capabilities(A, capabilities);
    assert_eq!(judge(A, 0..=0xfff), Err(ContainerError::NoInterruptRemapping(A)));
    let policy = Policy { unsafe_interrupts: true, ..Policy::default() };
    assert_eq!(check_function(&remapping, policy, A, []), Ok(()));
    remapping.reserve(B, 0x7000_0000..=0x70ff_ffff, ReservedKind::Direct);
    assert!(matches!(judge(B, 0x2000..=0x2fff), Err(ContainerError::RequiredMemory { function: B, .. })));
    assert_eq!(remapping.books(), Default::default());
}

#[test]
fn the_nearest_mapping_is_found() {
    let remapping = FakeRemapping::default();
    let container = ready(&remapping);
    assert_eq!(container.nearest_mapping(Iova::new(0)), None);
    container.map(mapping(0x1000, 0x1000)).unwrap();
    container.map(mapping(0x9000, 0x1000)).unwrap();
    let nearest = |iova| container.nearest_mapping(Iova::new(iova)).unwrap().iova.as_u64();
    assert_eq!(nearest(0), 0x1000);
    assert_eq!(nearest(0x1fff), 0x1000);
    assert_eq!(nearest(0x3000), 0x1000);
    assert_eq!(nearest(0x8fff), 0x9000);
    assert_eq!(nearest(u64::MAX), 0x9000);
}

/// What a run with the n-th call failing starts from, and does.
type Scenario =
    (fn(&FakeRemapping) -> Container<FakeRemapping>, fn(&Container<FakeRemapping>) -> Result<(), ContainerError>);

#[test]
fn every_failure_leaves_everything_as_it_was() {
    fn two_domains(remapping: &FakeRemapping) -> Container<FakeRemapping> {
        remapping.make_odd(B);
        let container = ready(remapping);
        container.map(mapping(0x1000, 0x1000)).unwrap();
        container.map(mapping(0x3000, 0x1000)).unwrap();
        container
    }
    const C: PciAddress = PciAddress::new(0, 2, 0, 1);
    let scenarios: [Scenario; 3] = [
        (
            |remapping| {
                remapping.make_odd(B);
                let container = container(remapping);
                container.join(candidate(0, &[A])).unwrap();
                container.join(candidate(1, &[B])).unwrap();
                container
            },
            |container| container.set_type(3),
        ),
        (two_domains, |container| {
            let mut odd = candidate(1, &[B]);
            odd.functions.push((C, vec![SourceId::new(2, 0, 7)]));
            // The second function does not fit beside the first one in any domain.
            match container.join(odd) {
                Err(ContainerError::Remapping { source: RemappingError::Incompatible, function: Some(C) }) => Ok(()),
                other => other,
            }
        }),
        (
            |remapping| {
                let container = two_domains(remapping);
                container.join(candidate(1, &[B])).unwrap();
                container
            },
            |container| container.map(mapping(0x8000, 0x1000)),
        ),
    ];
    for (number, (prepare, act)) in scenarios.into_iter().enumerate() {
        let mut failures = 0;
        for fail_after in 0.. {
            let remapping = FakeRemapping::default();
            let container = prepare(&remapping);
            let before = (remapping.books(), container.mappings(), container.information().ok(), container.has_type());
            remapping.fail_after(Some(fail_after));
            let result = act(&container);
            let after = (remapping.books(), container.mappings(), container.information().ok(), container.has_type());
            remapping.fail_after(None);
            match result {
                Ok(()) => {
                    // The second scenario's success is a refusal.
                    assert_eq!(before == after, number == 1, "scenario {number}");
                    break;
                }
                Err(error) => assert_eq!(error.errno(), Errno::ENOMEM),
            }
            failures += 1;
            assert_eq!(before, after, "scenario {number}, call {fail_after}");
        }
        assert!(failures >= 2, "scenario {number}: {failures}");
    }
}
