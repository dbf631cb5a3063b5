//! The loop of a virtual CPU, the same for every engine.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ops::ControlFlow;

use super::cpuid::CpuidTable;
use super::engine::{EXIT_KINDS, Exit, QuickExit, VcpuEngine};
use super::extended::ExtendedState;
use super::external::External;
use super::fetch::{CodePage, DriverPages};
use super::msr::Msrs;
use super::non_maskable::NonMaskable;
use super::platform::{CrashReason, End, Platform, ResetCause};
use super::state::{Event, Exception, SystemRegister, bits};
use super::{HostTimer, Settings, Stop, VcpuError};
use crate::vapic::{ApicBus, Effect, Endpoint, LocalApic, Requests};

/// What the virtual CPU does when nothing interrupts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// It executes instructions.
    Running,
    /// It executed HLT.
    Halted,
    /// It waits for a start-up interrupt.
    WaitsForStartUp,
}

/// Whether the loop goes on.
pub(super) type Flow = ControlFlow<Stop>;

/// Why an instruction was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The guest gets this exception instead.
    Exception(Exception),
    /// The guest gets a page fault at this linear address.
    Page {
        /// Goes to CR2.
        address: u64,
        /// The error code.
        error: u32,
    },
    /// The machine ends.
    Crash(CrashReason),
}

impl From<Exception> for Trouble {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

/// A virtual CPU on an engine.
pub(super) struct Body<E> {
    pub(super) engine: E,
    pub(super) index: usize,
    pub(super) apic: LocalApic,
    /// What `apic` says counts. Otherwise the processor may have delivered and ended interrupts since.
    apic_counts: bool,
    pub(super) bus: Arc<ApicBus>,
    pub(super) timer: HostTimer,
    pub(super) activity: Activity,
    /// Something changed that decides what is delivered next, or whether the guest runs at all.
    pub(super) attention: bool,
    /// What the host's timer was set to last, as long as that is ahead.
    armed: Option<u64>,
    /// When the machine's timers have to be asked again.
    machine_deadline: Option<u64>,
    pub(super) non_maskable: NonMaskable,
    pub(super) external: External,
    pub(super) cpuid: CpuidTable,
    pub(super) msrs: Msrs,
    pub(super) extended: ExtendedState,
    pub(super) code: CodePage,
    pub(super) driver_pages: DriverPages,
    pub(super) exits: [u64; EXIT_KINDS],
}

impl<E: VcpuEngine> Body<E> {
    pub(super) fn new(mut engine: E, settings: Settings) -> Result<Box<Self>, VcpuError> {
        let endpoint = settings.bus.endpoint(settings.index).ok_or(VcpuError::NoPlace(settings.index))?;
        let id = u32::try_from(settings.index).map_err(|_| VcpuError::NoPlace(settings.index))?;
        let boots = settings.index == 0;
        let apic = LocalApic::new(id, boots, settings.x2apic);
        apic.publish(endpoint);
        engine.reset();
        let extended = ExtendedState::new(settings.owner)?;
        let count = u32::try_from(settings.bus.endpoints().len()).unwrap_or(u32::MAX);
        let cpuid = CpuidTable::new(id, count, settings.x2apic, extended.offered());
        super::fetch::prepare();
        Ok(Box::new(Self {
            engine,
            index: settings.index,
            apic,
            apic_counts: true,
            bus: settings.bus,
            timer: settings.timer,
            activity: if boots { Activity::Running } else { Activity::WaitsForStartUp },
            attention: true,
            armed: None,
            machine_deadline: None,
            non_maskable: NonMaskable::default(),
            external: External::default(),
            cpuid,
            msrs: Msrs::new(),
            extended,
            code: CodePage::none(),
            driver_pages: [CodePage::none(); 4],
            exits: [0; EXIT_KINDS],
        }))
    }

    pub(super) fn run(&mut self, platform: &dyn Platform) -> Stop {
        let bus = Arc::clone(&self.bus);
        let Some(endpoint) = bus.endpoint(self.index) else { return Stop::Ended };
        self.attention = true;
        // Somebody else may have used the host's timer since.
        self.armed = None;
        self.engine.set_nested_root(platform.nested_root());
        self.engine.set_apic_access(platform.apic_access_page());
        self.engine.set_mailbox(endpoint.mailbox());
        if let Err(rule) = self.engine.load() {
            platform.end(End::Crash(CrashReason::InvalidState { rule }));
            return Stop::Ended;
        }
        self.extended.load();
        // The host may take its timer's interrupt itself, when another exit comes first: so it is noted where every
        // entry looks.
        (self.timer.set_handler)(Some((note_timer, core::ptr::from_ref(endpoint).expose_provenance())));
        let stop = self.enter_and_handle(endpoint, platform);
        (self.timer.set_handler)(None);
        self.extended.unload();
        self.engine.unload();
        stop
    }

