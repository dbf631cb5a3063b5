//! The scheduler's paths of sleep, waking and migration against those who post and ask, with a virtual CPU's endpoint, its
//! place, the lines and the loops of two CPUs as the product has them.

use interleavings::{LoomWord, Wire};
use iommu::interrupt::posted::PostedInterruptDescriptor;
use iommu::interrupt::posted::placement::{State, Vectors};
use loom::sync::Arc;
use loom::thread;
use postern_kernel::schedule::board::{self, Mailbox};
use postern_kernel::schedule::seat::{SLICE, Seat, Turn};
use postern_kernel::vapic::{Bell, Endpoint, Requests, Trigger};

loom::lazy_static! {
    /// The interrupts into each CPU.
    static ref WIRES: [Wire; 2] = [Wire::default(), Wire::default()];
}

const VECTORS: Vectors = Vectors { notification: 1, wake_up: 2 };
const KICK: u8 = 3;
const BELL: Bell = Bell {
    send: |notification| WIRES[notification.destination as usize].send(notification.vector),
    wake_up: VECTORS.wake_up,
    kick: KICK,
};
const VECTOR: u8 = 0x41;
/// The virtual CPU that is looked at.
const VCPU: usize = 0;
/// One that only stands in a line, on CPU 0.
const OTHER: usize = 1;

struct Member(Endpoint<LoomWord>);

impl Mailbox<LoomWord> for Member {
    fn mailbox(&self) -> Option<&PostedInterruptDescriptor<LoomWord>> {
        Some(self.0.mailbox())
    }
}

type Board = board::Board<Member, LoomWord, 1>;

/// What a virtual CPU was given.
#[derive(Debug, Default, PartialEq, Eq)]
struct Given {
    vectors: u32,
    asked: u32,
}

impl Given {
    /// It looks, as before each entry.
    fn look(&mut self, board: &Board) {
        let endpoint = endpoint(board);
        let requests = endpoint.take_requests();
        self.asked += u32::from(requests.contains(Requests::NON_MASKABLE));
        if let Some((vectors, _)) = endpoint.take_posted() {
            self.vectors += u32::from(vectors.contains(VECTOR));
        }
    }

    /// Looks until it may enter, then is in the guest of `cpu` for as long as nobody interrupts that, and looks again.
    fn run(&mut self, board: &Board, cpu: usize) {
        loop {
            while !endpoint(board).enter() {
                self.look(board);
            }
            endpoint(board).leave();
            if !WIRES[cpu].answer(VECTORS.notification) & !WIRES[cpu].answer(KICK) {
                break;
            }
        }
    }
}

fn endpoint(board: &Board) -> &Endpoint<LoomWord> {
    &board.mailbox(VCPU).unwrap().0
}

/// The virtual CPU has its turn on CPU 0, and may run on both.
fn playing() -> (Arc<Board>, Seat, Turn) {
    let kick = |cpu: usize| WIRES[cpu].send(KICK);
    let mut board = Board::new([0, 1], VECTORS, Box::new(kick));
    assert_eq!(board.add(Member(Endpoint::with_words(0, 0, BELL)), &[0, 1], false), Some(VCPU));
    assert_eq!(board.add(Member(Endpoint::with_words(1, 0, BELL)), &[0], false), Some(OTHER));
    board.open(0);
    board.open(1);
    board.get_in_line(VCPU, 0);
    let mut seat = Seat::new(0);
    let turn = seat.next(&board, 0).unwrap();
    (Arc::new(board), seat, turn)
}

/// The wake-up handler of a CPU, if its interrupt is pending.
fn handle(board: &Board, cpu: usize) {
    if WIRES[cpu].answer(VECTORS.wake_up) {
        board.wake_up(cpu);
    }
}

fn spawn(board: &Arc<Board>, act: fn(&Board)) -> thread::JoinHandle<()> {
    let board = Arc::clone(board);
    thread::spawn(move || act(&board))
}

fn post(board: &Board) {
    endpoint(board).post(VECTOR, Trigger::Edge);
}

fn ask(board: &Board) {
    endpoint(board).request(Requests::NON_MASKABLE);
}

