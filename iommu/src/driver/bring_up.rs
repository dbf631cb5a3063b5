//! Bringing all units up, each step in all of them before the next (VT-d sections 3.1 and 11.4; some chipsets hang
//! when one unit's root table is set before every unit has its queue).

use alloc::vec::Vec;

use log::{info, warn};
use spin::Mutex;

use crate::address::{HostPhysical, Iova, PciAddress};
use crate::dmar::{Buses, Coverage, Dmar, Flags, ReservedRange};
use crate::door::Machine;
use crate::driver::registry::Registry;
use crate::driver::{
    BringUpError, DomainRequest, Driver, InterruptRemapping, NoInterruptRemapping, NoPosting, Posting,
};
use crate::fault::{Ledger, Limits};
use crate::interrupt::entry::DestinationFormat;
use crate::paging::Permissions;
use crate::unit::{InterruptPlan, ModeChoice, Probe, Unit, UnitError};

/// Which ids the processors' local APICs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicMode {
    /// 8 bits.
    XApic,
    /// 32 bits.
    X2Apic,
}

/// What the machine's owner decides.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The mode that the local APICs are in.
    pub apic_mode: ApicMode,
    /// Bits of a physical address, as the processor says (CPUID 8000_0008): mappings beyond are refused.
    pub physical_bits: u8,
    /// Each unit's interrupt table has `2^interrupt_order` entries, 8 to 16.
    pub interrupt_order: u8,
    /// Devices keep the memory that firmware reserved for them until somebody attaches them elsewhere.
    pub honour_reserved_memory: bool,
    /// When a device's faults are too many.
    pub fault_limits: Limits,
    /// Legacy or scalable mode.
    pub mode: ModeChoice,
    /// The processors take posted interrupts (VMX's "process posted interrupts"). If not, none is posted, whatever the
    /// units can.
    pub processors_post: bool,
}

impl Default for Options {
    /// xAPIC, 39 bits (what every machine has), 4096 interrupts a unit, reserved memory honoured, scalable mode where a
    /// unit has it.
    fn default() -> Self {
        Self {
            apic_mode: ApicMode::XApic,
            physical_bits: 39,
            interrupt_order: 12,
            honour_reserved_memory: true,
            fault_limits: Limits::default(),
            mode: ModeChoice::ByCapability,
            processors_post: true,
        }
    }
}

impl<M: Machine> Driver<M> {
    /// Takes every unit of `dmar` in hand. When this returns, DMA remapping is on in all of them and nothing is let
    /// through but the memory that firmware reserved, as far as `options` honour it; interrupt remapping is on in all
    /// or in none, and [`interrupt_remapping`](Driver::interrupt_remapping) says why.
    ///
    /// Every function's bus mastering should be off: a unit that firmware left on in another mode is off for a moment.
    ///
    /// # Errors
    ///
    /// The first unit that cannot be used. Units that were on by then stay on, with everything denied; the memory of
    /// their tables stays theirs.
    pub fn bring_up(machine: M, dmar: &Dmar, buses: &impl Buses, options: &Options) -> Result<Self, BringUpError> {
        let mut probes = Vec::with_capacity(dmar.units.len());
        for definition in &dmar.units {
            let failed = |error| BringUpError { base: definition.base, error };
            probes.push(Probe::<M>::new(&machine, definition).map_err(failed)?);
        }
        let interrupt_remapping = choose_interrupts(dmar, &probes, options);
        let limit = probes.iter().filter_map(|probe| probe.capability().domain_ids()).min().unwrap_or(0);
        let plan = match interrupt_remapping {
            InterruptRemapping::On { format, .. } => Some(InterruptPlan { order: options.interrupt_order, format }),
            InterruptRemapping::Off(_) => None,
        };
        let units = make_units(&machine, probes, options.mode, plan)?;
        let coverage = Coverage::resolve(dmar, buses);
        if coverage.unresolved() > 0 {
            warn!("{} device scopes of the DMAR table lead through bridges that are absent", coverage.unresolved());
        }
        let driver = Self {
            machine,
            units,
            coverage,
            interrupt_remapping,
            output_bits: options.physical_bits.clamp(32, 52),
            registry: Mutex::new(Registry::new(limit)),
            ledger: Mutex::new(Ledger::new(options.fault_limits)),
        };
        let must_stay_blocked = dmar.flags.contains(Flags::DMA_CONTROL_OPT_IN);
        if must_stay_blocked {
            info!("firmware blocked DMA until now and asks that it stays so (DMA_CTRL_PLATFORM_OPT_IN): it does");
        }
        match driver.enable(options.honour_reserved_memory, must_stay_blocked) {
            Ok(()) => Ok(driver),
            Err(error) => {
                driver.abandon();
                Err(error)
            }
        }
    }

    fn enable(&self, honour_reserved_memory: bool, must_stay_blocked: bool) -> Result<(), BringUpError> {
        self.each_unit(|unit| unit.take_over(&self.machine, must_stay_blocked))?;
        self.each_unit(|unit| unit.enable_queue(&self.machine))?;
        self.each_unit(|unit| unit.enable_interrupts(&self.machine))?;
        // Before the root table is set: where firmware left translation on, a device would lose its memory in between.
        if honour_reserved_memory {
            for device in self.coverage.with_reserved_memory() {
                self.keep_reserved(device);
            }
        }
        self.each_unit(|unit| unit.set_root(&self.machine))?;
        self.each_unit(|unit| unit.enable_translation(&self.machine))
    }