    fn enter_and_handle(&mut self, endpoint: &Endpoint, platform: &dyn Platform) -> Stop {
        loop {
            self.engine.hold();
            if self.attention || !endpoint.enter() {
                self.engine.release();
                if let ControlFlow::Break(stop) = self.attend(endpoint, platform) {
                    return stop;
                }
                continue;
            }
            self.engine.enter();
            endpoint.leave();
            self.apic_counts = !self.engine.delivers_interrupts();
            // Short ways for what guests do most; whatever is unusual about it takes the long one.
            let done = match self.engine.quick_exit() {
                Some(QuickExit::Cpuid) => self.quick_cpuid(),
                Some(QuickExit::Hypercall) => self.quick_hypercall(),
                Some(QuickExit::ReadMsr) => self.quick_read_msr(),
                None => false,
            };
            if done {
                continue;
            }
            let exit = self.engine.exit();
            if let Some(count) = self.exits.get_mut(exit.kind()) {
                *count = count.wrapping_add(1);
            }
            if let ControlFlow::Break(stop) = self.handle(exit, platform) {
                return stop;
            }
        }
    }

    #[inline(never)]
    fn handle(&mut self, exit: Exit, platform: &dyn Platform) -> Flow {
        let result = match exit {
            Exit::Cpuid => self.handle_cpuid(platform),
            Exit::Hypercall => self.handle_hypercall(platform),
            Exit::ReadMsr => self.handle_read_msr(platform),
            Exit::WriteMsr => self.handle_write_msr(platform),
            Exit::Port(access) => self.handle_port(access, platform),
            Exit::Nested(fault) => self.handle_nested(fault, platform),
            Exit::Halt => self.handle_halt(platform),
            Exit::InterruptWindow | Exit::TimeSlice => {
                self.attention = true;
                Ok(())
            }
            Exit::NonMaskableWindow => {
                self.handle_non_maskable_window();
                Ok(())
            }
            Exit::ApicWrite { offset, value } => {
                self.write_local_apic_register(offset, value, platform);
                Ok(())
            }
            Exit::EndOfInterrupt(vector) => {
                platform.broadcast_eoi(vector);
                Ok(())
            }
            // Whatever it was for has posted or noted it where the next entry looks.
            Exit::Interrupt | Exit::HostEvent => Ok(()),
            Exit::InterruptReturn => {
                self.handle_interrupt_return();
                Ok(())
            }
            Exit::CacheInvalidate => self.handle_cache_invalidate(platform),
            Exit::ControlWrite => self.handle_control_write(platform),
            Exit::ControlFault => self.handle_control_fault(platform),
            Exit::DebugWrite => self.handle_debug_write(platform),
            Exit::SetExtendedControl => self.handle_set_extended_control(platform),
            Exit::Undefined => Err(Exception::UNDEFINED.into()),
            Exit::Counter => Err(Exception::GENERAL_PROTECTION.into()),
            Exit::Exception(Exception::DEBUG) => self.handle_debug_exception().map_err(Trouble::from),
            Exit::Exception(exception) => Err(exception.into()),
            Exit::MachineCheck => Err(Trouble::Crash(CrashReason::MachineCheck)),
            Exit::Shutdown => return self.end(platform, End::Reset(ResetCause::TripleFault)),
            Exit::Invalid(rule) => Err(Trouble::Crash(CrashReason::InvalidState { rule })),
            Exit::Unknown(code) => Err(Trouble::Crash(CrashReason::UnknownExit { code })),
        };
        match result {
            Ok(()) => Flow::Continue(()),
            Err(trouble) => self.settle(trouble, platform),
        }
    }

    /// Gives the guest what it gets instead of its instruction.
    #[cold]
    fn settle(&mut self, trouble: Trouble, platform: &dyn Platform) -> Flow {
        let exception = match trouble {
            Trouble::Exception(exception) => exception,
            Trouble::Page { address, error } => {
                self.engine.set_system(SystemRegister::Cr2, address);
                Exception::page_fault(error)
            }
            Trouble::Crash(reason) => return self.end(platform, End::Crash(reason)),
        };
        self.raise(exception, platform)
    }

