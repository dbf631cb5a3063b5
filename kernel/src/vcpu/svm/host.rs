//! What each host CPU needs to run guests: SVM enabled, a page for the processor's own state, a VMCB with the host's
//! extra state, and the address-space ids that it hands out.

use core::arch::x86_64::__cpuid_count;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use iommu::address::{HostPhysical, PAGE_SIZE};

use super::permissions;
use crate::cpu;
use crate::memory::{self, Owner};
use crate::vcpu::VcpuError;

/// CPUID 0x8000_0001 ECX: SVM.
const SVM: u32 = 1 << 2;
/// CPUID 1 ECX: a hypervisor is below.
const HYPERVISOR: u32 = 1 << 31;
/// CPUID 0x8000_000A EDX: nested paging, next RIP, flush by address space.
const NESTED_PAGING: u32 = 1 << 0;
const NEXT_INSTRUCTION: u32 = 1 << 3;
const FLUSH_BY_ADDRESS_SPACE: u32 = 1 << 6;

/// Why this machine cannot run guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// CPUID does not show SVM.
    NoSvm,
    /// Firmware switched it off.
    DisabledByFirmware,
    /// The processor is too old to have it.
    NoNestedPaging,
    /// There is no place for a CPU with this index.
    TooManyCpus(u32),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSvm => f.write_str(
                "this processor does not show AMD-V (CPUID 0x80000001 ECX bit 2, SVM), which guests need; in QEMU \
                 give -cpu max,+svm, on hardware choose a processor that has it",
            ),
            Self::DisabledByFirmware => f.write_str(
                "firmware has switched AMD-V off (VM_CR bit 4, SVMDIS): enable \"SVM\" or \"AMD-V\" in its setup",
            ),
            Self::NoNestedPaging => f.write_str(
                "this processor's AMD-V has no nested paging (CPUID 0x8000000a EDX bit 0), which guests need",
            ),
            Self::TooManyCpus(index) => {
                write!(f, "CPU {index} is more than guests can run on; name only CPUs below {}", cpu::MAXIMUM)
            }
        }
    }
}

impl core::error::Error for Refusal {}

impl From<Refusal> for VcpuError {
    fn from(refusal: Refusal) -> Self {
        Self::Svm(refusal)
    }
}

/// One host CPU's share. Written by that CPU alone.
struct Slot {
    /// The VMCB that VMLOAD takes the host's extra state from; 0: not enabled.
    host_state: AtomicU64,
    /// The next address-space id to hand out, and how often they started over.
    next: AtomicU32,
    generation: AtomicU64,
}

static SLOTS: [Slot; cpu::MAXIMUM] =
    [const { Slot { host_state: AtomicU64::new(0), next: AtomicU32::new(1), generation: AtomicU64::new(1) } };
        cpu::MAXIMUM];

/// What the processors can do, the same on all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    /// #VMEXIT stores the address behind the instruction.
    pub(super) next_instruction: bool,
    /// One guest's translations can be flushed.
    pub(super) flush_by_address_space: bool,
    /// It is an emulator that may deliver an injected interrupt twice; see [`super::delivery`].
    pub(super) repeats_interrupts: bool,
    /// How many address-space ids there are, 0 included.
    address_spaces: u32,
}

impl Features {
    pub(super) fn of_this_cpu() -> Self {
        let leaf = __cpuid_count(0x8000_000a, 0);
        Self {
            next_instruction: leaf.edx & NEXT_INSTRUCTION != 0,
            flush_by_address_space: leaf.edx & FLUSH_BY_ADDRESS_SPACE != 0,
            repeats_interrupts: is_tcg(),
            address_spaces: leaf.ebx.max(2),
        }
    }
}

/// Whether this processor is QEMU's TCG: CPUID's bit of hypervisors, and the signature in their first leaf.
fn is_tcg() -> bool {
    let signature = __cpuid_count(0x4000_0000, 0);
    __cpuid_count(1, 0).ecx & HYPERVISOR != 0
        && [signature.ebx, signature.ecx, signature.edx].map(u32::to_le_bytes).as_flattened() == b"TCGTCGTCGTCG"
}

/// Whether CPUID shows SVM.
pub(in crate::vcpu) fn is_present() -> bool {
    __cpuid_count(0x8000_0000, 0).eax >= 0x8000_000a && __cpuid_count(0x8000_0001, 0).ecx & SVM != 0
}

