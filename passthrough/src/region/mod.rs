//! BARs, the expansion ROM and the MSI-X table of an assigned function.

mod bars;
mod msix;
mod split;

pub use bars::{Bar, BarKind, Bars, Rom};
pub use msix::{MsixDefect, MsixGeometry};
pub(crate) use msix::{MsixTable, PhysicalTable};
pub(crate) use split::aligned_parts;
