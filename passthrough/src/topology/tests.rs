use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::*;

const ISOLATING: Option<Acs> = Some(Acs { capability: AcsFlags::ISOLATION, control: AcsFlags::ISOLATION });

fn at(bus: u8, device: u8, function: u8) -> PciAddress {
    PciAddress::new(0, bus, device, function)
}

fn function(address: PciAddress, kind: Kind) -> Function {
    Function {
        address,
        vendor: 0x1234,
        device: 0x5678,
        class: 0,
        kind,
        multifunction: address.source.function() != 0,
        bridge: None,
        acs: None,
        chipset_isolation: false,
        subordinate_to: None,
    }
}

fn endpoint(address: PciAddress) -> Function {
    function(address, Kind::Express(PortType::Endpoint))
}

fn conventional(address: PciAddress) -> Function {
    function(address, Kind::Conventional)
}

fn bridge(address: PciAddress, kind: Kind, secondary: u8, subordinate: u8) -> Function {
    Function { bridge: Some(Buses { secondary, subordinate }), ..function(address, kind) }
}

fn port(address: PciAddress, port: PortType, acs: Option<Acs>, secondary: u8, subordinate: u8) -> Function {
    Function { acs, ..bridge(address, Kind::Express(port), secondary, subordinate) }
}

/// The groups as lists of addresses.
fn partition(functions: &[Function]) -> Vec<Vec<PciAddress>> {
    Groups::build(functions).iter().map(|group| group.members.iter().map(Member::address).collect()).collect()
}

fn reason(functions: &[Function], address: PciAddress) -> Reason {
    Groups::build(functions).member(address).unwrap().reason.clone()
}

#[test]
fn functions_of_the_root_bus_stand_alone() {
    let functions = [conventional(at(0, 2, 0)), conventional(at(0, 1, 0)), endpoint(at(0, 3, 0))];
    assert_eq!(partition(&functions), [[at(0, 1, 0)], [at(0, 2, 0)], [at(0, 3, 0)]]);
    let groups = Groups::build(&functions);
    assert_eq!(groups.member(at(0, 2, 0)).unwrap().requester_ids, [at(0, 2, 0).source]);
    assert_eq!(groups.of(at(0, 9, 0)).map(|group| group.id), None);
}

#[test]
fn a_root_port_with_acs_separates() {
    let functions = [
        port(at(0, 4, 0), PortType::RootPort, ISOLATING, 1, 1),
        endpoint(at(1, 0, 0)),
        port(at(0, 5, 0), PortType::RootPort, ISOLATING, 2, 2),
        endpoint(at(2, 0, 0)),
    ];
    assert_eq!(partition(&functions), [[at(0, 4, 0)], [at(0, 5, 0)], [at(1, 0, 0)], [at(2, 0, 0)]]);
}

#[test]
fn a_root_port_without_acs_takes_what_is_below() {
    // QEMU's ioh3420 with disable-acs=on.
    let functions = [port(at(0, 4, 0), PortType::RootPort, None, 1, 1), endpoint(at(1, 0, 0))];
    assert_eq!(partition(&functions), [[at(0, 4, 0), at(1, 0, 0)]]);
    let reason = reason(&functions, at(1, 0, 0));
    assert_eq!(reason, Reason::NotIsolated { bridge: at(0, 4, 0), at: at(0, 4, 0), leak: Leak::NoAcs });
    assert_eq!(reason.to_string(), "is below 0000:00:04.0, which has no access control (ACS)");
}

#[test]
fn what_a_port_cannot_do_counts_as_done_and_what_is_off_is_named() {
    let mut root = port(at(0, 4, 0), PortType::RootPort, None, 1, 1);
    root.acs = Some(Acs { capability: AcsFlags::SOURCE_VALIDATION, control: AcsFlags::SOURCE_VALIDATION });
    let mut functions = [root, endpoint(at(1, 0, 0))];
    assert_eq!(partition(&functions).len(), 2);

    functions[0].acs = Some(Acs { capability: AcsFlags::ISOLATION, control: AcsFlags::SOURCE_VALIDATION });
    assert_eq!(partition(&functions).len(), 1);
    assert_eq!(
        reason(&functions, at(1, 0, 0)).to_string(),
        "is below 0000:00:04.0, which has these access controls (ACS) switched off: request redirect (RR) \
         completion redirect (CR) upstream forwarding (UF)"
    );
}

