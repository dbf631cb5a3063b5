//! What Postern does not do, and the clear error that it gives instead.

use super::{EDU, configuration, exerciser};
use crate::case::{Case, Pattern};
use crate::machine::Hardware;

pub(super) fn all() -> Vec<Case> {
    vec![broken_configuration(), absent_image(), absent_device(), no_dmar_table(), no_svm()]
}

/// A mistake of every kind in one file: each is reported in one list, with its place, and nothing starts.
fn broken_configuration() -> Case {
    let text = format!(
        r#"at_end = "never"
[[vm]]
name = "a"
cpus = [0]
memory = "3M"
colour = 1
devices = ["dead:beef", "{EDU}"]
image = {{ multiboot = {{ image = "guests/nothing.elf" }} }}
[[vm]]
name = "b"
cpus = [7]
memory = "300G"
devices = ["{EDU}", "8086:29c0"]
image = {{ linux = {{ kernel = "guests/exerciser.elf" }} }}
[[vm]]
name = "c"
cpus = [0]
memory = "32M"
image = {{ linux = {{ kernel = "guests/exerciser.elf" }} }}
"#
    );
    const LINES: [&str; 15] = [
        "line 1, column 10: ... at_end ... `halt`, `reset`",
        "line 5, column 10: ... memory ... multiple of 2M",
        "line 6, column 1: ... `colour`: no such key",
        "line 7, column 12: ... this machine has no device dead:beef",
        "line 7, column 25: ... group ... its member ... belongs to VM b",
        "line 7, column 25: ... does not remap interrupts ... unsafe-interrupts",
        "line 8, column ... no file \"guests/nothing.elf\"",
        "line 11, column 9: ... no CPU 7 ... CPUs 0 to 1",
        "line 12, column 10: ... 300G do not fit",
        "line 12, column 10: ... from 2 MiB to 256 GiB",
        "line 13, column 12: ... group ... its member ... belongs to VM a",
        "line 13, column 12: ... does not remap interrupts ... unsafe-interrupts",
        "line 13, column 25: ... 0000:00:00.0 is a bridge",
        "line 17, column 9: ... CPU 0 belongs to vm \"a\" already",
        "line 19, column 9: ... the kernel file has no Linux setup header",
    ];
    // Conventional functions below one bridge cannot be told apart.
    let hardware = Hardware { remapping_unit: Some("intremap=off".into()), ..Hardware::default() }
        .device("pcie-pci-bridge,id=bridge")
        .device("edu,bus=bridge,addr=1")
        .device("edu,bus=bridge,addr=2");
    let case = Case::new("broken-configuration", text)
        .on(hardware)
        .stays()
        .lacking_files()
        .expect(Pattern::hypervisor(&format!("postern.toml has {} problem(s)", LINES.len())))
        .expect(Pattern::hypervisor("the machine is halted"))
        .forbid(Pattern::hypervisor(" starts: "));
    LINES.iter().fold(case, |case, line| case.expect(Pattern::hypervisor(line)))
}

/// An image that is not on the volume.
fn absent_image() -> Case {
    let vm = exerciser("a", "0", "test=smoke", "").replace("exerciser.elf", "nothing.elf");
    Case::new("absent-image", configuration(&[vm]))
        .stays()
        .lacking_files()
        .expect(Pattern::hypervisor("line 7, column ... guests/nothing.elf"))
        .forbid(Pattern::hypervisor("a starts"))
}

/// A device that the machine does not have, a CPU that it does not have, and more memory than it has.
fn absent_device() -> Case {
    let vm = exerciser("a", "7", "test=smoke", "devices = [\"dead:beef\"]").replace("32M", "64G");
    Case::new("absent-device", configuration(&[vm]))
        .stays()
        .expect(Pattern::hypervisor("line 5, column ... cpu"))
        .expect(Pattern::hypervisor("line 6, column ... memory"))
        .expect(Pattern::hypervisor("line 8, column ... dead:beef"))
}

/// A machine without a remapping unit: nothing can be assigned.
fn no_dmar_table() -> Case {
    let vm = exerciser("a", "0", "test=smoke", &format!("devices = [\"{EDU}\"]"));
    Case::new("no-dmar-table", configuration(&[vm]))
        .on(Hardware { remapping_unit: None, ..Hardware::default() }.edu())
        .stays()
        .expect(Pattern::hypervisor("line 8, column 12: ... no device can be assigned ... DMAR"))
        .forbid(Pattern::hypervisor("a starts"))
}

/// A CPU with neither SVM nor VMX: what the machine has is listed, its devices are denied everything, and then comes the refusal.
fn no_svm() -> Case {
    Case::new("no-svm", configuration(&[exerciser("a", "0", "test=smoke", "")]))
        .on(Hardware { cpu_model: "max,-svm".into(), ..Hardware::default() })
        .stays()
        .expect(Pattern::hypervisor("DMA remapping on, everything denied"))
        .expect(Pattern::hypervisor("group ... 0000:00:00.0"))
        .expect(Pattern::hypervisor("this processor shows neither VMX ... nor SVM ... which guests need"))
        .forbid(Pattern::hypervisor("a starts"))
}
