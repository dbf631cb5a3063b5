//! Which virtual CPUs there are, where each may run, who waits in which CPU's line, and who was woken.
//!
//! Shared by the loops of all CPUs ([`Seat`](super::seat::Seat) is one CPU's) and by the handler of the wake-up vector.
//! Nothing here touches the machine. A virtual CPU is named by its number, which is also its slot in the wake-up lists.
//!
//! Who may do what: a virtual CPU that runs or sleeps belongs to the CPU where it does; one that waits belongs to the
//! line. A line is pushed to by anyone and popped by its own CPU. So nobody ever waits for a place's lock.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use iommu::interrupt::posted::PostedInterruptDescriptor;
use iommu::interrupt::posted::placement::{Misplaced, Placement, Processor, Sleep, Sleepers, State, Vectors};
use iommu::interrupt::posted::word::AtomicWord;
use spin::Mutex;

/// The most virtual CPUs of all VMs together: a bit for each in a wake-up list of as many words as a board has.
pub const MAXIMUM: usize = 1024;

/// What a virtual CPU's mailbox is found by.
pub trait Mailbox<W> {
    /// The descriptor; `None` only for a virtual CPU that is on no bus.
    fn mailbox(&self) -> Option<&PostedInterruptDescriptor<W>>;
}

/// What happened to a virtual CPU, or to several, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How often it was put on a CPU.
    pub turns: u64,
    /// How often that was another CPU than the time before.
    pub moves: u64,
    /// How often it went to sleep.
    pub sleeps: u64,
}

/// Counted by the CPU that has the virtual CPU.
#[derive(Debug, Default)]
struct Counts {
    /// The CPU of the last turn and 1; 0: there was none.
    last: AtomicUsize,
    turns: AtomicU64,
    moves: AtomicU64,
    sleeps: AtomicU64,
}

/// One virtual CPU's place.
struct Place<M> {
    mailbox: M,
    /// The CPUs that it may run on, by their index; at least one.
    cpus: Box<[usize]>,
    pinned: bool,
    placement: Mutex<Placement>,
    counts: Counts,
}

/// What of a CPU others may touch.
#[derive(Debug)]
struct Line<W, const WORDS: usize> {
    waiting: Mutex<VecDeque<usize>>,
    /// How many wait and whether one runs, for those who look for the shortest line. They may be wrong a moment later.
    length: AtomicUsize,
    busy: AtomicBool,
    /// Whether the CPU's loop looks at its line.
    open: AtomicBool,
    /// Set by the wake-up handler of this CPU, cleared by its loop.
    woken: [W; WORDS],
}

/// All virtual CPUs and all CPUs.
pub struct Board<M, W = AtomicU64, const WORDS: usize = { MAXIMUM / 64 }> {
    processors: Vec<Processor<W, WORDS>>,
    lines: Vec<Line<W, WORDS>>,
    places: Vec<Place<M>>,
    vectors: Vectors,
    /// Makes a CPU look at its line.
    kick: Box<dyn Fn(usize) + Send + Sync>,
}

impl<M: Mailbox<W>, W: AtomicWord, const WORDS: usize> Board<M, W, WORDS> {
    /// A board of CPUs with these addresses, in the form of NDST, and no virtual CPU. `kick` makes a CPU leave HLT; it is
    /// never called for the CPU that runs the caller.
    pub fn new(
        destinations: impl IntoIterator<Item = u32>,
        vectors: Vectors,
        kick: Box<dyn Fn(usize) + Send + Sync>,
    ) -> Self {
        let processors: Vec<_> = destinations.into_iter().map(Processor::new).collect();
        let line = || Line {
            waiting: Mutex::default(),
            length: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            open: AtomicBool::new(false),
            woken: core::array::from_fn(|_| W::new(0)),
        };
        let lines = processors.iter().map(|_| line()).collect();
        Self { processors, lines, places: Vec::new(), vectors, kick }
    }

    /// A further virtual CPU, parked; its number. `None` where there is no room for one, or its mailbox is nowhere.
    pub fn add(&mut self, mailbox: M, cpus: &[usize], pinned: bool) -> Option<usize> {
        let number = self.places.len();
        let placement = Placement::new(mailbox.mailbox().filter(|_| number < 64 * WORDS)?, number, self.vectors);
        let (placement, counts) = (Mutex::new(placement), Counts::default());
        self.places.push(Place { mailbox, cpus: cpus.into(), pinned, placement, counts });
        Some(number)
    }

