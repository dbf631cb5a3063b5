//! Events on their way into the guest: EVENTINJ before an entry, EXITINTINFO after an exit (APM volume 2 sections 15.7.2
//! and 15.20). Software interrupts are injected on one emulator only:
//!
//! QEMU's TCG (seen in 10.0) delivers an injected external interrupt inside VMRUN, but leaves it noted as an exception
//! that is still to be raised. Whenever something other than an interrupt then asks its processor loop to stop, before
//! the guest is left, the guest takes the vector a second time. Events of other kinds leave no such note, and an
//! interrupt that is pending at VMRUN makes the guest be left before the loop looks whether it should stop. So there a
//! guest in kernel mode, where no gate forbids it, gets the vector as a software interrupt would bring it, which enters
//! the same handler with the same frame; and in user mode the host CPU interrupts itself, so that the guest is left once
//! more.

use super::vmcb::{Vmcb, event};
use crate::vcpu::state::{Event, Exception};

/// How one virtual CPU's events are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    /// The processor is the emulator that may deliver an external interrupt twice.
    repeats: bool,
    /// The interrupt that was last injected as a software interrupt: its vector, and where the guest was.
    disguised: Option<(u8, u64)>,
    /// The entry that delivers the last injected event has to be left right after.
    comes_back: bool,
}

impl Delivery {
    /// On a processor that `repeats` external interrupts, or not.
    pub(super) const fn new(repeats: bool) -> Self {
        Self { repeats, disguised: None, comes_back: false }
    }

    /// Puts an event where the next entry delivers it, in place of what was there.
    pub(super) fn inject(&mut self, vmcb: &mut Vmcb, event: Event) {
        self.comes_back = false;
        let injection = match event {
            Event::Interrupt(vector) => self.kind(vmcb, vector) | u64::from(vector),
            Event::NonMaskable => event::NON_MASKABLE | 2,
            Event::Exception(Exception { vector, error }) => {
                let error = error.map_or(0, |code| event::HAS_ERROR | u64::from(code) << 32);
                event::EXCEPTION | u64::from(vector) | error
            }
        };
        vmcb.control.injection = event::VALID | injection;
    }

    /// As what an external interrupt is injected.
    fn kind(&mut self, vmcb: &Vmcb, vector: u8) -> u64 {
        if !self.repeats {
            return event::EXTERNAL;
        }
        if vmcb.save.privilege & 3 == 0 {
            self.disguised = Some((vector, vmcb.save.instruction_pointer));
            return event::SOFTWARE;
        }
        self.comes_back = true;
        event::EXTERNAL
    }

    /// What the next entry delivers.
    pub(super) fn injected(vmcb: &Vmcb) -> Option<Event> {
        let injection = vmcb.control.injection;
        if injection & event::VALID == 0 {
            return None;
        }
        let vector = injection as u8;
        Some(match injection & event::TYPE {
            event::EXTERNAL | event::SOFTWARE => Event::Interrupt(vector),
            event::NON_MASKABLE => Event::NonMaskable,
            _ => {
                let error = (injection & event::HAS_ERROR != 0).then_some((injection >> 32) as u32);
                Event::Exception(Exception { vector, error })
            }
        })
    }

    /// Forgets what was to be delivered.
    pub(super) fn reset(&mut self, vmcb: &mut Vmcb) {
        *self = Self::new(self.repeats);
        vmcb.control.injection = 0;
    }

    /// Whether this host CPU has to interrupt itself before the next entry.
    pub(super) const fn comes_back(&self, vmcb: &Vmcb) -> bool {
        self.comes_back && vmcb.control.injection & event::VALID != 0
    }

