//! The operands of a decoded instruction: registers of every width, and linear addresses.

use iced_x86::{Instruction, Register as Operand};

use super::body::Trouble;
use super::engine::VcpuEngine;
use super::memory::ones;
use super::state::{Exception, Register, Segment, SegmentName};
use super::walk;

/// Where a register operand lies: which general register, how many bytes, and from which bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    register: Register,
    size: u8,
    shift: u32,
}

/// The general register that an operand is, or is part of.
pub(super) fn general(operand: Operand) -> Option<Register> {
    operand.is_gpr().then(|| Register::from_number(u8::try_from(operand.full_register().number()).ok()?))?
}

fn place(operand: Operand) -> Option<Place> {
    let register = general(operand)?;
    let shift = if matches!(operand, Operand::AH | Operand::CH | Operand::DH | Operand::BH) { 8 } else { 0 };
    Some(Place { register, size: u8::try_from(operand.size()).ok()?, shift })
}

/// The value of a general register of any width; 0 for what is none.
pub(super) fn register(engine: &impl VcpuEngine, operand: Operand) -> u64 {
    place(operand).map_or(0, |place| engine.registers().get(place.register) >> place.shift & ones(place.size))
}

/// Sets a general register of any width, with the architecture's effect on the bits that it does not name.
pub(super) fn set_register(engine: &mut impl VcpuEngine, operand: Operand, value: u64) {
    let Some(place) = place(operand) else { return };
    let value = match place.size {
        8 => value,
        4 => value & 0xffff_ffff,
        size => {
            let mask = ones(size) << place.shift;
            engine.registers().get(place.register) & !mask | value << place.shift & mask
        }
    };
    engine.registers_mut().set(place.register, value);
}

fn segment_name(operand: Operand) -> Option<SegmentName> {
    Some(match operand {
        Operand::ES => SegmentName::Es,
        Operand::CS => SegmentName::Cs,
        Operand::SS => SegmentName::Ss,
        Operand::DS => SegmentName::Ds,
        Operand::FS => SegmentName::Fs,
        Operand::GS => SegmentName::Gs,
        _ => return None,
    })
}

/// The linear address of memory operand `index`, `size` bytes long, with the segment's and the address space's limits
/// checked.
pub(super) fn address(
    engine: &impl VcpuEngine,
    instruction: &Instruction,
    index: u32,
    size: u64,
) -> Result<u64, Trouble> {
    let offset = instruction
        .virtual_address(index, 0, |operand, _, _| {
            // The segment comes apart: its base does not count in 64-bit code, and its limit does not elsewhere.
            if segment_name(operand).is_some() { Some(0) } else { Some(register(engine, operand)) }
        })
        .ok_or(Exception::UNDEFINED)?;
    let name = segment_of(instruction, index);
    let fault = if name == SegmentName::Ss { Exception::STACK } else { Exception::GENERAL_PROTECTION };
    let segment = engine.segment(name);
    if walk::is_long(engine) {
        let base = if matches!(name, SegmentName::Fs | SegmentName::Gs) { segment.base } else { 0 };
        let linear = base.wrapping_add(offset);
        let last = linear.wrapping_add(size.saturating_sub(1));
        return if walk::is_canonical(linear) && walk::is_canonical(last) { Ok(linear) } else { Err(fault.into()) };
    }
    let offset = offset & 0xffff_ffff;
    if !within(&segment, offset, size) {
        return Err(fault.into());
    }
    Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
}

fn segment_of(instruction: &Instruction, index: u32) -> SegmentName {
    use iced_x86::OpKind;
    match instruction.op_kind(index) {
        // The destinations of string instructions cannot be overridden.
        OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI => SegmentName::Es,
        _ => segment_name(instruction.memory_segment()).unwrap_or(SegmentName::Ds),
    }
}

/// Whether `size` bytes at `offset` are inside a segment outside 64-bit code. Expand-down segments are inside above
/// their limit.
fn within(segment: &Segment, offset: u64, size: u64) -> bool {
    const CODE: u16 = 1 << 3;
    const EXPANDS_DOWN: u16 = 1 << 2;
    let last = offset.saturating_add(size.saturating_sub(1));
    let limit = u64::from(segment.limit);
    if segment.attributes & (CODE | EXPANDS_DOWN) == EXPANDS_DOWN {
        let top = if segment.attributes & Segment::BIG == 0 { 0xffff } else { 0xffff_ffff };
        offset > limit && last <= top
    } else {
        last <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::testing::FakeEngine;

    #[test]
    fn narrow_writes_keep_what_they_do_not_name() {
        let mut engine = FakeEngine::new();
        let wide = 0x1122_3344_5566_7788;
        for (operand, written, expected) in [
            (Operand::AL, 0xaa, 0x1122_3344_5566_77aa),
            (Operand::AH, 0xaa, 0x1122_3344_5566_aa88),
            (Operand::AX, 0xaabb, 0x1122_3344_5566_aabb),
            (Operand::EAX, 0xaabb_ccdd, 0xaabb_ccdd),
            (Operand::RAX, 5, 5),
        ] {
            engine.registers_mut().set(Register::Rax, wide);
            set_register(&mut engine, operand, written);
            assert_eq!(engine.registers().get(Register::Rax), expected, "{operand:?}");
            assert_eq!(register(&engine, operand), written, "{operand:?}");
        }
        set_register(&mut engine, Operand::R15D, 7);
        assert_eq!(engine.registers().get(Register::R15), 7);
        set_register(&mut engine, Operand::BPL, 9);
        assert_eq!(engine.registers().get(Register::Rbp), 9);
    }

    #[test]
    fn limits_hold_outside_64_bit_code() {
        let up = Segment { limit: 0xffff, attributes: 0x93, ..Segment::default() };
        assert!(within(&up, 0xfffc, 4) && !within(&up, 0xfffd, 4));
        let down = Segment { limit: 0xfff, attributes: 0x97, ..Segment::default() };
        assert!(within(&down, 0x1000, 4) && !within(&down, 0xfff, 4) && !within(&down, 0xfffe, 4));
    }
}
