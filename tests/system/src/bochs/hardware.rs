//! What the machine is made of, as Bochs's configuration file.

use super::{DISK, LOG};
use crate::tools::Bochs;

/// The firmware's name in a run's folder: a path of the user's may hold characters that mean something in a bochsrc.
pub(super) const FIRMWARE: &str = "firmware.fd";

/// The parts of a machine.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Bochs's CPU model; `bochs --help cpu` lists them.
    pub cpu_model: String,
    /// CPUs.
    pub cpus: u32,
    /// RAM, in MiB.
    pub memory: u32,
}

impl Default for Hardware {
    fn default() -> Self {
        Self { cpu_model: "arrow_lake".into(), cpus: 2, memory: 1024 }
    }
}

impl Hardware {
    /// The configuration file of this machine, whose serial port connects to a port of this computer.
    pub(super) fn configuration(&self, bochs: &Bochs, serial: u16) -> String {
        let Self { cpu_model, cpus, memory } = self;
        let display = &bochs.display;
        // A triple fault resets the machine, with the state of the CPU in the log: Bochs would go on for ever otherwise. Time is counted in instructions alone.
        format!(
            "cpu: model={cpu_model}, count={cpus}, ips=100000000, reset_on_triple_fault=1\n\
             memory: guest={memory}, host={memory}\n\
             pci: enabled=1, chipset=i440fx\n\
             fw_cfg: enabled=1\n\
             romimage: file={FIRMWARE}, address=0xffe00000, options=none\n\
             vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest\n\
             display_library: {display}\n\
             sound: waveoutdrv=dummy\n\
             clock: sync=none, time0=utc\n\
             com1: enabled=1, mode=socket-client, dev=127.0.0.1:{serial}\n\
             port_e9_hack: enabled=1\n\
             ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
             ata0-master: type=disk, mode=flat, path={DISK}\n\
             boot: disk\n\
             log: {LOG}\n\
             logprefix: %t%e%d\n\
             panic: action=fatal\n\
             error: action=report\n\
             info: action=report\n\
             debug: action=ignore\n"
        )
    }
}
