//! Recorded probes of configuration space: each register read, written all ones, written zero and written back.

use std::format;
use std::string::String;
use std::vec::Vec;

use serde_json::Value;

use super::machine::{Recording, number};
use crate::config::capability::{Capabilities, ExtendedCapabilities, extended_id, id};
use crate::config::{VirtualConfiguration, register};
use crate::door::Width;
use crate::fake::FakeFunction;
use crate::region::Bars;

/// How the probes of one scenario went.
#[derive(Default)]
pub(super) struct Probes {
    pub(super) compared: usize,
    /// Registers that this crate treats differently on purpose.
    pub(super) explained: usize,
    pub(super) divergences: Vec<String>,
}

pub(super) fn run(recording: &Recording, scenario: &Value) -> Probes {
    let mut probes = Probes::default();
    let steps = scenario["steps"].as_array().unwrap();
    let Some(open) = steps.iter().find(|step| step["op"] == "group.get_device_fd") else { return probes };
    let device = &recording.devices[open["device"].as_str().unwrap()];
    let function = recording.space(device.address);
    if function.peek(0, 2) == 0xffff {
        // A virtual function's registers are made up from its physical function's, which is not here.
        return probes;
    }
    let pin = function.peek(register::INTERRUPT_PIN, 1) as u8;
    let mut space = VirtualConfiguration::new(&function, Bars::probe(&function), pin);
    for step in steps.iter().filter(|step| step["op"] == "config.probe" && step.get("varies").is_none()) {
        let offset = number(step["off"].as_str().unwrap()) as u16;
        let bytes = step["w"].as_u64().unwrap();
        let width = Width::from_bytes(bytes).unwrap();
        if step.get("err").is_some() {
            continue;
        }
        if is_explained(&function, offset, bytes as u16) {
            probes.explained += 1;
            continue;
        }
        let list = |key: &str| -> Vec<u32> {
            let values = step[key].as_array().unwrap().iter();
            values.map(|value| u32::from_str_radix(value.as_str().unwrap(), 16).unwrap()).collect()
        };
        let (theirs, hardware) = (list("v"), list("hw"));
        // The function obeys where the recorded one did, and has the value that it had by then.
        function.put(offset, bytes as u16, hardware[0], hardware[1] ^ hardware[2]);
        let mut ours = Vec::new();
        let mut reached = Vec::new();
        for value in [None, Some(u32::MAX), Some(0), Some(theirs[0])] {
            if let Some(value) = value {
                space.write(&function, offset, width, value);
            }
            ours.push(space.read(&function, offset, width));
            reached.push(function.peek(offset, bytes as u16));
        }
        probes.compared += 1;
        if ours != theirs || reached != hardware {
            probes.divergences.push(format!(
                "{} {offset:#x}/{bytes}: guest {ours:x?} instead of {theirs:x?}, function {reached:x?} instead of {hardware:x?}",
                open["device"]
            ));
        }
    }
    probes
}

/// Whether the register is among those that this crate treats otherwise than VFIO; `docs/passthrough.md` says why.
fn is_explained(function: &FakeFunction, offset: u16, width: u16) -> bool {
    let touches = |first: u16, length: u16| offset < first + length && first < offset + width;
    // Command register, BARs and ROM.
    if touches(register::COMMAND, 2) || touches(0x10, 24) || touches(register::ROM, 4) {
        return true;
    }
    // The multifunction bit; interrupt line and pin start as a guest finds them.
    if touches(register::HEADER_TYPE, 1) || touches(register::INTERRUPT_LINE, 2) {
        return true;
    }
    let standard = Capabilities::new(function).any(|found| match found.id {
        id::MSI => touches(found.offset + 2, 22),
        id::MSI_X => touches(found.offset + 2, 2),
        // The device moves the function between power states, not its configuration space.
        id::POWER_MANAGEMENT => touches(found.offset + register::power::CONTROL, 1),
        // Read requests do not go below the size of payloads, which a recorded byte does not show.
        id::PCI_EXPRESS => touches(found.offset + register::express::DEVICE_CONTROL, 4),
        _ => false,
    });
    let extended =
        ExtendedCapabilities::new(function).any(|found| found.id == extended_id::PASID && touches(found.offset, 8));
    standard || extended
}
