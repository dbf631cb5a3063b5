//! What Postern does not do, and the clear error that it gives instead.

use super::{EDU, configuration, exerciser};
use crate::case::{Case, Pattern};
use crate::machine::Hardware;

pub(super) fn all() -> Vec<Case> {
    vec![broken_configuration(), absent_image(), absent_device(), no_dmar_table(), no_svm()]
}

/// Every mistake of a configuration is reported at once, with its place, and nothing starts.
fn broken_configuration() -> Case {
    let text = "at_end = \"never\"\n[[vm]]\nname = \"a\"\ncpus = [0]\nmemory = \"3M\"\ncolour = 1\n\
                image = { multiboot = { image = \"x\" } }\n";
    Case::new("broken-configuration", text)
        .stays()
        .expect(Pattern::boot("line 1, column 10: ... at_end ... `halt`, `reset`"))
        .expect(Pattern::boot("line 5, column 10: ... memory ... multiple of 2M"))
        .expect(Pattern::boot("line 6, column 1: ... `colour`: no such key"))
        .forbid(Pattern::boot("Leaving firmware"))
}

/// An image that is not on the volume.
fn absent_image() -> Case {
    let vm = exerciser("a", "0", "test=smoke", "").replace("exerciser.elf", "nothing.elf");
    Case::new("absent-image", configuration(&[vm]))
        .stays()
        .lacking_files()
        .expect(Pattern::boot("line 7, column ... guests/nothing.elf"))
        .forbid(Pattern::boot("Leaving firmware"))
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
        .expect(Pattern::hypervisor("no device can be assigned ... DMAR"))
}

/// A CPU without SVM: what the machine has is listed, its devices are denied everything, and then comes the refusal.
fn no_svm() -> Case {
    Case::new("no-svm", configuration(&[exerciser("a", "0", "test=smoke", "")]))
        .on(Hardware { cpu_model: "max,-svm".into(), ..Hardware::default() })
        .stays()
        .expect(Pattern::hypervisor("DMA remapping on, everything denied"))
        .expect(Pattern::hypervisor("group ... 0000:00:00.0"))
        .expect(Pattern::hypervisor("this processor does not show AMD-V ... SVM"))
        .forbid(Pattern::hypervisor("a starts"))
}
