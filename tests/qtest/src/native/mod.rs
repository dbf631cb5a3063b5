//! The `iommu` crate's driver on QEMU's unit, as an ordinary process: domains, devices, faults and interrupts of random
//! programs, each checked by transfers and messages of QEMU's own devices.

mod machine;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use iommu::Driver;
use iommu::address::{HostPhysical, Iova, PciAddress};
use iommu::driver::{ApicMode, Delivery, DomainId, DomainRequest, Handle, Options, Origin};
use iommu::fault::{Limits, Place};
use iommu::interrupt::entry::Trigger;
use iommu::paging::Permissions;
use machine::Board;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::emulator::{DEVICES, Direction, Emulator};
use crate::tools::Qemu;

/// Steps of one program.
const STEPS: u32 = 40;
/// Where ranges start and how many pages they have: at the ends of tables and pages of 2 MiB.
const STARTS: [u64; 5] = [0x10, 0x1ff, 0x200, 0x3_ffff, 0x4_0000];
const LENGTHS: [u64; 3] = [1, 2, 0x201];
/// The first frame of the 2 MiB that domains lead to, all or, with the page before, all but the last page.
const HOST: u64 = 0x200;
/// Where in a device's buffer.
const BUFFER_PLACE: u64 = 0x100;

/// What is mapped: a page to a frame, with permissions (bit 0 read, bit 1 write).
type Pages = BTreeMap<u64, (u64, u8)>;

struct Run {
    board: Board,
    driver: Driver<Board>,
    random: TestRng,
    domains: Vec<(DomainId, Pages)>,
    attached: [Option<usize>; DEVICES.len()],
    handles: Vec<Handle>,
    transfers: u32,
    faults: u32,
    interrupts: u32,
    write_only: bool,
}

/// A program with this seed on a unit with these options. Says what was seen.
pub(crate) fn run(qemu: &Qemu, options: &str, wide: bool, write_only: bool, seed: u64) -> Result<String> {
    let board = Board::new(Emulator::start(qemu, options)?);
    let fault_limits = Limits { reports_per_second: u32::MAX, faults_per_second: u32::MAX };
    let apic_mode = if wide { ApicMode::X2Apic } else { ApicMode::XApic };
    let choices = Options { apic_mode, interrupt_order: 8, fault_limits, ..Options::default() };
    let driver = Driver::bring_up(board.clone(), &machine::table(), &board, &choices)
        .map_err(|error| anyhow::anyhow!("bring-up: {error}"))?;
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut run = Run {
        domains: Vec::new(),
        attached: [None; DEVICES.len()],
        handles: Vec::new(),
        random: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
        transfers: 0,
        faults: 0,
        interrupts: 0,
        write_only,
        board,
        driver,
    };
    run.start()?;
    for step in 0..STEPS {
        run.step().and_then(|()| run.probe()).with_context(|| format!("seed {seed}, step {step}"))?;
    }
    let said =
        format!("{STEPS} steps, {} transfers, {} faults, {} messages", run.transfers, run.faults, run.interrupts);
    run.end()?;
    Ok(said)
}

fn address(device: usize) -> PciAddress {
    let source = DEVICES[device];
    PciAddress::new(0, (source >> 8) as u8, (source >> 3 & 31) as u8, (source & 7) as u8)
}

impl Run {
    fn below(&mut self, limit: usize) -> usize {
        use proptest::prelude::Rng;
        (self.random.next_u32() as usize) % limit
    }

