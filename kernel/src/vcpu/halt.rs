//! HLT: the virtual CPU stops until an interrupt comes.

use super::body::{Activity, Body, Trouble};
use super::engine::VcpuEngine;
use super::fetch::Opcode;
use super::platform::Platform;

impl<E: VcpuEngine> Body<E> {
    pub(super) fn handle_halt(&mut self, platform: &dyn Platform) -> Result<(), Trouble> {
        let next = self.next_instruction(Opcode::HALT, platform)?;
        self.go_on_at(next);
        self.activity = Activity::Halted;
        self.attention = true;
        Ok(())
    }
}