#[test]
fn one_leak_high_up_joins_everything_below() {
    // A switch with ACS in its downstream ports, below a root port without.
    let functions = [
        port(at(0, 4, 0), PortType::RootPort, None, 1, 4),
        port(at(1, 0, 0), PortType::UpstreamPort, None, 2, 4),
        port(at(2, 0, 0), PortType::DownstreamPort, ISOLATING, 3, 3),
        port(at(2, 1, 0), PortType::DownstreamPort, ISOLATING, 4, 4),
        endpoint(at(3, 0, 0)),
        endpoint(at(4, 0, 0)),
    ];
    assert_eq!(partition(&functions).len(), 1);
    assert!(
        matches!(reason(&functions, at(4, 0, 0)), Reason::NotIsolated { at: leaking, .. } if leaking == at(0, 4, 0))
    );

    let mut isolating = functions.to_vec();
    isolating[0].acs = ISOLATING;
    assert_eq!(partition(&isolating).len(), 6, "with ACS in the root port each is alone");
    isolating[3].acs = None;
    let groups = Groups::build(&isolating);
    assert_eq!(groups.of(at(4, 0, 0)).unwrap().id, groups.of(at(2, 1, 0)).unwrap().id);
    assert_ne!(groups.of(at(4, 0, 0)).unwrap().id, groups.of(at(3, 0, 0)).unwrap().id);
}

#[test]
fn a_bridge_to_pci_signs_for_all_below() {
    // QEMU's pcie-pci-bridge with two functions below, one of them behind a second bridge.
    let functions = [
        bridge(at(0, 0x11, 0), Kind::Express(PortType::ExpressToPciBridge), 9, 10),
        conventional(at(9, 1, 0)),
        bridge(at(9, 2, 0), Kind::Conventional, 10, 10),
        conventional(at(10, 3, 0)),
        conventional(at(0, 0x12, 0)),
    ];
    let groups = Groups::build(&functions);
    assert_eq!(groups.len(), 2);
    let deep = groups.member(at(10, 3, 0)).unwrap();
    assert_eq!(deep.requester_ids, [at(10, 3, 0).source, at(9, 2, 0).source, at(9, 0, 0).source]);
    assert_eq!(deep.reason, Reason::Alias { bridge: at(9, 2, 0) });
    assert_eq!(groups.member(at(9, 1, 0)).unwrap().requester_ids, [at(9, 1, 0).source, at(9, 0, 0).source]);
}

#[test]
fn a_bridge_that_hides_its_kind_signs_like_a_bridge_to_pci() {
    let functions = [
        port(at(0, 4, 0), PortType::RootPort, ISOLATING, 1, 2),
        bridge(at(1, 0, 0), Kind::Conventional, 2, 2),
        conventional(at(2, 1, 0)),
    ];
    let groups = Groups::build(&functions);
    assert_eq!(groups.member(at(2, 1, 0)).unwrap().requester_ids, [at(2, 1, 0).source, at(2, 0, 0).source]);
    // On the root bus it signs with its own id.
    let functions = [bridge(at(0, 0x1e, 0), Kind::Conventional, 1, 1), conventional(at(1, 1, 0))];
    let groups = Groups::build(&functions);
    assert_eq!(groups.member(at(1, 1, 0)).unwrap().requester_ids, [at(1, 1, 0).source, at(0, 0x1e, 0).source]);
}

#[test]
fn functions_of_one_device_stay_together_without_acs() {
    let first = Function { multifunction: true, ..endpoint(at(1, 0, 0)) };
    let functions = [
        port(at(0, 4, 0), PortType::RootPort, ISOLATING, 1, 1),
        first,
        endpoint(at(1, 0, 1)),
        Function { acs: ISOLATING, ..endpoint(at(1, 0, 2)) },
    ];
    assert_eq!(partition(&functions), vec![vec![at(0, 4, 0)], vec![at(1, 0, 0), at(1, 0, 1)], vec![at(1, 0, 2)]]);
    assert_eq!(reason(&functions, at(1, 0, 1)), Reason::Multifunction { sibling: at(1, 0, 0), leak: Leak::NoAcs });
}

