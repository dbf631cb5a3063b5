//! One test for each kind of remapping unit that QEMU can be: a device works, its attacks are stopped, and the log says
//! what the unit can do and what was chosen.

use anyhow::ensure;

use super::{EDU, configuration};
use crate::attack::{self, Verdict};
use crate::case::{Case, Pattern};
use crate::machine::Hardware;

/// The name, the unit's options, and what the log must say of it.
const UNITS: [(&str, &str, &str); 11] = [
    ("unit-39-bits", "intremap=on,eim=on,aw-bits=39", "addresses of 39 bits, tables of 3 levels"),
    ("unit-48-bits", "intremap=on,eim=on,aw-bits=48", "addresses of 48 bits, tables of 3 4 levels"),
    ("unit-caching-mode", "intremap=on,eim=on,caching-mode=on", "(CM=1)"),
    ("unit-snoop-control", "intremap=on,eim=on,snoop-control=on", "(SC=1)"),
    ("unit-no-pass-through", "intremap=on,eim=on,pt=off", "(PT=0)"),
    ("unit-device-iotlb", "intremap=on,eim=on,device-iotlb=on", "(DT=1)"),
    ("unit-no-extended-interrupts", "intremap=on,eim=off", "xAPIC"),
    ("unit-scalable-mode", "intremap=on,eim=on,x-scalable-mode=on", "scalable mode, since the unit has it (SMTS=1)"),
    ("unit-scalable-caching-mode", "intremap=on,eim=on,caching-mode=on,x-scalable-mode=on", ": second stage, 4 levels"),
    ("unit-first-stage", "intremap=on,eim=on,x-scalable-mode=on,x-flts=on", ": first stage, 4 levels"),
    ("unit-no-drain", "intremap=on,eim=on,dma-drain=off", "do not wait for reads under way (DWD=0, DRD=0)"),
];

pub(super) fn all() -> Vec<Case> {
    UNITS.iter().map(|(name, options, says)| unit(name, options, says)).collect()
}

fn unit(name: &'static str, options: &str, says: &str) -> Case {
    let vm = format!(
        "\n[[vm]]\nname = \"intruder\"\ncpus = [1]\nmemory = \"32M\"\ndebug_exit = true\ndevices = [\"{EDU}\"]\n\
         image = {{ multiboot = {{ image = \"guests/intruder.elf\", \
         cmdline = \"linux=10000000,40000000 hypervisor=7de00000 handles=4\" }} }}\n"
    );
    Case::new(name, configuration(&[vm]))
        .on(Hardware { remapping_unit: Some(options.into()), ..Hardware::default() }.edu())
        .expect(Pattern::hypervisor(says))
        .expect(Pattern::guest("intruder", "result own-dma=before finished=true data=moved msi=arrived"))
        .expect(Pattern::guest("intruder", "result ended=intruder ... leaks=0"))
        .check(|finished| {
            let tries = attack::collect(finished.lines, "intruder");
            ensure!(tries.len() > 10, "only {} attacks", tries.len());
            for one in tries {
                ensure!(!matches!(one.verdict(), Verdict::Unproven(_)), "{one}: {:?}", one.verdict());
            }
            Ok(())
        })
}
