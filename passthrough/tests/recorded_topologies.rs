//! Groups of recorded machines, compared with the groups that Linux made there.
//!
//! The recordings lie beside the repository (`../shared/corpus`); without them the tests say so and pass.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use iommu::address::PciAddress;
use passthrough::door::ConfigurationSpace;
use passthrough::topology::{Acs, AcsFlags, Buses, Function, Groups, Kind, PortType};
use serde_json::Value;

/// Functions whose group differs from Linux's, each with the reason. Machine, function, reason.
const DIVERGENCES: &[(&str, &str, &str)] = &[
    ("cml_s_titan_ridge_sub", "0000:00:1f.5", MANGLED_LISTING),
    ("cml_s_titan_ridge_sub", "0000:00:1f.0", MANGLED_LISTING),
    ("cml_s_titan_ridge_sub", "0000:00:1f.3", MANGLED_LISTING),
    ("cml_s_titan_ridge_sub", "0000:00:1f.4", MANGLED_LISTING),
];

const MANGLED_LISTING: &str = "the listing gives the SPI controller 00:1f.5 the capabilities of the device after it \
     (an endpoint with an ACS capability); the real one is conventional PCI and joins its siblings";

fn corpus(folder: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus").join(folder);
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: no recordings at {}", path.display());
    None
}

/// `segment:bus:device.function`. Segments above 16 bits, which Linux makes up for Intel VMD, become 0xfff0.
fn address(text: &str) -> PciAddress {
    let mut parts = text.split([':', '.']).map(|part| u32::from_str_radix(part, 16).unwrap());
    let mut next = || parts.next().unwrap();
    let segment = u16::try_from(next()).unwrap_or(0xfff0);
    let (bus, device, function) = (next(), next(), next());
    PciAddress::new(segment, bus as u8, device as u8, function as u8)
}

fn flags(value: &Value) -> AcsFlags {
    const NAMES: [(&str, AcsFlags); 7] = [
        ("SrcValid", AcsFlags::SOURCE_VALIDATION),
        ("TransBlk", AcsFlags::TRANSLATION_BLOCKING),
        ("ReqRedir", AcsFlags::REQUEST_REDIRECT),
        ("CmpltRedir", AcsFlags::COMPLETION_REDIRECT),
        ("UpstreamFwd", AcsFlags::UPSTREAM_FORWARDING),
        ("EgressCtrl", AcsFlags::EGRESS_CONTROL),
        ("DirectTrans", AcsFlags::DIRECT_TRANSLATED),
    ];
    NAMES.iter().filter(|(name, _)| value[name].as_bool() == Some(true)).map(|(_, flag)| *flag).collect()
}

/// From an `lspci` listing. Listings without numbers name the vendor.
fn listed(entry: &Value) -> Function {
    let number = |key: &str| entry[key].as_str().map(|text| u16::from_str_radix(text, 16).unwrap());
    let description = entry["desc"].as_str().unwrap();
    let vendor = number("vendor").unwrap_or(match description {
        text if text.starts_with("Intel") => 0x8086,
        text if text.starts_with("Advanced Micro Devices") => 0x1022,
        _ => 0,
    });
    let kind = match entry["type"].as_str() {
        None => Kind::Conventional,
        Some(name) => Kind::Express(match name {
            "Endpoint" => PortType::Endpoint,
            "Legacy Endpoint" => PortType::LegacyEndpoint,
            "Root Port" => PortType::RootPort,
            "Upstream Port" => PortType::UpstreamPort,
            "Downstream Port" => PortType::DownstreamPort,
            "Root Complex Integrated Endpoint" => PortType::RootComplexIntegratedEndpoint,
            other => panic!("port type {other}"),
        }),
    };
    let bus = |key: &str| entry[key].as_u64().map(|bus| bus as u8);
    let is_bridge = entry["class"].as_str() == Some("PCI bridge");
    let buses = bus("secondary").zip(bus("subordinate")).filter(|_| is_bridge);
    let acs = entry["acs"].as_object().map(|acs| match acs["cap"] {
        // The listing shows that there is one and no more: take it as Linux programs it.
        Value::Null => Acs { capability: AcsFlags::ISOLATION, control: AcsFlags::ISOLATION },
        _ => Acs { capability: flags(&acs["cap"]), control: flags(&acs["ctl"]) },
    });
    let address = address(entry["bdf"].as_str().unwrap());
    Function {
        address,
        vendor,
        device: number("device").unwrap_or(0),
        class: 0,
        kind,
        multifunction: entry["multifunction_seen"].as_bool().unwrap() || address.source.function() != 0,
        bridge: buses.map(|(secondary, subordinate)| Buses { secondary, subordinate }),
        acs,
        chipset_isolation: true,
        subordinate_to: None,
    }
}

