//! Instructions whose memory operand is a device register, carried out in software. Not all of x86: what kernels use
//! on device memory. Anything else ends the machine by name.

use iced_x86::{Instruction, Mnemonic, OpKind, Register as Operand};

use super::alu::{self, CF, Operation, ZF};
use super::body::{Body, Trouble};
use super::engine::VcpuEngine;
use super::memory::ones;
use super::operand;
use super::platform::Platform;
use super::state::{Register, bits};
use crate::memory::GuestPhysical;

/// A repeated string instruction moves at most this many elements before the loop looks after interrupts; its
/// registers say how far it came.
const ELEMENTS_AT_ONCE: u32 = 64;

/// An operand of an instruction.
#[derive(Clone, Copy)]
enum Place {
    Register(Operand),
    /// A linear address.
    Memory(u64),
    Immediate(u64),
}

impl<E: VcpuEngine> Body<E> {
    /// Carries out the instruction at the instruction pointer, which accessed `address`.
    pub(super) fn emulate(&mut self, address: GuestPhysical, platform: &dyn Platform) -> Result<(), Trouble> {
        let instruction = self.decode(platform)?;
        let done = match instruction.mnemonic() {
            Mnemonic::Movsb
            | Mnemonic::Movsw
            | Mnemonic::Movsd
            | Mnemonic::Movsq
            | Mnemonic::Stosb
            | Mnemonic::Stosw
            | Mnemonic::Stosd
            | Mnemonic::Stosq
            | Mnemonic::Lodsb
            | Mnemonic::Lodsw
            | Mnemonic::Lodsd
            | Mnemonic::Lodsq
                if instruction.is_string_instruction() =>
            {
                self.string(&instruction, platform)?
            }
            _ => self.single(&instruction, address, platform)?,
        };
        if done {
            let next = self.behind(&instruction);
            self.go_on_at(next);
        }
        Ok(())
    }

    fn single(
        &mut self,
        instruction: &Instruction,
        address: GuestPhysical,
        platform: &dyn Platform,
    ) -> Result<bool, Trouble> {
        let size = u8::try_from(instruction.memory_size().size()).unwrap_or(0);
        if !matches!(size, 1 | 2 | 4 | 8) {
            return Err(self.cannot_emulate(address, platform));
        }
        let first = self.place(instruction, 0, size)?;
        let second = self.place(instruction, 1, size)?;
        let (Some(first), second) = (first, second) else { return Err(self.cannot_emulate(address, platform)) };
        let flags = self.engine.flags();
        match (instruction.mnemonic(), second) {
            (Mnemonic::Mov | Mnemonic::Movnti, Some(second)) => {
                let value = self.get(second, size, platform)?;
                self.put(first, size, value, platform)?;
            }
            (Mnemonic::Movzx, Some(second)) => {
                let value = self.get(second, size, platform)?;
                self.put(first, size, value, platform)?;
            }
            (Mnemonic::Movsx | Mnemonic::Movsxd, Some(second)) => {
                let value = self.get(second, size, platform)?;
                let unused = 64u32.saturating_sub(8 * u32::from(size));
                let extended = (((value << unused) as i64) >> unused) as u64;
                self.put(first, size, extended, platform)?;
            }
            (Mnemonic::Xchg, Some(second)) => {
                self.probe(first, size, platform)?;
                self.probe(second, size, platform)?;
                let (left, right) = (self.get(first, size, platform)?, self.get(second, size, platform)?);
                self.put(first, size, right, platform)?;
                self.put(second, size, left, platform)?;
            }
            (Mnemonic::Xadd, Some(second)) => {
                self.probe(first, size, platform)?;
                let (left, right) = (self.get(first, size, platform)?, self.get(second, size, platform)?);
                let (sum, after) = alu::compute(Operation::Add, left, right, size, flags);
                self.put(second, size, left, platform)?;
                self.put(first, size, sum, platform)?;
                self.engine.set_flags(after);
            }
            (Mnemonic::Cmpxchg, Some(second)) => self.compare_exchange(first, second, size, platform)?,
            (Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc, Some(second)) => {
                self.bit(instruction, first, second, size, platform)?;
            }
            (Mnemonic::Cmp, Some(second)) => {
                let (left, right) = (self.get(first, size, platform)?, self.get(second, size, platform)?);
                self.engine.set_flags(alu::compute(Operation::Subtract, left, right, size, flags).1);
            }
            (Mnemonic::Test, Some(second)) => {
                let (left, right) = (self.get(first, size, platform)?, self.get(second, size, platform)?);
                self.engine.set_flags(alu::compute(Operation::And, left, right, size, flags).1);
            }
            (Mnemonic::Inc | Mnemonic::Dec, None) => {
                self.probe(first, size, platform)?;
                let value = self.get(first, size, platform)?;
                let (result, after) = alu::step(instruction.mnemonic() == Mnemonic::Inc, value, size, flags);
                self.put(first, size, result, platform)?;
                self.engine.set_flags(after);
            }
            (Mnemonic::Not, None) => {
                self.probe(first, size, platform)?;
                let value = self.get(first, size, platform)?;
                self.put(first, size, !value, platform)?;
            }
            (Mnemonic::Neg, None) => {
                self.probe(first, size, platform)?;
                let value = self.get(first, size, platform)?;
                let (result, after) = alu::compute(Operation::Subtract, 0, value, size, flags);
                self.put(first, size, result, platform)?;
                self.engine.set_flags(after);
            }
            (mnemonic, Some(second)) => {
                let Some(operation) = operation(mnemonic) else { return Err(self.cannot_emulate(address, platform)) };
                self.probe(first, size, platform)?;
                let (left, right) = (self.get(first, size, platform)?, self.get(second, size, platform)?);
                let (result, after) = alu::compute(operation, left, right, size, flags);
                self.put(first, size, result, platform)?;
                self.engine.set_flags(after);
            }
            _ => return Err(self.cannot_emulate(address, platform)),
        }
        Ok(true)
    }

