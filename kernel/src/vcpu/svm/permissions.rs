//! Which ports and model-specific registers a guest reaches without an exit (APM volume 2 sections 15.10 and 15.11):
//! no port, and those registers that VMLOAD and VMSAVE switch anyway. One pair of maps serves all guests.

use core::arch::x86_64::__cpuid_count;

use iommu::address::{HostPhysical, PAGE_SIZE};
use spin::Once;

use crate::memory::{self, OutOfMemory, Owner};

const PORT_FRAMES: usize = 3;
const MSR_FRAMES: usize = 2;

/// FS.base, GS.base, KernelGSBase; STAR, LSTAR, CSTAR, SFMASK; SYSENTER_CS, _ESP, _EIP.
const PASSED: [u32; 10] =
    [0xc000_0100, 0xc000_0101, 0xc000_0102, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0x174, 0x175, 0x176];
/// TSC_AUX, kept with the extended state; there with RDTSCP only.
const AUXILIARY: u32 = 0xc000_0103;

/// Where the maps are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permissions {
    pub(super) ports: HostPhysical,
    pub(super) msrs: HostPhysical,
}

static PERMISSIONS: Once<Permissions> = Once::new();

/// The maps; they are made when the first CPU is enabled.
pub(super) fn permissions() -> Option<Permissions> {
    PERMISSIONS.get().copied()
}

/// Makes the maps.
pub(super) fn prepare() -> Result<(), OutOfMemory> {
    PERMISSIONS.try_call_once(|| {
        let frames = memory::frames();
        let ports = frames.allocate(Owner::Hypervisor, PORT_FRAMES, PAGE_SIZE)?;
        let msrs = match frames.allocate(Owner::Hypervisor, MSR_FRAMES, PAGE_SIZE) {
            Ok(msrs) => msrs,
            Err(error) => {
                if let Err(error) = frames.free(Owner::Hypervisor, ports, PORT_FRAMES) {
                    log::error!("a port map is not given back: {error}");
                }
                return Err(error);
            }
        };
        let page = PAGE_SIZE as usize;
        // SAFETY: the frames were just given to us, and the processor does not know them yet.
        unsafe {
            memory::to_pointer(ports).write_bytes(0xff, PORT_FRAMES * page);
            memory::to_pointer(msrs).write_bytes(0xff, MSR_FRAMES * page);
        }
        // SAFETY: as above; the slice ends before the block does.
        let map = unsafe { core::slice::from_raw_parts_mut(memory::to_pointer(msrs), MSR_FRAMES * page) };
        PASSED.iter().for_each(|register| pass(map, *register));
        if __cpuid_count(0x8000_0001, 0).edx & 1 << 27 != 0 {
            pass(map, AUXILIARY);
        }
        Ok(Permissions { ports, msrs })
    })?;
    Ok(())
}

/// Lets reads and writes of a register pass: two bits a register, in three ranges of 8192.
fn pass(map: &mut [u8], register: u32) {
    let base = match register >> 13 {
        0 => 0,
        0x6_0000 => 0x800,
        0x6_0008 => 0x1000,
        _ => return,
    };
    let bit = (register & 0x1fff) * 2;
    if let Some(byte) = map.get_mut(base + (bit / 8) as usize) {
        *byte &= !(3 << (bit % 8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bits_a_register_at_the_manuals_place() {
        let mut map = vec![0xff; 0x2000];
        pass(&mut map, 0x174);
        pass(&mut map, 0xc000_0081);
        pass(&mut map, 0xc001_0015);
        pass(&mut map, 0x4000_0000);
        let cleared: Vec<_> =
            map.iter().enumerate().filter(|(_, byte)| **byte != 0xff).map(|(at, byte)| (at, *byte)).collect();
        assert_eq!(cleared, [(0x5d, 0xfc), (0x820, 0xf3), (0x1005, 0xf3)]);
    }
}
