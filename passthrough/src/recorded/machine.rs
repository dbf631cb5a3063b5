//! The recorded machine: its functions with the bytes that their configuration spaces had.

use std::collections::BTreeMap;
use std::path::Path;
use std::string::{String, ToString};
use std::vec::Vec;

use iommu::address::PciAddress;
use serde_json::Value;

use super::unpack;
use crate::fake::{FakeFunction, Trace};
use crate::topology::{Function, Groups, Kind, PortType};

/// What does not change between scenarios.
pub(super) struct Recording {
    pub(super) functions: Vec<Function>,
    spaces: BTreeMap<PciAddress, Vec<u8>>,
    /// By the names of the recordings: address, sizes of BARs and ROM, whether it can be reset.
    pub(super) devices: BTreeMap<String, RecordedDevice>,
}

pub(super) struct RecordedDevice {
    pub(super) address: PciAddress,
    sizes: Vec<u64>,
    pub(super) reset_methods: String,
}

pub(super) fn address(text: &str) -> PciAddress {
    let parts: Vec<u16> = text.split([':', '.']).map(|part| u16::from_str_radix(part, 16).unwrap()).collect();
    let [segment, bus, device, function] = parts[..] else { panic!("{text}") };
    PciAddress::new(segment, bus as u8, device as u8, function as u8)
}

pub(super) fn number(text: &str) -> u64 {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
        None => text.parse().unwrap(),
    }
}

impl Recording {
    pub(super) fn read(path: &Path) -> Self {
        let topology: Value = serde_json::from_str(&unpack(&path.join("topology-shared-A.json.gz"))).unwrap();
        let mut functions = Vec::new();
        let mut spaces = BTreeMap::new();
        for entry in topology["devices"].as_array().unwrap() {
            let hex = entry["config"].as_str().unwrap();
            let bytes: Vec<u8> =
                (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
            let address = address(entry["bdf"].as_str().unwrap());
            let space = FakeFunction::recorded(&bytes, &[], &Trace::default());
            // Virtual functions have no ids of their own.
            functions.push(Function::read(address, &space).unwrap_or(Function {
                address,
                vendor: 0x8086,
                device: 0x10ca,
                class: 0x2_0000,
                kind: Kind::Express(PortType::Endpoint),
                multifunction: false,
                bridge: None,
                acs: None,
                chipset_isolation: false,
                subordinate_to: None,
            }));
            spaces.insert(address, bytes);
        }
        let machine: Value = serde_json::from_slice(&std::fs::read(path.join("machine.json")).unwrap()).unwrap();
        let devices = machine["machine_A"].as_object().unwrap().iter().map(|(name, entry)| {
            let sizes = entry["resources"].as_array().unwrap().iter().take(7);
            let sizes = sizes.map(|range| {
                let [first, last] = [0, 1].map(|end| number(range[end].as_str().unwrap()));
                if last == 0 { 0 } else { last - first + 1 }
            });
            let device = RecordedDevice {
                address: address(entry["bdf"].as_str().unwrap()),
                sizes: sizes.collect(),
                reset_methods: entry["reset_method"].as_str().unwrap().to_string(),
            };
            (name.clone(), device)
        });
        let devices = devices.collect();
        Self { functions, spaces, devices }
    }

    pub(super) fn groups(&self) -> Groups {
        Groups::build(&self.functions)
    }

    pub(super) fn device_at(&self, address: PciAddress) -> &RecordedDevice {
        self.devices.values().find(|device| device.address == address).unwrap()
    }

    pub(super) fn space(&self, address: PciAddress) -> FakeFunction {
        FakeFunction::recorded(&self.spaces[&address], &self.device_at(address).sizes, &Trace::default())
    }
}
