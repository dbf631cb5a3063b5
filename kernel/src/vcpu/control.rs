//! Writes of CR0, CR4, CR8 and EFER: the rules of the architecture, checked before the engine sees a value, and long mode
//! switched on and off as the processor does (SDM volume 3 sections 2.5 and 10.8.5, APM volume 2 section 3.1).

use iced_x86::{Code, Instruction, OpKind, Register as Operand};

use super::body::{Body, Trouble};
use super::engine::VcpuEngine;
use super::operand;
use super::platform::{CrashReason, Platform};
use super::state::{Exception, Segment, SegmentName, SystemRegister, bits};
use crate::memory::GuestPhysical;

/// What LMSW can change: PE (set only), MP, EM, TS.
const MACHINE_STATUS: u64 = 0xf;
/// CR0: task switched.
const CR0_TS: u64 = 1 << 3;

impl<E: VcpuEngine> Body<E> {
    pub(super) fn handle_control_write(&mut self, platform: &dyn Platform) -> Result<(), Trouble> {
        let instruction = self.decode(platform)?;
        let cr0 = self.engine.system(SystemRegister::Cr0);
        match instruction.code() {
            Code::Mov_cr_r32 | Code::Mov_cr_r64 => {
                let value = operand::register(&self.engine, instruction.op1_register());
                match instruction.op0_register() {
                    Operand::CR0 => self.write_cr0(value, platform)?,
                    Operand::CR4 => self.write_cr4(value, platform)?,
                    Operand::CR8 => self.write_cr8(value)?,
                    _ => return Err(self.unexpected(&instruction, platform)),
                }
            }
            Code::Clts => self.write_cr0(cr0 & !CR0_TS, platform)?,
            Code::Lmsw_rm16 | Code::Lmsw_r32m16 | Code::Lmsw_r64m16 => {
                let status = if instruction.op0_kind() == OpKind::Memory {
                    let linear = operand::address(&self.engine, &instruction, 0, 2)?;
                    self.load(linear, 2, platform)?
                } else {
                    operand::register(&self.engine, instruction.op0_register())
                };
                self.write_cr0(cr0 & !(MACHINE_STATUS & !bits::CR0_PE) | status & MACHINE_STATUS, platform)?;
            }
            _ => return Err(self.unexpected(&instruction, platform)),
        }
        let next = self.behind(&instruction);
        self.go_on_at(next);
        Ok(())
    }

    /// The processor left the guest for a control-register value that it should have answered with a fault itself.
    pub(super) fn handle_control_fault(&mut self, platform: &dyn Platform) -> Result<(), Trouble> {
        let instruction = self.decode(platform)?;
        match instruction.code() {
            Code::Mov_cr_r32 | Code::Mov_cr_r64 => Err(Exception::GENERAL_PROTECTION.into()),
            _ => Err(Trouble::Crash(CrashReason::InvalidState { rule: "a rule that is not known here" })),
        }
    }

    fn unexpected(&self, _: &Instruction, platform: &dyn Platform) -> Trouble {
        self.cannot_emulate(GuestPhysical::default(), platform)
    }

    fn write_cr0(&mut self, value: u64, platform: &dyn Platform) -> Result<(), Exception> {
        const LOADING: u64 = bits::CR0_PG | bits::CR0_CD | bits::CR0_NW;
        let old = self.engine.system(SystemRegister::Cr0);
        let (value, efer) = new_cr0(&self.engine, value).ok_or(Exception::GENERAL_PROTECTION)?;
        if (old ^ value) & LOADING != 0 {
            let cr4 = self.engine.system(SystemRegister::Cr4);
            self.load_page_pointers(value, cr4, efer, platform)?;
        }
        self.engine.set_system(SystemRegister::Efer, efer);
        self.engine.set_system(SystemRegister::Cr0, value);
        if (old ^ value) & (bits::CR0_PG | bits::CR0_WP | bits::CR0_PE) != 0 {
            self.engine.flush_translations();
            self.forget_code_pages();
        }
        Ok(())
    }