    pub(super) fn raise(&mut self, exception: Exception, platform: &dyn Platform) -> Flow {
        self.give_up_step();
        let exception = match self.engine.injected() {
            None => exception,
            // What comes from outside waits until the exception is delivered.
            Some(Event::Interrupt(vector)) => {
                if !self.external.put_back(vector) {
                    self.take_interrupts();
                    self.apic.put_back(vector);
                }
                exception
            }
            Some(Event::NonMaskable) => {
                self.non_maskable.put_back();
                exception
            }
            Some(Event::Exception(first)) => match super::exception::combine(first, exception) {
                Some(exception) => exception,
                None => return self.end(platform, End::Reset(ResetCause::TripleFault)),
            },
        };
        self.engine.inject(Event::Exception(exception));
        self.attention = true;
        Flow::Continue(())
    }

    pub(super) fn end(&mut self, platform: &dyn Platform, reason: End) -> Flow {
        platform.end(reason);
        Flow::Break(Stop::Ended)
    }

    /// Everything that may change whether the guest runs and what is delivered to it.
    #[cold]
    fn attend(&mut self, endpoint: &Endpoint, platform: &dyn Platform) -> Flow {
        self.attention = false;
        endpoint.set_asleep(false);
        let requests = endpoint.take_requests();
        if requests.contains(Requests::STOP) {
            return Flow::Break(Stop::Ended);
        }
        if requests.contains(Requests::FLUSH) {
            self.engine.set_nested_root(platform.nested_root());
            self.engine.flush_translations();
        }
        if requests.contains(Requests::INIT) {
            self.initialise(endpoint);
        }
        if requests.contains(Requests::START_UP) && self.activity == Activity::WaitsForStartUp {
            self.start_at(super::Start::RealMode { page: endpoint.take_start_page() });
        }
        if requests.contains(Requests::NON_MASKABLE) {
            self.non_maskable.request();
        }
        if requests.contains(Requests::EXTERNAL) {
            self.external.request();
        }
        // First, since what these post is drained right after.
        self.machine_deadline = platform.timers(self.index);
        self.take_interrupts();
        self.apic.drain(endpoint);
        self.tick();
        self.read_task_priority();
        self.wake();
        if self.activity == Activity::Running {
            self.choose_event(platform);
        }
        self.engine.give_interrupts(&self.apic);
        if requests.contains(Requests::YIELD) {
            Flow::Break(Stop::Yielded)
        } else if self.activity != Activity::Running {
            // Said before the others are asked, so that of two that fall asleep at once the later sees both.
            endpoint.set_asleep(self.is_asleep());
            if self.bus.is_asleep() {
                return self.end(platform, End::Crash(CrashReason::HaltedForGood));
            }
            Flow::Break(Stop::Halted)
        } else {
            self.engine.prepare();
            Flow::Continue(())
        }
    }

    /// INIT (SDM volume 3 table 10-1): as after power-on, but what belongs to the memory system stays, and every
    /// processor but the first waits for its start-up interrupt.
    fn initialise(&mut self, endpoint: &Endpoint) {
        let offset = self.engine.timestamp_offset();
        self.engine.reset();
        self.engine.set_timestamp_offset(offset);
        self.apic.init(endpoint);
        self.non_maskable = NonMaskable::default();
        self.external.forget();
        self.refresh_cpuid();
        self.forget_code_pages();
        self.activity = if self.index == 0 { Activity::Running } else { Activity::WaitsForStartUp };
    }

    /// Lets the local APIC's timer act if it is due, and tells the host when it or the machine's are due next.
    fn tick(&mut self) {
        if self.apic.deadline().is_none() && self.machine_deadline.is_none() {
            self.armed = None;
            return;
        }
        let now = (self.timer.nanoseconds)();
        self.apic.tick(now);
        let next = self.deadline();
        if next != self.armed {
            self.armed = next;
            if let Some(deadline) = next {
                (self.timer.set_deadline)(deadline);
            }
        }
    }

    /// CR8 is written without an exit: its value is the upper half of the task priority.
    pub(super) fn read_task_priority(&mut self) {
        let cr8 = self.engine.system(SystemRegister::Cr8) as u8 & 0xf;
        if self.apic.task_priority() >> 4 != cr8 {
            self.apic.set_task_priority(cr8 << 4);
        }
    }

