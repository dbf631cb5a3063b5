//! Writes of DR4 to DR7. The others raise no fault whatever is written, so they pass.

use iced_x86::{Code, Register as Operand};

use super::body::{Body, Trouble};
use super::engine::VcpuEngine;
use super::operand;
use super::platform::Platform;
use super::state::{Exception, SystemRegister};

/// CR4: DR4 and DR5 do not exist.
const CR4_DE: u64 = 1 << 3;
/// DR7: accesses of debug registers trap.
const DR7_GD: u64 = 1 << 13;
/// DR6: a debug register was accessed.
const DR6_BD: u64 = 1 << 13;
/// Bits that always read 1, and those that can be written.
const DR6_ONES: u64 = 0xffff_0ff0;
const DR6_WRITABLE: u64 = 0xe00f;
const DR7_ONES: u64 = 1 << 10;
const DR7_WRITABLE: u64 = 0xffff_2bff;

impl<E: VcpuEngine> Body<E> {
    pub(super) fn handle_debug_write(&mut self, platform: &dyn Platform) -> Result<(), Trouble> {
        let instruction = self.decode(platform)?;
        if !matches!(instruction.code(), Code::Mov_dr_r32 | Code::Mov_dr_r64) {
            return Err(self.cannot_emulate(crate::memory::GuestPhysical::default(), platform));
        }
        let value = operand::register(&self.engine, instruction.op1_register());
        let aliased = matches!(instruction.op0_register(), Operand::DR4 | Operand::DR5);
        if aliased && self.engine.system(SystemRegister::Cr4) & CR4_DE != 0 {
            return Err(Exception::UNDEFINED.into());
        }
        let dr7 = self.engine.system(SystemRegister::Dr7);
        if dr7 & DR7_GD != 0 {
            let dr6 = self.engine.system(SystemRegister::Dr6);
            self.engine.set_system(SystemRegister::Dr6, dr6 | DR6_BD);
            self.engine.set_system(SystemRegister::Dr7, dr7 & !DR7_GD);
            return Err(Exception::DEBUG.into());
        }
        if value >> 32 != 0 {
            return Err(Exception::GENERAL_PROTECTION.into());
        }
        match instruction.op0_register() {
            Operand::DR4 | Operand::DR6 => {
                self.engine.set_system(SystemRegister::Dr6, value & DR6_WRITABLE | DR6_ONES);
            }
            _ => self.engine.set_system(SystemRegister::Dr7, value & DR7_WRITABLE | DR7_ONES),
        }
        let next = self.behind(&instruction);
        self.go_on_at(next);
        Ok(())
    }
}
