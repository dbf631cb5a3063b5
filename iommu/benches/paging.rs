//! Instructions that page tables take, counted by callgrind: `cargo bench -p iommu --bench paging`.
//!
//! Without arguments the program runs itself under valgrind, once per scenario and repetition count, prints each
//! figure beside its bar and fails when one is over it. The difference of two repetition counts removes whatever
//! happens once. Instructions are the same on every machine of one instruction set and compiler, however busy.
//! Clearing a frame is left out, because emulators and silicon count it differently; how many frames a unit of work
//! cleared stands in a column of its own.
#![expect(unsafe_code, reason = "frames of this program are ordinary memory, reached by pointer as a kernel does")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::env;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use iommu::address::HostPhysical;
use iommu::door::{Frames, OutOfFrames};
use iommu::paging::{Coherence, InterruptWindow, Levels, PageSizes, Permissions, SecondStage, Shape, Table};

const FRAME: Layout = match Layout::from_size_align(4096, 4096) {
    Ok(layout) => layout,
    Err(_) => panic!("a frame has a layout"),
};

/// Frames whose address is their pointer. Freed ones are kept for the next, so that the allocator of the C library
/// is not part of the count.
#[derive(Default)]
struct Pool {
    free: RefCell<Vec<HostPhysical>>,
    cleared: Cell<u64>,
}

// SAFETY: a frame is 4096 zeroed bytes of this process, given once until it is freed.
unsafe impl Frames for Pool {
    fn allocate(&self, count: usize) -> Result<HostPhysical, OutOfFrames> {
        assert_eq!(count, 1);
        let frame = self.free.borrow_mut().pop().unwrap_or_else(|| {
            // SAFETY: the layout is not empty.
            let pointer = unsafe { alloc(FRAME) };
            if pointer.is_null() {
                handle_alloc_error(FRAME);
            }
            HostPhysical::new(pointer.expose_provenance() as u64)
        });
        if IS_MEASURING.load(Relaxed) {
            clear_frame(frame);
            self.cleared.set(self.cleared.get() + 1);
        } else {
            // SAFETY: nobody holds the frame now.
            unsafe { pointer(frame).write_bytes(0, 4096) };
        }
        Ok(frame)
    }

    fn free(&self, first: HostPhysical, _count: usize) {
        self.free.borrow_mut().push(first);
    }

    #[inline(always)]
    fn words(&self, frame: HostPhysical) -> &[AtomicU64; 512] {
        // SAFETY: `frame` came from `allocate`, and its words are only ever reached as atomics.
        unsafe { &*pointer(frame).cast() }
    }

    fn flush(&self, words: &[AtomicU64]) {
        black_box(words);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        println!("cleared {}", self.cleared.get());
        for frame in self.free.take() {
            // SAFETY: it was allocated with this layout, and nobody holds it.
            unsafe { dealloc(pointer(frame), FRAME) };
        }
    }
}

/// Zeroes a frame that nobody holds, in the midst of [`measured`]: callgrind's collection pauses inside.
#[inline(never)]
fn clear_frame(frame: HostPhysical) {
    // SAFETY: the frame came from `allocate`, and it is on its way to its next holder.
    unsafe { pointer(frame).write_bytes(0, 4096) };
}

#[inline(always)]
fn pointer(frame: HostPhysical) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(frame.as_u64() as usize)
}

const PAGE: u64 = 1 << 12;
const LARGE: u64 = 1 << 21;
const HUGE: u64 = 1 << 30;
const RW: Permissions = Permissions::READ_WRITE;

type Measured<'a> = Table<SecondStage, &'a Pool>;

fn table(pool: &Pool, page_sizes: PageSizes) -> Measured<'_> {
    let shape = Shape {
        levels: Levels::Four,
        page_sizes,
        input_bits: 48,
        output_bits: 52,
        coherence: Coherence::Coherent,
        interrupt_window: InterruptWindow::Refused,
    };
    Table::new(SecondStage::PLAIN, pool, shape).expect("a table")
}

