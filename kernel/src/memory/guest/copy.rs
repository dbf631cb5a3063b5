//! Copies between the hypervisor's memory and a guest's, which the guest changes at the same time.
//!
//! Every access to the guest's side is volatile, eight bytes at a time where its address is aligned, so that nothing
//! is read twice and an aligned word is never torn.

/// Copies guest memory into `into`.
///
/// # Safety
///
/// `into.len()` bytes from `from` on are mapped guest memory of which no Rust reference exists.
pub(super) unsafe fn from_guest(from: *const u8, into: &mut [u8]) {
    if is_word(from.addr(), into.len()) {
        // SAFETY: the caller's promise, and `is_word` checked alignment and length.
        unsafe {
            match into.len() {
                2 => into.copy_from_slice(&from.cast::<u16>().read_volatile().to_ne_bytes()),
                4 => into.copy_from_slice(&from.cast::<u32>().read_volatile().to_ne_bytes()),
                _ => into.copy_from_slice(&from.cast::<u64>().read_volatile().to_ne_bytes()),
            }
        }
        return;
    }
    let head = from.align_offset(8).min(into.len());
    let (first, rest) = into.split_at_mut(head);
    let (words, last) = rest.as_chunks_mut::<8>();
    let mut at = from;
    for byte in first {
        // SAFETY: `at` stays inside of the caller's bytes: one step for each byte of `into`.
        unsafe {
            *byte = at.read_volatile();
            at = at.add(1);
        }
    }
    for bytes in words {
        // SAFETY: as above, and aligned to eight behind the head.
        unsafe {
            *bytes = at.cast::<u64>().read_volatile().to_ne_bytes();
            at = at.add(8);
        }
    }
    for byte in last {
        // SAFETY: as above.
        unsafe {
            *byte = at.read_volatile();
            at = at.add(1);
        }
    }
}

/// Copies `from` into guest memory.
///
/// # Safety
///
/// `from.len()` bytes from `into` on are mapped guest memory of which no Rust reference exists.
pub(super) unsafe fn to_guest(from: &[u8], into: *mut u8) {
    if is_word(into.addr(), from.len()) {
        // SAFETY: the caller's promise, and `is_word` checked alignment and length.
        unsafe {
            match *from {
                [a, b] => into.cast::<u16>().write_volatile(u16::from_ne_bytes([a, b])),
                [a, b, c, d] => into.cast::<u32>().write_volatile(u32::from_ne_bytes([a, b, c, d])),
                [a, b, c, d, e, f, g, h] => {
                    into.cast::<u64>().write_volatile(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
                }
                _ => {}
            }
        }
        return;
    }
    let head = into.align_offset(8).min(from.len());
    let (first, rest) = from.split_at(head);
    let (words, last) = rest.as_chunks::<8>();
    let mut at = into;
    for byte in first {
        // SAFETY: `at` stays inside of the caller's bytes: one step for each byte of `from`.
        unsafe {
            at.write_volatile(*byte);
            at = at.add(1);
        }
    }
    for bytes in words {
        // SAFETY: as above, and aligned to eight behind the head.
        unsafe {
            at.cast::<u64>().write_volatile(u64::from_ne_bytes(*bytes));
            at = at.add(8);
        }
    }
    for byte in last {
        // SAFETY: as above.
        unsafe {
            at.write_volatile(*byte);
            at = at.add(1);
        }
    }
}

/// Whether `length` bytes at `address` are one naturally aligned word of 2, 4 or 8 bytes.
fn is_word(address: usize, length: usize) -> bool {
    matches!(length, 2 | 4 | 8) && address.is_multiple_of(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_at_every_alignment_is_copied_and_nothing_else() {
        let source: Vec<u8> = (1..=40).collect();
        for offset in 0..16 {
            for length in 0..20 {
                let mut guest = [0u8; 40];
                let place = guest.as_mut_ptr().wrapping_add(offset);
                // SAFETY: `offset + length` is below 40, and `guest` is not otherwise used meanwhile.
                unsafe { to_guest(&source[..length], place) };
                let mut expected = [0u8; 40];
                expected[offset..offset + length].copy_from_slice(&source[..length]);
                assert_eq!(guest, expected, "{length} bytes to {offset}");
                let mut back = vec![0u8; length];
                // SAFETY: as above.
                unsafe { from_guest(guest.as_ptr().wrapping_add(offset), &mut back) };
                assert_eq!(back, source[..length], "{length} bytes from {offset}");
            }
        }
    }
}