    /// What was given for a virtual CPU.
    pub fn mailbox(&self, vcpu: usize) -> Option<&M> {
        self.places.get(vcpu).map(|place| &place.mailbox)
    }

    /// How many virtual CPUs there are.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Whether a virtual CPU is never descheduled.
    pub fn is_pinned(&self, vcpu: usize) -> bool {
        self.places.get(vcpu).is_some_and(|place| place.pinned)
    }

    /// What happened to all virtual CPUs whose mailbox `which` names.
    pub fn tally(&self, which: impl Fn(&M) -> bool) -> Tally {
        let chosen = self.places.iter().filter(|place| which(&place.mailbox));
        chosen.fold(Tally::default(), |sum, Place { counts, .. }| Tally {
            turns: sum.turns.saturating_add(counts.turns.load(Ordering::Relaxed)),
            moves: sum.moves.saturating_add(counts.moves.load(Ordering::Relaxed)),
            sleeps: sum.sleeps.saturating_add(counts.sleeps.load(Ordering::Relaxed)),
        })
    }

    /// Where a virtual CPU is.
    pub fn state(&self, vcpu: usize) -> Option<State> {
        self.places.get(vcpu).map(|place| place.placement.lock().state())
    }

    /// Puts a virtual CPU that is parked or was asleep into a line: that of `cpu`, or of another of its CPUs where that is
    /// shorter.
    pub fn get_in_line(&self, vcpu: usize, cpu: usize) {
        self.put(vcpu, cpu, |other| (self.length(other), other != cpu));
    }

    /// Puts a virtual CPU whose slice on `cpu` is over into a line: its own, or another one that is no longer. So those
    /// who are more than the CPUs rotate, and none is always alone.
    pub fn take_turns(&self, vcpu: usize, cpu: usize) {
        let alone = self.length(cpu) == 0;
        self.put(vcpu, cpu, |other| (self.length(other), (other == cpu) != alone));
    }

    /// Puts a virtual CPU into the line of that one of its CPUs that `rank` puts first.
    fn put<K: Ord>(&self, vcpu: usize, cpu: usize, rank: impl Fn(usize) -> K) {
        let Some(place) = self.places.get(vcpu) else { return };
        let Some(chosen) = place.cpus.iter().copied().min_by_key(|cpu| rank(*cpu)) else { return };
        let Some(line) = self.lines.get(chosen) else { return };
        let mut waiting = line.waiting.lock();
        waiting.push_back(vcpu);
        line.length.store(waiting.len(), Ordering::Relaxed);
        drop(waiting);
        if chosen != cpu {
            (self.kick)(chosen);
        }
    }

    /// The first in a CPU's line. Only that CPU asks.
    pub(super) fn first_in_line(&self, cpu: usize) -> Option<usize> {
        let line = self.lines.get(cpu)?;
        let mut waiting = line.waiting.lock();
        let first = waiting.pop_front();
        line.length.store(waiting.len(), Ordering::Relaxed);
        first
    }

    /// Whether somebody waits in a CPU's line.
    pub(super) fn has_line(&self, cpu: usize) -> bool {
        self.lines.get(cpu).is_some_and(|line| !line.waiting.lock().is_empty())
    }

    /// The loop of a CPU begins: it looks at its line from now on.
    pub fn open(&self, cpu: usize) {
        if let Some(line) = self.lines.get(cpu) {
            line.open.store(true, Ordering::Release);
        }
    }

    /// Whether a virtual CPU waits in a CPU's line.
    pub fn waits(&self, cpu: usize, vcpu: usize) -> bool {
        self.lines.get(cpu).is_some_and(|line| line.waiting.lock().contains(&vcpu))
    }

    /// How many are before one who gets in line, whoever runs included.
    fn length(&self, cpu: usize) -> usize {
        let open = self.lines.get(cpu).filter(|line| line.open.load(Ordering::Acquire));
        open.map_or(usize::MAX, |line| {
            let running = usize::from(line.busy.load(Ordering::Relaxed));
            line.length.load(Ordering::Relaxed).saturating_add(running)
        })
    }

