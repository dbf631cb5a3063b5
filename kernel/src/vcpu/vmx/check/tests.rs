//! One good VMCS, and for each rule a change that breaks it.

use std::collections::BTreeMap;

use super::super::capability::recorded::arrow_lake;
use super::super::controls::{self, Controls, Word};
use super::super::field::{Field, Field16, Field32, Field64, FieldNatural};
use super::{Broken, Fields, Surroundings, broken};

/// A VMCS's fields; those that were not set are 0.
#[derive(Clone, Default)]
struct Snapshot(BTreeMap<u32, u64>);

impl Fields for Snapshot {
    fn get<F: Field>(&self, field: F) -> F::Value {
        F::narrow(self.0.get(&field.encoding()).copied().unwrap_or(0))
    }
}

impl Snapshot {
    fn with<F: Field>(mut self, field: F, value: F::Value) -> Self {
        self.0.insert(field.encoding(), F::widen(value));
        self
    }

    fn broken(&self) -> Vec<Broken> {
        let capabilities = arrow_lake(&[]);
        let mut found = Vec::new();
        let surroundings = Surroundings { capabilities: &capabilities, physical_bits: 39 };
        broken(self, &surroundings, &mut |broken| found.push(broken));
        found
    }

    /// Exactly this rule is broken.
    fn breaks(&self, field: &str, rule: &str) {
        let found = self.broken();
        assert!(
            found.len() == 1 && found[0].field == field && found[0].rule.contains(rule),
            "wanted {field}: {rule}; found {found:#?}"
        );
    }
}

fn chosen() -> Controls {
    controls::choose(&arrow_lake(&[]), |_| ()).unwrap()
}

/// A guest in real mode that could be entered.
fn real_mode() -> Snapshot {
    let controls = chosen();
    let secondary = controls.word(Word::Secondary) | controls::APIC_REGISTERS | controls::INTERRUPT_DELIVERY;
    let mut snapshot = Snapshot::default()
        .with(Field32::PinControls, controls.word(Word::Pin))
        .with(Field32::PrimaryControls, controls.word(Word::Primary))
        .with(Field32::SecondaryControls, secondary | controls::APIC_ACCESSES)
        .with(Field32::ExitControls, controls.word(Word::Exit))
        .with(Field32::EntryControls, controls.word(Word::Entry))
        .with(Field16::Vpid, 1)
        .with(Field64::PortBitmapA, 0x1000)
        .with(Field64::PortBitmapB, 0x2000)
        .with(Field64::MsrBitmap, 0x3000)
        .with(Field64::VirtualApicPage, 0x4000)
        .with(Field64::ApicAccessPage, 0x5000)
        .with(Field64::PostedInterruptDescriptor, 0x6040)
        .with(Field64::EptPointer, 0x7000 | 0x5e)
        .with(Field64::LinkPointer, u64::MAX)
        .with(FieldNatural::HostCr0, 0x8001_0033)
        .with(FieldNatural::HostCr4, 0x4_2620)
        .with(FieldNatural::HostCr3, 0x8000)
        .with(Field64::HostEfer, 0xd00)
        .with(Field64::HostPat, 0x0007_0406_0007_0106)
        .with(Field16::HostCs, 0x08)
        .with(Field16::HostTr, 0x18)
        .with(FieldNatural::HostRip, 0xffff_8000_0000_1000)
        .with(FieldNatural::GuestCr0, 0x30)
        .with(FieldNatural::GuestCr4, 0x2000)
        .with(FieldNatural::GuestDr7, 0x400)
        .with(FieldNatural::GuestFlags, 2)
        .with(FieldNatural::GuestRip, 0xfff0)
        .with(Field64::GuestPat, 0x0007_0406_0007_0406)
        .with(Field16::GuestCs, 0xf000)
        .with(FieldNatural::GuestCsBase, 0xffff_0000)
        .with(Field32::GuestCsRights, 0x9b)
        .with(Field32::GuestTrRights, 0x8b)
        .with(Field32::GuestLdtrRights, 0x82);
    for rights in [
        Field32::GuestEsRights,
        Field32::GuestSsRights,
        Field32::GuestDsRights,
        Field32::GuestFsRights,
        Field32::GuestGsRights,
    ] {
        snapshot = snapshot.with(rights, 0x93);
    }
    for limit in [
        Field32::GuestEsLimit,
        Field32::GuestCsLimit,
        Field32::GuestSsLimit,
        Field32::GuestDsLimit,
        Field32::GuestFsLimit,
        Field32::GuestGsLimit,
        Field32::GuestLdtrLimit,
        Field32::GuestTrLimit,
        Field32::GuestGdtrLimit,
        Field32::GuestIdtrLimit,
    ] {
        snapshot = snapshot.with(limit, 0xffff);
    }
    snapshot
}

