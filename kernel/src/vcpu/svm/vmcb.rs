//! The virtual machine control block (APM volume 2 appendix B): one page that the processor reads at VMRUN and writes
//! at #VMEXIT.

use core::mem::offset_of;

use crate::vcpu::state::Segment;

/// Intercepts of the first word at 0x0C.
pub(super) mod first {
    pub(in super::super) const INTERRUPT: u32 = 1 << 0;
    pub(in super::super) const NON_MASKABLE: u32 = 1 << 1;
    pub(in super::super) const SYSTEM_MANAGEMENT: u32 = 1 << 2;
    pub(in super::super) const INIT: u32 = 1 << 3;
    pub(in super::super) const VIRTUAL_INTERRUPT: u32 = 1 << 4;
    pub(in super::super) const CR0_SELECTIVE: u32 = 1 << 5;
    pub(in super::super) const READ_COUNTER: u32 = 1 << 15;
    pub(in super::super) const CPUID: u32 = 1 << 18;
    pub(in super::super) const RESUME: u32 = 1 << 19;
    pub(in super::super) const INTERRUPT_RETURN: u32 = 1 << 20;
    pub(in super::super) const INVD: u32 = 1 << 22;
    pub(in super::super) const HALT: u32 = 1 << 24;
    pub(in super::super) const INVLPGA: u32 = 1 << 26;
    pub(in super::super) const PORT: u32 = 1 << 27;
    pub(in super::super) const MSR: u32 = 1 << 28;
    pub(in super::super) const SHUTDOWN: u32 = 1 << 31;
}

/// Intercepts of the second word at 0x10.
pub(super) mod second {
    pub(in super::super) const VMRUN: u32 = 1 << 0;
    pub(in super::super) const VMMCALL: u32 = 1 << 1;
    pub(in super::super) const VMLOAD: u32 = 1 << 2;
    pub(in super::super) const VMSAVE: u32 = 1 << 3;
    pub(in super::super) const STGI: u32 = 1 << 4;
    pub(in super::super) const CLGI: u32 = 1 << 5;
    pub(in super::super) const SKINIT: u32 = 1 << 6;
    pub(in super::super) const WBINVD: u32 = 1 << 9;
    pub(in super::super) const MONITOR: u32 = 1 << 10;
    pub(in super::super) const MWAIT: u32 = 1 << 11;
    pub(in super::super) const XSETBV: u32 = 1 << 13;
    pub(in super::super) const READ_PROCESSOR_REGISTER: u32 = 1 << 14;
}

/// Bits of [`Control::interrupt`].
pub(super) mod interrupt {
    pub(in super::super) const TASK_PRIORITY: u64 = 0xff;
    pub(in super::super) const REQUEST: u64 = 1 << 8;
    pub(in super::super) const PRIORITY_SHIFT: u32 = 16;
    pub(in super::super) const PRIORITY: u64 = 0xf << PRIORITY_SHIFT;
    pub(in super::super) const IGNORE_TASK_PRIORITY: u64 = 1 << 20;
    pub(in super::super) const MASKING: u64 = 1 << 24;
    pub(in super::super) const VECTOR: u64 = 0xff << 32;
}

/// The bits of EVENTINJ and EXITINTINFO.
pub(super) mod event {
    pub(in super::super) const TYPE_SHIFT: u32 = 8;
    pub(in super::super) const TYPE: u64 = 7 << TYPE_SHIFT;
    pub(in super::super) const EXTERNAL: u64 = 0;
    pub(in super::super) const NON_MASKABLE: u64 = 2 << TYPE_SHIFT;
    pub(in super::super) const EXCEPTION: u64 = 3 << TYPE_SHIFT;
    pub(in super::super) const SOFTWARE: u64 = 4 << TYPE_SHIFT;
    pub(in super::super) const HAS_ERROR: u64 = 1 << 11;
    pub(in super::super) const VALID: u64 = 1 << 31;
}

/// [`Control::nested`]: nested paging.
pub(super) const NESTED_PAGING: u64 = 1 << 0;
/// [`Control::interrupt_shadow`]: STI or MOV SS was the last instruction.
pub(super) const SHADOW: u64 = 1 << 0;

