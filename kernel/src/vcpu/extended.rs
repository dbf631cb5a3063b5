//! State that no engine switches: x87, SSE, AVX and XCR0, DR0 to DR3, TSC_AUX. The hypervisor's own code uses none of it, so the
//! guest's stays in the processor from one entry to the next. It is taken out when the virtual CPU stops running, and
//! put in when it runs again, unless it is still there: no other virtual CPU ran on that host CPU meanwhile, nor this one
//! elsewhere.
//!
//! That is more than haste. In QEMU's TCG (seen in 10.0) whatever restores x87 state without a pending exception (XRSTOR,
//! FXRSTOR, FRSTOR, FLDENV) clears a flag of the emulator's first CPU (IGNNE#) in a word that this CPU's own thread
//! changes at every VMRUN and #VMEXIT, and neither change is atomic. Where the two met, the first CPU went on walking
//! the host's page tables as a guest's after it had left the guest: a triple fault of the host.

use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicU64, Ordering};

use iommu::address::{HostPhysical, PAGE_SIZE};

use super::body::{Body, Trouble};
use super::engine::VcpuEngine;
use super::fetch::Opcode;
use super::platform::Platform;
use super::state::{Exception, Register, SystemRegister, bits};
use crate::cpu;
use crate::memory::{self, OutOfMemory, Owner};

/// XCR0: x87, always on.
pub(super) const X87: u64 = 1 << 0;
/// XCR0: SSE.
pub(super) const SSE: u64 = 1 << 1;
/// XCR0: AVX, the upper halves of the YMM registers.
pub(super) const AVX: u64 = 1 << 2;
/// XCR0: AVX-512, three components that go together.
pub(super) const AVX512: u64 = 7 << 5;
/// XCR0: the protection-key register.
pub(super) const PKRU: u64 = 1 << 9;

/// Bytes for the whole state; components whose state does not fit are not offered.
const AREA: u32 = PAGE_SIZE as u32;

/// The number of the next [`ExtendedState`]; 0 is nobody's.
static NEXT: AtomicU64 = AtomicU64::new(1);
/// Whose state each host CPU holds, by number; only that CPU changes it.
static HELD: [AtomicU64; cpu::MAXIMUM] = [const { AtomicU64::new(0) }; cpu::MAXIMUM];

/// The extended state of one virtual CPU.
#[derive(Debug)]
pub(super) struct ExtendedState {
    /// Never that of another one.
    number: u64,
    /// The host CPU that it was put into last.
    cpu: Option<u32>,
    owner: Owner,
    /// A frame in the layout of XSAVE's standard form (SDM volume 1 section 13.4).
    area: HostPhysical,
    /// What XCR0 may hold; 0: the processor has no XSAVE.
    offered: u64,
    /// The guest's XCR0.
    control: u64,
    /// What `machine` puts into the processor and takes out.
    #[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "an ordinary process has no such registers"))]
    other: Other,
}

/// Registers that XSAVE does not know.
#[derive(Debug)]
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "an ordinary process has no such registers"))]
struct Other {
    breakpoints: [u64; 4],
    /// TSC_AUX, where the processor has it.
    auxiliary: Option<u64>,
}

