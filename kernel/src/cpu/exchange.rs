//! Exchanging 16 bytes at once, for table entries of which hardware must not see a half.

use core::arch::asm;
use core::sync::atomic::AtomicU64;

use raw_cpuid::CpuId;

/// What became of an exchange: the words that were there when they were not the expected ones.
type Outcome = Result<(), u128>;

/// Replaces `pair` by `new`, low word first in the numbers, if it holds `current`, in one step that no processor or
/// device sees half done. `None`, and nothing happens, where the processor has no CMPXCHG16B or the pair is not aligned
/// to 16 bytes.
pub fn exchange_u128(pair: &[AtomicU64; 2], current: u128, new: u128) -> Option<Outcome> {
    let there = CpuId::new().get_feature_info().is_some_and(|features| features.has_cmpxchg16b());
    let target = pair.as_ptr().cast::<u128>().cast_mut();
    if !there || !target.is_aligned() {
        return None;
    }
    let (mut low, mut high) = (current as u64, (current >> 64) as u64);
    // SAFETY: the instruction is there, and the pointer is aligned and leads to 16 bytes that are borrowed as atomics,
    // so changing them behind a shared reference is what they are for. The words are otherwise only accessed by
    // whole-word atomic operations, which the processor keeps apart from a locked one. RBX, which the compiler keeps
    // for itself, is put back; all operands are named registers, so that none of them is RBX.
    unsafe {
        asm!(
            "xchg r8, rbx",
            "lock cmpxchg16b [rdi]",
            "mov rbx, r8",
            inout("r8") new as u64 => _,
            in("rdi") target,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
            options(nostack),
        );
    }
    let found = u128::from(high) << 64 | u128::from(low);
    Some(if found == current { Ok(()) } else { Err(found) })
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use super::*;

    #[repr(align(16))]
    struct Pair([AtomicU64; 2]);

    #[test]
    fn a_pair_changes_only_if_it_holds_what_is_expected() {
        let Pair(pair) = Pair([AtomicU64::new(1), AtomicU64::new(2)]);
        let words = || (pair[0].load(Ordering::Relaxed), pair[1].load(Ordering::Relaxed));
        let held = 2u128 << 64 | 1;
        let Some(first) = exchange_u128(&pair, 7, 9) else {
            return println!("skipped: this processor has no CMPXCHG16B");
        };
        assert_eq!(first, Err(held));
        assert_eq!(words(), (1, 2));
        assert_eq!(exchange_u128(&pair, held, 4u128 << 64 | 3), Some(Ok(())));
        assert_eq!(words(), (3, 4));
    }
}
