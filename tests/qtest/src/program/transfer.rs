//! Transfers: what the model answers, what else is explained, and which of it QEMU did.

use anyhow::{Result, bail, ensure};

use remapping_unit_model::reason;

use crate::emulator::{DEVICES, Direction};
use crate::program::divergence::Divergence;
use crate::program::layout::{BUFFERS, IMAGE};
use crate::program::modelled::{Answer, Record};
use crate::program::run::Run;

/// The part of a transfer that lies in one page.
#[derive(Clone, Copy, Debug)]
struct Piece {
    address: u64,
    length: u64,
}

/// One way in which a transfer may go.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    divergences: Vec<Divergence>,
    /// A word for each 8 bytes: where it goes to or comes from.
    outputs: Vec<Option<u64>>,
    /// What a unit that records one fault a requester shows.
    fault: Option<Record>,
}

/// What a transfer has put into a buffer, as far as is known before the buffer is emptied.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    device: usize,
    address: u64,
    place: u64,
    /// With what the memory held.
    ways: Vec<(Way, Vec<u64>)>,
}

impl Run<'_> {
    pub(crate) fn transfer(&mut self, device: usize, write: bool, address: u64) -> Result<()> {
        let direction = if write { Direction::Write } else { Direction::Read };
        let place = self.place;
        self.place += 16;
        let first = 16.min(4096 - address % 4096);
        let mut pieces = vec![Piece { address, length: first }];
        if let Some(next) = address.checked_add(first).filter(|_| first < 16) {
            pieces.push(Piece { address: next, length: 16 - first });
        }
        let mut ways = vec![Way { divergences: Vec::new(), outputs: Vec::new(), fault: None }];
        for piece in &pieces {
            let choices = self.choices(device, direction, *piece);
            ways = ways.iter().flat_map(|way| choices.iter().map(|choice| way.then(choice))).collect();
        }
        let length = pieces.iter().map(|piece| piece.length).sum();
        self.pair.emulator.transfer(device, direction, address, place, length)?;
        let fault = self.pair.take_fault()?;
        self.tally.transfers += 1;
        self.tally.faults += u64::from(fault.is_some());
        let expected = ways.first().cloned();
        match direction {
            Direction::Read => {
                ways.retain(|way| way.fault == fault);
                ensure!(!ways.is_empty(), "QEMU recorded {fault:x?}, the model {expected:x?}");
                let ways = ways.into_iter().map(|way| {
                    let held = way.outputs.iter().map(|output| self.held(*output)).collect();
                    (way, held)
                });
                let ways = ways.collect();
                self.reads.push(Reading { device, address, place, ways });
            }
            Direction::Write => {
                let landed: Vec<_> =
                    (0..length / 8).map(|word| self.landing(device, place + word * 8, address + word * 8)).collect();
                let in_memory = |output: &Option<u64>| output.filter(|address| *address < IMAGE);
                let matches = |way: &&Way| way.fault == fault && way.outputs.iter().map(in_memory).eq(landed.clone());
                let Some(way) = ways.iter().find(matches) else {
                    bail!("QEMU wrote to {landed:x?} and recorded {fault:x?}; the model {expected:x?}");
                };
                for (word, output) in (0..).zip(&way.outputs) {
                    if let Some(output) = output {
                        self.pair.ram.put(*output, pattern(device, place + word * 8));
                    }
                }
                way.divergences.iter().for_each(|divergence| self.count(*divergence));
            }
        }
        Ok(())
    }

    /// What the model answers for a piece, and what else is explained.
    fn choices(&mut self, device: usize, direction: Direction, piece: Piece) -> Vec<Way> {
        let source = DEVICES[device];
        self.pair.forgetful.forget();
        let fresh = self.pair.forgetful.request(source, direction, piece.address);
        self.pair.half_forgetful.forget_pages();
        let half_fresh = self.pair.half_forgetful.request(source, direction, piece.address);
        let answer = self.pair.model.request(source, direction, piece.address);
        if !self.careful && fresh != answer {
            self.tally.stale += 1;
        }
        let mut found = vec![(None, answer)];
        let known = self.remembered(device, piece.address);
        if !known.is_empty() {
            found.push((Some(Divergence::SilentRefusal), Answer { output: None, fault: None }));
        }
        if [answer, fresh, half_fresh]
            .iter()
            .any(|answer| answer.fault.is_some_and(|fault| fault.reason == reason::BEYOND_WIDTH))
        {
            let passed = Answer { output: Some(piece.address), fault: None };
            found.push((Some(Divergence::PassesAnywhere), passed));
        }
        let refused = if direction == Direction::Write { reason::WRITE } else { reason::READ };
        for fault in [answer.fault, fresh.fault, half_fresh.fault].into_iter().flatten() {
            if matches!(fault.reason, reason::PAGE_TABLE_RESERVED | reason::OUTPUT_IN_INTERRUPT_RANGE) {
                let fault = Some(Record { reason: refused, ..fault });
                found.push((Some(Divergence::PermissionsFirst), Answer { output: None, fault }));
            }
        }
        for answer in [answer, fresh, half_fresh] {
            if answer.output.is_some_and(|output| output >> 21 == 0xfee0_0000 >> 21 || output >> 30 == 3) {
                let reason = reason::OUTPUT_IN_INTERRUPT_RANGE;
                let read = direction == Direction::Read;
                let fault = Some(Record { information: piece.address & !0xfff, source, reason, read });
                found.push((Some(Divergence::WholePage), Answer { output: None, fault }));
            }
        }
        if !self.careful {
            found.push((Some(Divergence::LooksUpAgain), fresh));
            found.push((Some(Divergence::LooksUpAgain), half_fresh));
            if self.passed.contains(&device) {
                let passed = Answer { output: Some(piece.address), fault: None };
                found.push((Some(Divergence::RemembersPassThrough), passed));
            }
            for output in known {
                found.push((Some(Divergence::RemembersBySource), Answer { output: Some(output), fault: None }));
            }
        }
        for output in [answer.output, fresh.output, half_fresh.output].into_iter().flatten() {
            self.history.insert((device, piece.address & !0xfff, output & !0xfff));
        }
        found.dedup_by_key(|(_, answer)| *answer);
        let words = piece.length / 8;
        let way = |(divergence, answer): (Option<Divergence>, Answer)| Way {
            divergences: divergence.into_iter().collect(),
            outputs: (0..words).map(|word| answer.output.map(|output| output + word * 8)).collect(),
            fault: answer.fault,
        };
        found.into_iter().map(way).collect()
    }

    /// Where QEMU may remember that the device's address leads: by a page of 4 KiB, 2 MiB or 1 GiB.
    fn remembered(&self, device: usize, address: u64) -> Vec<u64> {
        let of_page = |(user, from, to): &(usize, u64, u64)| {
            let same = |bits: u32| from >> bits == address >> bits && (from ^ to) & ((1 << bits) - 1) == 0;
            (*user == device && [12, 21, 30].into_iter().any(same))
                .then(|| to.wrapping_sub(*from).wrapping_add(address))
        };
        self.history.iter().filter_map(of_page).collect()
    }

    fn held(&self, output: Option<u64>) -> u64 {
        output.and_then(|output| self.pair.ram.get(output)).unwrap_or(0)
    }

    /// Where QEMU put the word at `place` of the device's buffer, at the same place of some page.
    fn landing(&self, device: usize, place: u64, address: u64) -> Option<u64> {
        let wanted = pattern(device, place);
        let own = BUFFERS..BUFFERS + DEVICES.len() as u64 * 4096;
        let addresses = (address % 4096..IMAGE).step_by(4096).filter(|address| !own.contains(address));
        addresses.into_iter().find(|address| self.pair.emulator.memory().read(*address) == Some(wanted))
    }

    /// What a device's buffer holds after the program.
    pub(crate) fn judge_reading(&mut self, reading: &Reading, buffers: &[Vec<u64>]) -> Result<()> {
        let Reading { device, address, place, ways } = reading;
        let got = |count: usize| buffers[*device].iter().skip((*place / 8) as usize).take(count);
        let Some((way, _)) = ways.iter().find(|(_, held)| got(held.len()).eq(held)) else {
            let held: Vec<_> = got(2).collect();
            bail!("device {device} read {held:x?} at {address:#x}; explained are {ways:x?}");
        };
        way.divergences.iter().for_each(|divergence| self.count(*divergence));
        Ok(())
    }

    pub(crate) fn count(&mut self, divergence: Divergence) {
        *self.tally.divergences.entry(divergence).or_default() += 1;
    }
}

impl Way {
    fn then(&self, next: &Way) -> Way {
        Way {
            divergences: [&self.divergences[..], &next.divergences].concat(),
            outputs: [&self.outputs[..], &next.outputs].concat(),
            // The second of a requester is not recorded while the first is.
            fault: self.fault.or(next.fault),
        }
    }
}

/// What a device's buffer holds from the start, and nothing else.
fn pattern(device: usize, place: u64) -> u64 {
    (0xda7a << 48) + BUFFERS + device as u64 * 4096 + place
}
