//! RDMSR and WRMSR of registers that no engine passes through. What is not in the table below does not exist: #GP, as
//! on a processor without it.

use super::body::{Body, Trouble};
use super::control;
use super::engine::{Exit, VcpuEngine};
use super::fetch::Opcode;
use super::platform::Platform;
use super::state::{Exception, Register, SystemRegister};

/// Numbers of model-specific registers (SDM volume 4, APM volume 2 appendix A).
mod number {
    pub(super) const TIMESTAMP: u32 = 0x10;
    pub(super) const PLATFORM_ID: u32 = 0x17;
    pub(super) const APIC_BASE: u32 = 0x1b;
    pub(super) const FEATURE_CONTROL: u32 = 0x3a;
    pub(super) const MICROCODE_REVISION: u32 = 0x8b;
    pub(super) const MTRR_CAPABILITY: u32 = 0xfe;
    pub(super) const SYSENTER_CS: u32 = 0x174;
    pub(super) const SYSENTER_ESP: u32 = 0x175;
    pub(super) const SYSENTER_EIP: u32 = 0x176;
    pub(super) const MACHINE_CHECK_CAPABILITY: u32 = 0x179;
    pub(super) const MACHINE_CHECK_STATUS: u32 = 0x17a;
    pub(super) const MISC_ENABLE: u32 = 0x1a0;
    pub(super) const DEBUG_CONTROL: u32 = 0x1d9;
    pub(super) const MTRR_VARIABLE: u32 = 0x200;
    pub(super) const MTRR_FIXED_64K: u32 = 0x250;
    pub(super) const MTRR_FIXED_16K: u32 = 0x258;
    pub(super) const MTRR_FIXED_4K: u32 = 0x268;
    pub(super) const PAGE_ATTRIBUTES: u32 = 0x277;
    pub(super) const MTRR_DEFAULT: u32 = 0x2ff;
    pub(super) const X2APIC: u32 = 0x800;
    pub(super) const EFER: u32 = 0xc000_0080;
    pub(super) const STAR: u32 = 0xc000_0081;
    pub(super) const LONG_STAR: u32 = 0xc000_0082;
    pub(super) const COMPATIBILITY_STAR: u32 = 0xc000_0083;
    pub(super) const SYSCALL_MASK: u32 = 0xc000_0084;
    pub(super) const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub(super) const SYSTEM_CONFIGURATION: u32 = 0xc001_0010;
    pub(super) const HARDWARE_CONFIGURATION: u32 = 0xc001_0015;
    pub(super) const TOP_OF_MEMORY_2: u32 = 0xc001_001d;
    pub(super) const NORTH_BRIDGE_CONFIGURATION: u32 = 0xc001_001f;
    pub(super) const INTERRUPT_PENDING: u32 = 0xc001_0055;
    pub(super) const VIRTUAL_MACHINE_CONTROL: u32 = 0xc001_0114;
}

/// Variable ranges of the memory types.
const VARIABLE_RANGES: usize = 8;
/// Fixed ranges: one register of 64K ranges, two of 16K, eight of 4K.
const FIXED_RANGES: usize = 11;

/// The registers that only hold what was written.
pub(super) struct Msrs {
    /// Memory types: default (E = 1, write-back after reset, as firmware leaves it), then base and mask of each
    /// variable range, then the fixed ranges. Nested paging decides the memory types; a guest reads back what it wrote.
    default_type: u64,
    variable: [u64; VARIABLE_RANGES * 2],
    fixed: [u64; FIXED_RANGES],
    debug_control: u64,
    misc_enable: u64,
}

impl Msrs {
    pub(super) const fn new() -> Self {
        /// Enabled, fixed ranges enabled, write-back.
        const DEFAULT_TYPE: u64 = 1 << 11 | 1 << 10 | 6;
        const WRITE_BACK: u64 = 0x0606_0606_0606_0606;
        Self {
            default_type: DEFAULT_TYPE,
            variable: [0; VARIABLE_RANGES * 2],
            fixed: [WRITE_BACK; FIXED_RANGES],
            debug_control: 0,
            // Fast string operations.
            misc_enable: 1,
        }
    }

    fn fixed_index(index: u32) -> Option<usize> {
        Some(match index {
            number::MTRR_FIXED_64K => 0,
            number::MTRR_FIXED_16K..=0x259 => 1 + (index - number::MTRR_FIXED_16K) as usize,
            number::MTRR_FIXED_4K..=0x26f => 3 + (index - number::MTRR_FIXED_4K) as usize,
            _ => return None,
        })
    }

