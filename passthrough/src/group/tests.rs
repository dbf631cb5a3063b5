use std::format;
use std::string::ToString;

use super::*;
use crate::container::ContainerError;
use crate::errno::Errno;
use crate::fake::bench::{Bench, ENDPOINT, PORT, SIBLING};

fn id(bench: &Bench) -> GroupId {
    bench.registry.groups().of(ENDPOINT).unwrap().id
}

#[test]
fn a_function_has_one_holder() {
    let bench = Bench::new();
    let two = Owner::new(2, "two");
    bench.registry.claim(ENDPOINT, &bench.owner).unwrap();
    let refusal = bench.registry.claim(ENDPOINT, &two).unwrap_err();
    assert_eq!(refusal.to_string(), "0000:01:00.0 belongs to VM one already");
    assert_eq!(bench.registry.claim(PORT, &two), Err(GroupError::IsBridge(PORT)));
    let absent = PciAddress::new(0, 9, 0, 0);
    assert_eq!(bench.registry.claim(absent, &two).unwrap_err().errno(), Errno::ENODEV);
    bench.registry.release(ENDPOINT, &two).unwrap();
    assert_eq!(bench.registry.holder(ENDPOINT), Holder::Owner(bench.owner.clone()), "not two's to give");
    bench.registry.release(ENDPOINT, &bench.owner).unwrap();
    bench.registry.claim(ENDPOINT, &two).unwrap();
}

#[test]
fn a_group_that_is_not_whole_is_refused_with_the_member_named() {
    let bench = Bench::new();
    bench.registry.claim(SIBLING, &Owner::new(2, "two")).unwrap();
    let group = Group::open(&bench.registry, id(&bench), &bench.owner).unwrap();
    assert_eq!(group.status(), GroupStatus::empty());
    let refusal = group.set_container(&bench.container).unwrap_err();
    assert_eq!(refusal.errno(), Errno::EPERM);
    assert_eq!(
        refusal.to_string(),
        "group 1 cannot be assigned: its member 0000:01:00.1 belongs to VM two. It is in this group because it is a \
         function of the same device as 0000:01:00.0, and has no access control (ACS). Give every member to the same \
         VM or to nobody"
    );
    drop(group);

    let bench = Bench::new();
    bench.registry.keep(SIBLING, "its console").unwrap();
    let group = Group::open(&bench.registry, id(&bench), &bench.owner).unwrap();
    let refusal = group.set_container(&bench.container).unwrap_err();
    assert!(refusal.to_string().contains("the hypervisor (its console)"), "{refusal}");
    assert_eq!(bench.remapping.books(), Default::default());
}

#[test]
fn a_group_is_open_once_and_by_somebody_in_it() {
    let bench = Bench::new();
    let two = Owner::new(2, "two");
    assert_eq!(
        Group::<crate::fake::FakeRemapping>::open(&bench.registry, id(&bench), &two).unwrap_err().errno(),
        Errno::ENOENT
    );
    let group = bench.group();
    assert_eq!(group.status(), GroupStatus::VIABLE | GroupStatus::CONTAINER_SET);
    let again = Group::<crate::fake::FakeRemapping>::open(&bench.registry, id(&bench), &bench.owner);
    assert_eq!(again.unwrap_err(), GroupError::Busy(id(&bench)));
    assert_eq!(bench.registry.claim(SIBLING, &two).unwrap_err().errno(), Errno::EBUSY, "not while it is open");
    assert_eq!(bench.registry.release(ENDPOINT, &bench.owner).unwrap_err().errno(), Errno::EBUSY);
    drop(group);
    bench.registry.claim(SIBLING, &two).unwrap();
}

#[test]
fn what_the_owner_claimed_is_attached_and_nothing_else() {
    let bench = Bench::new();
    let group = bench.group();
    let attached = |bench: &Bench| bench.remapping.books().domains.into_values().next().unwrap().attached;
    assert_eq!(attached(&bench), [(ENDPOINT, ENDPOINT.source)]);
    drop(group);
    assert_eq!(bench.remapping.books(), Default::default());
    bench.registry.claim(SIBLING, &bench.owner).unwrap();
    let _group = bench.group();
    assert_eq!(attached(&bench), [(ENDPOINT, ENDPOINT.source), (SIBLING, SIBLING.source)]);
}

#[test]
fn containers_come_and_go_in_order() {
    let bench = Bench::new();
    let group = Group::open(&bench.registry, id(&bench), &bench.owner).unwrap();
    assert_eq!(group.unset_container(), Err(GroupError::NoContainer(id(&bench))));
    assert_eq!(group.pin(ENDPOINT).unwrap_err(), GroupError::NoContainer(id(&bench)));
    let foreign = Container::new(bench.remapping.clone(), Owner::new(2, "two"), Default::default());
    assert_eq!(group.set_container(&foreign).unwrap_err().errno(), Errno::EPERM);
    group.set_container(&bench.container).unwrap();
    assert_eq!(group.set_container(&bench.container), Err(GroupError::HasContainer(id(&bench))));
    assert_eq!(group.pin(ENDPOINT).unwrap_err(), GroupError::NoType(id(&bench)));
    bench.container.set_type(3).unwrap();
    assert_eq!(group.pin(SIBLING).unwrap_err().errno(), Errno::ENODEV, "not claimed");
    assert_eq!(group.pin(PORT).unwrap_err().errno(), Errno::ENODEV);
    group.unset_container().unwrap();
    assert_eq!(bench.remapping.books(), Default::default());
}

#[test]
fn an_open_device_keeps_the_group_in_its_container() {
    let bench = Bench::new();
    let group = bench.group();
    let pin = group.pin(ENDPOINT).unwrap();
    assert_eq!(group.pin(ENDPOINT).unwrap_err(), GroupError::DeviceOpen(ENDPOINT));
    assert_eq!(group.unset_container(), Err(GroupError::DeviceOpen(ENDPOINT)));
    drop(group);
    assert_eq!(bench.remapping.books().domains.len(), 1, "the device holds it");
    assert!(Group::<crate::fake::FakeRemapping>::open(&bench.registry, id(&bench), &bench.owner).is_err());
    drop(pin);
    assert_eq!(bench.remapping.books(), Default::default());
    drop(bench.group());
}

#[test]
fn a_refusal_of_the_container_leaves_the_group_without_one() {
    let bench = Bench::new();
    let group = bench.group();
    bench.remapping.fail_after(Some(0));
    group.unset_container().unwrap();
    bench
        .container
        .join(Candidate { group: GroupId(77), functions: std::vec![(PORT, std::vec![PORT.source])] })
        .unwrap();
    assert_eq!(bench.container.set_type(3).unwrap_err().errno(), Errno::ENOMEM);
    bench.container.set_type(3).unwrap();
    bench.remapping.fail_after(Some(0));
    let refusal = group.set_container(&bench.container).unwrap_err();
    assert!(matches!(refusal, GroupError::Container(ContainerError::Remapping { .. })), "{refusal:?}");
    assert!(format!("{refusal}").contains("no memory"));
    assert_eq!(group.status(), GroupStatus::VIABLE);
    group.set_container(&bench.container).unwrap();
}