    fn start(&mut self) -> Result<()> {
        for _ in 0..2 {
            let domain = self.driver.create_domain(&DomainRequest::default());
            self.domains.push((domain.map_err(|error| anyhow::anyhow!("{error}"))?, BTreeMap::new()));
        }
        for device in 0..DEVICES.len() {
            let handle = self.driver.interrupts().allocate(Origin::function(address(device)), 1);
            self.handles.push(handle.map_err(|error| anyhow::anyhow!("{error}"))?);
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let (kind, domain, device) = (self.below(8), self.below(2), self.below(DEVICES.len()));
        let start = STARTS[self.below(STARTS.len())];
        let length = LENGTHS[self.below(LENGTHS.len())];
        let (iova, bytes) = (Iova::new(start << 12), length << 12);
        let permissions = 1 + self.below(3) as u8;
        let permissions = if self.write_only { permissions } else { permissions | 1 };
        let wanted = Permissions::from_bits_truncate(permissions);
        let (id, pages) = &mut self.domains[domain];
        let range = start..start + length;
        match kind {
            0..3 => {
                let host = HOST - (length & 1);
                let done = self.driver.map(*id, iova, HostPhysical::new(host << 12), bytes, wanted);
                let free = pages.range(range.clone()).next().is_none();
                ensure!(done.is_ok() == free, "map of {iova}: {done:?}");
                if free {
                    pages.extend(range.map(|page| (page, (host + page - start, permissions))));
                }
            }
            3 => {
                let before = pages.len();
                pages.retain(|page, _| !range.contains(page));
                let done = self.driver.unmap(*id, iova, bytes);
                ensure!(done == Ok(((before - pages.len()) as u64) << 12), "unmap of {iova}: {done:?}");
            }
            4 if pages.range(range.clone()).count() as u64 == length => {
                self.driver.protect(*id, iova, bytes, wanted).map_err(|error| anyhow::anyhow!("{error}"))?;
                pages.range_mut(range).for_each(|(_, (_, allowed))| *allowed = permissions);
            }
            5 => {
                let done = self.driver.detach(address(device));
                ensure!(done.is_ok() == self.attached[device].take().is_some(), "detach: {done:?}");
            }
            _ => {
                let done = self.driver.attach(*id, address(device), &[]);
                ensure!(done.is_ok() == self.attached[device].is_none(), "attach: {done:?}");
                self.attached[device].get_or_insert(domain);
            }
        }
        Ok(())
    }

    fn probe(&mut self) -> Result<()> {
        for _ in 0..4 {
            let device = self.below(DEVICES.len());
            let anywhere = STARTS[self.below(STARTS.len())] + self.below(3) as u64;
            // Mostly what is mapped.
            let choice = self.below(1000);
            let known =
                self.attached[device].map(|domain| &self.domains[domain].1).filter(|_| !choice.is_multiple_of(4));
            let page = known.and_then(|pages| pages.keys().nth(choice % pages.len().max(1)));
            let page = page.copied().unwrap_or(anywhere);
            let write = self.below(2) == 1;
            self.reach(device, page, write)?;
        }
        let device = self.below(DEVICES.len());
        self.interrupt(device)
    }

    fn reach(&mut self, device: usize, page: u64, write: bool) -> Result<()> {
        let bit = if write { 2 } else { 1 };
        let mapped = self.attached[device].and_then(|domain| self.domains[domain].1.get(&page)).copied();
        let host = mapped.filter(|(_, allowed)| allowed & bit != 0).map(|(host, _)| host);
        self.transfers += 1;
        let mark = u64::from(self.transfers) << 32 | 0x706f_7374;
        let (place, iova) = (BUFFER_PLACE, page << 12 | 0x128);
        let memory = self.board.memory.clone();
        if let Some(host) = host {
            memory.word(host << 12 | 0x128).store(mark, Ordering::Release);
        }
        let direction = if write { Direction::Write } else { Direction::Read };
        self.board.emulator.borrow_mut().transfer(device, direction, iova, place, 8)?;
        let mut reports = Vec::new();
        self.driver.drain_faults(|report| reports.push(*report));
        let what = format!("device {device}, write {write}, {iova:#x}, mapped to {mapped:x?}: {reports:?}");
        let Some(host) = host else {
            self.faults += reports.len() as u32;
            // QEMU records nothing where it remembers a page that permits less.
            ensure!(mapped.is_some() || reports.len() == 1, "{what}");
            for report in reports {
                ensure!(report.device == address(device) && report.fault.place == Place::Memory(page << 12), "{what}");
            }
            return Ok(());
        };
        ensure!(reports.is_empty(), "{what}");
        if write {
            let found = memory.word(host << 12 | 0x128).load(Ordering::Acquire);
            ensure!(found != mark, "{what}: nothing was written");
        } else if mapped.is_some_and(|(_, allowed)| allowed & 2 != 0) {
            // What was read shows where it is written again.
            self.board.emulator.borrow_mut().transfer(device, Direction::Write, iova + 8, place, 8)?;
            let found = memory.word(host << 12 | 0x130).load(Ordering::Acquire);
            ensure!(found == mark, "{what}: {found:#x} was read instead of {mark:#x}");
        }
        Ok(())
    }

    fn interrupt(&mut self, device: usize) -> Result<()> {
        let vector = self.board.emulator.borrow_mut().new_vector();
        let handle = &self.handles[device];
        let delivery = Delivery::Remapped { destination_apic_id: 0, vector, trigger: Trigger::Edge };
        let programmed = self.driver.interrupts().program(handle, 0, delivery);
        programmed.map_err(|error| anyhow::anyhow!("{error}"))?;
        let message = self.driver.interrupts().message(handle, 0).map_err(|error| anyhow::anyhow!("{error}"))?;
        let stranger = (device + 1) % DEVICES.len();
        for (sender, arrives) in [(stranger, false), (device, true)] {
            let mut emulator = self.board.emulator.borrow_mut();
            emulator.send_message(sender, message.address, message.data)?;
            let arrived = emulator.arrived()?[usize::from(vector / 64)] >> (vector % 64) & 1 != 0;
            drop(emulator);
            self.interrupts += 1;
            ensure!(arrived == arrives, "message of device {sender} by device {device}'s entry arrived: {arrived}");
            let mut reports = Vec::new();
            self.driver.drain_faults(|report| reports.push(*report));
            ensure!(reports.len() == usize::from(!arrives), "{reports:?}");
            ensure!(reports.iter().all(|report| report.device == address(sender)), "{reports:?}");
        }
        Ok(())
    }

    fn end(self) -> Result<()> {
        let Self { board, driver, .. } = self;
        driver.shut_down().map_err(|error| anyhow::anyhow!("shutting down: {error}"))?;
        ensure!(board.memory.in_use() == 0, "{} frames are left", board.memory.in_use());
        Ok(())
    }
}
