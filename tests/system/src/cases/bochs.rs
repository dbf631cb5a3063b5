//! The cases that run in Bochs, from the disk of a lab machine. How to add one: [`crate::bochs`].

use super::{ended, exerciser};
use crate::bochs::Hardware;
use crate::case::{Case, Pattern};

/// A processor of AMD's, with SVM.
const WITH_SVM: &str = "ryzen";
/// A processor with VMX that has no nested tables.
const WITHOUT_EPT: &str = "core2_penryn_t9600";
/// Processors with VMX, each with the name of its case and how interrupts reach guests there.
const VMX: [(&str, &str, &str); 2] = [
    ("bochs-arrow-lake", "arrow_lake", "interrupts reach guests by posted interrupts"),
    ("bochs-haswell", "corei7_haswell_4770", "interrupts reach guests by virtual-interrupt delivery without posting"),
];
/// A 64-bit processor with neither SVM nor VMX.
const WITH_NEITHER: &str = "athlon64_venice";
/// The device ids of the chipset's host bridge and of its IDE controller.
const HOST_BRIDGE: &str = "8086:1237";
const IDE: &str = "8086:7010";

pub(super) fn all() -> Vec<Case> {
    let mut cases: Vec<Case> = VMX.iter().map(|(name, model, says)| vmx(name, model, says)).collect();
    cases.extend([svm(), no_remapping(), no_nested_tables(), no_engine()]);
    cases
}

/// These VMs on a machine in Bochs, which switches itself off when all have ended.
fn case(name: &'static str, cpu_model: &str, vms: &[String]) -> Case {
    Case::new(name, format!("at_end = \"power-off\"\n{}", vms.concat()))
        .in_bochs(Hardware { cpu_model: cpu_model.into(), ..Hardware::default() })
}

/// Two VMs without devices, on a machine with neither a DMAR table nor an MCFG: its functions are found by ports. The
/// TLB is a real one here: QEMU's forgets everything at each entry and exit.
fn svm() -> Case {
    let vms = [exerciser("one", "0", "test=smoke", "debug_exit = true"), exerciser("two", "1", "test=off", "")];
    case("bochs-svm", WITH_SVM, &vms)
        .expect(Pattern::hypervisor("reached by ports 0xcf8 and 0xcfc"))
        .expect(Pattern::hypervisor(&format!("group ... 0000:00:00.0 {HOST_BRIDGE}")))
        .expect(Pattern::hypervisor(&format!("group ... {IDE} ... was bus master")))
        .expect(Pattern::hypervisor("2 of 2 CPUs are online"))
        .expect(ended("one", "smoke"))
        .forbid(Pattern::guest("one", "failed"))
        .forbid(Pattern::guest("two", "power=still-on"))
}

/// A guest uses all that a VM has, beside one that does what no guest should do.
fn vmx(name: &'static str, cpu_model: &str, says: &str) -> Case {
    let vms = [
        exerciser("one", "0", "test=smoke", "debug_exit = true"),
        exerciser("wild", "1", "test=wild", "debug_exit = true"),
    ];
    case(name, cpu_model, &vms)
        .expect(Pattern::hypervisor(says))
        .expect(ended("one", "smoke"))
        .expect(ended("wild", "wild"))
        .forbid(Pattern::guest("one", "failed"))
        .forbid(Pattern::guest("wild", "failed"))
}

/// What the processor lacks is named, and nothing starts.
fn no_nested_tables() -> Case {
    case("bochs-no-ept", WITHOUT_EPT, &[exerciser("a", "0", "test=smoke", "")])
        .stays()
        .expect(Pattern::hypervisor("nothing was started"))
        .forbid(Pattern::hypervisor("a starts"))
}

/// Without remapping no VM gets a device, and the configuration that asks for one starts nothing.
fn no_remapping() -> Case {
    let vms = [exerciser("a", "0", "test=smoke", &format!("devices = [\"{IDE}\"]"))];
    case("bochs-no-remapping", WITH_SVM, &vms)
        .stays()
        .expect(Pattern::hypervisor("no device can be assigned ... DMAR"))
        .expect(Pattern::hypervisor("nothing was started"))
}

/// A processor without an engine: what the machine has is listed, and then comes the refusal.
fn no_engine() -> Case {
    case("bochs-no-engine", WITH_NEITHER, &[exerciser("a", "0", "test=smoke", "")])
        .stays()
        .expect(Pattern::hypervisor("2 of 2 CPUs are online"))
        .expect(Pattern::hypervisor("this processor shows neither VMX ... nor SVM"))
        .forbid(Pattern::hypervisor("a starts"))
}
