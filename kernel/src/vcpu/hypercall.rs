//! Hypercalls: VMMCALL (or VMCALL) with the number in RAX and arguments in RBX, RCX and RDX; the answer is in RAX, all
//! ones where there is no such call or it was refused. Only the guest's kernel may call.

use super::body::{Body, Trouble};
use super::engine::{EXIT_KINDS, Exit, VcpuEngine};
use super::fetch::Opcode;
use super::platform::Platform;
use super::state::{Exception, Register};

/// The version of this interface: the answer to [`GET_VERSION`] and to CPUID leaf 0x4000_0001.
pub const VERSION: u64 = 1;
/// What RAX holds after a call that does not exist or was refused.
pub const REFUSED: u64 = u64::MAX;

/// Answers [`VERSION`].
pub const GET_VERSION: u64 = 0;
/// Writes RCX (at most [`LONGEST_LINE`]) bytes at linear address RBX to the machine's log. Answers 0.
pub const WRITE_LINE: u64 = 1;
/// Answers how often this virtual CPU was left for the kind of exit in RBX; see
/// [`Exit::kind`](super::Exit::kind).
pub const GET_EXITS: u64 = 2;
/// Calls from here on are the machine's: see [`Platform::hypercall`].
pub const FIRST_OF_PLATFORM: u64 = 0x100;

/// Bytes of the longest line that [`WRITE_LINE`] takes.
pub const LONGEST_LINE: usize = 256;

impl<E: VcpuEngine> Body<E> {
    /// The call that only asks for the version, where the instruction's end is plain. False: nothing was done.
    #[inline]
    pub(super) fn quick_hypercall(&mut self) -> bool {
        if self.engine.registers().get(Register::Rax) != GET_VERSION || self.engine.privilege() != 0 {
            return false;
        }
        let Some(next) = self.quick_next(Opcode::HYPERCALL) else { return false };
        self.exits[Exit::Hypercall.kind()] = self.exits[Exit::Hypercall.kind()].wrapping_add(1);
        self.engine.registers_mut().set(Register::Rax, VERSION);
        self.go_on_at(next);
        true
    }

    pub(super) fn handle_hypercall(&mut self, platform: &dyn Platform) -> Result<(), Trouble> {
        if self.engine.privilege() != 0 {
            return Err(Exception::UNDEFINED.into());
        }
        let next = self.next_instruction(Opcode::HYPERCALL, platform)?;
        let answer = match self.engine.registers().get(Register::Rax) {
            GET_VERSION => VERSION,
            number => self.answer(number, platform)?,
        };
        self.engine.registers_mut().set(Register::Rax, answer);
        self.go_on_at(next);
        Ok(())
    }

    fn answer(&mut self, number: u64, platform: &dyn Platform) -> Result<u64, Trouble> {
        let registers = self.engine.registers();
        let arguments = [Register::Rbx, Register::Rcx, Register::Rdx].map(|register| registers.get(register));
        let [first, second, _] = arguments;
        Ok(match number {
            WRITE_LINE => {
                let mut line = [0; LONGEST_LINE];
                let length = usize::try_from(second).unwrap_or(usize::MAX);
                let Some(line) = line.get_mut(..length) else { return Ok(REFUSED) };
                self.read_linear(first, line, platform)?;
                platform.guest_line(self.index, line);
                0
            }
            GET_EXITS => usize::try_from(first)
                .ok()
                .filter(|kind| *kind < EXIT_KINDS)
                .and_then(|kind| self.exits.get(kind))
                .copied()
                .unwrap_or(REFUSED),
            FIRST_OF_PLATFORM.. => platform.hypercall(self.index, number, arguments).unwrap_or(REFUSED),
            _ => REFUSED,
        })
    }
}