    fn compare_exchange(
        &mut self,
        first: Place,
        second: Place,
        size: u8,
        platform: &dyn Platform,
    ) -> Result<(), Trouble> {
        self.probe(first, size, platform)?;
        let accumulator = match size {
            1 => Operand::AL,
            2 => Operand::AX,
            4 => Operand::EAX,
            _ => Operand::RAX,
        };
        let expected = operand::register(&self.engine, accumulator);
        let found = self.get(first, size, platform)?;
        let (_, after) = alu::compute(Operation::Subtract, expected, found, size, self.engine.flags());
        if after & ZF != 0 {
            let value = self.get(second, size, platform)?;
            self.put(first, size, value, platform)?;
        } else {
            self.put(first, size, found, platform)?;
            operand::set_register(&mut self.engine, accumulator, found);
        }
        self.engine.set_flags(after);
        Ok(())
    }

    /// BT and its kin. With a register as bit number the bit may lie outside the operand, on either side.
    fn bit(
        &mut self,
        instruction: &Instruction,
        first: Place,
        second: Place,
        size: u8,
        platform: &dyn Platform,
    ) -> Result<(), Trouble> {
        let width = 8 * u64::from(size);
        let number = self.get(second, size, platform)?;
        let first = match (first, second) {
            (Place::Memory(linear), Place::Register(_)) => {
                let unused = 64 - width as u32;
                let signed = ((number << unused) as i64) >> unused;
                Place::Memory(linear.wrapping_add((signed.div_euclid(width as i64) * i64::from(size)) as u64))
            }
            _ => first,
        };
        let bit = 1 << (number % width);
        let changes = instruction.mnemonic() != Mnemonic::Bt;
        if changes {
            self.probe(first, size, platform)?;
        }
        let value = self.get(first, size, platform)?;
        let flags = self.engine.flags() & !CF | if value & bit != 0 { CF } else { 0 };
        if changes {
            let result = match instruction.mnemonic() {
                Mnemonic::Bts => value | bit,
                Mnemonic::Btr => value & !bit,
                _ => value ^ bit,
            };
            self.put(first, size, result, platform)?;
        }
        self.engine.set_flags(flags);
        Ok(())
    }

    /// MOVS, STOS, LODS. True when the instruction is done, false when more elements are to come.
    fn string(&mut self, instruction: &Instruction, platform: &dyn Platform) -> Result<bool, Trouble> {
        let size = u8::try_from(instruction.memory_size().size()).unwrap_or(1);
        let repeat = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        for _ in 0..ELEMENTS_AT_ONCE {
            if repeat && self.count(instruction) == 0 {
                return Ok(true);
            }
            let source = self.place(instruction, 1, size)?;
            let destination = self.place(instruction, 0, size)?;
            let (Some(source), Some(destination)) = (source, destination) else { return Ok(true) };
            let value = self.get(source, size, platform)?;
            self.put(destination, size, value, platform)?;
            for (place, register) in [(source, Register::Rsi), (destination, Register::Rdi)] {
                if matches!(place, Place::Memory(_)) {
                    self.advance_pointer(instruction, register, size);
                }
            }
            if !repeat {
                return Ok(true);
            }
            self.count_down(instruction);
        }
        Ok(self.count(instruction) == 0)
    }

