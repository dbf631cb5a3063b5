//! The arithmetic of instructions that can have a device register as their operand, with the flags that they leave.

/// RFLAGS: carry, parity, adjust, zero, sign, overflow.
pub(super) const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
pub(super) const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// An operation with two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    AddCarry,
    Subtract,
    SubtractBorrow,
    And,
    Or,
    Xor,
}

/// The result of `left` and `right`, both of `size` bytes, and RFLAGS after it.
pub(super) fn compute(operation: Operation, left: u64, right: u64, size: u8, flags: u64) -> (u64, u64) {
    let mask = super::memory::ones(size);
    let top = 1u64 << (8 * u32::from(size.clamp(1, 8)) - 1);
    let (left, right) = (left & mask, right & mask);
    let carry_in = flags & CF;
    let (result, carry, overflow) = match operation {
        Operation::Add | Operation::AddCarry => {
            let extra = if operation == Operation::AddCarry { carry_in } else { 0 };
            let sum = u128::from(left) + u128::from(right) + u128::from(extra);
            let result = sum as u64 & mask;
            (result, sum > u128::from(mask), (left ^ result) & (right ^ result) & top != 0)
        }
        Operation::Subtract | Operation::SubtractBorrow => {
            let extra = if operation == Operation::SubtractBorrow { carry_in } else { 0 };
            let result = left.wrapping_sub(right).wrapping_sub(extra) & mask;
            let borrow = u128::from(left) < u128::from(right) + u128::from(extra);
            (result, borrow, (left ^ right) & (left ^ result) & top != 0)
        }
        Operation::And => (left & right, false, false),
        Operation::Or => (left | right, false, false),
        Operation::Xor => (left ^ right, false, false),
    };
    let logical = matches!(operation, Operation::And | Operation::Or | Operation::Xor);
    let mut status = 0;
    for (condition, flag) in [
        (carry, CF),
        ((result as u8).count_ones().is_multiple_of(2), PF),
        (!logical && (left ^ right ^ result) & 0x10 != 0, AF),
        (result == 0, ZF),
        (result & top != 0, SF),
        (overflow, OF),
    ] {
        if condition {
            status |= flag;
        }
    }
    (result, flags & !STATUS | status)
}

/// INC and DEC: as adding or subtracting 1, but carry stays.
pub(super) fn step(up: bool, value: u64, size: u8, flags: u64) -> (u64, u64) {
    let operation = if up { Operation::Add } else { Operation::Subtract };
    let (result, after) = compute(operation, value, 1, size, flags);
    (result, after & !CF | flags & CF)
}

#[cfg(test)]
mod tests {
    use core::arch::asm;

    use proptest::prelude::*;

    use super::*;

    macro_rules! native {
        ($name:literal, $left:expr, $right:expr, $flags:expr, $size:expr) => {{
            let (mut result, mut flags) = ($left, $flags & CF | 2);
            let right = $right;
            macro_rules! sized {
                ($modifier:literal, $class:ident) => {
                    // SAFETY: arithmetic on registers; the flags are put back by what follows.
                    unsafe {
                        asm!(
                            "push {flags}", "popfq",
                            concat!($name, " {left:", $modifier, "}, {right:", $modifier, "}"),
                            "pushfq", "pop {flags}",
                            left = inout($class) result, right = in($class) right, flags = inout(reg) flags,
                        );
                    }
                };
            }
            match $size {
                2 => sized!("x", reg),
                4 => sized!("e", reg),
                8 => sized!("r", reg),
                _ => {
                    let (mut low, right) = (result as u8, right as u8);
                    // SAFETY: as above.
                    unsafe {
                        asm!(
                            "push {flags}", "popfq", concat!($name, " {left}, {right}"), "pushfq", "pop {flags}",
                            left = inout(reg_byte) low, right = in(reg_byte) right, flags = inout(reg) flags,
                        );
                    }
                    result = u64::from(low);
                }
            }
            (result, flags)
        }};
    }

    proptest! {
        /// The processor that runs the test is the oracle.
        #[test]
        fn computes_as_the_processor_does(
            left: u64, right: u64, carry: bool, size in prop::sample::select(vec![1u8, 2, 4, 8]), small: bool,
        ) {
            let right = if small { right & 0xff } else { right };
            let flags = u64::from(carry);
            let mask = crate::vcpu::memory::ones(size);
            for (operation, (result, after)) in [
                (Operation::Add, native!("add", left, right, flags, size)),
                (Operation::AddCarry, native!("adc", left, right, flags, size)),
                (Operation::Subtract, native!("sub", left, right, flags, size)),
                (Operation::SubtractBorrow, native!("sbb", left, right, flags, size)),
                (Operation::And, native!("and", left, right, flags, size)),
                (Operation::Or, native!("or", left, right, flags, size)),
                (Operation::Xor, native!("xor", left, right, flags, size)),
            ] {
                // AF is undefined after the logical ones.
                let logical = matches!(operation, Operation::And | Operation::Or | Operation::Xor);
                let defined = if logical { STATUS & !AF } else { STATUS };
                let (ours, our_flags) = compute(operation, left, right, size, flags);
                prop_assert_eq!(ours, result & mask, "{:?}", operation);
                prop_assert_eq!(our_flags & defined, after & defined, "{:?}", operation);
            }
        }
    }

    #[test]
    fn increments_keep_carry() {
        assert_eq!(step(true, 0xff, 1, CF), (0, CF | PF | AF | ZF));
        assert_eq!(step(false, 0, 4, 0), (0xffff_ffff, PF | AF | SF));
    }
}
