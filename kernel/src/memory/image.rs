//! The kernel's own image, as linked (kernel.ld) and as loaded.

use core::ops::Range;

use super::page_tables::Access;

#[cfg(target_os = "none")]
unsafe extern "C" {
    static image_text_start: u8;
    static image_text_end: u8;
    static image_rodata_start: u8;
    static image_rodata_end: u8;
    static image_data_start: u8;
    static image_data_end: u8;
}

/// The parts of the image by their linked addresses, and what may be done with each.
#[cfg(target_os = "none")]
pub(crate) fn parts() -> [(Range<usize>, Access); 3] {
    [
        (address(&raw const image_text_start)..address(&raw const image_text_end), Access::Execute),
        (address(&raw const image_rodata_start)..address(&raw const image_rodata_end), Access::Read),
        (address(&raw const image_data_start)..address(&raw const image_data_end), Access::ReadWrite),
    ]
}

/// An ordinary process has no image of the kernel.
#[cfg(not(target_os = "none"))]
pub(crate) fn parts() -> [(Range<usize>, Access); 3] {
    [(0..0, Access::Execute), (0..0, Access::Read), (0..0, Access::ReadWrite)]
}

#[cfg(target_os = "none")]
fn address(symbol: *const u8) -> usize {
    symbol.expose_provenance()
}

/// Whether code of the kernel lies at this address.
pub(crate) fn is_code(address: usize) -> bool {
    parts().iter().any(|(range, access)| *access == Access::Execute && range.contains(&address))
}