    /// The guest was left: an event whose delivery that interrupted (EXITINTINFO) is delivered again, but for the guest's
    /// own software interrupts, whose instruction is executed again.
    #[cold]
    pub(super) fn interrupted(&mut self, vmcb: &mut Vmcb) {
        let delivery = vmcb.control.exit_delivery;
        let vector = delivery as u8;
        let again = match delivery & event::TYPE {
            event::EXTERNAL => return self.inject(vmcb, Event::Interrupt(vector)),
            // It was not the guest's: the guest has not moved since it was injected.
            event::SOFTWARE if self.disguised == Some((vector, vmcb.save.instruction_pointer)) => {
                return self.inject(vmcb, Event::Interrupt(vector));
            }
            event::NON_MASKABLE => true,
            // #BP and #OF come from INT3 and INTO.
            event::EXCEPTION => vector != 3 && vector != 4,
            _ => false,
        };
        vmcb.control.injection = if again { delivery } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the guest saw, as its handlers would.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Seen {
        Handler(u8),
        NonMaskable,
    }

    /// A processor: the manual's, or the emulator with its note.
    struct Processor {
        emulator: bool,
        seen: Vec<Seen>,
    }

    impl Processor {
        /// VMRUN until #VMEXIT. The delivery can be `interrupted`, the guest executes its own software interrupt whose
        /// delivery can be, and the emulator's loop can be asked to `stop` while nothing else is pending.
        fn run(&mut self, vmcb: &mut Vmcb, comes_back: bool, what: Run) {
            let injection = core::mem::take(&mut vmcb.control.injection);
            vmcb.control.exit_delivery = 0;
            let mut note = None;
            if injection & event::VALID != 0 {
                if what.interrupted {
                    vmcb.control.exit_delivery = injection;
                    return;
                }
                let vector = injection as u8;
                self.seen.push(match injection & event::TYPE {
                    event::EXTERNAL => {
                        note = self.emulator.then_some(vector);
                        Seen::Handler(vector)
                    }
                    event::SOFTWARE => {
                        assert_eq!(vmcb.save.privilege, 0, "the gate would not let it through");
                        Seen::Handler(vector)
                    }
                    event::NON_MASKABLE => Seen::NonMaskable,
                    kind => panic!("nobody injected {kind:#x}"),
                });
            }
            if comes_back {
                return;
            }
            if what.stop
                && let Some(vector) = note
            {
                self.seen.push(Seen::Handler(vector));
            }
            vmcb.save.instruction_pointer += 1;
            vmcb.save.privilege = what.privilege;
            if let Some(vector) = what.instruction {
                vmcb.control.exit_delivery = event::VALID | event::SOFTWARE | u64::from(vector);
            }
        }
    }

    /// What happens in one run of the guest.
    #[derive(Clone, Copy, Debug)]
    struct Run {
        event: Option<Seen>,
        interrupted: bool,
        stop: bool,
        privilege: u8,
        /// The guest's INT with this vector is interrupted in its delivery: it will be executed again.
        instruction: Option<u8>,
    }

    fn runs() -> impl Strategy<Value = Vec<Run>> {
        let event = prop_oneof![(0x20u8..0x24).prop_map(Seen::Handler), Just(Seen::NonMaskable)];
        let run = (prop::option::of(event), any::<bool>(), any::<bool>(), 0u8..4, prop::option::of(0x20u8..0x24));
        let run = run.prop_map(|(event, interrupted, stop, privilege, instruction)| Run {
            event,
            interrupted,
            stop,
            privilege,
            instruction,
        });
        prop::collection::vec(run, 1..40)
    }

    proptest! {
        /// Whatever is injected reaches the guest once, on silicon and on the emulator, however often the guest is left
        /// meanwhile.
        #[test]
        fn every_event_is_delivered_once(runs in runs(), emulator: bool) {
            // SAFETY: zero is a value of every field.
            let mut vmcb: Box<Vmcb> = Box::new(unsafe { core::mem::zeroed() });
            let mut delivery = Delivery::new(emulator);
            let mut processor = Processor { emulator, seen: Vec::new() };
            let mut wanted = Vec::new();
            let last = Run { event: None, interrupted: false, stop: true, privilege: 0, instruction: None };
            for what in runs.into_iter().chain([last]) {
                if let (None, Some(event)) = (Delivery::injected(&vmcb), what.event) {
                    wanted.push(event);
                    delivery.inject(&mut vmcb, match event {
                        Seen::Handler(vector) => Event::Interrupt(vector),
                        Seen::NonMaskable => Event::NonMaskable,
                    });
                }
                let comes_back = delivery.comes_back(&vmcb);
                processor.run(&mut vmcb, comes_back, what);
                if vmcb.control.exit_delivery & event::VALID != 0 {
                    delivery.interrupted(&mut vmcb);
                }
            }
            prop_assert_eq!(processor.seen, wanted);
        }
    }

    #[test]
    fn silicon_is_given_external_interrupts_as_what_they_are() {
        // SAFETY: as above.
        let mut vmcb: Box<Vmcb> = Box::new(unsafe { core::mem::zeroed() });
        Delivery::new(false).inject(&mut vmcb, Event::Interrupt(0x51));
        assert_eq!(vmcb.control.injection, 1 << 31 | 0x51);
        Delivery::new(true).inject(&mut vmcb, Event::Interrupt(0x51));
        assert_eq!(vmcb.control.injection, 1 << 31 | 4 << 8 | 0x51);
    }

    #[test]
    fn exceptions_come_back_with_their_error_and_int3_does_not() {
        // SAFETY: as above.
        let mut vmcb: Box<Vmcb> = Box::new(unsafe { core::mem::zeroed() });
        let mut delivery = Delivery::new(true);
        let fault = Event::Exception(Exception { vector: 14, error: Some(2) });
        delivery.inject(&mut vmcb, fault);
        vmcb.control.exit_delivery = core::mem::take(&mut vmcb.control.injection);
        delivery.interrupted(&mut vmcb);
        assert_eq!(Delivery::injected(&vmcb), Some(fault));
        vmcb.control.exit_delivery = event::VALID | event::EXCEPTION | 3;
        delivery.interrupted(&mut vmcb);
        assert_eq!(Delivery::injected(&vmcb), None);
    }
}