/// A guest in 64-bit mode that could be entered.
fn long_mode() -> Snapshot {
    real_mode()
        .with(Field32::EntryControls, chosen().word(Word::Entry) | controls::LONG_MODE_GUEST)
        .with(FieldNatural::GuestCr0, 0x8000_0031)
        .with(FieldNatural::GuestCr4, 0x2020)
        .with(Field64::GuestEfer, 0x500)
        .with(FieldNatural::GuestCsBase, 0)
        .with(Field32::GuestCsRights, 0xa09b)
        .with(Field32::GuestCsLimit, u32::MAX)
}

#[test]
fn good_ones_break_nothing() {
    assert_eq!(real_mode().broken(), []);
    assert_eq!(long_mode().broken(), []);
}

#[test]
fn words_of_controls() {
    let all = real_mode();
    for (field, name) in [
        (Field32::PinControls, "pin-based controls"),
        (Field32::PrimaryControls, "primary controls"),
        (Field32::ExitControls, "exit controls"),
        (Field32::EntryControls, "entry controls"),
    ] {
        // Bit 1 or 2 must be 1 in each of these words.
        let value = all.get(field);
        let must = if field == Field32::PinControls { 1 << 4 } else { 1 << 1 };
        all.clone().with(field, value & !must).breaks(name, "bits as IA32_VMX");
    }
    let secondary = all.get(Field32::SecondaryControls);
    all.clone().with(Field32::SecondaryControls, secondary | 1 << 31).breaks("secondary controls", "PROCBASED_CTLS2");
}

#[test]
fn pages_and_numbers_of_controls() {
    let all = real_mode();
    for (field, name) in [
        (Field64::PortBitmapA, "address of I/O bitmap A"),
        (Field64::PortBitmapB, "address of I/O bitmap B"),
        (Field64::MsrBitmap, "address of the MSR bitmap"),
        (Field64::VirtualApicPage, "virtual-APIC address"),
        (Field64::ApicAccessPage, "APIC-access address"),
        (Field64::PostedInterruptDescriptor, "posted-interrupt descriptor address"),
    ] {
        all.clone().with(field, 0x1008).breaks(name, "aligned");
        all.clone().with(field, 1 << 39).breaks(name, "physical width");
    }
    all.clone().with(Field16::Vpid, 0).breaks("VPID", "not 0");
    all.clone().with(Field16::NotificationVector, 0x1e1).breaks("posted-interrupt notification vector", "bits 15:8");
    all.clone().with(Field32::Cr3TargetCount, 5).breaks("CR3-target count", "at most 4");
}