    fn read(&self, index: u32) -> Option<u64> {
        Some(match index {
            number::MTRR_CAPABILITY => VARIABLE_RANGES as u64 | 1 << 8 | 1 << 10,
            number::MTRR_DEFAULT => self.default_type,
            number::MTRR_VARIABLE..=0x20f => *self.variable.get((index - number::MTRR_VARIABLE) as usize)?,
            number::DEBUG_CONTROL => self.debug_control,
            number::MISC_ENABLE => self.misc_enable,
            _ => *self.fixed.get(Self::fixed_index(index)?)?,
        })
    }

    fn write(&mut self, index: u32, value: u64) -> Option<()> {
        const PHYSICAL: u64 = 0x000f_ffff_ffff_f000;
        match index {
            number::MTRR_DEFAULT if value & !0xcff == 0 && is_memory_type(value) => self.default_type = value,
            number::MTRR_VARIABLE..=0x20f => {
                let mask = index & 1 != 0;
                let lawful = if mask {
                    value & !(PHYSICAL | 1 << 11) == 0
                } else {
                    value & !(PHYSICAL | 0xff) == 0 && is_memory_type(value)
                };
                *self.variable.get_mut((index - number::MTRR_VARIABLE) as usize).filter(|_| lawful)? = value;
            }
            // Branch records and single-stepping of branches are kept, and do nothing.
            number::DEBUG_CONTROL if value & !0x3f == 0 => self.debug_control = value,
            number::MISC_ENABLE => self.misc_enable = value,
            _ => {
                let lawful = value.to_le_bytes().iter().all(|kind| is_memory_type(u64::from(*kind)));
                *self.fixed.get_mut(Self::fixed_index(index)?).filter(|_| lawful)? = value;
            }
        }
        Some(())
    }
}

/// Whether the low byte is a memory type of an MTRR: uncacheable, write-combining, -through, -protected, -back.
const fn is_memory_type(value: u64) -> bool {
    matches!(value as u8, 0 | 1 | 4 | 5 | 6)
}

/// Whether every byte is a memory type of the page-attribute table.
fn is_page_attributes(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4 | 5 | 6 | 7))
}

impl<E: VcpuEngine> Body<E> {
    /// RDMSR of a register that exists, where the instruction's end is plain. False: nothing was done.
    #[inline]
    pub(super) fn quick_read_msr(&mut self) -> bool {
        let Some(next) = self.quick_next(Opcode::READ_MSR) else { return false };
        let index = self.engine.registers().get(Register::Rcx) as u32;
        let Some(value) = self.read_msr(index) else { return false };
        self.exits[Exit::ReadMsr.kind()] = self.exits[Exit::ReadMsr.kind()].wrapping_add(1);
        self.engine.registers_mut().set_pair(value);
        self.go_on_at(next);
        true
    }

    pub(super) fn handle_read_msr(&mut self, platform: &dyn Platform) -> Result<(), Trouble> {
        let next = self.next_instruction(Opcode::READ_MSR, platform)?;
        let index = self.engine.registers().get(Register::Rcx) as u32;
        let value = self.read_msr(index).ok_or(Exception::GENERAL_PROTECTION)?;
        self.engine.registers_mut().set_pair(value);
        self.go_on_at(next);
        Ok(())
    }

    pub(super) fn handle_write_msr(&mut self, platform: &dyn Platform) -> Result<(), Trouble> {
        let next = self.next_instruction(Opcode::WRITE_MSR, platform)?;
        let registers = self.engine.registers();
        let (index, value) = (registers.get(Register::Rcx) as u32, registers.pair());
        self.write_msr(index, value, platform).ok_or(Exception::GENERAL_PROTECTION)?;
        self.go_on_at(next);
        Ok(())
    }

    #[inline]
    fn read_msr(&mut self, index: u32) -> Option<u64> {
        if index == number::APIC_BASE {
            return Some(self.apic.base());
        }
        self.read_other_msr(index)
    }

    fn read_other_msr(&mut self, index: u32) -> Option<u64> {
        Some(match index {
            number::X2APIC..=0x8ff => {
                self.take_interrupts();
                self.read_task_priority();
                self.apic.read_msr(index - number::X2APIC, (self.timer.nanoseconds)()).ok()?
            }
            number::EFER => self.engine.system(SystemRegister::Efer),
            number::TIMESTAMP => crate::cpu::clock::ticks().wrapping_add(self.engine.timestamp_offset()),
            // Locked, with virtualization off; SVM disabled and locked.
            number::FEATURE_CONTROL => 1,
            number::VIRTUAL_MACHINE_CONTROL => 1 << 4 | 1 << 3,
            // The rate of the time-stamp counter is that of the first performance state.
            number::HARDWARE_CONFIGURATION => 1 << 24,
            number::PLATFORM_ID
            | number::MICROCODE_REVISION
            | number::MACHINE_CHECK_CAPABILITY
            | number::MACHINE_CHECK_STATUS
            | number::SYSTEM_CONFIGURATION
            | number::TOP_OF_MEMORY_2
            | number::NORTH_BRIDGE_CONFIGURATION
            | number::INTERRUPT_PENDING => 0,
            _ => match held_by_engine(index) {
                Some(register) => self.engine.system(register),
                None => self.msrs.read(index)?,
            },
        })
    }

