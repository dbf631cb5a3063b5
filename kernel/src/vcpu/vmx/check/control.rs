//! Control fields (SDM volume 3 section 27.2.1).

use super::super::controls as bit;
use super::super::field::{Field16, Field32, Field64};
use super::{Fields, Report, Surroundings};

pub(super) fn check(fields: &impl Fields, surroundings: &Surroundings<'_>, report: &mut Report<'_>) {
    let capabilities = surroundings.capabilities;
    let pin = fields.get(Field32::PinControls);
    let primary = fields.get(Field32::PrimaryControls);
    let has_secondary = primary & bit::ACTIVATE_SECONDARY != 0;
    let secondary = if has_secondary { fields.get(Field32::SecondaryControls) } else { 0 };
    let (exit, entry) = (fields.get(Field32::ExitControls), fields.get(Field32::EntryControls));
    for (allowed, word, field, rule) in [
        (capabilities.pin, pin, "pin-based controls", "bits as IA32_VMX_(TRUE_)PINBASED_CTLS allows"),
        (capabilities.primary, primary, "primary controls", "bits as IA32_VMX_(TRUE_)PROCBASED_CTLS allows"),
        (capabilities.secondary, secondary, "secondary controls", "bits as IA32_VMX_PROCBASED_CTLS2 allows"),
        (capabilities.exit, exit, "exit controls", "bits as IA32_VMX_(TRUE_)EXIT_CTLS allows"),
        (capabilities.entry, entry, "entry controls", "bits as IA32_VMX_(TRUE_)ENTRY_CTLS allows"),
    ] {
        report.rule(allowed.takes(word), field, word, rule);
    }
    let targets = fields.get(Field32::Cr3TargetCount);
    report.rule(targets <= capabilities.cr3_targets().min(4), "CR3-target count", targets, "at most 4");
    addresses(fields, surroundings, (pin, primary, secondary), report);
    let off = |word: u32, control: u32| word & control == 0;
    report.rule(
        !off(pin, bit::NMI) || off(pin, bit::VIRTUAL_NMI),
        "pin-based controls",
        pin,
        "virtual NMIs need NMI exiting",
    );
    report.rule(
        !off(pin, bit::VIRTUAL_NMI) || off(primary, bit::NMI_WINDOW),
        "primary controls",
        primary,
        "NMI-window exiting needs virtual NMIs",
    );
    apic(fields, (pin, primary, secondary, exit), report);
    if secondary & bit::EPT != 0 {
        table(fields, surroundings, report);
    }
    report.rule(
        secondary & bit::UNRESTRICTED == 0 || secondary & bit::EPT != 0,
        "secondary controls",
        secondary,
        "unrestricted guest needs EPT",
    );
    if secondary & bit::VPID != 0 {
        let vpid = fields.get(Field16::Vpid);
        report.rule(vpid != 0, "VPID", vpid, "not 0, which is the host's");
    }
    report.rule(
        exit & bit::SAVE_PREEMPTION_TIMER == 0 || pin & bit::PREEMPTION_TIMER != 0,
        "exit controls",
        exit,
        "saving the preemption timer needs the timer",
    );
    injection(fields, surroundings, report);
}

/// Pages that are named.
fn addresses(
    fields: &impl Fields,
    surroundings: &Surroundings<'_>,
    (pin, primary, secondary): (u32, u32, u32),
    report: &mut Report<'_>,
) {
    let named = [
        (primary & bit::PORT_BITMAPS != 0, Field64::PortBitmapA, "address of I/O bitmap A", 0xfff),
        (primary & bit::PORT_BITMAPS != 0, Field64::PortBitmapB, "address of I/O bitmap B", 0xfff),
        (primary & bit::MSR_BITMAPS != 0, Field64::MsrBitmap, "address of the MSR bitmap", 0xfff),
        (primary & bit::TPR_SHADOW != 0, Field64::VirtualApicPage, "virtual-APIC address", 0xfff),
        (secondary & bit::APIC_ACCESSES != 0, Field64::ApicAccessPage, "APIC-access address", 0xfff),
        (
            pin & bit::POSTED_INTERRUPTS != 0,
            Field64::PostedInterruptDescriptor,
            "posted-interrupt descriptor address",
            0x3f,
        ),
    ];
    for (used, field, name, mask) in named {
        if used {
            let value = fields.get(field);
            report.rule(value & mask == 0, name, value, "aligned to its structure's size");
            report.rule(value >> surroundings.physical_bits == 0, name, value, "inside the physical width");
        }
    }
}