#[test]
fn controls_that_need_others() {
    let all = real_mode();
    let (pin, primary) = (all.get(Field32::PinControls), all.get(Field32::PrimaryControls));
    let (secondary, exit) = (all.get(Field32::SecondaryControls), all.get(Field32::ExitControls));
    all.clone().with(Field32::PinControls, pin & !controls::NMI).breaks("pin-based controls", "need NMI exiting");
    all.clone()
        .with(Field32::PinControls, pin & !controls::VIRTUAL_NMI)
        .with(Field32::PrimaryControls, primary | controls::NMI_WINDOW)
        .breaks("primary controls", "needs virtual NMIs");
    all.clone()
        .with(Field32::SecondaryControls, secondary | controls::X2APIC_MODE)
        .breaks("secondary controls", "exclude");
    all.clone()
        .with(Field32::SecondaryControls, secondary & !controls::INTERRUPT_DELIVERY)
        .breaks("pin-based controls", "virtual-interrupt delivery");
    all.clone()
        .with(Field32::PrimaryControls, primary & !controls::TPR_SHADOW)
        .breaks("secondary controls", "TPR shadow");
    all.clone()
        .with(Field32::PinControls, pin & !controls::EXTERNAL_INTERRUPT)
        .breaks("secondary controls", "external-interrupt exiting");
    all.clone().with(Field32::ExitControls, exit & !controls::ACKNOWLEDGE).breaks("exit controls", "acknowledge");
    all.clone()
        .with(Field32::PinControls, pin & !controls::PREEMPTION_TIMER)
        .with(Field32::ExitControls, exit | controls::SAVE_PREEMPTION_TIMER)
        .breaks("exit controls", "needs the timer");
    all.clone()
        .with(Field32::PinControls, pin & !controls::POSTED_INTERRUPTS)
        .with(Field32::SecondaryControls, secondary & !controls::INTERRUPT_DELIVERY)
        .with(Field32::TaskPriorityThreshold, 0x10)
        .breaks("TPR threshold", "bits 31:4");
    all.with(Field32::SecondaryControls, secondary & !controls::EPT).breaks("secondary controls", "needs EPT");
}

#[test]
fn the_table_pointer() {
    for (pointer, rule) in [
        (0x7059, "memory type"),
        (0x7066, "number of levels"),
        (0x70de, "bits 11:7"),
        (1 << 39 | 0x5e, "physical width"),
    ] {
        real_mode().with(Field64::EptPointer, pointer).breaks("EPT pointer", rule);
    }
}

#[test]
fn the_event_to_be_injected() {
    let name = "entry interruption information";
    let with = |information: u32| {
        long_mode().with(FieldNatural::GuestFlags, 0x202).with(Field32::EntryInterruption, 1 << 31 | information)
    };
    assert_eq!(with(0x41).broken(), []);
    assert_eq!(with(0xb0e).broken(), []);
    for (information, rule) in [
        (0x141, "reserved"),
        (0x1041, "bits 30:12"),
        (0x203, "NMI is 2"),
        (0x320, "at most 31"),
        (0x701, "other event is 0"),
        (0x841, "hardware exceptions only"),
    ] {
        let found = with(information).broken();
        assert!(
            found.iter().any(|broken| broken.field == name && broken.rule.contains(rule)) || rule.starts_with("other"),
            "{rule}: {found:?}"
        );
    }
    with(0x41).with(FieldNatural::GuestFlags, 2).breaks("guest RFLAGS", "IF is set");
    with(0x41).with(Field32::Interruptibility, 1).breaks("guest interruptibility", "injected interrupt");
    with(0x202).with(Field32::Interruptibility, 8).breaks("guest interruptibility", "injected NMI");
    with(0xb0e).with(Field32::EntryErrorCode, 1 << 16).breaks("entry exception error code", "31:16");
    with(0x403).breaks("entry instruction length", "1 to 15");
    real_mode().with(Field32::EntryInterruption, 1 << 31 | 0xb0d).breaks(name, "real mode");
}

