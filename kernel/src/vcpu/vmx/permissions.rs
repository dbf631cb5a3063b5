//! Which ports and model-specific registers a guest reaches without an exit (SDM volume 3 section 25.6): no port, and
//! those registers that are switched with the guest. The maps serve all guests: one of the ports, one of the registers
//! for each way in which the local APIC is virtualized.

use core::arch::x86_64::__cpuid_count;

use iommu::address::{HostPhysical, PAGE_SIZE};
use spin::Once;

use crate::memory::{self, OutOfMemory, Owner};

/// Two pages of ports, then a page of registers for guests in general, and one for those whose x2APIC is virtualized.
const FRAMES: usize = 4;

/// SYSENTER_CS, _ESP, _EIP; FS.base, GS.base, KernelGSBase; STAR, LSTAR, CSTAR, SFMASK.
const PASSED: [u32; 10] =
    [0x174, 0x175, 0x176, 0xc000_0100, 0xc000_0101, 0xc000_0102, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084];
/// TSC_AUX, kept with the extended state; there with RDTSCP only.
const AUXILIARY: u32 = 0xc000_0103;

/// x2APIC registers that the processor reads out of the virtual-APIC page: id, version, TPR, LDR, spurious vector, ISR,
/// TMR, IRR, error status, local vector table, initial count, divide. Not PPR, which it would have to compute, the
/// interrupt command, which is wider than the page's, and the current count.
const X2APIC_READ: [(u32, u32); 7] =
    [(0x802, 0x803), (0x808, 0x808), (0x80d, 0x80d), (0x80f, 0x828), (0x832, 0x837), (0x838, 0x838), (0x83e, 0x83e)];
/// Those that it writes: TPR, EOI, self-interrupt.
const X2APIC_WRITTEN: [u32; 3] = [0x808, 0x80b, 0x83f];

/// Where the maps are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permissions {
    pub(super) ports: [HostPhysical; 2],
    pub(super) msrs: HostPhysical,
    pub(super) msrs_with_x2apic: HostPhysical,
}

static PERMISSIONS: Once<Permissions> = Once::new();

/// The maps; they are made when the first CPU is enabled.
pub(super) fn permissions() -> Option<Permissions> {
    PERMISSIONS.get().copied()
}

/// Makes the maps.
pub(super) fn prepare() -> Result<(), OutOfMemory> {
    PERMISSIONS.try_call_once(|| {
        let page = PAGE_SIZE as usize;
        let base = memory::frames().allocate(Owner::Hypervisor, FRAMES, PAGE_SIZE)?;
        // SAFETY: the frames were just given to us, and the processor does not know them yet.
        let all = unsafe {
            memory::to_pointer(base).write_bytes(0xff, FRAMES * page);
            core::slice::from_raw_parts_mut(memory::to_pointer(base), FRAMES * page)
        };
        let (_, registers) = all.split_at_mut(2 * page);
        let (plain, x2apic) = registers.split_at_mut(page);
        for map in [&mut *plain, &mut *x2apic] {
            for register in PASSED {
                pass(map, register, Access::Both);
            }
            if __cpuid_count(0x8000_0001, 0).edx & 1 << 27 != 0 {
                pass(map, AUXILIARY, Access::Both);
            }
        }
        pass_x2apic(x2apic);
        let frame = |index| HostPhysical::new(base.as_u64() + index * PAGE_SIZE);
        Ok(Permissions { ports: [frame(0), frame(1)], msrs: frame(2), msrs_with_x2apic: frame(3) })
    })?;
    Ok(())
}

fn pass_x2apic(map: &mut [u8]) {
    for (first, last) in X2APIC_READ {
        for register in first..=last {
            pass(map, register, Access::Read);
        }
    }
    for register in X2APIC_WRITTEN {
        pass(map, register, Access::Write);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Both,
}

/// Lets accesses of a register pass: four parts of a KiB, reads and then writes of the low and the high registers.
fn pass(map: &mut [u8], register: u32, access: Access) {
    let base = match register >> 13 {
        0 => 0,
        0x6_0000 => 0x400,
        _ => return,
    };
    let (byte, bit) = (base + (register as usize & 0x1fff) / 8, 1u8 << (register % 8));
    for (part, wanted) in [(0, Access::Read), (0x800, Access::Write)] {
        if (access == wanted || access == Access::Both)
            && let Some(byte) = map.get_mut(byte + part)
        {
            *byte &= !bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_an_access_at_the_manuals_place() {
        let mut map = vec![0xff; 0x1000];
        pass(&mut map, 0x174, Access::Both);
        pass(&mut map, 0xc000_0081, Access::Read);
        pass(&mut map, 0x80b, Access::Write);
        pass(&mut map, 0xc001_0015, Access::Both);
        pass(&mut map, 0x4000_0000, Access::Both);
        let cleared: Vec<_> =
            map.iter().enumerate().filter(|(_, byte)| **byte != 0xff).map(|(at, byte)| (at, *byte)).collect();
        assert_eq!(cleared, [(0x2e, 0xef), (0x410, 0xfd), (0x82e, 0xef), (0x901, 0xf7)]);
    }

    #[test]
    fn of_the_x2apic_nothing_passes_that_the_page_does_not_hold() {
        let mut map = vec![0xff; 0x1000];
        pass_x2apic(&mut map);
        let passes = |register: u32, part: usize| map[part + register as usize / 8] & 1 << (register % 8) == 0;
        for register in 0x800..=0x8ff {
            assert_eq!(passes(register, 0x800), [0x808, 0x80b, 0x83f].contains(&register), "write of {register:#x}");
        }
        for closed in [0x80a, 0x80b, 0x80e, 0x82f, 0x830, 0x839, 0x83f, 0x840] {
            assert!(!passes(closed, 0), "read of {closed:#x}");
        }
        for open in [0x802, 0x803, 0x808, 0x810, 0x827, 0x828, 0x832, 0x838, 0x83e] {
            assert!(passes(open, 0), "read of {open:#x}");
        }
    }
}