/// What the guest may do, and why it was left.
#[repr(C)]
pub(super) struct Control {
    pub(super) cr_read: u16,
    pub(super) cr_write: u16,
    pub(super) dr_read: u16,
    pub(super) dr_write: u16,
    pub(super) exceptions: u32,
    pub(super) first: u32,
    pub(super) second: u32,
    pub(super) third: u32,
    reserved_18: [u32; 9],
    pub(super) pause_threshold: u16,
    pub(super) pause_count: u16,
    pub(super) port_permissions: u64,
    pub(super) msr_permissions: u64,
    pub(super) timestamp_offset: u64,
    pub(super) address_space: u32,
    /// A byte, and three reserved ones.
    pub(super) tlb_control: u32,
    pub(super) interrupt: u64,
    pub(super) interrupt_shadow: u64,
    pub(super) exit_code: u64,
    pub(super) exit_first: u64,
    pub(super) exit_second: u64,
    pub(super) exit_delivery: u64,
    pub(super) nested: u64,
    reserved_98: [u64; 2],
    pub(super) injection: u64,
    pub(super) nested_root: u64,
    pub(super) virtual_extensions: u64,
    pub(super) clean: u64,
    pub(super) next_instruction: u64,
    reserved_d0: [u64; 102],
}

/// The guest's registers that VMRUN, VMLOAD and their counterparts switch.
#[repr(C)]
pub(super) struct Save {
    /// In the order of [`SegmentName`](crate::vcpu::state::SegmentName).
    pub(super) segments: [Segment; 10],
    reserved_a0: [u8; 43],
    pub(super) privilege: u8,
    reserved_cc: u32,
    pub(super) efer: u64,
    reserved_d8: [u64; 14],
    pub(super) cr4: u64,
    pub(super) cr3: u64,
    pub(super) cr0: u64,
    pub(super) dr7: u64,
    pub(super) dr6: u64,
    pub(super) flags: u64,
    pub(super) instruction_pointer: u64,
    reserved_180: [u64; 11],
    pub(super) stack_pointer: u64,
    reserved_1e0: [u64; 3],
    pub(super) rax: u64,
    pub(super) star: u64,
    pub(super) long_star: u64,
    pub(super) compatibility_star: u64,
    pub(super) syscall_mask: u64,
    pub(super) kernel_gs_base: u64,
    pub(super) sysenter_cs: u64,
    pub(super) sysenter_esp: u64,
    pub(super) sysenter_eip: u64,
    pub(super) cr2: u64,
    reserved_248: [u64; 4],
    pub(super) page_attributes: u64,
    pub(super) debug_control: u64,
    reserved_278: [u64; 305],
}

/// The whole page.
#[repr(C, align(4096))]
pub(super) struct Vmcb {
    pub(super) control: Control,
    pub(super) save: Save,
}

const _: () = {
    assert!(size_of::<Control>() == 0x400);
    assert!(size_of::<Save>() == 0xc00);
    assert!(size_of::<Vmcb>() == 0x1000);
    assert!(size_of::<Segment>() == 16);
    assert!(offset_of!(Segment, attributes) == 2);
    assert!(offset_of!(Segment, limit) == 4);
    assert!(offset_of!(Segment, base) == 8);
    assert!(offset_of!(Control, exceptions) == 0x08);
    assert!(offset_of!(Control, first) == 0x0c);
    assert!(offset_of!(Control, second) == 0x10);
    assert!(offset_of!(Control, pause_threshold) == 0x3c);
    assert!(offset_of!(Control, port_permissions) == 0x40);
    assert!(offset_of!(Control, msr_permissions) == 0x48);
    assert!(offset_of!(Control, timestamp_offset) == 0x50);
    assert!(offset_of!(Control, address_space) == 0x58);
    assert!(offset_of!(Control, tlb_control) == 0x5c);
    assert!(offset_of!(Control, interrupt) == 0x60);
    assert!(offset_of!(Control, interrupt_shadow) == 0x68);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, exit_delivery) == 0x88);
    assert!(offset_of!(Control, nested) == 0x90);
    assert!(offset_of!(Control, injection) == 0xa8);
    assert!(offset_of!(Control, nested_root) == 0xb0);
    assert!(offset_of!(Control, clean) == 0xc0);
    assert!(offset_of!(Control, next_instruction) == 0xc8);
    assert!(offset_of!(Save, privilege) == 0xcb);
    assert!(offset_of!(Save, efer) == 0xd0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, cr3) == 0x150);
    assert!(offset_of!(Save, cr0) == 0x158);
    assert!(offset_of!(Save, dr7) == 0x160);
    assert!(offset_of!(Save, dr6) == 0x168);
    assert!(offset_of!(Save, flags) == 0x170);
    assert!(offset_of!(Save, instruction_pointer) == 0x178);
    assert!(offset_of!(Save, stack_pointer) == 0x1d8);
    assert!(offset_of!(Save, rax) == 0x1f8);
    assert!(offset_of!(Save, star) == 0x200);
    assert!(offset_of!(Save, kernel_gs_base) == 0x220);
    assert!(offset_of!(Save, sysenter_eip) == 0x238);
    assert!(offset_of!(Save, cr2) == 0x240);
    assert!(offset_of!(Save, page_attributes) == 0x268);
    assert!(offset_of!(Save, debug_control) == 0x270);
};