    /// The count register of a repeated instruction, as wide as its addresses are.
    pub(super) fn count(&self, instruction: &Instruction) -> u64 {
        self.engine.registers().get(Register::Rcx) & address_mask(instruction)
    }

    pub(super) fn count_down(&mut self, instruction: &Instruction) {
        self.add_to(instruction, Register::Rcx, u64::MAX);
    }

    /// Moves a string instruction's pointer by one element, the way that the direction flag says.
    pub(super) fn advance_pointer(&mut self, instruction: &Instruction, register: Register, size: u8) {
        let step = u64::from(size);
        let down = self.engine.flags() & bits::FLAGS_DF != 0;
        self.add_to(instruction, register, if down { step.wrapping_neg() } else { step });
    }

    fn add_to(&mut self, instruction: &Instruction, register: Register, step: u64) {
        let mask = address_mask(instruction);
        let registers = self.engine.registers_mut();
        let old = registers.get(register);
        let new = old.wrapping_add(step) & mask;
        // 32-bit results clear the upper half, 16-bit ones keep what is above.
        registers.set(register, if mask == 0xffff { old & !mask | new } else { new });
    }

    fn place(&self, instruction: &Instruction, index: u32, size: u8) -> Result<Option<Place>, Trouble> {
        if index >= instruction.op_count() {
            return Ok(None);
        }
        Ok(match instruction.op_kind(index) {
            OpKind::Register if instruction.op_register(index).is_gpr() => {
                Some(Place::Register(instruction.op_register(index)))
            }
            OpKind::Register => None,
            OpKind::Memory
            | OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegRSI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
            | OpKind::MemoryESRDI => {
                Some(Place::Memory(operand::address(&self.engine, instruction, index, u64::from(size))?))
            }
            _ => instruction.try_immediate(index).ok().map(Place::Immediate),
        })
    }

    fn get(&mut self, place: Place, size: u8, platform: &dyn Platform) -> Result<u64, Trouble> {
        Ok(match place {
            Place::Register(register) => operand::register(&self.engine, register),
            Place::Immediate(value) => value & ones(size),
            Place::Memory(linear) => self.load(linear, size, platform)?,
        })
    }

    fn put(&mut self, place: Place, size: u8, value: u64, platform: &dyn Platform) -> Result<(), Trouble> {
        match place {
            Place::Register(register) => operand::set_register(&mut self.engine, register, value),
            Place::Memory(linear) => self.store(linear, size, value & ones(size), platform)?,
            Place::Immediate(_) => {}
        }
        Ok(())
    }

    /// An instruction that reads and writes must not read a device and then fault.
    fn probe(&self, place: Place, size: u8, platform: &dyn Platform) -> Result<(), Trouble> {
        match place {
            Place::Memory(linear) => self.probe_store(linear, size, platform),
            Place::Register(_) | Place::Immediate(_) => Ok(()),
        }
    }
}

fn operation(mnemonic: Mnemonic) -> Option<Operation> {
    Some(match mnemonic {
        Mnemonic::Add => Operation::Add,
        Mnemonic::Adc => Operation::AddCarry,
        Mnemonic::Sub => Operation::Subtract,
        Mnemonic::Sbb => Operation::SubtractBorrow,
        Mnemonic::And => Operation::And,
        Mnemonic::Or => Operation::Or,
        Mnemonic::Xor => Operation::Xor,
        _ => return None,
    })
}

/// How wide a string instruction's pointers and count are.
fn address_mask(instruction: &Instruction) -> u64 {
    for index in 0..instruction.op_count() {
        match instruction.op_kind(index) {
            OpKind::MemorySegSI | OpKind::MemoryESDI => return 0xffff,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => return 0xffff_ffff,
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => return u64::MAX,
            _ => {}
        }
    }
    u64::MAX
}

#[cfg(test)]
#[path = "emulate_tests.rs"]
mod tests;