/// It looked, found nothing and goes to sleep while `act` happens. Once everything has arrived it runs, or has run.
fn sleeps_against(act: fn(&Board), expected: Given) {
    let (board, mut seat, turn) = playing();
    let other = spawn(&board, act);
    let mut given = Given::default();
    given.look(&board);
    seat.halted(&board, turn, None, 0, || endpoint(&board).has_work());
    handle(&board, 0);
    other.join().unwrap();
    handle(&board, 0);
    if given != expected {
        assert!(seat.has_news(&board, 0), "CPU 0 sleeps over it");
        assert_eq!(seat.next(&board, 0).map(|turn| turn.vcpu), Some(VCPU), "a lost wake-up");
        given.run(&board, 0);
    }
    assert_eq!(given, expected);
}

#[test]
fn what_is_posted_while_it_goes_to_sleep_is_taken_once() {
    loom::model(|| sleeps_against(post, Given { vectors: 1, asked: 0 }));
}

#[test]
fn what_is_asked_while_it_goes_to_sleep_is_seen_once() {
    loom::model(|| sleeps_against(ask, Given { vectors: 0, asked: 1 }));
}

#[test]
fn a_post_and_a_request_at_once_wake_it_for_both() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let (board, mut seat, turn) = playing();
        seat.halted(&board, turn, None, 0, || endpoint(&board).has_work());
        let others = [spawn(&board, post), spawn(&board, ask)];
        let mut given = Given::default();
        // Its loop looks at the same time.
        handle(&board, 0);
        let early = seat.next(&board, 0);
        if early.is_some() {
            given.run(&board, 0);
        }
        others.into_iter().for_each(|other| other.join().unwrap());
        handle(&board, 0);
        if early.is_none() {
            assert!(seat.next(&board, 0).is_some(), "a lost wake-up");
        }
        given.run(&board, 0);
        assert_eq!(given, Given { vectors: 1, asked: 1 });
    });
}

/// Its slice is over and another CPU takes it out of its line, while `act` happens.
fn migrates_against(act: fn(&Board), expected: &'static Given) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let (board, mut seat, turn) = playing();
        let other = spawn(&board, act);
        let mut given = Given::default();
        given.look(&board);
        // Somebody waits on CPU 0, so it gets in the line of CPU 1.
        board.get_in_line(OTHER, 0);
        seat.yielded(&board, turn, SLICE);
        assert!(Seat::new(1).next(&board, SLICE).is_some());
        given.run(&board, 1);
        other.join().unwrap();
        given.run(&board, 1);
        assert_eq!(given, *expected);
        assert_eq!(board.state(VCPU), Some(State::Running(1)));
    });
}

#[test]
fn what_is_posted_while_it_moves_is_taken_once() {
    migrates_against(post, &Given { vectors: 1, asked: 0 });
}

#[test]
fn what_is_asked_while_it_moves_is_seen_once() {
    migrates_against(ask, &Given { vectors: 0, asked: 1 });
}

/// Asleep on CPU 0, due by its timer and taken by CPU 1, while an interrupt wakes it on CPU 0.
#[test]
fn a_wake_up_for_one_that_has_moved_on_is_no_second_delivery() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let (board, mut seat, turn) = playing();
        seat.halted(&board, turn, Some(1), 0, || endpoint(&board).has_work());
        let poster = {
            let board = Arc::clone(&board);
            thread::spawn(move || {
                post(&board);
                handle(&board, 0);
            })
        };
        let mut given = Given::default();
        let turn = seat.next(&board, 1).expect("its timer is due");
        given.run(&board, 0);
        board.get_in_line(OTHER, 0);
        seat.yielded(&board, turn, 1 + SLICE);
        assert!(Seat::new(1).next(&board, 1 + SLICE).is_some());
        given.run(&board, 1);
        poster.join().unwrap();
        handle(&board, 0);
        given.run(&board, 1);
        assert_eq!(given, Given { vectors: 1, asked: 0 });
        assert_eq!(seat.next(&board, 2).map(|turn| turn.vcpu), Some(OTHER));
        assert!(!board.waits(0, VCPU) && !board.waits(1, VCPU), "it would run twice");
        assert_eq!(board.state(VCPU), Some(State::Running(1)));
    });
}
