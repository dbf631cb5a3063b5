//! Invalidation by register (VT-d section 6.5.1): for old units that have no queue. One command at a time, each awaited.
//! From version 6 of the architecture on it is gone.
//!
//! Belongs to its unit's queue lock, as the queue does.

use crate::door::{Clock, Registers};
use crate::layout::layout;
use crate::queue::{Abilities, Descriptor, QueueError};
use crate::registers::access::ReadWrite;
use crate::registers::capability::ExtendedCapability;
use crate::registers::{Register, Wait, Window, map, register_value};

layout! {
    /// CCMD: an invalidation of context entries.
    pub struct ContextCommand(u64) {
        /// DID.
        domain, with_domain: [15:0];
        /// SID.
        source, with_source: [31:16];
        /// FM: the function bits of the source to ignore.
        function_mask, with_function_mask: [33:32];
        /// CAIG: what was done, 0 where the unit refused.
        done, with_done: [60:59];
        /// CIRG: 1 all, 2 one domain, 3 one function.
        granularity, with_granularity: [62:61];
        /// ICC: under way.
        busy, with_busy: [63];
    }
}

layout! {
    /// IOTLB: an invalidation of translations.
    pub struct TranslationCommand(u64) {
        /// DID.
        domain, with_domain: [47:32];
        /// DW: wait for writes under way.
        drain_writes, with_drain_writes: [48];
        /// DR: wait for reads under way.
        drain_reads, with_drain_reads: [49];
        /// IAIG: what was done, 0 where the unit refused.
        done, with_done: [58:57];
        /// IIRG: 1 all, 2 one domain, 3 pages.
        granularity, with_granularity: [61:60];
        /// IVT: under way.
        busy, with_busy: [63];
    }
}

layout! {
    /// IVA: the pages of a [`TranslationCommand`].
    pub struct InvalidateAddress(u64) {
        /// AM: the base-2 logarithm of the number of pages.
        mask, with_mask: [5:0];
        /// IH: tables stay, only leaves changed.
        leaves_only, with_leaves_only: [6];
        /// The page number.
        page, with_page: [63:12];
    }
}

register_value!(ContextCommand: u64, TranslationCommand: u64, InvalidateAddress: u64);

/// The invalidation registers of one unit.
#[derive(Debug)]
pub struct InvalidationRegisters {
    address: Register<InvalidateAddress, ReadWrite>,
    command: Register<TranslationCommand, ReadWrite>,
    abilities: Abilities,
    /// Set for good when the unit stopped answering.
    dead: bool,
}

impl InvalidationRegisters {
    /// Those of a unit with these capabilities. The window holds them.
    pub fn new(extended: ExtendedCapability, abilities: Abilities) -> Self {
        let base = extended.iotlb_base();
        Self { address: Register::at(base), command: Register::at(base + 8), abilities, dead: false }
    }

    /// Executes `descriptors` in order, each before the next.
    ///
    /// # Errors
    ///
    /// The first that failed; those after it were tried all the same. What was asked for cannot be relied on then.
    pub fn submit<R: Registers>(
        &mut self,
        window: &Window<R>,
        clock: &impl Clock,
        descriptors: impl Iterator<Item = Descriptor>,
    ) -> Result<(), QueueError> {
        let mut result = Ok(());
        for descriptor in descriptors {
            if self.dead {
                return result.and(Err(QueueError::Dead));
            }
            result = result.and(self.execute(window, clock, descriptor));
        }
        result
    }

    fn execute<R: Registers>(
        &mut self,
        window: &Window<R>,
        clock: &impl Clock,
        descriptor: Descriptor,
    ) -> Result<(), QueueError> {
        let contexts = ContextCommand::default().with_busy(true);
        let pages = TranslationCommand::default()
            .with_busy(true)
            .with_drain_reads(self.abilities.read_drain)
            .with_drain_writes(self.abilities.write_drain);
        match descriptor {
            Descriptor::AllContexts => self.contexts(window, clock, contexts.with_granularity(1)),
            Descriptor::Context { domain, source } => {
                let one = contexts.with_granularity(3).with_domain(domain.into()).with_source(source.bits().into());
                self.contexts(window, clock, one)
            }
            Descriptor::AllTranslations => self.translations(window, clock, pages.with_granularity(1)),
            Descriptor::Domain { domain } => {
                self.translations(window, clock, pages.with_granularity(2).with_domain(domain.into()))
            }
            Descriptor::Pages { domain, first, mask, leaves_only } => {
                let address = InvalidateAddress::default()
                    .with_mask(mask.into())
                    .with_leaves_only(leaves_only)
                    .with_page(first.as_u64() >> 12);
                window.write(self.address, address);
                self.translations(window, clock, pages.with_granularity(3).with_domain(domain.into()))
            }
            // Such units remap no interrupts, serve no device TLBs, and have no scalable mode.
            Descriptor::DeviceTlb { .. }
            | Descriptor::AllInterrupts
            | Descriptor::Interrupts { .. }
            | Descriptor::AllProcesses
            | Descriptor::Process { .. }
            | Descriptor::ProcessTranslations { .. }
            | Descriptor::ProcessPages { .. } => Err(QueueError::NeedsQueue),
        }
    }

    fn contexts<R: Registers>(
        &mut self,
        window: &Window<R>,
        clock: &impl Clock,
        command: ContextCommand,
    ) -> Result<(), QueueError> {
        window.write(map::CONTEXT_COMMAND, command);
        let answer = Wait::INVALIDATION
            .until(clock, || Some(window.read(map::CONTEXT_COMMAND)).filter(|command| !command.busy()));
        self.judge(answer.map(|answer| answer.done() != 0), "context entries")
    }

    fn translations<R: Registers>(
        &mut self,
        window: &Window<R>,
        clock: &impl Clock,
        command: TranslationCommand,
    ) -> Result<(), QueueError> {
        window.write(self.command, command);
        let answer =
            Wait::INVALIDATION.until(clock, || Some(window.read(self.command)).filter(|command| !command.busy()));
        self.judge(answer.map(|answer| answer.done() != 0), "translations")
    }

    /// A unit may do more than it was asked for, but not nothing.
    fn judge(
        &mut self,
        answer: Result<bool, crate::registers::WaitExpired>,
        what: &'static str,
    ) -> Result<(), QueueError> {
        match answer {
            Ok(true) => Ok(()),
            Ok(false) => Err(QueueError::RefusedByRegister { what }),
            Err(wait) => {
                self.dead = true;
                Err(QueueError::RegisterExpired { what, wait })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_round_trip() {
        ContextCommand::check_round_trip();
        TranslationCommand::check_round_trip();
        InvalidateAddress::check_round_trip();
    }

    #[test]
    fn what_was_asked_and_what_was_done_stand_at_different_places() {
        assert_eq!(ContextCommand::default().with_granularity(3).bits(), 3 << 61);
        assert_eq!(ContextCommand::default().with_done(3).bits(), 3 << 59);
        assert_eq!(TranslationCommand::default().with_granularity(3).bits(), 3 << 60);
        assert_eq!(TranslationCommand::default().with_done(3).bits(), 3 << 57);
    }
}