#[test]
fn conventional_functions_of_one_device_stay_together() {
    let first = Function { multifunction: true, ..conventional(at(0, 0x1f, 0)) };
    let functions = [first, conventional(at(0, 0x1f, 2)), conventional(at(0, 0x1f, 3))];
    assert_eq!(partition(&functions).len(), 1);
}

#[test]
fn a_faulty_function_joins_the_neighbour_that_it_signs_as() {
    let marvell = Function { vendor: 0x1b4b, device: 0x9230, ..endpoint(at(1, 0, 0)) };
    let functions = [
        port(at(0, 4, 0), PortType::RootPort, ISOLATING, 1, 1),
        marvell,
        Function { acs: ISOLATING, ..endpoint(at(1, 0, 1)) },
    ];
    let groups = Groups::build(&functions);
    assert_eq!(groups.of(at(1, 0, 0)).unwrap().members.len(), 2);
    assert_eq!(groups.member(at(1, 0, 0)).unwrap().requester_ids, [at(1, 0, 0).source, at(1, 0, 1).source]);
    // The neighbour need not exist for the id to be used.
    let alone = Groups::build(&functions[..2]);
    assert_eq!(alone.member(at(1, 0, 0)).unwrap().requester_ids.len(), 2);
}

#[test]
fn a_chipset_port_isolates_once_its_switch_is_off() {
    let mut root = port(at(0, 0x1c, 0), PortType::RootPort, None, 1, 1);
    (root.vendor, root.device) = (0x8086, 0x1c10);
    let mut functions = [root, endpoint(at(1, 0, 0))];
    assert_eq!(partition(&functions).len(), 1);
    assert!(reason(&functions, at(1, 0, 0)).to_string().contains("switch is on"));
    functions[0].chipset_isolation = true;
    assert_eq!(partition(&functions).len(), 2);
    // The flag alone does nothing for a port that the table does not know.
    functions[0].device = 0x9999;
    assert_eq!(partition(&functions).len(), 1);
}

#[test]
fn functions_below_a_volume_management_device_belong_to_it() {
    let managing =
        Function { vendor: 0x8086, ..function(at(0, 0xe, 0), Kind::Express(PortType::RootComplexIntegratedEndpoint)) };
    let mut below = endpoint(PciAddress::new(1, 0xe1, 0, 0));
    below.subordinate_to = Some(managing.address);
    let groups = Groups::build(&[managing, below]);
    assert_eq!(groups.len(), 1);
    let member = groups.member(PciAddress::new(1, 0xe1, 0, 0)).unwrap();
    assert_eq!(member.requester_ids, [at(0, 0xe, 0).source]);
}

#[test]
fn bus_numbers_that_lead_in_circles_end() {
    let functions = [
        port(at(1, 0, 0), PortType::RootPort, None, 1, 1),
        port(at(2, 0, 0), PortType::RootPort, None, 1, 3),
        port(at(1, 1, 0), PortType::RootPort, None, 2, 1),
        endpoint(at(2, 1, 0)),
        endpoint(at(2, 1, 0)),
    ];
    let groups = Groups::build(&functions);
    assert_eq!(groups.iter().map(|group| group.members.len()).sum::<usize>(), 4);
}

#[test]
fn the_order_of_the_functions_does_not_matter() {
    let mut functions = vec![
        port(at(0, 4, 0), PortType::RootPort, None, 1, 4),
        port(at(1, 0, 0), PortType::UpstreamPort, None, 2, 4),
        port(at(2, 0, 0), PortType::DownstreamPort, ISOLATING, 3, 3),
        endpoint(at(3, 0, 0)),
        Function { multifunction: true, ..conventional(at(0, 0x1f, 0)) },
        conventional(at(0, 0x1f, 2)),
    ];
    let expected = partition(&functions);
    for _ in 0..functions.len() {
        functions.rotate_left(1);
        assert_eq!(partition(&functions), expected);
    }
}
