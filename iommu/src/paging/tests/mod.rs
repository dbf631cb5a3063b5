//! Tables against a brute-force record of what was mapped, and against a reader written from the manuals.

pub(crate) mod arena;
mod hardware;
mod record;
mod sequences;
mod single;

use super::{
    Attributes, Coherence, Ept, FirstStage, Format, InterruptWindow, Levels, MemoryType, Npt, PageSizes, Permissions,
    SecondStage, Shape, Table,
};
use hardware::{Found, Reader, Rules};

/// A shape for tests: processors' widths, everything allowed.
fn shape(levels: Levels) -> Shape {
    Shape {
        levels,
        page_sizes: PageSizes::all(),
        input_bits: 57,
        output_bits: 46,
        coherence: Coherence::Coherent,
        interrupt_window: InterruptWindow::Ordinary,
    }
}

fn reader(rules: Rules, shape: &Shape) -> Reader {
    Reader {
        rules,
        levels: shape.levels.count().into(),
        two_mebibytes: shape.page_sizes.contains(PageSizes::TWO_MEBIBYTES),
        one_gibibyte: shape.page_sizes.contains(PageSizes::ONE_GIBIBYTE),
        output_bits: shape.output_bits.into(),
    }
}

/// What a reader must find behind these attributes.
fn expected(rules: Rules, output: u64, attributes: Attributes) -> Found {
    let may = |permission| attributes.permissions.contains(permission);
    let device = matches!(rules, Rules::SecondStage { .. } | Rules::FirstStage);
    Found {
        output,
        read: may(Permissions::READ),
        write: may(Permissions::WRITE),
        execute: may(Permissions::EXECUTE) && !device,
        uncached: attributes.memory_type == MemoryType::Uncached && !matches!(rules, Rules::SecondStage { .. }),
        snoop: rules == Rules::SecondStage { snoop_control: true },
    }
}
