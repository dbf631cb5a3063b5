//! The moves with which drivers reach device registers, decoded at a glance: MOV of 4 or 8 bytes between memory and a
//! register or an immediate, without prefixes but REX. Whatever else it is takes the long way.

use super::state::Register;

/// A move between a register and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    /// Bytes of the instruction.
    pub(super) length: u8,
    /// Bytes that are moved: 4 or 8.
    pub(super) size: u8,
    pub(super) what: What,
}

/// Which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// From memory.
    Load(Register),
    /// To memory.
    Store(Register),
    /// To memory, extended to 64 bits.
    StoreImmediate(u64),
}

/// Bytes that are looked at: REX, opcode, ModRM, SIB, displacement and immediate of 4.
pub(super) const LONGEST: usize = 12;

/// The move that begins with these bytes in 64-bit (`long`) or 32-bit code.
pub(super) fn decode(bytes: &[u8; LONGEST], long: bool) -> Option<Move> {
    let mut at = 0usize;
    let mut rex = 0;
    if long && bytes[0] & 0xf0 == 0x40 {
        rex = bytes[0];
        at = 1;
    }
    let opcode = *bytes.get(at)?;
    let form = *bytes.get(at + 1)?;
    at += 2;
    let (mode, register, base) = (form >> 6, form >> 3 & 7, form & 7);
    if mode == 3 {
        return None;
    }
    let mut displacement = match mode {
        0 => 0,
        1 => 1,
        _ => 4,
    };
    if base == 4 {
        let index_base = *bytes.get(at)? & 7;
        at += 1;
        if mode == 0 && index_base == 5 {
            displacement = 4;
        }
    } else if mode == 0 && base == 5 {
        displacement = 4;
    }
    at += displacement;
    let size = if rex & 8 == 0 { 4 } else { 8 };
    let register = || Register::from_number(register | (rex & 4) << 1);
    let what = match opcode {
        0x89 => What::Store(register()?),
        0x8b => What::Load(register()?),
        0xc7 if form >> 3 & 7 == 0 => {
            let immediate = bytes.get(at..at + 4)?.first_chunk().copied()?;
            at += 4;
            What::StoreImmediate(i64::from(i32::from_le_bytes(immediate)) as u64)
        }
        _ => return None,
    };
    Some(Move { length: u8::try_from(at).ok()?, size, what })
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};
    use proptest::prelude::*;

    use super::*;
    use crate::vcpu::operand;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        /// Whatever is taken for a move is one, of that length and those operands.
        #[test]
        fn agrees_with_the_whole_decoder(
            prefix in prop::option::of(0x40u8..0x50), opcode in prop::sample::select(vec![0x89u8, 0x8b, 0xc7, 0xc6, 0x88, 0x8d, 0xa3]),
            rest: [u8; 10], long: bool,
        ) {
            let mut bytes = [0; LONGEST];
            let head: Vec<u8> = prefix.into_iter().chain([opcode]).chain(rest).take(LONGEST).collect();
            bytes[..head.len()].copy_from_slice(&head);
            let Some(found) = decode(&bytes, long) else { return Ok(()) };
            let mut whole = bytes.to_vec();
            whole.extend([0; 3]);
            let instruction = Decoder::new(if long { 64 } else { 32 }, &whole, DecoderOptions::NONE).decode();
            prop_assert_eq!(instruction.mnemonic(), Mnemonic::Mov);
            prop_assert_eq!(instruction.len(), usize::from(found.length));
            prop_assert_eq!(instruction.memory_size().size(), usize::from(found.size));
            match found.what {
                What::Load(register) => {
                    prop_assert_eq!(instruction.op1_kind(), OpKind::Memory);
                    prop_assert_eq!(operand::general(instruction.op0_register()), Some(register));
                }
                What::Store(register) => {
                    prop_assert_eq!(instruction.op0_kind(), OpKind::Memory);
                    prop_assert_eq!(operand::general(instruction.op1_register()), Some(register));
                }
                What::StoreImmediate(value) => {
                    let mask = crate::vcpu::memory::ones(found.size);
                    prop_assert_eq!(instruction.try_immediate(1).unwrap() & mask, value & mask);
                }
            }
        }
    }

    #[test]
    fn the_moves_of_drivers_are_known() {
        let pad = |code: &[u8]| core::array::from_fn(|at| code.get(at).copied().unwrap_or(0));
        // mov [rdi], eax; mov eax, [rip+8]; mov dword [rax+0xb0], 0; mov [r8+rcx*4+4], r9
        for (code, length, size, what) in [
            (&[0x89, 0x07][..], 2, 4, What::Store(Register::Rax)),
            (&[0x8b, 0x05, 8, 0, 0, 0], 6, 4, What::Load(Register::Rax)),
            (&[0xc7, 0x80, 0xb0, 0, 0, 0, 0, 0, 0, 0], 10, 4, What::StoreImmediate(0)),
            (&[0x4d, 0x89, 0x4c, 0x88, 4], 5, 8, What::Store(Register::R9)),
        ] {
            assert_eq!(decode(&pad(code), true), Some(Move { length, size, what }), "{code:x?}");
        }
        // mov eax, ebx; mov [rdi], al; lock-prefixed
        for code in [&[0x89, 0xd8][..], &[0x88, 0x07], &[0xf0, 0x89, 0x07]] {
            assert_eq!(decode(&pad(code), true), None, "{code:x?}");
        }
    }
}