impl ExtendedState {
    pub(super) fn new(owner: Owner) -> Result<Self, OutOfMemory> {
        let area = memory::frames().allocate_zeroed(owner, 1, PAGE_SIZE)?;
        let base = memory::to_pointer(area);
        // SAFETY: the frame is ours; FCW is at 0 and MXCSR at 24 of the layout, both aligned.
        unsafe {
            base.cast::<u16>().write(0x037f);
            base.add(24).cast::<u32>().write(0x1f80);
        }
        Ok(Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            cpu: None,
            owner,
            area,
            offered: offered_components(),
            control: X87,
            other: Other { breakpoints: [0; 4], auxiliary: has_auxiliary().then_some(0) },
        })
    }

    /// The components that the guest may enable.
    pub(super) const fn offered(&self) -> u64 {
        self.offered
    }

    /// The guest's XCR0.
    pub(super) const fn control(&self) -> u64 {
        self.control
    }

    /// Puts the state into this processor, where it is not there yet.
    pub(super) fn load(&mut self) {
        if self.is_held(cpu::index()) {
            #[cfg(target_os = "none")]
            machine::resume(self);
        } else {
            #[cfg(target_os = "none")]
            machine::load(self);
        }
    }

    /// Whether the registers of this host CPU, which runs the caller, have the state. From now on they do.
    fn is_held(&mut self, cpu: u32) -> bool {
        let here = self.cpu.replace(cpu) == Some(cpu);
        let held = HELD.get(cpu as usize).is_some_and(|held| held.swap(self.number, Ordering::Relaxed) == self.number);
        here && held
    }

    /// Takes the state out of this processor.
    pub(super) fn unload(&mut self) {
        #[cfg(target_os = "none")]
        machine::unload(self);
    }

    /// Whether XCR0 may hold `value` (SDM volume 1 section 13.3).
    fn allows(&self, value: u64) -> bool {
        let avx512 = value & AVX512;
        value & X87 != 0
            && value & !self.offered == 0
            && (value & AVX == 0 || value & SSE != 0)
            && (avx512 == 0 || avx512 == AVX512 && value & AVX != 0)
    }

    /// Sets XCR0, in the processor too: the virtual CPU is loaded.
    fn set_control(&mut self, value: u64) {
        self.control = value;
        #[cfg(target_os = "none")]
        machine::set_extended_control(value);
    }
}

impl Drop for ExtendedState {
    fn drop(&mut self) {
        if let Err(error) = memory::frames().free(self.owner, self.area, 1) {
            log::error!("a virtual CPU's register area is not given back: {error}");
        }
    }
}

fn offered_components() -> u64 {
    /// CPUID 1 ECX: XSAVE.
    const XSAVE: u32 = 1 << 26;
    if __cpuid_count(1, 0).ecx & XSAVE == 0 {
        return 0;
    }
    let leaf = __cpuid_count(0xd, 0);
    let present = u64::from(leaf.eax) | u64::from(leaf.edx) << 32;
    let mut offered = present & (X87 | SSE);
    for group in [AVX, AVX512, PKRU] {
        if present & group == group && end_of(group) <= AREA {
            offered |= group;
        }
    }
    offered
}

/// Where the state of these components ends in the standard form.
pub(super) fn end_of(components: u64) -> u32 {
    (2..63u32)
        .filter(|component| components & 1 << component != 0)
        .map(|component| {
            let leaf = __cpuid_count(0xd, component);
            leaf.eax.saturating_add(leaf.ebx)
        })
        .fold(576, u32::max)
}

fn has_auxiliary() -> bool {
    __cpuid_count(0x8000_0001, 0).edx & 1 << 27 != 0
}

impl<E: VcpuEngine> Body<E> {
    /// XSETBV.
    pub(super) fn handle_set_extended_control(&mut self, platform: &dyn Platform) -> Result<(), Trouble> {
        if self.engine.system(SystemRegister::Cr4) & bits::CR4_OSXSAVE == 0 {
            return Err(Exception::UNDEFINED.into());
        }
        let next = self.next_instruction(Opcode::SET_EXTENDED_CONTROL, platform)?;
        let registers = self.engine.registers();
        let value = registers.pair();
        if registers.get(Register::Rcx) as u32 != 0 || self.engine.privilege() != 0 || !self.extended.allows(value) {
            return Err(Exception::GENERAL_PROTECTION.into());
        }
        self.extended.set_control(value);
        self.refresh_cpuid();
        self.go_on_at(next);
        Ok(())
    }
}

#[cfg(target_os = "none")]
mod machine {
    //! The instructions. They run on the host CPU that owns the virtual CPU, with CR4.OSXSAVE and OSFXSR set by
    //! [`enable`](super::super::svm::enable).

    use core::arch::asm;

    use super::ExtendedState;
    use crate::memory;

    /// IA32_TSC_AUX.
    const TSC_AUX: u32 = 0xc000_0103;