/// Does what is counted.
fn measure<T>(work: impl FnOnce() -> T) -> T {
    IS_MEASURING.store(true, Relaxed);
    let result = black_box(measured(work));
    IS_MEASURING.store(false, Relaxed);
    result
}

/// Callgrind collects inside this function alone.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Whether the program is inside [`measure`].
static IS_MEASURING: AtomicBool = AtomicBool::new(false);

fn map(table: &mut Measured<'_>, input: u64, output: u64, length: u64) {
    table.map(input, HostPhysical::new(output), length, RW).expect("a mapping");
}

fn unmap(table: &mut Measured<'_>, input: u64, length: u64) {
    let gathered = table.unmap(input, length).expect("an unmapping");
    black_box(gathered.range());
    table.release(gathered);
}

struct Scenario {
    name: &'static str,
    /// What the count is divided by.
    units: u64,
    /// The most instructions a unit.
    bar: f64,
    run: fn(u64),
}

/// Maps and unmaps `length` bytes, alone in the table or beside a `neighbour` mapping.
fn map_and_unmap(times: u64, sizes: PageSizes, input: u64, length: u64, neighbour: bool) {
    let pool = Pool::default();
    let mut table = table(&pool, sizes);
    if neighbour {
        map(&mut table, input + length, 7 * HUGE, PAGE);
    }
    for _ in 0..times {
        measure(|| map(&mut table, input, 8 * HUGE, length));
        measure(|| unmap(&mut table, input, length));
    }
}

/// Translates addresses `step` apart, of memory mapped in leaves of `sizes`.
fn translate(times: u64, sizes: PageSizes, step: u64) {
    let pool = Pool::default();
    let mut table = table(&pool, sizes);
    map(&mut table, 4 * HUGE, 8 * HUGE, HUGE);
    for time in 0..times {
        black_box(measured_translation(&table, 4 * HUGE + time.wrapping_mul(step) % HUGE));
    }
}

/// As [`measured`], for work so small that a closure would blur it.
#[inline(never)]
fn measured_translation(table: &Measured<'_>, input: u64) -> Option<HostPhysical> {
    table.translate(input)
}

/// Maps and unmaps 1 GiB and measures the one or the other.
fn one_leaf(times: u64, is_map: bool) {
    let pool = Pool::default();
    let mut table = table(&pool, ALL);
    map(&mut table, 2 * HUGE, 7 * HUGE, PAGE);
    for _ in 0..times {
        if is_map {
            measure(|| table.map(HUGE, HostPhysical::new(8 * HUGE), HUGE, RW)).expect("a mapping");
            unmap(&mut table, HUGE, HUGE);
        } else {
            map(&mut table, HUGE, 8 * HUGE, HUGE);
            measure(|| unmap(&mut table, HUGE, HUGE));
        }
    }
}

/// Unmaps one page out of a large one.
fn split(times: u64, sizes: PageSizes, length: u64) {
    let pool = Pool::default();
    let mut table = table(&pool, sizes);
    for _ in 0..times {
        map(&mut table, 4 * HUGE, 8 * HUGE, length);
        let gathered = measure(|| table.unmap(4 * HUGE + 5 * PAGE, PAGE).expect("a split"));
        table.release(gathered);
        unmap(&mut table, 4 * HUGE, length);
    }
}