fn check() -> Result<(), Refusal> {
    if !is_present() {
        return Err(Refusal::NoSvm);
    }
    if super::machine::is_disabled_by_firmware() {
        return Err(Refusal::DisabledByFirmware);
    }
    if __cpuid_count(0x8000_000a, 0).edx & NESTED_PAGING == 0 {
        return Err(Refusal::NoNestedPaging);
    }
    Ok(())
}

/// Enables SVM on this CPU and saves the host's extra state, which must not change afterwards.
///
/// # Errors
///
/// The processor's or the firmware's reason, or no memory.
pub fn enable() -> Result<(), VcpuError> {
    check()?;
    let index = cpu::index();
    let slot = slot(index).ok_or(Refusal::TooManyCpus(index))?;
    if slot.host_state.load(Ordering::Relaxed) != 0 {
        return Ok(());
    }
    permissions::prepare()?;
    let frames = memory::frames();
    let pages = frames.allocate_zeroed(Owner::Hypervisor, 2, PAGE_SIZE)?;
    let host_state = HostPhysical::new(pages.as_u64() + PAGE_SIZE);
    super::machine::enable(pages, host_state);
    slot.host_state.store(host_state.as_u64(), Ordering::Relaxed);
    Ok(())
}

fn slot(index: u32) -> Option<&'static Slot> {
    SLOTS.get(index as usize)
}

/// The VMCB with the host's extra state of a CPU; 0: SVM is not enabled there.
pub(super) fn host_state(index: u32) -> u64 {
    slot(index).map_or(0, |slot| slot.host_state.load(Ordering::Relaxed))
}

/// An address-space id on one CPU. It is a guest's own until the CPU's generation changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressSpace {
    pub(super) cpu: u32,
    generation: u64,
    pub(super) id: u32,
}

impl AddressSpace {
    /// None yet.
    pub(super) const NONE: Self = Self { cpu: u32::MAX, generation: 0, id: 0 };

    /// The id to use on this CPU: the same, if it still holds, or a new one. With a new one, what must be flushed first.
    pub(super) fn renew(self, index: u32, features: &Features) -> (Self, Flush) {
        let Some(slot) = slot(index) else { return (self, Flush::Everything) };
        let generation = slot.generation.load(Ordering::Relaxed);
        if self.cpu == index && self.generation == generation {
            return (self, Flush::Nothing);
        }
        let id = slot.next.load(Ordering::Relaxed);
        if id < features.address_spaces {
            slot.next.store(id.saturating_add(1), Ordering::Relaxed);
            // The id was flushed when the generation began.
            let flush = if generation == 1 { Flush::Own } else { Flush::Nothing };
            return (Self { cpu: index, generation, id }, flush);
        }
        // All are used up: start over, with nothing left of the old ones.
        let generation = generation.wrapping_add(1);
        slot.generation.store(generation, Ordering::Relaxed);
        slot.next.store(2, Ordering::Relaxed);
        (Self { cpu: index, generation, id: 1 }, Flush::Everything)
    }
}

/// Which translations are forgotten before an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    Nothing,
    /// Those of the guest's address space.
    Own,
    Everything,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_not_shared_until_everything_is_flushed() {
        let features = Features {
            next_instruction: false,
            flush_by_address_space: false,
            repeats_interrupts: false,
            address_spaces: 4,
        };
        let index = cpu::MAXIMUM as u32 - 1;
        let mut given = Vec::new();
        for _ in 0..3 {
            let (space, flush) = AddressSpace::NONE.renew(index, &features);
            assert_ne!((space.id, flush), (0, Flush::Everything));
            assert_eq!(space.renew(index, &features), (space, Flush::Nothing));
            given.push(space);
        }
        let (fresh, flush) = AddressSpace::NONE.renew(index, &features);
        assert_eq!(flush, Flush::Everything);
        assert!(given.iter().enumerate().all(|(at, space)| given[..at].iter().all(|other| other.id != space.id)));
        let (renewed, _) = given[0].renew(index, &features);
        assert_ne!((renewed.generation, renewed.id), (given[0].generation, given[0].id));
        assert_ne!(renewed.id, fresh.id);
    }

    #[test]
    fn refusals_name_thing_and_remedy() {
        assert!(Refusal::NoSvm.to_string().contains("+svm"));
        assert!(Refusal::DisabledByFirmware.to_string().contains("enable"));
    }
}
