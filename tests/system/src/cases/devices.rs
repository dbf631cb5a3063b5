//! Devices of VMs: their interrupts, counted exactly, and their DMA, followed closely.

use super::{EDU, NVME, VIRTIO_NET, configuration, ended, exerciser};
use crate::case::{Case, Pattern};
use crate::machine::Hardware;

pub(super) fn all() -> Vec<Case> {
    vec![interrupts(), unremapped_interrupts(), stale_translation(), device_tlb()]
}

/// MSI of one device and MSI-X of another, each delivered as often as it was sent, however often the emulator's threads
/// are called away.
fn interrupts() -> Case {
    let vms = [
        exerciser("msi", "0", "test=msi count=5000", &format!("debug_exit = true\ndevices = [\"{EDU}\"]")),
        exerciser("msix", "1", "test=msix count=200", &format!("debug_exit = true\ndevices = [\"{NVME}\"]")),
    ];
    let given_back = |vm| Pattern::hypervisor(&format!("summary vm={vm} ... frames=0"));
    Case::new("interrupts-counted", configuration(&vms).replacen("\"reset\"", "\"halt\"", 1))
        .on(Hardware::default().edu())
        .with_disk(1)
        .disturbed()
        .expect(Pattern::guest("msi", "counted=5000"))
        .expect(Pattern::guest("msix", "counted=200"))
        .expect(ended("msi", "msi"))
        .expect(ended("msix", "msix"))
        .expect(given_back("msi"))
        .expect(given_back("msix"))
        .forbid(Pattern::guest("msi", "failed"))
        .forbid(Pattern::guest("msix", "failed"))
}

/// Without interrupt remapping, VMs that allow it get the interrupts of their devices all the same, and the log says
/// what that costs.
fn unremapped_interrupts() -> Case {
    let allow = "allow = [\"unsafe-interrupts\"]\ndebug_exit = true";
    let vms = [
        exerciser("msi", "0", "test=msi count=200", &format!("{allow}\ndevices = [\"{EDU}\"]")),
        exerciser("msix", "1", "test=msix count=100", &format!("{allow}\ndevices = [\"{NVME}\"]")),
    ];
    Case::new("unsafe-interrupts", configuration(&vms))
        .on(Hardware { remapping_unit: Some("intremap=off".into()), ..Hardware::default() }.edu())
        .with_disk(5)
        .expect(Pattern::hypervisor("VM msi: unsafe-interrupts is allowed: nothing remaps the interrupts"))
        .expect(Pattern::hypervisor("VM msix: unsafe-interrupts is allowed: nothing remaps the interrupts"))
        .expect(Pattern::guest("msi", "counted=200"))
        .expect(Pattern::guest("msix", "counted=100"))
        .expect(ended("msi", "msi"))
        .expect(ended("msix", "msix"))
        .forbid(Pattern::guest("msi", "failed"))
        .forbid(Pattern::guest("msix", "failed"))
}

/// A translation that a device has used is taken away: it reaches nothing through it any more.
fn stale_translation() -> Case {
    let vms = [exerciser("stale", "0", "test=stale", &format!("debug_exit = true\ndevices = [\"{EDU}\"]"))];
    Case::new("stale-translation", configuration(&vms))
        .on(Hardware::default().edu())
        .expect(ended("stale", "stale"))
        .expect(Pattern::hypervisor("fault vm=stale ... access=write"))
        .expect(Pattern::hypervisor("fault vm=stale ... access=read"))
        .forbid(Pattern::guest("stale", "failed"))
}

/// A function translates addresses by itself where the VM's configuration allows that, and its TLB is invalidated for
/// what the guest unmaps, and wholly at the end, as QEMU's trace of the unit's queue shows.
fn device_tlb() -> Case {
    let devices = format!("debug_exit = true\nallow = [\"device-tlb\"]\ndevices = [\"{EDU}\", \"{VIRTIO_NET}\"]");
    let vms = [
        exerciser("allowed", "0", "test=stale", &devices),
        exerciser("usual", "1", "test=nothing", &format!("debug_exit = true\ndevices = [\"{VIRTIO_NET}\"]")),
    ];
    let card = |port| format!("virtio-net-pci,bus={port},disable-legacy=on,iommu_platform=on,ats=on,romfile=");
    let unit = "intremap=on,eim=on,device-iotlb=on";
    let mut hardware = Hardware { remapping_unit: Some(unit.into()), ..Hardware::default() }
        .edu()
        .root_port("port-one")
        .device(card("port-one"))
        .root_port("port-two")
        .device(card("port-two"));
    hardware.devices.extend(["-trace".into(), "vtd_inv_desc".into()]);
    Case::new("device-tlb", configuration(&vms))
        .on(hardware)
        .expect(Pattern::hypervisor("0000:01:00.0 attached to domain ... with a TLB of its own"))
        .expect(Pattern::hypervisor("0000:01:00.0 translates addresses by itself (ATS), as device-tlb allows"))
        .expect(Pattern::hypervisor("0000:02:00.0 could translate addresses by itself (ATS) ... ATS stays off"))
        .expect(Pattern::hypervisor("0000:01:00.0 detached from domain"))
        .expect(ended("allowed", "stale"))
        .forbid(Pattern::guest("allowed", "failed"))
        .forbid(Pattern::hypervisor("not cleanly"))
        .check(|finished| {
            let trace = std::fs::read_to_string(finished.folder.join("qemu-debug.log"))?;
            let sent = |descriptor: String| trace.lines().filter(|line| line.ends_with(&descriptor)).count();
            // The source id is in bits 47:32 of the low half; the high half is the address, with S and as many ones as
            // the block is large.
            let to = |bus: u64, high: u64| sent(format!("high {high:#x} low {:#x}", bus << 40 | 3));
            let (window, all) = (0x30_0000_0000, 0x7fff_ffff_ffff_f001);
            anyhow::ensure!(to(1, window) > 0 && to(1, all) == 1, "the card's TLB was not invalidated: {trace}");
            anyhow::ensure!(to(2, all) == 0, "the TLB of a card without ATS was invalidated");
            Ok(())
        })
}