    /// Says whether a CPU runs somebody.
    pub(super) fn set_busy(&self, cpu: usize, busy: bool) {
        if let Some(line) = self.lines.get(cpu) {
            line.busy.store(busy, Ordering::Relaxed);
        }
    }

    /// The handler of the wake-up vector on `cpu`: whether somebody was woken, for whom its loop should look.
    pub fn wake_up(&self, cpu: usize) -> bool {
        let (Some(processor), Some(line)) = (self.processors.get(cpu), self.lines.get(cpu)) else { return false };
        processor.wake_up(&Woken { board: self, line }) != 0
    }

    /// Whether somebody was woken on a CPU who was not taken yet.
    pub fn has_woken(&self, cpu: usize) -> bool {
        self.lines.get(cpu).is_some_and(|line| line.woken.iter().any(|word| word.load(Ordering::Acquire) != 0))
    }

    /// Takes those who were woken on a CPU. Its loop does.
    pub(super) fn take_woken(&self, cpu: usize, mut each: impl FnMut(usize)) {
        let Some(line) = self.lines.get(cpu) else { return };
        for (index, word) in line.woken.iter().enumerate() {
            if word.load(Ordering::Acquire) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::AcqRel);
            while bits != 0 {
                each(index.saturating_mul(64).saturating_add(bits.trailing_zeros() as usize));
                bits &= bits.wrapping_sub(1);
            }
        }
    }

    /// [`Placement::load`]: the virtual CPU runs on `cpu`, which has it.
    pub(super) fn load_on(&self, vcpu: usize, cpu: usize) -> Result<(), Misplaced> {
        if let Some(Place { counts, .. }) = self.places.get(vcpu) {
            let here = cpu.saturating_add(1);
            let last = counts.last.swap(here, Ordering::Relaxed);
            counts.turns.fetch_add(1, Ordering::Relaxed);
            counts.moves.fetch_add(u64::from(last != 0 && last != here), Ordering::Relaxed);
        }
        self.change(vcpu, Ok(()), |placement, mailbox| placement.load(mailbox, &self.processors, cpu))
    }

    /// [`Placement::preempt`].
    pub(super) fn preempt(&self, vcpu: usize) -> Result<(), Misplaced> {
        self.change(vcpu, Ok(()), |placement, mailbox| placement.preempt(mailbox))
    }

    /// [`Placement::block`].
    pub(super) fn block(&self, vcpu: usize) -> Result<Sleep, Misplaced> {
        let sleep =
            self.change(vcpu, Ok(Sleep::Pending), |placement, mailbox| placement.block(mailbox, &self.processors));
        if let (Some(place), Ok(Sleep::Sound)) = (self.places.get(vcpu), sleep) {
            place.counts.sleeps.fetch_add(1, Ordering::Relaxed);
        }
        sleep
    }

    /// [`Placement::park`].
    pub(super) fn park(&self, vcpu: usize) -> Result<(), Misplaced> {
        self.change(vcpu, Ok(()), |placement, mailbox| placement.park(mailbox, &self.processors))
    }

    fn change<T>(
        &self,
        vcpu: usize,
        absent: T,
        transition: impl FnOnce(&mut Placement, &PostedInterruptDescriptor<W>) -> T,
    ) -> T {
        let Some(place) = self.places.get(vcpu) else { return absent };
        let Some(mailbox) = place.mailbox.mailbox() else { return absent };
        transition(&mut place.placement.lock(), mailbox)
    }
}

/// The sleepers of one CPU, to its wake-up handler.
struct Woken<'a, M, W, const WORDS: usize> {
    board: &'a Board<M, W, WORDS>,
    line: &'a Line<W, WORDS>,
}

impl<M: Mailbox<W>, W: AtomicWord, const WORDS: usize> Sleepers<W> for Woken<'_, M, W, WORDS> {
    fn descriptor(&self, slot: usize) -> Option<&PostedInterruptDescriptor<W>> {
        self.board.mailbox(slot)?.mailbox()
    }

    fn wake(&self, slot: usize) {
        if let Some(word) = self.line.woken.get(slot / 64) {
            word.fetch_or(1 << (slot % 64), Ordering::AcqRel);
        }
    }
}