const SMALL: PageSizes = PageSizes::empty();
const UP_TO_2M: PageSizes = PageSizes::TWO_MEBIBYTES;
const ALL: PageSizes = PageSizes::all();

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "map + unmap, a 4K page of 256, alone",
        units: 256,
        bar: 12.0,
        run: |times| map_and_unmap(times, SMALL, HUGE, 256 * PAGE, false),
    },
    Scenario {
        name: "map + unmap, a 4K page of 256, beside others",
        units: 256,
        bar: 12.0,
        run: |times| map_and_unmap(times, SMALL, HUGE, 256 * PAGE, true),
    },
    Scenario {
        name: "map + unmap, a 4K page of 256, across two tables",
        units: 256,
        bar: 12.0,
        run: |times| map_and_unmap(times, SMALL, HUGE + 300 * PAGE, 256 * PAGE, true),
    },
    Scenario {
        name: "map + unmap, a 4K page of 1 GiB",
        units: HUGE / PAGE,
        bar: 12.0,
        run: |times| map_and_unmap(times, SMALL, HUGE, HUGE, true),
    },
    Scenario {
        name: "map + unmap, a 2M leaf of 1 GiB",
        units: HUGE / LARGE,
        bar: 8.0,
        run: |times| map_and_unmap(times, UP_TO_2M, HUGE, HUGE, true),
    },
    Scenario { name: "map 1 GiB as one leaf", units: 1, bar: 150.0, run: |times| one_leaf(times, true) },
    Scenario { name: "unmap 1 GiB as one leaf", units: 1, bar: 250.0, run: |times| one_leaf(times, false) },
    Scenario { name: "split 2M to unmap 4K", units: 1, bar: 2000.0, run: |times| split(times, ALL, LARGE) },
    Scenario { name: "split 1G to unmap 4K (two splits)", units: 2, bar: 2000.0, run: |times| split(times, ALL, HUGE) },
    Scenario {
        name: "translate, 4K leaves, page by page",
        units: 1,
        bar: 25.0,
        run: |times| translate(times, SMALL, PAGE),
    },
    Scenario {
        name: "translate, 4K leaves, far apart (a whole walk)",
        units: 1,
        bar: 80.0,
        run: |times| translate(times, SMALL, 37 * LARGE + 5 * PAGE),
    },
    Scenario {
        name: "translate, 2M leaves, far apart",
        units: 1,
        bar: 25.0,
        run: |times| translate(times, UP_TO_2M, 37 * LARGE + 5 * PAGE),
    },
    Scenario {
        name: "translate, 1G leaves",
        units: 1,
        bar: 25.0,
        run: |times| translate(times, ALL, 37 * LARGE + 5 * PAGE),
    },
];

/// The instructions of one run under callgrind, and the frames that it cleared.
fn count(scenario: usize, times: u64) -> Result<(u64, u64), String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--toggle-collect=*measured*", "--toggle-collect=*clear_frame*"])
        .arg(program)
        .args([scenario.to_string(), times.to_string()])
        .output()
        .map_err(|error| format!("valgrind cannot be run ({error}); install it"))?;
    let number_after = |text: &[u8], words: &str| {
        let text = String::from_utf8_lossy(text).into_owned();
        text.lines().find_map(|line| line.split_once(words)?.1.trim().parse().ok()).ok_or(text)
    };
    let failed = |text| format!("valgrind gave no count:\n{text}");
    Ok((
        number_after(&output.stderr, "Collected :").map_err(failed)?,
        number_after(&output.stdout, "cleared ").map_err(failed)?,
    ))
}

/// Instructions and cleared frames of one unit of the scenario's work.
fn each(place: usize, scenario: &Scenario) -> Result<(f64, f64), String> {
    let (few, few_frames) = count(place, 10)?;
    let (many, many_frames) = count(place, 30)?;
    let units = 20.0 * scenario.units as f64;
    Ok(((many - few) as f64 / units, (many_frames - few_frames) as f64 / units))
}

fn main() -> ExitCode {
    let arguments: Vec<u64> = env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    if let [scenario, times] = arguments[..] {
        (SCENARIOS[scenario as usize].run)(times);
        return ExitCode::SUCCESS;
    }
    let mut over = 0;
    println!("{:<50} instructions    bar  frames cleared", "");
    for (place, scenario) in SCENARIOS.iter().enumerate() {
        let (instructions, frames) = match each(place, scenario) {
            Ok(figures) => figures,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        };
        let is_over = instructions > scenario.bar;
        over += u32::from(is_over);
        let verdict = if is_over { "  OVER" } else { "" };
        println!("{:<50} {instructions:>12.1} {:>6} {frames:>15.3}{verdict}", scenario.name, scenario.bar);
    }
    if over == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