    fn write_cr4(&mut self, value: u64, platform: &dyn Platform) -> Result<(), Exception> {
        const LOADING: u64 = bits::CR4_PAE | bits::CR4_PGE | bits::CR4_PSE | bits::CR4_SMEP;
        let long = self.engine.system(SystemRegister::Efer) & bits::EFER_LMA != 0;
        if value & !self.cpuid.allowed_cr4() != 0 || long && value & bits::CR4_PAE == 0 {
            return Err(Exception::GENERAL_PROTECTION);
        }
        if (self.engine.system(SystemRegister::Cr4) ^ value) & LOADING != 0 {
            let (cr0, efer) = (self.engine.system(SystemRegister::Cr0), self.engine.system(SystemRegister::Efer));
            self.load_page_pointers(cr0, value, efer, platform)?;
        }
        self.engine.set_system(SystemRegister::Cr4, value);
        self.engine.flush_translations();
        self.forget_code_pages();
        self.refresh_cpuid();
        Ok(())
    }

    /// With paging in its PAE form, the processor holds the four entries that CR3 leads to, from the write of a control
    /// register on (SDM volume 3 section 5.4.1). Where the engine's does not load them itself, they are read here.
    fn load_page_pointers(&mut self, cr0: u64, cr4: u64, efer: u64, platform: &dyn Platform) -> Result<(), Exception> {
        /// Bits 2:1 and 8:5, and what lies above every physical width.
        const RESERVED: u64 = 0xfff0_0000_0000_01e6;
        let has_form = cr0 & bits::CR0_PG != 0 && cr4 & bits::CR4_PAE != 0 && efer & bits::EFER_LMA == 0;
        if !has_form || !self.engine.wants_page_pointers() {
            return Ok(());
        }
        let mut bytes = [0xff; 32];
        let address = self.engine.system(SystemRegister::Cr3) & 0xffff_ffe0;
        // Where no RAM is, ones are read, which are no entries.
        let _ = platform.read_memory(GuestPhysical::new(address), &mut bytes);
        let mut pointers = [0; 4];
        for (pointer, bytes) in pointers.iter_mut().zip(bytes.as_chunks().0) {
            *pointer = u64::from_le_bytes(*bytes);
            if *pointer & 1 != 0 && *pointer & RESERVED != 0 {
                return Err(Exception::GENERAL_PROTECTION);
            }
        }
        self.engine.set_page_pointers(pointers);
        Ok(())
    }

    /// The task priority, which an interrupt may have waited for.
    fn write_cr8(&mut self, value: u64) -> Result<(), Exception> {
        if value > 0xf {
            return Err(Exception::GENERAL_PROTECTION);
        }
        self.engine.set_system(SystemRegister::Cr8, value);
        self.attention = true;
        Ok(())
    }
}

/// CR0 and EFER after a write of CR0; `None`: #GP.
fn new_cr0(engine: &impl VcpuEngine, value: u64) -> Option<(u64, u64)> {
    let old = engine.system(SystemRegister::Cr0);
    let cr4 = engine.system(SystemRegister::Cr4);
    let mut efer = engine.system(SystemRegister::Efer);
    let set = |bit| value & bit != 0;
    if value >> 32 != 0 || set(bits::CR0_PG) && !set(bits::CR0_PE) || set(bits::CR0_NW) && !set(bits::CR0_CD) {
        return None;
    }
    let long_code = engine.segment(SegmentName::Cs).attributes & Segment::LONG != 0;
    let paging_was_on = old & bits::CR0_PG != 0;
    if set(bits::CR0_PG) && !paging_was_on && efer & bits::EFER_LME != 0 {
        if cr4 & bits::CR4_PAE == 0 || long_code {
            return None;
        }
        efer |= bits::EFER_LMA;
    }
    if !set(bits::CR0_PG) && paging_was_on && efer & bits::EFER_LMA != 0 {
        if long_code {
            return None;
        }
        efer &= !bits::EFER_LMA;
    }
    Some((value & bits::CR0_DEFINED | bits::CR0_ET, efer))
}