/// Compares the partition with Linux's: for each function, the set of its companions.
fn compare(name: &str, functions: &[Function], linux: &BTreeMap<PciAddress, u64>) -> Vec<String> {
    let groups = Groups::build(functions);
    let companions = |of: &dyn Fn(PciAddress) -> u64, address: PciAddress| -> BTreeSet<PciAddress> {
        linux.keys().copied().filter(|&other| of(other) == of(address)).collect()
    };
    let mut divergences = Vec::new();
    for &address in linux.keys() {
        let theirs = companions(&|other| linux[&other], address);
        let ours = companions(&|other| u64::from(groups.of(other).unwrap().id.0), address);
        let explained =
            DIVERGENCES.iter().any(|&(machine, function, _)| machine == name && address.to_string() == function);
        if theirs != ours && !explained {
            let reason = &groups.member(address).unwrap().reason;
            divergences.push(format!("{name}: {address} ({reason}): ours {ours:?}, Linux's {theirs:?}"));
        }
        if theirs == ours && explained {
            divergences.push(format!("{name}: {address} is listed as a divergence and is none"));
        }
    }
    divergences
}

#[test]
fn listed_machines_have_linux_groups() {
    let Some(path) = corpus("topology") else { return };
    let mut divergences = Vec::new();
    let mut compared = 0;
    let mut paths: Vec<PathBuf> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "json")) {
        let machine: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let name = machine["name"].as_str().unwrap();
        if machine["caps_level"].as_str().unwrap().contains("ACS unknown") {
            println!("{name}: the listing shows no capabilities, nothing to group by");
            continue;
        }
        let devices = machine["devices"].as_array().unwrap();
        let mut functions: Vec<Function> = devices.iter().map(listed).collect();
        // Functions below an Intel VMD stand in a segment of their own and sign with the VMD's id.
        let managing = devices
            .iter()
            .find(|entry| entry["desc"].as_str().unwrap().contains("Volume Management Device"))
            .map(|entry| address(entry["bdf"].as_str().unwrap()));
        for function in functions.iter_mut().filter(|function| function.address.segment == 0xfff0) {
            function.subordinate_to = managing;
        }
        let linux = devices
            .iter()
            .filter_map(|entry| Some((address(entry["bdf"].as_str().unwrap()), entry["group"].as_u64()?)))
            .collect();
        divergences.extend(compare(name, &functions, &linux));
        compared += linux.len();
    }
    println!("{compared} functions compared");
    assert!(divergences.is_empty(), "{} of {compared}:\n{}", divergences.len(), divergences.join("\n"));
    assert!(compared > 100);
}

/// A recorded configuration space, read only.
struct Bytes(Vec<u8>);

impl Bytes {
    fn read<const N: usize>(&self, offset: u16) -> [u8; N] {
        core::array::from_fn(|index| self.0.get(usize::from(offset) + index).copied().unwrap_or(0xff))
    }
}

impl ConfigurationSpace for Bytes {
    fn size(&self) -> u16 {
        self.0.len() as u16
    }
    fn read_u8(&self, offset: u16) -> u8 {
        u8::from_le_bytes(self.read(offset))
    }
    fn read_u16(&self, offset: u16) -> u16 {
        u16::from_le_bytes(self.read(offset))
    }
    fn read_u32(&self, offset: u16) -> u32 {
        u32::from_le_bytes(self.read(offset))
    }
    fn write_u8(&self, _: u16, _: u8) {}
    fn write_u16(&self, _: u16, _: u16) {}
    fn write_u32(&self, _: u16, _: u32) {}
}

#[test]
fn emulated_machines_have_linux_groups() {
    let Some(path) = corpus("vfio") else { return };
    for name in ["A", "B"] {
        let file = std::fs::File::open(path.join(format!("topology-shared-{name}.json.gz"))).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        let machine: Value = serde_json::from_str(&text).unwrap();
        let mut functions = Vec::new();
        let mut linux = BTreeMap::new();
        for entry in machine["devices"].as_array().unwrap() {
            let hex = entry["config"].as_str().unwrap();
            let bytes: Vec<u8> =
                (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
            let address = address(entry["bdf"].as_str().unwrap());
            // A virtual function has no ids and does not answer to a scan: whoever switched it on knows that it is one.
            functions.push(Function::read(address, &Bytes(bytes)).unwrap_or(Function {
                address,
                vendor: 0x8086,
                device: 0x10ca,
                class: 0x20000,
                kind: Kind::Express(PortType::Endpoint),
                multifunction: false,
                bridge: None,
                acs: None,
                chipset_isolation: false,
                subordinate_to: None,
            }));
            if let Some(group) = entry["iommu_group"].as_u64() {
                linux.insert(address, group);
            }
        }
        let divergences = compare(name, &functions, &linux);
        assert!(divergences.is_empty(), "{}", divergences.join("\n"));
        assert!(linux.len() > 20, "{name}: {}", linux.len());
    }
}