/// The local APIC's virtualization.
fn apic(fields: &impl Fields, (pin, primary, secondary, exit): (u32, u32, u32, u32), report: &mut Report<'_>) {
    let name = "secondary controls";
    let delivers = secondary & bit::INTERRUPT_DELIVERY != 0;
    if primary & bit::TPR_SHADOW == 0 {
        let needing = bit::X2APIC_MODE | bit::APIC_REGISTERS | bit::INTERRUPT_DELIVERY;
        report.rule(secondary & needing == 0, name, secondary, "APIC virtualization needs the TPR shadow");
    } else if !delivers {
        let threshold = fields.get(Field32::TaskPriorityThreshold);
        report.rule(threshold >> 4 == 0, "TPR threshold", threshold, "bits 31:4 are 0");
    }
    let both = bit::X2APIC_MODE | bit::APIC_ACCESSES;
    report.rule(secondary & both != both, name, secondary, "x2APIC mode and APIC accesses exclude each other");
    report.rule(
        !delivers || pin & bit::EXTERNAL_INTERRUPT != 0,
        name,
        secondary,
        "virtual-interrupt delivery needs external-interrupt exiting",
    );
    if pin & bit::POSTED_INTERRUPTS != 0 {
        report.rule(delivers, "pin-based controls", pin, "posted interrupts need virtual-interrupt delivery");
        report.rule(
            exit & bit::ACKNOWLEDGE != 0,
            "exit controls",
            exit,
            "posted interrupts need acknowledge interrupt on exit",
        );
        let vector = fields.get(Field16::NotificationVector);
        report.rule(vector >> 8 == 0, "posted-interrupt notification vector", vector, "bits 15:8 are 0");
    }
}

/// The extended-page-table pointer.
fn table(fields: &impl Fields, surroundings: &Surroundings<'_>, report: &mut Report<'_>) {
    let (capabilities, name) = (surroundings.capabilities, "EPT pointer");
    let pointer = fields.get(Field64::EptPointer);
    let type_is_right = match pointer & 7 {
        0 => capabilities.ept_is_uncacheable(),
        6 => capabilities.ept_is_write_back(),
        _ => false,
    };
    report.rule(type_is_right, name, pointer, "bits 2:0 are a memory type that the processor has");
    let levels_are_right = match pointer >> 3 & 7 {
        3 => capabilities.ept_has_4_levels(),
        4 => capabilities.ept_has_5_levels(),
        _ => false,
    };
    report.rule(levels_are_right, name, pointer, "bits 5:3 are a number of levels that the processor has, less 1");
    report.rule(
        pointer & 1 << 6 == 0 || capabilities.ept_has_accessed_dirty(),
        name,
        pointer,
        "bit 6 only with accessed and dirty flags",
    );
    report.rule(pointer & 0xf80 == 0, name, pointer, "bits 11:7 are 0");
    report.rule(pointer >> surroundings.physical_bits == 0, name, pointer, "inside the physical width");
}

/// The event to be injected.
fn injection(fields: &impl Fields, surroundings: &Surroundings<'_>, report: &mut Report<'_>) {
    const VALID: u32 = 1 << 31;
    const HAS_ERROR: u32 = 1 << 11;
    let (name, information) = ("entry interruption information", fields.get(Field32::EntryInterruption));
    if information & VALID == 0 {
        return;
    }
    let (vector, kind) = (information & 0xff, information >> 8 & 7);
    report.rule(kind != 1, name, information, "bits 10:8 are not 1, which is reserved");
    report.rule(information & 0x7fff_f000 == 0, name, information, "bits 30:12 are 0");
    report.rule(kind != 2 || vector == 2, name, information, "the vector of an NMI is 2");
    report.rule(kind != 3 || vector <= 31, name, information, "the vector of an exception is at most 31");
    report.rule(kind != 7 || vector == 0, name, information, "the vector of another event is 0");
    if information & HAS_ERROR == 0 {
        let must = kind == 3 && matches!(vector, 8 | 10..=14 | 17) && is_protected(fields);
        report.rule(
            !must || surroundings.capabilities.injects_any_error_code(),
            name,
            information,
            "bit 11 is set for an exception that has an error code",
        );
    } else {
        report.rule(kind == 3, name, information, "bit 11 is set for hardware exceptions only");
        report.rule(is_protected(fields), name, information, "bit 11 is clear in real mode");
        report.rule(
            surroundings.capabilities.injects_any_error_code() || matches!(vector, 8 | 10..=14 | 17),
            name,
            information,
            "bit 11 is clear for an exception that has no error code",
        );
        let code = fields.get(Field32::EntryErrorCode);
        report.rule(code >> 16 == 0, "entry exception error code", code, "bits 31:16 are 0");
    }
    if matches!(kind, 4..=6) {
        let length = fields.get(Field32::EntryInstructionLength);
        report.rule(matches!(length, 1..=15), "entry instruction length", length, "1 to 15 for a software event");
    }
}

fn is_protected(fields: &impl Fields) -> bool {
    use super::super::field::FieldNatural;
    fields.get(FieldNatural::GuestCr0) & 1 != 0
}
