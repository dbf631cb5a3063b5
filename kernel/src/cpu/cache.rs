//! Cache lines, for hardware whose reads do not snoop.

use core::ops::Range;

/// Writes every cache line of `range` back to memory and waits for it.
pub fn write_back<T>(range: Range<*const T>) {
    // 64 is the line of every processor with VT-d or SVM; a smaller real line would need a smaller step.
    const LINE: usize = 64;
    let end = range.end.addr();
    let mut line = range.start.cast::<u8>().map_addr(|address| address & !(LINE - 1));
    while line.addr() < end {
        // SAFETY: the line holds part of the range, which the caller can read; CLFLUSH is on every x86-64 processor
        // and changes no data.
        unsafe { core::arch::x86_64::_mm_clflush(line) };
        line = line.wrapping_add(LINE);
    }
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    // SAFETY: as above; MFENCE orders the flushes before what follows.
    unsafe { core::arch::x86_64::_mm_mfence() };
}