#[test]
fn the_hosts_state() {
    let all = real_mode();
    for (field, value, name, rule) in [
        (FieldNatural::HostCr0, 0x8001_0011, "host CR0", "CR0_FIXED"),
        (FieldNatural::HostCr4, 0x620, "host CR4", "CR4_FIXED"),
        (FieldNatural::HostCr4, 0x2600, "host CR4", "PAE"),
        (FieldNatural::HostCr3, 1 << 40, "host CR3", "physical width"),
        (FieldNatural::HostGsBase, 1 << 47, "host GS base", "canonical"),
        (FieldNatural::HostFsBase, 1 << 47, "host FS base", "canonical"),
        (FieldNatural::HostTrBase, 1 << 47, "host TR base", "canonical"),
        (FieldNatural::HostGdtrBase, 1 << 47, "host GDTR base", "canonical"),
        (FieldNatural::HostIdtrBase, 1 << 47, "host IDTR base", "canonical"),
        (FieldNatural::HostSysenterEsp, 1 << 47, "host SYSENTER_ESP", "canonical"),
        (FieldNatural::HostSysenterEip, 1 << 47, "host SYSENTER_EIP", "canonical"),
        (FieldNatural::HostRip, 1 << 47, "host RIP", "canonical"),
    ] {
        all.clone().with(field, value).breaks(name, rule);
    }
    for (field, value, name, rule) in [
        (Field16::HostCs, 0x0b, "host CS", "privilege level"),
        (Field16::HostSs, 0x04, "host SS", "table bit"),
        (Field16::HostCs, 0, "host CS", "null"),
        (Field16::HostTr, 0, "host TR", "null"),
    ] {
        all.clone().with(field, value).breaks(name, rule);
    }
    all.clone().with(Field64::HostEfer, 0x100).breaks("host IA32_EFER", "LMA");
    all.clone().with(Field64::HostEfer, 0x1d00).breaks("host IA32_EFER", "reserved");
    all.clone().with(Field64::HostPat, 2).breaks("host IA32_PAT", "memory type");
    let exit = all.get(Field32::ExitControls);
    all.with(Field32::ExitControls, exit & !controls::HOST_64).breaks("exit controls", "64-bit mode");
}

#[test]
fn the_guests_registers() {
    let (real, long) = (real_mode(), long_mode());
    for (field, value, name, rule) in [
        (FieldNatural::GuestCr0, 0x8000_0030, "guest CR0", "paging needs protection"),
        (FieldNatural::GuestCr0, 0x10, "guest CR0", "CR0_FIXED"),
        (FieldNatural::GuestCr4, 0x2000 | 1 << 17, "guest CR4", "PCIDE"),
        (FieldNatural::GuestCr4, 0, "guest CR4", "CR4_FIXED"),
        (FieldNatural::GuestCr3, 1 << 39, "guest CR3", "physical width"),
        (FieldNatural::GuestDr7, 1 << 32, "guest DR7", "63:32"),
        (FieldNatural::GuestSysenterEsp, 1 << 47, "guest SYSENTER_ESP", "canonical"),
        (FieldNatural::GuestSysenterEip, 1 << 47, "guest SYSENTER_EIP", "canonical"),
        (FieldNatural::GuestFlags, 0, "guest RFLAGS", "bit 1"),
        (FieldNatural::GuestFlags, 2 | 1 << 15, "guest RFLAGS", "reserved"),
        (FieldNatural::GuestRip, 1 << 32, "guest RIP", "32 bits"),
        (FieldNatural::PendingDebug, 1 << 4, "guest pending debug exceptions", "reserved"),
    ] {
        real.clone().with(field, value).breaks(name, rule);
    }
    long.clone().with(FieldNatural::GuestCr4, 0x2000).breaks("guest CR4", "PAE");
    long.clone().with(FieldNatural::GuestRip, 1 << 47).breaks("guest RIP", "canonical");
    long.clone().with(Field64::GuestEfer, 0x400).breaks("guest IA32_EFER", "LMA is as LME");
    long.clone().with(Field64::GuestEfer, 0x1500).breaks("guest IA32_EFER", "reserved");
    real.clone().with(Field64::GuestEfer, 0x500).breaks("guest IA32_EFER", "entry control");
    real.clone().with(Field64::GuestPat, 0x0300).breaks("guest IA32_PAT", "memory type");
    real.clone().with(Field64::GuestDebugControl, 1 << 3).breaks("guest IA32_DEBUGCTL", "reserved");
    real.clone().with(Field64::LinkPointer, 0).breaks("VMCS link pointer", "all ones");
    real.clone()
        .with(FieldNatural::GuestFlags, 2 | 1 << 17)
        .broken()
        .iter()
        .find(|broken| broken.field == "guest RFLAGS")
        .unwrap();
    let no_paging = long.with(FieldNatural::GuestCr0, 0x31);
    no_paging.breaks("guest CR0", "paging on");
}

