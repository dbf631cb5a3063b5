//! The judgement on logs that are right, and on logs in which one thing is not.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::*;

const NONCE: &str = "n0nce";

struct Boot {
    image: PathBuf,
    sum: String,
    log: String,
}

impl Boot {
    /// A boot in which everything went well.
    fn good(name: &str) -> Self {
        let image = std::env::temp_dir().join(format!("postern-demo-{name}-{}.img", std::process::id()));
        let sum = disk::create(&image, 3).unwrap();
        let mut file = File::options().write(true).open(&image).unwrap();
        file.seek(SeekFrom::Start(disk::DATA_SIZE)).unwrap();
        let block: Vec<u8> = format!("{NONCE}\n").bytes().cycle().take(disk::BLOCK_SIZE).collect();
        file.write_all(&block).unwrap();
        let mut log = String::new();
        for text in [
            &format!("result disk=nvme0n1 bytes=67108864 sha256={sum}"),
            "result ping=10.0.2.2 transmitted=3 received=3",
            &format!("result disk=nvme0n1 bytes=67108864 sha256={sum}"),
            "result interrupts nvme=9 eth0=8",
            "result cpus=1 kernel_errors=0",
            "result task=demo ended",
        ] {
            log.push_str(&format!("[    1.000000] linux     | {text}\n"));
        }
        log.push_str("[    0.500000] info  memory    | memory vm=linux start=0x10000000 end=0x30000000\n");
        log.push_str("[    0.500000] info  memory    | memory vm=hypervisor start=0x100000 end=0x400000\n");
        for (name, address) in [("linux", 0x1100_0000_u64), ("hypervisor", 0x20_0000)] {
            log.push_str(&tried("read", &format!("read-{name}"), address));
            log.push_str(&tried("write", &format!("write-{name}"), address));
        }
        for (name, address) in [("unit-registers", 0xfed9_0000), ("unmapped", 0x220_0000), ("read-only", 0xf_0000)] {
            log.push_str(&tried("write", name, address));
        }
        for (name, number) in [("forged-handle", 3), ("compatibility-format", 0x31)] {
            log.push_str(&format!(
                "[    1.000000] intruder  | attack name={name} kind=interrupt interrupt={number:#x} address=0xfee00000\n\
                 [    1.000000] intruder  | result attack={name} outcome=unobservable because=QEMU\n"
            ));
        }
        for text in [
            "summary vm=intruder exits=10 faults=9 restarts=0 frames=0",
            "summary device=0000:00:04.0 vm=intruder group=4 ids=1234:11e8 interrupts=0 faults=9",
            "summary vm=linux exits=5 faults=0 restarts=0 frames=0",
            "summary device=0000:01:00.0 vm=linux group=1 ids=1b36:0010 interrupts=9 faults=0",
        ] {
            log.push_str(&format!("[    2.000000] info  vm        | {text}\n"));
        }
        Self { image, sum, log }
    }

    fn lines(&self) -> Vec<LogLine> {
        self.log.lines().filter_map(LogLine::parse).collect()
    }

    /// The claims that are not proven.
    fn unproven(&self) -> Vec<String> {
        let facts = Facts { sum: &self.sum, nonce: NONCE, image: &self.image };
        judge(&self.lines(), facts)
            .into_iter()
            .filter(|point| matches!(point.finding, Finding::NotProven(_)))
            .map(|point| point.claim)
            .collect()
    }
}

fn tried(kind: &str, name: &str, address: u64) -> String {
    format!(
        "[    1.000000] intruder  | attack name={name} kind={kind} address={address:#x}\n\
         [    1.000000] warn  iommu     | fault vm=intruder device=0000:00:04.0 access={kind} address={address:#x} reason=0x6\n\
         [    1.000000] intruder  | result attack={name} outcome=blocked data=sent finished=true\n"
    )
}

impl Drop for Boot {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.image);
    }
}

