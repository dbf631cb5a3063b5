//! What a program is made of, and how one is drawn.

use proptest::prelude::*;

/// A bit of what is written that is turned over.
pub(crate) type Flaw = Option<u8>;

/// One step of a program. Places are numbers of what `layout` lists.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    /// A root entry.
    Root { root: usize, bus: u64, context: usize, flaw: Flaw },
    /// A context entry in the table of the device's bus.
    Context { device: usize, levels: u64, table: usize, kind: u64, flaw: Flaw },
    /// An entry of a page table.
    Entry { level: usize, table: usize, slot: usize, to: Target, permissions: u64, flaw: Flaw },
    /// An entry of the interrupt table, with a vector of its own.
    Interrupt { index: u64, destination: u64, source: Check, flaw: Flaw },
    /// RTADDR and SRTP.
    SetRoot { root: usize },
    /// An invalidation, whether it is of use or not.
    Invalidate(Invalidation),
    /// Any descriptor.
    Descriptor { kind: u64, low: u64, high: u64 },
    /// A device moves 16 bytes, or 8 at the end of a page.
    Transfer { device: usize, write: bool, slots: [u8; 4], offset: u64, beyond: u8 },
    /// A device sends a message.
    Message { device: usize, index: u64, subhandle: bool, compatible: bool, flaw: Flaw },
}

/// Where an entry of a page table leads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Nowhere,
    Table(usize),
    Page(u8),
}

/// The source check of an interrupt entry.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Check {
    None,
    Device { device: usize, qualifier: u64 },
    Bus(u64),
}

/// An invalidation that is well-formed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Invalidation {
    Contexts,
    ContextsOf { domain: u64 },
    Context { domain: u64, device: usize, mask: u64 },
    Pages,
    PagesOf { domain: u64 },
    Page { domain: u64, slots: [u8; 4], mask: u64, leaves_only: bool },
    Interrupts,
    Interrupt { index: u64, mask: u64 },
}

/// A whole program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Every change is followed by the invalidations that it needs, so that there is one right answer to everything.
    pub(crate) careful: bool,
    /// How deep the tables are before the first operation.
    pub(crate) levels: u64,
    pub(crate) operations: Vec<Operation>,
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "a {} program, {} levels:", if self.careful { "careful" } else { "careless" }, self.levels)?;
        self.operations.iter().enumerate().try_for_each(|(index, operation)| writeln!(f, "  {index} {operation:?}"))
    }
}

fn slots() -> impl Strategy<Value = [u8; 4]> {
    (0..2u8, 0..2u8, 0..2u8, 0..4u8).prop_map(|(fourth, third, second, first)| [fourth, third, second, first])
}

fn flaw(bits: u8) -> impl Strategy<Value = Flaw> {
    prop_oneof![12 => Just(None), 1 => (0..bits).prop_map(Some)]
}

fn invalidation() -> impl Strategy<Value = Invalidation> {
    prop_oneof![
        Just(Invalidation::Contexts),
        (0..7u64).prop_map(|domain| Invalidation::ContextsOf { domain }),
        (0..7u64, 0..5usize, 0..4u64).prop_map(|(domain, device, mask)| Invalidation::Context { domain, device, mask }),
        Just(Invalidation::Pages),
        (0..7u64).prop_map(|domain| Invalidation::PagesOf { domain }),
        (0..7u64, slots(), 0..19u64, any::<bool>())
            .prop_map(|(domain, slots, mask, leaves_only)| { Invalidation::Page { domain, slots, mask, leaves_only } }),
        Just(Invalidation::Interrupts),
        (0..4u64, 0..3u64).prop_map(|(index, mask)| Invalidation::Interrupt { index, mask }),
    ]
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        2 => Just(Target::Nowhere),
        4 => (0..3usize).prop_map(Target::Table),
        6 => (0..8u8).prop_map(Target::Page),
        1 => (8..11u8).prop_map(Target::Page),
    ]
}

fn check() -> impl Strategy<Value = Check> {
    prop_oneof![
        1 => Just(Check::None),
        4 => (0..5usize, 0..4u64).prop_map(|(device, qualifier)| Check::Device { device, qualifier }),
        1 => (0..2u64).prop_map(Check::Bus),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let device = || 0..5usize;
    prop_oneof![
        1 => (0..2usize, 0..2u64, 0..3usize, flaw(128))
            .prop_map(|(root, bus, context, flaw)| Operation::Root { root, bus, context, flaw }),
        4 => (device(), 3..=4u64, 0..2usize, prop_oneof![6 => Just(0u64), 1 => 1..4u64], flaw(128))
            .prop_map(|(device, levels, table, kind, flaw)| Operation::Context { device, levels, table, kind, flaw }),
        8 => (1..=4usize, 0..3usize, 0..4usize, target(), 0..4u64, flaw(64)).prop_map(
            |(level, table, slot, to, permissions, flaw)| {
                Operation::Entry { level, table, slot, to, permissions, flaw }
            }
        ),
        3 => (0..4u64, prop_oneof![4 => Just(0u64), 1 => any::<u64>()], check(), flaw(128)).prop_map(
            |(index, destination, source, flaw)| Operation::Interrupt { index, destination, source, flaw }
        ),
        1 => (0..2usize).prop_map(|root| Operation::SetRoot { root }),
        4 => invalidation().prop_map(Operation::Invalidate),
        1 => (0..16u64, any::<u64>(), any::<u64>())
            .prop_map(|(kind, low, high)| Operation::Descriptor { kind, low, high }),
        12 => (
            device(),
            any::<bool>(),
            slots(),
            prop_oneof![3 => (0..3u64).prop_map(|turn| turn * 0x7f0), 1 => Just(0xff8u64)],
            prop_oneof![20 => Just(0u8), 1 => 36..64u8],
        )
            .prop_map(|(device, write, slots, offset, beyond)| Operation::Transfer {
                device, write, slots, offset, beyond
            }),
        3 => (device(), 0..4u64, any::<bool>(), prop_oneof![8 => Just(false), 1 => Just(true)], flaw(32)).prop_map(
            |(device, index, subhandle, compatible, flaw)| Operation::Message {
                device, index, subhandle, compatible, flaw
            }
        ),
    ]
}

/// Programs for a unit that walks up to `levels` levels.
pub(crate) fn program(levels: u64) -> impl Strategy<Value = Program> {
    (any::<bool>(), 3..=levels, prop::collection::vec(operation(), 1..48))
        .prop_map(|(careful, levels, operations)| Program { careful, levels, operations })
}
