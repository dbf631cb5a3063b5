//! I/O instructions. INS and OUTS move their data through the guest's page tables.

use super::body::{Body, Trouble};
use super::engine::{PortAccess, VcpuEngine};
use super::memory::ones;
use super::operand;
use super::platform::Platform;
use super::state::{Exception, Register};

/// A repeated I/O instruction moves at most this many elements before the loop looks after interrupts.
const ELEMENTS_AT_ONCE: u32 = 64;

impl<E: VcpuEngine> Body<E> {
    pub(super) fn handle_port(&mut self, access: PortAccess, platform: &dyn Platform) -> Result<(), Trouble> {
        if access.string {
            return self.string_port(access, platform);
        }
        let next = match self.engine.next_instruction() {
            Some(next) => next,
            None => {
                let instruction = self.decode(platform)?;
                self.behind(&instruction)
            }
        };
        let PortAccess { port, size, input, .. } = access;
        if input {
            let value = u64::from(platform.port_read(self.index, port, size)) & ones(size);
            let registers = self.engine.registers_mut();
            let old = registers.get(Register::Rax);
            registers.set(Register::Rax, if size == 4 { value } else { old & !ones(size) | value });
        } else {
            let value = self.engine.registers().get(Register::Rax) & ones(size);
            platform.port_write(self.index, port, size, value as u32);
        }
        self.go_on_at(next);
        Ok(())
    }

    fn string_port(&mut self, access: PortAccess, platform: &dyn Platform) -> Result<(), Trouble> {
        let PortAccess { port, size, input, .. } = access;
        let instruction = self.decode(platform)?;
        if !instruction.is_string_instruction() {
            return Err(Exception::UNDEFINED.into());
        }
        let repeat = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        // INS has its memory first, OUTS last.
        let operand_index = u32::from(!input);
        for _ in 0..ELEMENTS_AT_ONCE {
            if repeat && self.count(&instruction) == 0 {
                break;
            }
            let linear = operand::address(&self.engine, &instruction, operand_index, u64::from(size))?;
            if input {
                self.probe_store(linear, size, platform)?;
                let value = platform.port_read(self.index, port, size);
                self.store(linear, size, u64::from(value) & ones(size), platform)?;
                self.advance_pointer(&instruction, Register::Rdi, size);
            } else {
                let value = self.load(linear, size, platform)?;
                platform.port_write(self.index, port, size, value as u32);
                self.advance_pointer(&instruction, Register::Rsi, size);
            }
            if !repeat {
                break;
            }
            self.count_down(&instruction);
        }
        if !repeat || self.count(&instruction) == 0 {
            let next = self.behind(&instruction);
            self.go_on_at(next);
        } else {
            // The same instruction goes on; an interrupt may come between.
            self.attention = true;
        }
        Ok(())
    }
}