/// EFER after a write; `None`: #GP.
pub(super) fn new_efer(engine: &impl VcpuEngine, value: u64) -> Option<u64> {
    const WRITABLE: u64 = bits::EFER_SCE | bits::EFER_LME | bits::EFER_NXE;
    let old = engine.system(SystemRegister::Efer);
    // LMA is read-only: what is written to it is ignored.
    if value & !(WRITABLE | bits::EFER_LMA) != 0 {
        return None;
    }
    let paging = engine.system(SystemRegister::Cr0) & bits::CR0_PG != 0;
    if paging && (old ^ value) & bits::EFER_LME != 0 {
        return None;
    }
    Some(value & WRITABLE | old & bits::EFER_LMA)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::testing::{FakeEngine, FakeMachine, body};

    fn engine(cr0: u64, cr4: u64, efer: u64) -> FakeEngine {
        let mut engine = FakeEngine::new();
        engine.set_system(SystemRegister::Cr0, cr0);
        engine.set_system(SystemRegister::Cr4, cr4);
        engine.set_system(SystemRegister::Efer, efer);
        engine
    }

    #[test]
    fn long_mode_becomes_active_with_paging() {
        let cr0 = bits::CR0_PE | bits::CR0_ET;
        let ready = engine(cr0, bits::CR4_PAE, bits::EFER_LME);
        let (new, efer) = new_cr0(&ready, cr0 | bits::CR0_PG).unwrap();
        assert_eq!((new, efer), (cr0 | bits::CR0_PG, bits::EFER_LME | bits::EFER_LMA));
        let no_extension = engine(cr0, 0, bits::EFER_LME);
        assert_eq!(new_cr0(&no_extension, cr0 | bits::CR0_PG), None);
        let mut from_long_code = engine(cr0, bits::CR4_PAE, bits::EFER_LME);
        from_long_code.set_segment(SegmentName::Cs, Segment { attributes: Segment::LONG, ..Segment::default() });
        assert_eq!(new_cr0(&from_long_code, cr0 | bits::CR0_PG), None);
        let on = engine(cr0 | bits::CR0_PG, bits::CR4_PAE, bits::EFER_LME | bits::EFER_LMA);
        assert_eq!(new_cr0(&on, cr0), Some((cr0, bits::EFER_LME)));
        let mut in_long_code = on;
        in_long_code.set_segment(SegmentName::Cs, Segment { attributes: Segment::LONG, ..Segment::default() });
        assert_eq!(new_cr0(&in_long_code, cr0), None);
    }

    #[test]
    fn wild_values_fault() {
        let engine = engine(bits::CR0_PE | bits::CR0_ET, 0, 0);
        for wild in [1 << 32, bits::CR0_PG, bits::CR0_NW, u64::MAX] {
            assert_eq!(new_cr0(&engine, wild), None, "CR0 {wild:#x}");
        }
        assert_eq!(new_cr0(&engine, 1 << 6 | bits::CR0_PE), Some((bits::CR0_PE | bits::CR0_ET, 0)));
        for wild in [1 << 12, 1 << 1, 1 << 13, 1 << 63, u64::MAX] {
            assert_eq!(new_efer(&engine, wild), None, "EFER {wild:#x}");
        }
        assert_eq!(new_efer(&engine, bits::EFER_LMA | bits::EFER_SCE), Some(bits::EFER_SCE));
    }

    #[test]
    fn long_mode_cannot_be_enabled_under_paging() {
        let paging = engine(bits::CR0_PE | bits::CR0_PG, bits::CR4_PAE, 0);
        assert_eq!(new_efer(&paging, bits::EFER_LME), None);
        assert_eq!(new_efer(&paging, bits::EFER_NXE), Some(bits::EFER_NXE));
    }

    #[test]
    fn page_pointers_are_read_where_the_processor_wants_them() {
        let machine = FakeMachine::new(0x2000);
        let paged = bits::CR0_PE | bits::CR0_ET | bits::CR0_PG;
        let write = |wants: bool, entry: u64| {
            machine.put(0x1020, &[0x1001u64, 0, entry, 0].map(u64::to_le_bytes).concat());
            let mut body = body();
            body.engine.pointers = wants.then_some([0; 4]);
            body.engine.set_system(SystemRegister::Cr0, bits::CR0_PE | bits::CR0_ET);
            body.engine.set_system(SystemRegister::Cr3, 0x1020);
            body.engine.set_system(SystemRegister::Cr4, bits::CR4_PAE);
            let result = body.write_cr0(paged, &machine);
            (result, body.engine.pointers, body.engine.system(SystemRegister::Cr0))
        };
        assert_eq!(write(true, 0x3001), (Ok(()), Some([0x1001, 0, 0x3001, 0]), paged));
        // A reserved bit: nothing changes. An entry that is not present may have any.
        let refused = Err(Exception::GENERAL_PROTECTION);
        assert_eq!(write(true, 0x3003), (refused, Some([0; 4]), bits::CR0_PE | bits::CR0_ET));
        assert_eq!(write(true, 0x3002).0, Ok(()));
        assert_eq!(write(false, 0x3003), (Ok(()), None, paged));
    }
}