    fn wake(&mut self) {
        if self.activity == Activity::Halted {
            let interrupt = self.apic.deliverable().is_some() && self.engine.flags() & bits::FLAGS_IF != 0;
            if interrupt || self.external_wakes() || self.takes_non_maskable() || self.engine.injected().is_some() {
                self.activity = Activity::Running;
            }
        }
    }

    /// Lets `apic` catch up with what the processor did.
    #[inline]
    pub(super) fn take_interrupts(&mut self) {
        if !self.apic_counts {
            self.apic_counts = true;
            self.engine.take_interrupts(&mut self.apic);
        }
    }

    /// Chooses what the next entry delivers, and the window to be told of for what has to wait.
    fn choose_event(&mut self, platform: &dyn Platform) {
        if self.engine.injected().is_some() {
            if self.takes_non_maskable() {
                self.come_back_at_once();
            }
        } else if !self.deliver_non_maskable()
            && (!self.engine.delivers_interrupts() || self.external_waits())
            && self.takes_interrupts()
            && !self.deliver_external(platform)
            && !self.engine.delivers_interrupts()
            && let Some(vector) = self.apic.acknowledge()
        {
            self.external.give_way();
            self.engine.inject(Event::Interrupt(vector));
        }
        // What waits for the interrupt flag, or for CR8 to fall: the window opens with its class.
        let waiting = if self.engine.delivers_interrupts() { None } else { self.apic.waiting() };
        self.engine.open_window(waiting);
        if self.external_waits() {
            self.engine.open_external_window();
        }
    }

    /// Makes the guest be left as soon as it has taken what the next entry delivers: there is no window for an NMI.
    fn come_back_at_once(&mut self) {
        let now = (self.timer.nanoseconds)();
        (self.timer.set_deadline)(now);
        self.armed = Some(now);
    }

    fn takes_interrupts(&self) -> bool {
        self.engine.flags() & bits::FLAGS_IF != 0 && !self.engine.has_interrupt_shadow() && !self.steps()
    }

    /// Carries out what a write of a local APIC's register asks for.
    pub(super) fn carry_out(&mut self, effect: Effect, platform: &dyn Platform) {
        match effect {
            Effect::Nothing => {}
            Effect::Send(interrupt) => {
                self.bus.send(Some(self.index), interrupt);
            }
            Effect::EndOfInterrupt(vector) => platform.broadcast_eoi(vector),
            Effect::Timer => {}
        }
        self.engine.set_system(SystemRegister::Cr8, u64::from(self.apic.task_priority() >> 4));
        self.attention = true;
    }

    /// Goes on behind the instruction that was just carried out.
    #[inline]
    pub(super) fn go_on_at(&mut self, next: u64) {
        self.engine.set_instruction_pointer(next);
        self.engine.end_interrupt_shadow();
        if self.engine.may_be_traced() {
            self.finish_traced();
        }
    }

    /// The instruction ended with RF set (it is over now) or with TF set (the guest traces itself).
    #[cold]
    fn finish_traced(&mut self) {
        /// DR6: single step.
        const DR6_BS: u64 = 1 << 14;
        let flags = self.engine.flags();
        self.engine.set_flags(flags & !bits::FLAGS_RF);
        if flags & bits::FLAGS_TF != 0 {
            let dr6 = self.engine.system(SystemRegister::Dr6);
            self.engine.set_system(SystemRegister::Dr6, dr6 | DR6_BS);
            self.engine.inject(Event::Exception(Exception::DEBUG));
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        let due = self.deadline().is_some_and(|deadline| deadline <= (self.timer.nanoseconds)());
        due || self.activity == Activity::Running || self.bus.endpoint(self.index).is_some_and(Endpoint::has_work)
    }

    /// When the local APIC's timer or one of the machine's that this virtual CPU serves is due.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.apic.deadline().into_iter().chain(self.machine_deadline).min()
    }

    pub(super) fn exits(&self) -> [u64; EXIT_KINDS] {
        self.exits
    }

    /// Whether only a request can wake it: no interrupt does.
    fn is_asleep(&self) -> bool {
        match self.activity {
            Activity::Running => false,
            Activity::Halted => self.engine.flags() & bits::FLAGS_IF == 0,
            Activity::WaitsForStartUp => true,
        }
    }
}

/// The host CPU's timer fired.
fn note_timer(endpoint: usize) {
    // SAFETY: `run` gave the address, and takes it back before it lets go of the bus that holds the endpoint; it is
    // called in between, on the same CPU.
    let endpoint = unsafe { &*core::ptr::with_exposed_provenance::<Endpoint>(endpoint) };
    endpoint.note(Requests::TIMER);
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
