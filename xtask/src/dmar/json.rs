//! The table as JSON. Addresses and sizes are plain numbers; the fields are those of the specification.

use iommu::Dmar;
use iommu::dmar::{DmarError, Flags, Scope, Structure};
use serde_json::{Map, Value, json};

use super::Answer;

/// One object, indented, with a line end.
pub(super) fn text(dmar: &Dmar, refused: Option<DmarError>) -> String {
    format!("{:#}\n", value(dmar, refused))
}

pub(super) fn value(dmar: &Dmar, refused: Option<DmarError>) -> Value {
    let text = |bytes: &[u8]| bytes.trim_ascii_end().escape_ascii().to_string();
    let warnings = dmar.warnings.iter().map(|warning| {
        json!({
            "offset": warning.offset,
            "structure": warning.structure,
            "problem": warning.problem.to_string(),
        })
    });
    json!({
        "answer": Answer::of(dmar, refused).name(),
        "error": refused.map(|error| error.to_string()),
        "revision": dmar.revision,
        "oem_id": text(&dmar.oem),
        "oem_table_id": text(&dmar.oem_table),
        "host_address_width": dmar.host_address_width,
        "flags": {
            "interrupt_remapping": dmar.flags.contains(Flags::INTERRUPT_REMAPPING),
            "x2apic_opt_out": dmar.flags.contains(Flags::X2APIC_OPT_OUT),
            "dma_control_opt_in": dmar.flags.contains(Flags::DMA_CONTROL_OPT_IN),
        },
        "structures": dmar.structures().map(|(offset, structure)| described(offset, structure)).collect::<Vec<_>>(),
        "warnings": warnings.collect::<Vec<_>>(),
    })
}

fn described(offset: usize, structure: Structure<'_>) -> Value {
    let mut object = Map::new();
    object.insert("type".into(), structure.name().into());
    object.insert("offset".into(), offset.into());
    let fields = match structure {
        Structure::Unit(unit) => json!({
            "segment": unit.segment,
            "base": unit.base.as_u64(),
            "size": unit.size,
            "include_pci_all": unit.includes_all,
        }),
        Structure::ReservedMemory(region) => json!({
            "segment": region.segment,
            "base": region.first.as_u64(),
            "end": region.last.as_u64(),
            "usable": region.defect.is_none(),
        }),
        Structure::RootPorts(ports) => json!({ "segment": ports.segment, "all_ports": ports.all }),
        Structure::Affinity(affinity) => {
            json!({ "base": affinity.base.as_u64(), "proximity_domain": affinity.proximity_domain })
        }
        Structure::AcpiDevice(device) => json!({ "device_number": device.number, "object_name": device.name }),
        Structure::AddressTranslationCaches(caches) => {
            json!({ "segment": caches.segment, "atc_required": caches.required })
        }
        Structure::SpecialDevices(devices) => json!({ "segment": devices.segment }),
    };
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    if !matches!(structure, Structure::Affinity(_) | Structure::AcpiDevice(_)) {
        object.insert("scopes".into(), structure.scopes().iter().map(scope).collect());
    }
    Value::Object(object)
}

fn scope(scope: &Scope) -> Value {
    let path: Vec<_> = scope.path.iter().map(|hop| json!([hop.device, hop.function])).collect();
    json!({
        "type": scope.kind.name(),
        "flags": scope.flags,
        "enumeration_id": scope.enumeration_id,
        "start_bus": scope.start_bus,
        "path": path,
    })
}
