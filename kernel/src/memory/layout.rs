//! Where things lie in the hypervisor's address space (4-level paging, upper half).
//!
//! | from | what |
//! |---|---|
//! | `0xffff_8000_0000_0000` | direct map: RAM at its physical address + this, write-back, never executable |
//! | `0xffff_a000_0000_0000` | registers: device memory at its physical address + this, uncached |
//! | `0xffff_f000_0000_0000` | the screen, write-combining |
//! | `0xffff_f800_0000_0000` | stacks, each with an unmapped guard below it |
//! | `0xffff_fa00_0000_0000` | heap |
//! | `0xffff_ffff_8000_0000` | the kernel's image |

/// Where the direct map begins: all RAM, write-back, never executable.
pub const DIRECT_MAP: usize = 0xffff_8000_0000_0000;
/// Bytes of physical address space that the direct map can hold.
pub(super) const DIRECT_MAP_SIZE: u64 = 32 << 40;
/// Where device registers are mapped.
pub(super) const REGISTERS: usize = 0xffff_a000_0000_0000;
/// Bytes of physical address space that can be mapped as registers.
pub(super) const REGISTERS_SIZE: u64 = 80 << 40;
/// Where the framebuffer is mapped.
pub(super) const SCREEN: usize = 0xffff_f000_0000_0000;
/// The most bytes of it.
pub(super) const SCREEN_SIZE: u64 = 1 << 30;
/// Where the stacks lie.
pub(super) const STACKS: usize = 0xffff_f800_0000_0000;
/// Where the heap lies.
pub(super) const HEAP: usize = 0xffff_fa00_0000_0000;
/// The most that the heap grows to, in bytes.
pub(super) const HEAP_SIZE: usize = 256 << 20;

const _: () = {
    assert!(DIRECT_MAP + DIRECT_MAP_SIZE as usize == REGISTERS);
    assert!(REGISTERS + REGISTERS_SIZE as usize == SCREEN);
    assert!(SCREEN + SCREEN_SIZE as usize <= STACKS);
};