    fn write_msr(&mut self, index: u32, value: u64, platform: &dyn Platform) -> Option<()> {
        match index {
            number::X2APIC..=0x8ff => {
                self.take_interrupts();
                self.read_task_priority();
                let now = (self.timer.nanoseconds)();
                let endpoint = self.bus.endpoint(self.index)?;
                let effect = self.apic.write_msr(index - number::X2APIC, value, now, endpoint).ok()?;
                self.carry_out(effect, platform);
            }
            number::APIC_BASE => {
                self.take_interrupts();
                self.apic.set_base(value, self.bus.endpoint(self.index)?).ok()?;
                self.refresh_cpuid();
                self.attention = true;
            }
            number::EFER => {
                let value = control::new_efer(&self.engine, value)?;
                self.engine.set_system(SystemRegister::Efer, value);
                self.engine.flush_translations();
                self.forget_code_pages();
            }
            number::TIMESTAMP => {
                self.engine.set_timestamp_offset(value.wrapping_sub(crate::cpu::clock::ticks()));
            }
            number::PAGE_ATTRIBUTES if is_page_attributes(value) => {
                self.engine.set_system(SystemRegister::Pat, value);
            }
            number::PAGE_ATTRIBUTES => return None,
            // Taken and without effect: microcode is the host's, errors are not reported to guests, and the bits of
            // the configuration registers describe hardware that is not there.
            number::MICROCODE_REVISION
            | number::MACHINE_CHECK_STATUS
            | number::HARDWARE_CONFIGURATION
            | number::NORTH_BRIDGE_CONFIGURATION
            | number::INTERRUPT_PENDING => {}
            _ => match held_by_engine(index) {
                Some(register) if is_address(register) && !super::walk::is_canonical(value) => return None,
                Some(register) => self.engine.set_system(register, value),
                None => self.msrs.write(index, value)?,
            },
        }
        Some(())
    }
}

/// Registers that belong to the engine's state, where it does not pass them through.
const fn held_by_engine(index: u32) -> Option<SystemRegister> {
    Some(match index {
        number::PAGE_ATTRIBUTES => SystemRegister::Pat,
        number::SYSENTER_CS => SystemRegister::SysenterCs,
        number::SYSENTER_ESP => SystemRegister::SysenterEsp,
        number::SYSENTER_EIP => SystemRegister::SysenterEip,
        number::STAR => SystemRegister::Star,
        number::LONG_STAR => SystemRegister::LongStar,
        number::COMPATIBILITY_STAR => SystemRegister::CompatibilityStar,
        number::SYSCALL_MASK => SystemRegister::SyscallMask,
        number::KERNEL_GS_BASE => SystemRegister::KernelGsBase,
        _ => return None,
    })
}

const fn is_address(register: SystemRegister) -> bool {
    matches!(
        register,
        SystemRegister::SysenterEsp
            | SystemRegister::SysenterEip
            | SystemRegister::LongStar
            | SystemRegister::CompatibilityStar
            | SystemRegister::KernelGsBase
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_types_read_back_and_refuse_what_is_none() {
        let mut msrs = Msrs::new();
        assert_eq!(msrs.read(number::MTRR_DEFAULT), Some(0xc06));
        assert_eq!(msrs.write(0x200, 0x8000_0000), Some(()));
        assert_eq!(msrs.read(0x200), Some(0x8000_0000));
        assert_eq!(msrs.write(0x201, 0xf_8000_0800), Some(()));
        for (index, wild) in [
            (0x200, 2),
            (0x200, 1 << 63),
            (0x201, 1),
            (0x250, 0x02),
            (0x26f, 0x07 << 56),
            (0x2ff, 0x1006),
            (0x2ff, 0x803),
            (0xfe, 0),
            (0x1d9, 0x40),
            (0x210, 0),
            (0x270, 0),
        ] {
            assert_eq!(msrs.write(index, wild), None, "{index:#x} = {wild:#x}");
        }
        assert_eq!(msrs.read(0x25a), None);
        assert_eq!(msrs.read(0x26f), Some(0x0606_0606_0606_0606));
    }

    #[test]
    fn page_attributes_have_six_types() {
        assert!(is_page_attributes(0x0007_0406_0007_0406) && is_page_attributes(0x0105_0105_0105_0105));
        assert!(!is_page_attributes(2) && !is_page_attributes(0x08 << 56));
    }
}