    fn each_unit(&self, step: impl Fn(&Unit<M>) -> Result<(), UnitError>) -> Result<(), BringUpError> {
        self.machine.without_interrupts(|| {
            self.units.iter().try_for_each(|unit| step(unit).map_err(|error| BringUpError { base: unit.base(), error }))
        })
    }

    /// Gives `device` a domain with nothing but what firmware reserved for it. Where that fails the device is denied
    /// everything, which is safe and said.
    fn keep_reserved(&self, device: PciAddress) {
        let domain = match self.create_domain(&DomainRequest::for_devices(&[device])) {
            Ok(domain) => domain,
            Err(error) => return warn!("{device} loses its reserved memory: {error}"),
        };
        self.machine.without_interrupts(|| self.registry.lock().reserved.push(domain));
        for (first, last) in joined(self.coverage.reserved_for(device)) {
            let length = last.as_u64() - first.as_u64() + 1;
            match self.map(domain, Iova::new(first.as_u64()), first, length, Permissions::READ_WRITE) {
                Ok(()) => info!("{device} keeps {first} to {last}, which firmware reserved for it"),
                Err(error) => warn!("{device} loses its reserved memory at {first}: {error}"),
            }
        }
        if let Err(error) = self.attach(domain, device, &[]) {
            warn!("{device} loses its reserved memory: {error}");
            if let Err(error) = self.destroy_domain(domain) {
                warn!("domain {domain} stays: {error}");
            }
        }
    }

    fn abandon(self) {
        let known = self.units.iter().any(Unit::is_known_to_hardware);
        self.units.into_iter().for_each(Unit::abandon);
        self.registry.into_inner().dissolve(!known);
    }
}

/// The usable ranges, first to last byte, with those that overlap made one: firmware names some twice.
fn joined(ranges: impl Iterator<Item = ReservedRange>) -> Vec<(HostPhysical, HostPhysical)> {
    let mut ranges: Vec<_> = ranges.filter(|range| range.usable).map(|range| (range.first, range.last)).collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlap = next.0 <= kept.1;
        if overlap {
            kept.1 = kept.1.max(next.1);
        }
        overlap
    });
    ranges
}

fn make_units<M: Machine>(
    machine: &M,
    probes: Vec<Probe<M>>,
    choice: ModeChoice,
    plan: Option<InterruptPlan>,
) -> Result<Vec<Unit<M>>, BringUpError> {
    let mut units = Vec::with_capacity(probes.len());
    for probe in probes {
        let base = probe.base();
        let (mode, reason) = probe.choose_mode(choice);
        info!("unit {base}: {mode}, since {reason}");
        match Unit::new(machine, probe, mode, plan) {
            Ok(unit) => units.push(unit),
            Err(error) => {
                units.into_iter().for_each(Unit::abandon);
                return Err(BringUpError { base, error });
            }
        }
    }
    Ok(units)
}

/// Interrupts are remapped in all units or in none: one that does not is a way around the others.
fn choose_interrupts<M: Machine>(dmar: &Dmar, probes: &[Probe<M>], options: &Options) -> InterruptRemapping {
    let off = |reason: NoInterruptRemapping| {
        warn!("interrupts are not remapped: {reason}; no device can be given away safely");
        InterruptRemapping::Off(reason)
    };
    if !dmar.flags.contains(Flags::INTERRUPT_REMAPPING) {
        return off(NoInterruptRemapping::Platform);
    }
    if let Some(probe) = probes.iter().find(|probe| !probe.extended().interrupt_remapping()) {
        return off(NoInterruptRemapping::Unit { base: probe.base() });
    }
    if let Some(probe) = probes.iter().find(|probe| !probe.extended().queued_invalidation()) {
        return off(NoInterruptRemapping::Queue { base: probe.base() });
    }
    let wide = probes.iter().all(|probe| probe.extended().extended_interrupt_mode());
    let format = match (options.apic_mode, wide) {
        (ApicMode::X2Apic, true) => {
            if dmar.flags.contains(Flags::X2APIC_OPT_OUT) {
                warn!("firmware asks to leave x2APIC mode off, and it is on");
            }
            info!("interrupt destinations of 32 bits: x2APIC mode, and every unit has EIM");
            DestinationFormat::X2Apic
        }
        (ApicMode::X2Apic, false) => {
            warn!("interrupt destinations of 8 bits in x2APIC mode: a unit lacks EIM, so APIC ids above 254 get none");
            DestinationFormat::XApic
        }
        (ApicMode::XApic, _) => {
            info!("interrupt destinations of 8 bits: xAPIC mode");
            DestinationFormat::XApic
        }
    };
    let posting = match probes.iter().find(|probe| !probe.capability().posted_interrupts()) {
        _ if !options.processors_post => Posting::Off(NoPosting::Processors),
        Some(probe) => Posting::Off(NoPosting::Unit { base: probe.base() }),
        None => Posting::On,
    };
    match posting {
        Posting::On => info!("interrupts can be posted"),
        Posting::Off(reason) => info!("interrupts are not posted, since {reason}; they go to host vectors"),
    }
    InterruptRemapping::On { format, posting }
}