    pub(super) fn load(state: &mut ExtendedState) {
        let area = memory::to_pointer(state.area);
        // SAFETY: the area is a frame in the right layout, aligned to 64 bytes, that only this virtual CPU's XSAVE
        // writes, so no reserved bit is set in it. The hypervisor keeps nothing in the registers that are loaded: it is
        // compiled without floating point and uses no debug registers nor TSC_AUX.
        unsafe {
            if state.offered == 0 {
                asm!("fxrstor64 [{}]", in(reg) area, options(nostack, readonly));
            } else {
                set_extended_control(state.offered);
                asm!("xrstor64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, readonly));
                set_extended_control(state.control);
            }
            let [first, second, third, fourth] = state.other.breakpoints;
            asm!(
                "mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
                in(reg) first, in(reg) second, in(reg) third, in(reg) fourth,
                options(nostack, nomem, preserves_flags),
            );
            if let Some(auxiliary) = state.other.auxiliary {
                let (low, high) = (auxiliary as u32, (auxiliary >> 32) as u32);
                asm!("wrmsr", in("ecx") TSC_AUX, in("eax") low, in("edx") high, options(nostack, nomem));
            }
        }
    }

    /// The state is still in the registers, but for XCR0.
    pub(super) fn resume(state: &ExtendedState) {
        if state.offered != 0 {
            set_extended_control(state.control);
        }
    }

    pub(super) fn unload(state: &mut ExtendedState) {
        let area = memory::to_pointer(state.area);
        // SAFETY: as in `load`; the area is large enough for every component that is offered.
        unsafe {
            if state.offered == 0 {
                asm!("fxsave64 [{}]", in(reg) area, options(nostack));
            } else {
                set_extended_control(state.offered);
                asm!("xsave64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
            }
            let (first, second, third, fourth): (u64, u64, u64, u64);
            asm!(
                "mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
                out(reg) first, out(reg) second, out(reg) third, out(reg) fourth,
                options(nostack, nomem, preserves_flags),
            );
            state.other.breakpoints = [first, second, third, fourth];
            if let Some(auxiliary) = &mut state.other.auxiliary {
                let (low, high): (u32, u32);
                asm!("rdmsr", in("ecx") TSC_AUX, out("eax") low, out("edx") high, options(nostack, nomem));
                *auxiliary = u64::from(high) << 32 | u64::from(low);
            }
        }
    }

    /// XSETBV of XCR0 with a value that was found allowed.
    pub(super) fn set_extended_control(value: u64) {
        let (low, high) = (value as u32, (value >> 32) as u32);
        // SAFETY: the value is part of what CPUID offers and keeps the manual's rules; the hypervisor's code does not
        // depend on XCR0.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nostack, nomem));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_stays_in_a_cpu_until_another_comes_or_it_was_elsewhere() {
        let mut first = ExtendedState::new(Owner::Hypervisor).unwrap();
        let mut second = ExtendedState::new(Owner::Hypervisor).unwrap();
        let (here, there) = (cpu::MAXIMUM as u32 - 1, cpu::MAXIMUM as u32 - 2);
        assert!(!first.is_held(here));
        assert!(first.is_held(here));
        assert!(!second.is_held(here));
        assert!(!first.is_held(here), "the second one's is there");
        assert!(!first.is_held(there));
        assert!(!first.is_held(here), "what it left here is old");
        assert!(first.is_held(here));
        let no_such_cpu = u32::MAX;
        assert!(!first.is_held(no_such_cpu) && !first.is_held(no_such_cpu));
    }

    #[test]
    fn only_lawful_combinations_are_allowed() {
        let mut state = ExtendedState::new(Owner::Hypervisor).unwrap();
        state.offered = X87 | SSE | AVX | AVX512;
        for lawful in [X87, X87 | SSE, X87 | SSE | AVX, X87 | SSE | AVX | AVX512] {
            assert!(state.allows(lawful), "{lawful:#x}");
        }
        for wild in [0, SSE, X87 | AVX, X87 | SSE | AVX512, X87 | SSE | AVX | 1 << 5, X87 | PKRU, X87 | 1 << 63, !0] {
            assert!(!state.allows(wild), "{wild:#x}");
        }
    }
}
