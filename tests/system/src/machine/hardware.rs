//! What the machine is made of, as QEMU's arguments.

use std::path::Path;

/// The parts of a machine.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// CPUs.
    pub cpus: u32,
    /// RAM, in MiB.
    pub memory: u32,
    /// QEMU's CPU model with its features.
    pub cpu_model: String,
    /// Whether this computer's processor executes the instructions, by KVM; otherwise QEMU does.
    pub kvm: bool,
    /// Options of the remapping unit, separated by commas; `None`: a machine without one (and without a DMAR table).
    pub remapping_unit: Option<String>,
    /// Everything else, such as disks and network cards: QEMU's arguments.
    pub devices: Vec<String>,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            cpus: 2,
            memory: 2048,
            cpu_model: "max,+svm".into(),
            kvm: false,
            remapping_unit: Some("intremap=on,eim=on".into()),
            devices: Vec::new(),
        }
    }
}

impl Hardware {
    /// All of QEMU's arguments but those for the serial port and the monitor.
    pub(crate) fn arguments(&self, firmware: &Path, variables: &Path, volume: &Path) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(String::from).to_vec();
        let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
        add("-vga", "std".into());
        // A remapping unit wants the interrupt controllers that it serves in QEMU, not in KVM.
        add("-machine", if self.kvm { "q35,kernel-irqchip=split" } else { "q35" }.into());
        add("-accel", if self.kvm { "kvm" } else { "tcg,thread=multi" }.into());
        add("-cpu", self.cpu_model.clone());
        add("-smp", self.cpus.to_string());
        add("-m", format!("{}M", self.memory));
        add("-drive", format!("if=pflash,format=raw,readonly=on,file={}", escaped(firmware)));
        add("-drive", format!("if=pflash,format=raw,file={}", escaped(variables)));
        // QEMU wants the unit before the devices that it serves.
        if let Some(options) = &self.remapping_unit {
            let comma = if options.is_empty() { "" } else { "," };
            add("-device", format!("intel-iommu{comma}{options}"));
        }
        // Firmware may write to the volume: those writes are dropped.
        add("-drive", format!("if=none,id=boot,format=raw,snapshot=on,file={}", escaped(volume)));
        add("-device", "ide-hd,drive=boot,bus=ide.0,bootindex=0".into());
        arguments.extend(self.devices.iter().cloned());
        arguments
    }

    /// On this computer's processor, with all that it has for guests.
    pub fn on_kvm(self) -> Self {
        Self { kvm: true, cpu_model: "host".into(), ..self }
    }

    /// Adds a device, as QEMU's `-device` wants it.
    pub fn device(mut self, description: impl Into<String>) -> Self {
        self.devices.extend(["-device".into(), description.into()]);
        self
    }

    /// Adds a root port named `id` on the root bus.
    pub fn root_port(self, id: &str) -> Self {
        // Each root port needs a chassis and slot number of its own.
        let number = 1 + self.devices.iter().filter(|device| device.starts_with("pcie-root-port")).count();
        self.device(format!("pcie-root-port,id={id},chassis={number},slot={number}"))
    }

    /// Adds an NVMe disk with this image behind a root port.
    pub fn nvme(mut self, image: &Path) -> Self {
        self.devices.extend(["-drive".into(), format!("if=none,id=nvme,format=raw,file={}", escaped(image))]);
        self.root_port("port-nvme").device("nvme,drive=nvme,serial=postern,bus=port-nvme")
    }

    /// Adds an e1000e network card behind a root port, on QEMU's user network. It has no ROM: nothing boots from it.
    pub fn e1000e(mut self) -> Self {
        self.devices.extend(["-netdev".into(), "user,id=network".into()]);
        self.root_port("port-e1000e").device("e1000e,netdev=network,romfile=,bus=port-e1000e")
    }

    /// Adds QEMU's educational device, which does DMA wherever it is told to.
    pub fn edu(self) -> Self {
        self.device("edu,dma_mask=0xffffffffffffffff")
    }
}

/// A path in an option of QEMU: a comma is doubled.
pub(super) fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(hardware: &Hardware) -> String {
        hardware.arguments(Path::new("/code"), Path::new("/vars"), Path::new("/a,b.img")).join(" ")
    }

    #[test]
    fn the_unit_comes_before_what_it_serves() {
        let line = arguments(&Hardware::default().nvme(Path::new("/disk")).edu());
        let unit = line.find("intel-iommu,intremap=on,eim=on").unwrap();
        for device in ["nvme,drive", "edu", "pcie-root-port", "ide-hd"] {
            assert!(line.find(device).unwrap() > unit, "{device}");
        }
        assert!(line.contains("/a,,b.img"));
    }

    #[test]
    fn root_ports_are_numbered() {
        let line = arguments(&Hardware::default().nvme(Path::new("/disk")).e1000e());
        assert!(line.contains("id=port-nvme,chassis=1,slot=1") && line.contains("id=port-e1000e,chassis=2,slot=2"));
    }

    #[test]
    fn the_host_s_processor_needs_interrupt_controllers_that_the_unit_reaches() {
        let line = arguments(&Hardware::default().on_kvm());
        assert!(line.contains("-machine q35,kernel-irqchip=split -accel kvm -cpu host "), "{line}");
        assert!(arguments(&Hardware::default()).contains("-machine q35 -accel tcg,thread=multi -cpu max,+svm "));
    }

    #[test]
    fn a_machine_may_have_no_unit() {
        assert!(!arguments(&Hardware { remapping_unit: None, ..Hardware::default() }).contains("intel-iommu"));
    }
}