#[test]
fn the_guests_segments() {
    let (real, long) = (real_mode(), long_mode());
    for (field, value, name, rule) in [
        (Field32::GuestCsRights, 0x98, "guest CS", "the type is 3, 9"),
        (Field32::GuestCsRights, 0x8b, "guest CS", "code or data"),
        (Field32::GuestCsRights, 0x1b, "guest CS", "present"),
        (Field32::GuestCsRights, 0x19b, "guest CS", "bits 31:17"),
        (Field32::GuestCsRights, 0xfb, "guest CS", "level is that of SS"),
        (Field32::GuestCsLimit, 0xf_ffff | 1 << 20, "guest CS", "G is 1"),
        (Field32::GuestDsRights, 0x92, "guest DS", "accessed"),
        (Field32::GuestEsRights, 0x99, "guest ES", "readable"),
        (Field32::GuestSsRights, 0x91, "guest SS", "3 or 7"),
        (Field32::GuestFsRights, 0x13, "guest FS", "present"),
        (Field32::GuestTrRights, 0x89, "guest TR", "busy task"),
        (Field32::GuestTrRights, 0x0b, "guest TR", "present"),
        (Field32::GuestTrRights, 0x9b, "guest TR", "system segment"),
        (Field32::GuestTrRights, 0x1_008b, "guest TR", "usable"),
        (Field32::GuestLdtrRights, 0x83, "guest LDTR", "type 2"),
        (Field32::GuestLdtrRights, 0x92, "guest LDTR", "system segment"),
        (Field32::GuestLdtrRights, 0x02, "guest LDTR", "present"),
        (Field32::GuestGdtrLimit, 0x1_0000, "guest GDTR", "16 bits"),
        (Field32::GuestIdtrLimit, 0x1_0000, "guest IDTR", "16 bits"),
        (Field32::ActivityState, 4, "guest activity state", "0 to 3"),
        (Field32::Interruptibility, 1, "guest interruptibility", "IF set"),
        (Field32::Interruptibility, 1 << 5, "guest interruptibility", "31:5"),
    ] {
        real.clone().with(field, value).breaks(name, rule);
    }
    for (field, value, name, rule) in [
        (FieldNatural::GuestCsBase, 1 << 32, "guest CS", "32 bits"),
        (FieldNatural::GuestDsBase, 1 << 32, "guest DS", "32 bits"),
        (FieldNatural::GuestGsBase, 1 << 47, "guest GS", "canonical"),
        (FieldNatural::GuestTrBase, 1 << 47, "guest TR", "canonical"),
        (FieldNatural::GuestLdtrBase, 1 << 47, "guest LDTR", "canonical"),
        (FieldNatural::GuestGdtrBase, 1 << 47, "guest GDTR", "canonical"),
        (FieldNatural::GuestIdtrBase, 1 << 47, "guest IDTR", "canonical"),
    ] {
        long.clone().with(field, value).breaks(name, rule);
    }
    long.clone().with(Field32::GuestCsRights, 0xe09b).breaks("guest CS", "64-bit");
    long.clone().with(Field32::GuestTrRights, 0x83).breaks("guest TR", "busy task");
    long.clone().with(Field16::GuestTr, 4).breaks("guest TR", "global table");
    long.clone().with(Field16::GuestLdtr, 4).breaks("guest LDTR", "global table");
    long.with(Field32::GuestCsLimit, 0xffff_f000).breaks("guest CS", "G is 0");
    real.clone()
        .with(Field32::Interruptibility, 3)
        .with(FieldNatural::GuestFlags, 0x202)
        .breaks("guest interruptibility", "both");
    real.with(Field32::ActivityState, 1)
        .with(Field32::Interruptibility, 2)
        .breaks("guest interruptibility", "active guest");
}

#[test]
fn pointers_of_a_guest_with_page_address_extension() {
    let guest = real_mode().with(FieldNatural::GuestCr0, 0x8000_0031).with(FieldNatural::GuestCr4, 0x2020);
    assert_eq!(guest.broken(), []);
    guest.clone().with(Field64::GuestPdpte2, 0x1001).broken().is_empty().then_some(()).unwrap();
    guest.with(Field64::GuestPdpte2, 0x1007).breaks("guest PDPTE", "reserved");
}