#[test]
fn a_good_boot_proves_everything_and_each_flaw_is_found() {
    let mut boot = Boot::good("flaws");
    assert_eq!(boot.unproven(), Vec::<String>::new());
    let good = boot.log.clone();
    for (from, to, claim) in [
        ("received=3", "received=2", "Linux reached the network through its card"),
        ("transmitted=3 received=3", "transmitted=0 received=0", "Linux reached the network through its card"),
        ("eth0=8", "eth0=0", "the devices' interrupts reached Linux"),
        ("kernel_errors=0", "kernel_errors=1", "Linux was not disturbed"),
        ("task=demo ended", "task=demo", "Linux was not disturbed"),
        (
            "attack=unmapped outcome=blocked",
            "attack=unmapped outcome=passed",
            "every attack that this emulator can block was blocked",
        ),
        ("access=write address=0x11000000", "access=write address=0x12000000", "DMA writes to the other VM's RAM"),
        ("fault vm=intruder", "fault vm=nobody", "DMA reads of the hypervisor's RAM"),
        ("start=0x10000000", "start=0x20000000", "DMA reads of the other VM's RAM"),
        ("memory vm=hypervisor", "nothing", "DMA writes to the hypervisor's RAM"),
        ("name=unit-registers", "name=x", "DMA to the remapping unit's registers"),
        ("name=unmapped", "name=x", "DMA to pages that its VM does not have"),
        ("name=read-only", "name=x", "DMA writes to its own read-only memory"),
        ("name=forged-handle", "name=x", "interrupts with handles of others"),
        ("outcome=unobservable because=QEMU", "outcome=passed", "interrupts in compatibility format"),
        (
            "exits=5 faults=0 restarts=0 frames=0",
            "exits=5 faults=0 restarts=0 frames=1",
            "both VMs gave everything back",
        ),
        ("summary vm=linux", "no summary", "both VMs gave everything back"),
        ("sha256=", "sha256=0", "Linux read all of its NVMe disk"),
    ] {
        boot.log = good.replace(from, to);
        assert_ne!(boot.log, good, "{from}");
        assert!(boot.unproven().contains(&claim.to_owned()), "{from} -> {to}: {:?}", boot.unproven());
    }
}

#[test]
fn what_the_emulator_cannot_block_is_told_apart() {
    let boot = Boot::good("apart");
    assert_eq!(Count::in_log(&boot.lines()), Count { blocked: 7, not_blockable: 2, all: 9 });
    let facts = Facts { sum: &boot.sum, nonce: NONCE, image: &boot.image };
    let points = judge(&boot.lines(), facts);
    let apart: Vec<&str> = points
        .iter()
        .filter(|point| matches!(&point.finding, Finding::NotBlockable(why) if why.contains("QEMU")))
        .map(|point| point.claim.as_str())
        .collect();
    assert_eq!(apart, ["interrupts with handles of others", "interrupts in compatibility format"]);
    let proven =
        points.iter().any(|point| matches!(&point.finding, Finding::Proven(why) if why.contains("not blockable here")));
    assert!(!proven, "{points:?}");
}

#[test]
fn a_disk_that_is_not_as_it_was_told_to_be_is_found() {
    for at in [0, disk::DATA_SIZE, disk::DATA_SIZE + 4095] {
        let boot = Boot::good("disk");
        let mut file = File::options().write(true).open(&boot.image).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(b"\xff").unwrap();
        assert_eq!(boot.unproven(), ["what Linux wrote is on the disk"], "{at}");
    }
}

#[test]
fn the_table_has_a_line_for_each_device() {
    let table = summary_table(&Boot::good("table").lines());
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[2].starts_with("intruder  00:04.0") && lines[2].ends_with("9 by 00:04.0"), "{table}");
    assert!(lines[2].contains("7 of 9 blocked") && lines[3].contains("64 MiB 2x"), "{table}");
    assert!(lines.iter().all(|line| line.len() <= 80), "{table}");
}
