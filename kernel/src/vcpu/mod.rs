//! One virtual CPU: its loop, and one handler a file for each kind of exit.
//!
//! The scheduler calls [`Vcpu::run`] on the host CPU to which the virtual CPU belongs. The loop enters the guest
//! through a [`VcpuEngine`] and hands each exit to a handler; handlers know no vendor. Other processors reach a
//! virtual CPU only through its [`Endpoint`](crate::vapic::Endpoint).

mod alu;
mod body;
mod cache;
mod control;
mod cpuid;
mod debug;
mod emulate;
pub mod engine;
mod exception;
mod extended;
mod external;
mod fetch;
mod halt;
pub mod hypercall;
mod memory;
mod msr;
mod nested;
mod non_maskable;
mod operand;
pub mod platform;
mod port;
mod quick;
mod start;
pub mod state;
pub mod svm;
#[cfg(test)]
mod testing;
pub mod vmx;
mod walk;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use self::body::Body;
pub use self::engine::{EXIT_KINDS, Exit, VcpuEngine};
pub use self::platform::{CrashReason, End, NotMemory, Platform, ResetCause};
pub use self::start::Start;
use self::svm::Svm;
use self::vmx::Vmx;
use crate::memory::{NestedPaging, OutOfMemory, Owner};
use crate::vapic::ApicBus;

/// What a host CPU's timer calls from its interrupt, and its argument.
pub type TimerHandler = (fn(usize), usize);

/// The host's clock and timer, as a virtual CPU uses them.
#[derive(Clone, Copy, Debug)]
pub struct HostTimer {
    /// Nanoseconds since a fixed moment.
    pub nanoseconds: fn() -> u64,
    /// Interrupt this host CPU at this moment, not before (one deadline a CPU; the last one counts).
    pub set_deadline: fn(u64),
    /// Call this function with this argument whenever this host CPU's timer fires, from its interrupt; `None`: no more.
    pub set_handler: fn(Option<TimerHandler>),
}

/// What a virtual CPU is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its number in the machine: also its APIC id.
    pub index: usize,
    /// Whether CPUID offers x2APIC.
    pub x2apic: bool,
    /// The machine's interrupt bus; it knows how many virtual CPUs there are.
    pub bus: Arc<ApicBus>,
    /// Who is charged for its memory.
    pub owner: Owner,
    /// The host's clock and timer.
    pub timer: HostTimer,
}

/// Why [`Vcpu::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing to do until [`Vcpu::is_ready`].
    Halted,
    /// The scheduler asked for the processor ([`Requests::YIELD`](crate::vapic::Requests::YIELD)).
    Yielded,
    /// The machine has ended; the virtual CPU must not run again.
    Ended,
}

/// Why there is no virtual CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuError {
    /// Its structures found no memory.
    Memory(OutOfMemory),
    /// The bus has no place for a virtual CPU with this number.
    NoPlace(usize),
    /// This machine cannot run guests on SVM.
    Svm(svm::Refusal),
    /// This machine cannot run guests on VMX.
    Vmx(vmx::Refusal),
}

impl fmt::Display for VcpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(error) => write!(f, "no memory for a virtual CPU's control structures: {error}"),
            Self::NoPlace(index) => write!(f, "the interrupt bus has no place for virtual CPU {index}"),
            Self::Svm(refusal) => write!(f, "{refusal}"),
            Self::Vmx(refusal) => write!(f, "{refusal}"),
        }
    }
}

impl core::error::Error for VcpuError {}

impl From<OutOfMemory> for VcpuError {
    fn from(error: OutOfMemory) -> Self {
        Self::Memory(error)
    }
}

/// Makes this host CPU ready to run guests. Once on each CPU, before the first virtual CPU runs there.
///
/// # Errors
///
/// The processor's or the firmware's reason.
pub fn enable_on_this_cpu() -> Result<(), VcpuError> {
    match Kind::of_this_cpu() {
        Kind::Svm => svm::enable(),
        Kind::Vmx => vmx::enable(),
    }
}

/// The nested paging that guests of this machine run on.
pub fn nested_paging() -> NestedPaging {
    match Kind::of_this_cpu() {
        Kind::Svm => NestedPaging::npt(),
        Kind::Vmx => vmx::nested_paging(),
    }
}

/// The engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Svm,
    Vmx,
}

impl Kind {
    /// The engine for this CPU, by CPUID. Where neither shows, VMX's refusal names both.
    fn of_this_cpu() -> Self {
        if svm::is_present() { Self::Svm } else { Self::Vmx }
    }
}

/// A virtual CPU on one engine or the other.
enum AnyBody {
    Svm(Box<Body<Svm>>),
    Vmx(Box<Body<Vmx>>),
}

macro_rules! either {
    ($body:expr, $name:ident => $act:expr) => {
        match $body {
            AnyBody::Svm($name) => $act,
            AnyBody::Vmx($name) => $act,
        }
    };
}

/// A virtual CPU.
pub struct Vcpu {
    body: AnyBody,
}

impl Vcpu {
    /// A virtual CPU as after power-on: the first one starts at the reset vector (or where [`start_at`](Self::start_at)
    /// says), the others wait for a start-up interrupt.
    ///
    /// # Errors
    ///
    /// No memory, or no place on the bus.
    pub fn new(settings: Settings) -> Result<Self, VcpuError> {
        let body = match Kind::of_this_cpu() {
            Kind::Svm => AnyBody::Svm(Body::new(Svm::new(settings.owner)?, settings)?),
            Kind::Vmx => AnyBody::Vmx(Body::new(Vmx::new(settings.owner)?, settings)?),
        };
        Ok(Self { body })
    }

    /// Starts the virtual CPU in this state instead.
    pub fn start_at(&mut self, start: Start) {
        either!(&mut self.body, body => body.start_at(start));
    }

    /// Runs the guest on this host CPU until it halts, ends or has to make room. Interrupts must be on.
    pub fn run(&mut self, platform: &dyn Platform) -> Stop {
        either!(&mut self.body, body => body.run(platform))
    }

    /// Whether [`run`](Self::run) would find something to do after [`Stop::Halted`]. To be asked with interrupts off,
    /// before the host CPU goes to sleep: what makes it true from then on also wakes the host CPU.
    pub fn is_ready(&self) -> bool {
        either!(&self.body, body => body.is_ready())
    }

    /// When its own timer fires next, or one of the machine's that it serves, in nanoseconds of the host's clock.
    pub fn deadline(&self) -> Option<u64> {
        either!(&self.body, body => body.deadline())
    }

    /// What its exits cost in accesses to the control structure, where the engine counts them: `KIND=EXITS/ALL/MOST`
    /// for each kind of exit.
    pub fn accesses(&self) -> Option<&vmx::Tally> {
        match &self.body {
            AnyBody::Svm(_) => None,
            AnyBody::Vmx(body) => Some(body.engine.tally()),
        }
    }

    /// How often the guest was left, by [`Exit::kind`]; names in [`Exit::KIND_NAMES`].
    pub fn exits(&self) -> [u64; EXIT_KINDS] {
        either!(&self.body, body => body.exits())
    }
}

impl fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu").field("exits", &self.exits()).finish_non_exhaustive()
    }
}
