//! The engine for AMD's SVM with nested paging (APM volume 2 chapter 15).
//!
//! `unsafe` here rests on three facts: a VMCB is a frame that belongs to one [`Svm`] from its making to its end; the
//! processor touches it only inside [`VcpuEngine::enter`]; and the host's own state survives the switch, because
//! VMRUN keeps half of it in the save page and VMLOAD brings the other half back from the VMCB that
//! [`enable`] filled on the same CPU.

mod delivery;
mod exit;
mod host;
mod machine;
mod permissions;
mod rules;
mod vmcb;
mod window;

use core::ptr::NonNull;

use iommu::address::{HostPhysical, PAGE_SIZE};

use self::delivery::Delivery;
pub(super) use self::host::is_present;
use self::host::{AddressSpace, Features, Flush};
pub use self::host::{Refusal, enable};
use self::vmcb::{Vmcb, event, first, interrupt, second};
use super::VcpuError;
use super::engine::{Exit, QuickExit, VcpuEngine};
use super::state::{Event, Register, Registers, Segment, SegmentName, SystemRegister, bits};
use crate::cpu;
use crate::memory::{self, Owner};

/// EFER: SVM is on. VMRUN wants it in the guest's EFER too; a guest does not see it.
const EFER_SVME: u64 = 1 << 12;

/// Intercepted writes: DR4 to DR7, which can fault.
const DR_WRITES: u16 = 0xf0;
/// Intercepted exceptions: #DB and #AC, whose endless delivery would keep the processor from every interrupt, and #MC.
const EXCEPTIONS: u32 = 1 << 1 | 1 << 17 | 1 << 18;
/// All of them; vector 2 is the NMI's, which has an intercept of its own.
const ALL_EXCEPTIONS: u32 = !(1 << 2);
const FIRST: u32 = first::INTERRUPT
    | first::NON_MASKABLE
    | first::SYSTEM_MANAGEMENT
    | first::INIT
    | first::CR0_SELECTIVE
    | first::READ_COUNTER
    | first::CPUID
    | first::RESUME
    | first::INVD
    | first::HALT
    | first::INVLPGA
    | first::PORT
    | first::MSR
    | first::SHUTDOWN;
const SECOND: u32 = second::VMRUN
    | second::VMMCALL
    | second::VMLOAD
    | second::VMSAVE
    | second::STGI
    | second::CLGI
    | second::SKINIT
    | second::WBINVD
    | second::MONITOR
    | second::MWAIT
    | second::XSETBV
    | second::READ_PROCESSOR_REGISTER;

/// What EFER holds while the guest runs. LME without paging has no effect but on the write of CR0 that switches paging
/// on, which is intercepted, so it is left out then. QEMU's TCG (seen in 10.0) switches paging on for the host at #VMEXIT
/// with the guest's EFER still there, and where that has LME while the guest's CR4 has no PAE, leaves it off: the host
/// goes on without page tables.
const fn processor_efer(guests: u64, cr0: u64) -> u64 {
    let unused = if cr0 & bits::CR0_PG == 0 { bits::EFER_LME } else { 0 };
    guests & !unused | EFER_SVME
}

/// TLB control: forget all translations; those of this address space.
const FLUSH_ALL: u32 = 1;
const FLUSH_OWN: u32 = 3;

/// A virtual CPU's state under SVM.
pub struct Svm {
    registers: Registers,
    vmcb: NonNull<Vmcb>,
    physical: HostPhysical,
    owner: Owner,
    /// The VMCB with the extra state of the CPU that runs this guest; 0 outside `load` and `unload`.
    host_state: u64,
    address_space: AddressSpace,
    features: Features,
    delivery: Delivery,
    /// EFER as the guest has it; see [`processor_efer`].
    efer: u64,
}

// SAFETY: the VMCB is the engine's own; nothing in it is bound to a thread.
unsafe impl Send for Svm {}

impl Svm {
    /// An engine whose memory is charged to `owner`.
    ///
    /// # Errors
    ///
    /// No memory, or [`enable`] has succeeded on no CPU yet.
    pub fn new(owner: Owner) -> Result<Self, VcpuError> {
        let permissions = permissions::permissions().ok_or(Refusal::NoSvm)?;
        let physical = memory::frames().allocate_zeroed(owner, 1, PAGE_SIZE)?;
        // The direct map is never at address 0.
        let vmcb = NonNull::new(memory::to_pointer(physical).cast::<Vmcb>()).ok_or(Refusal::NoSvm)?;
        let features = Features::of_this_cpu();
        let mut engine = Self {
            registers: Registers::default(),
            vmcb,
            physical,
            owner,
            host_state: 0,
            address_space: AddressSpace::NONE,
            features,
            delivery: Delivery::new(features.repeats_interrupts),
            efer: 0,
        };
        let control = &mut engine.vmcb_mut().control;
        control.cr_write = window::CR_WRITES;
        control.dr_write = DR_WRITES;
        control.exceptions = EXCEPTIONS;
        control.first = FIRST;
        control.second = SECOND;
        control.port_permissions = permissions.ports.as_u64();
        control.msr_permissions = permissions.msrs.as_u64();
        control.interrupt = interrupt::MASKING;
        control.nested = vmcb::NESTED_PAGING;
        Ok(engine)
    }

    #[inline]
    const fn vmcb(&self) -> &Vmcb {
        // SAFETY: the frame is ours and zero is a value of every field; the processor writes it only during `enter`,
        // which borrows the engine mutably.
        unsafe { self.vmcb.as_ref() }
    }

    #[inline]
    const fn vmcb_mut(&mut self) -> &mut Vmcb {
        // SAFETY: as in `vmcb`.
        unsafe { self.vmcb.as_mut() }
    }

    /// What delivers events, and the VMCB that it delivers by.
    const fn parts(&mut self) -> (&mut Delivery, &mut Vmcb) {
        // SAFETY: as in `vmcb`.
        (&mut self.delivery, unsafe { self.vmcb.as_mut() })
    }

    fn flush(&mut self, flush: Flush) {
        let own = if self.features.flush_by_address_space { FLUSH_OWN } else { FLUSH_ALL };
        let control = &mut self.vmcb_mut().control;
        match flush {
            Flush::Nothing => {}
            Flush::Own if control.tlb_control != FLUSH_ALL => control.tlb_control = own,
            Flush::Own => {}
            Flush::Everything => control.tlb_control = FLUSH_ALL,
        }
    }
}

impl Drop for Svm {
    fn drop(&mut self) {
        if let Err(error) = memory::frames().free(self.owner, self.physical, 1) {
            log::error!("a virtual CPU's control block is not given back: {error}");
        }
    }
}

impl VcpuEngine for Svm {
    fn reset(&mut self) {
        const PRESENT_CODE: u16 = 0x9b;
        const PRESENT_DATA: u16 = 0x93;
        const LOCAL_TABLE: u16 = 0x82;
        const BUSY_TASK: u16 = 0x8b;
        /// The page-attribute table after reset.
        const PAGE_ATTRIBUTES: u64 = 0x0007_0406_0007_0406;
        self.registers = Registers::default();
        self.efer = 0;
        // DX has the processor's family, model and stepping.
        self.registers.set_u32(Register::Rdx, core::arch::x86_64::__cpuid_count(1, 0).eax);
        self.watch_interrupt_return(false);
        self.watch_exceptions(false);
        let (delivery, vmcb) = self.parts();
        delivery.reset(vmcb);
        vmcb.control.interrupt = interrupt::MASKING;
        vmcb.control.first &= !first::VIRTUAL_INTERRUPT;
        vmcb.control.interrupt_shadow = 0;
        let save = &mut vmcb.save;
        let segment = |attributes| Segment { selector: 0, attributes, limit: 0xffff, base: 0 };
        save.segments = [segment(PRESENT_DATA); 10];
        for (name, value) in [
            (SegmentName::Cs, Segment { selector: 0xf000, base: 0xffff_0000, ..segment(PRESENT_CODE) }),
            (SegmentName::Gdtr, segment(0)),
            (SegmentName::Idtr, segment(0)),
            (SegmentName::Ldtr, segment(LOCAL_TABLE)),
            (SegmentName::Tr, segment(BUSY_TASK)),
        ] {
            save.segments[name as usize] = value;
        }
        save.privilege = 0;
        save.efer = processor_efer(0, bits::CR0_ET);
        // Caches are left on: CR0.CD and NW of the manual's reset value only cost time.
        save.cr0 = bits::CR0_ET;
        save.cr3 = 0;
        save.cr4 = 0;
        save.cr2 = 0;
        save.dr6 = 0xffff_0ff0;
        save.dr7 = 0x400;
        save.flags = bits::FLAGS_ONE;
        save.instruction_pointer = 0xfff0;
        for register in [
            &mut save.stack_pointer,
            &mut save.rax,
            &mut save.star,
            &mut save.long_star,
            &mut save.compatibility_star,
            &mut save.syscall_mask,
            &mut save.kernel_gs_base,
            &mut save.sysenter_cs,
            &mut save.sysenter_esp,
            &mut save.sysenter_eip,
            &mut save.debug_control,
        ] {
            *register = 0;
        }
        save.page_attributes = PAGE_ATTRIBUTES;
        self.flush(Flush::Own);
    }

    #[inline]
    fn registers(&self) -> &Registers {
        &self.registers
    }

    #[inline]
    fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }

    #[inline]
    fn instruction_pointer(&self) -> u64 {
        self.vmcb().save.instruction_pointer
    }

    #[inline]
    fn set_instruction_pointer(&mut self, address: u64) {
        self.vmcb_mut().save.instruction_pointer = address;
    }

    #[inline]
    fn flags(&self) -> u64 {
        self.vmcb().save.flags
    }

    #[inline]
    fn set_flags(&mut self, flags: u64) {
        self.vmcb_mut().save.flags = flags;
    }

    #[inline]
    fn system(&self, register: SystemRegister) -> u64 {
        let save = &self.vmcb().save;
        match register {
            SystemRegister::Cr0 => save.cr0,
            SystemRegister::Cr2 => save.cr2,
            SystemRegister::Cr3 => save.cr3,
            SystemRegister::Cr4 => save.cr4,
            SystemRegister::Cr8 => self.vmcb().control.interrupt & interrupt::TASK_PRIORITY,
            SystemRegister::Dr6 => save.dr6,
            SystemRegister::Dr7 => save.dr7,
            SystemRegister::Efer => self.efer,
            SystemRegister::Pat => save.page_attributes,
            SystemRegister::SysenterCs => save.sysenter_cs,
            SystemRegister::SysenterEsp => save.sysenter_esp,
            SystemRegister::SysenterEip => save.sysenter_eip,
            SystemRegister::Star => save.star,
            SystemRegister::LongStar => save.long_star,
            SystemRegister::CompatibilityStar => save.compatibility_star,
            SystemRegister::SyscallMask => save.syscall_mask,
            SystemRegister::KernelGsBase => save.kernel_gs_base,
            SystemRegister::DebugControl => save.debug_control,
        }
    }

    #[inline]
    fn set_system(&mut self, register: SystemRegister, value: u64) {
        if register == SystemRegister::Efer {
            self.efer = value;
        }
        let efer = self.efer;
        let vmcb = self.vmcb_mut();
        let save = &mut vmcb.save;
        let field = match register {
            SystemRegister::Cr8 => {
                let others = vmcb.control.interrupt & !interrupt::TASK_PRIORITY;
                vmcb.control.interrupt = others | value & interrupt::TASK_PRIORITY;
                return;
            }
            SystemRegister::Efer => {
                save.efer = processor_efer(efer, save.cr0);
                return;
            }
            SystemRegister::Cr0 => {
                save.efer = processor_efer(efer, value);
                &mut save.cr0
            }
            SystemRegister::Cr2 => &mut save.cr2,
            SystemRegister::Cr3 => &mut save.cr3,
            SystemRegister::Cr4 => &mut save.cr4,
            SystemRegister::Dr6 => &mut save.dr6,
            SystemRegister::Dr7 => &mut save.dr7,
            SystemRegister::Pat => &mut save.page_attributes,
            SystemRegister::SysenterCs => &mut save.sysenter_cs,
            SystemRegister::SysenterEsp => &mut save.sysenter_esp,
            SystemRegister::SysenterEip => &mut save.sysenter_eip,
            SystemRegister::Star => &mut save.star,
            SystemRegister::LongStar => &mut save.long_star,
            SystemRegister::CompatibilityStar => &mut save.compatibility_star,
            SystemRegister::SyscallMask => &mut save.syscall_mask,
            SystemRegister::KernelGsBase => &mut save.kernel_gs_base,
            SystemRegister::DebugControl => &mut save.debug_control,
        };
        *field = value;
    }

    #[inline]
    fn segment(&self, name: SegmentName) -> Segment {
        self.vmcb().save.segments[name as usize]
    }

    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        self.vmcb_mut().save.segments[name as usize] = segment;
    }

    #[inline]
    fn privilege(&self) -> u8 {
        self.vmcb().save.privilege & 3
    }

    fn set_privilege(&mut self, level: u8) {
        self.vmcb_mut().save.privilege = level & 3;
    }

    #[inline]
    fn next_instruction(&self) -> Option<u64> {
        let control = &self.vmcb().control;
        if self.features.next_instruction && control.next_instruction != 0 {
            return Some(control.next_instruction);
        }
        // An I/O instruction tells where it ends on every processor.
        (control.exit_code == exit::PORT).then_some(control.exit_second)
    }

    #[inline]
    fn has_interrupt_shadow(&self) -> bool {
        self.vmcb().control.interrupt_shadow & vmcb::SHADOW != 0
    }

    #[inline]
    fn end_interrupt_shadow(&mut self) {
        self.vmcb_mut().control.interrupt_shadow = 0;
    }

    fn inject(&mut self, event: Event) {
        let (delivery, vmcb) = self.parts();
        delivery.inject(vmcb, event);
    }

    #[inline]
    fn injected(&self) -> Option<Event> {
        Delivery::injected(self.vmcb())
    }

    fn open_window(&mut self, vector: Option<u8>) {
        window::open(&mut self.vmcb_mut().control, vector);
    }

    fn open_external_window(&mut self) {
        window::open_external(&mut self.vmcb_mut().control);
    }

    fn watch_interrupt_return(&mut self, watch: bool) {
        let control = &mut self.vmcb_mut().control;
        if watch {
            control.first |= first::INTERRUPT_RETURN;
        } else {
            control.first &= !first::INTERRUPT_RETURN;
        }
    }

    fn watch_exceptions(&mut self, watch: bool) {
        self.vmcb_mut().control.exceptions = if watch { ALL_EXCEPTIONS } else { EXCEPTIONS };
    }

    fn set_nested_root(&mut self, root: HostPhysical) {
        self.vmcb_mut().control.nested_root = root.as_u64();
    }

    fn flush_translations(&mut self) {
        self.flush(Flush::Own);
    }

    fn timestamp_offset(&self) -> u64 {
        self.vmcb().control.timestamp_offset
    }

    fn set_timestamp_offset(&mut self, offset: u64) {
        self.vmcb_mut().control.timestamp_offset = offset;
    }

    fn load(&mut self) -> Result<(), &'static str> {
        let index = cpu::index();
        self.host_state = host::host_state(index);
        if self.host_state == 0 {
            return Err("SVM is not enabled on the CPU that is to run it");
        }
        let moved = self.address_space.cpu != index;
        let (space, flush) = self.address_space.renew(index, &self.features);
        self.address_space = space;
        self.vmcb_mut().control.address_space = space.id;
        self.flush(flush);
        if moved {
            // On a CPU where it ran long ago the same number may hold translations from then.
            self.flush(Flush::Own);
        }
        Ok(())
    }

    fn unload(&mut self) {
        self.host_state = 0;
    }

    fn prepare(&mut self) {
        if self.delivery.comes_back(self.vmcb()) {
            // It waits for GIF, which the entry sets: the guest is left right after the event's delivery.
            machine::hold();
            cpu::send_interrupt(cpu::index(), cpu::vectors::KICK);
        }
    }

    #[inline]
    fn hold(&mut self) {
        machine::hold();
    }

    #[inline]
    fn release(&mut self) {
        machine::release();
    }

    #[inline]
    fn enter(&mut self) {
        let (rax, rsp) = (self.registers.get(Register::Rax), self.registers.get(Register::Rsp));
        let save = &mut self.vmcb_mut().save;
        save.rax = rax;
        save.stack_pointer = rsp;
        // SAFETY: `load` found SVM enabled on this CPU and the caller stays on it; the nested page table is the
        // machine's own.
        unsafe { machine::run(&mut self.registers, self.physical.as_u64(), self.host_state) };
        let vmcb = self.vmcb();
        let (rax, rsp, delivery) = (vmcb.save.rax, vmcb.save.stack_pointer, vmcb.control.exit_delivery);
        self.registers.set(Register::Rax, rax);
        self.registers.set(Register::Rsp, rsp);
        // The processor has cleared the injected event's valid bit.
        if delivery & event::VALID != 0 {
            let (delivery, vmcb) = self.parts();
            delivery.interrupted(vmcb);
        }
    }

    #[inline]
    fn quick_exit(&self) -> Option<QuickExit> {
        let control = &self.vmcb().control;
        match control.exit_code {
            exit::CPUID => Some(QuickExit::Cpuid),
            exit::VMMCALL => Some(QuickExit::Hypercall),
            exit::MSR if control.exit_first == 0 => Some(QuickExit::ReadMsr),
            _ => None,
        }
    }

    fn exit(&mut self) -> Exit {
        let vmcb = self.vmcb_mut();
        // What was to be flushed is; exits on the quick way flush once more, which is never wrong.
        vmcb.control.tlb_control = 0;
        // The processor leaves this to whoever delivers the fault.
        if vmcb.control.exit_code == exit::PAGE_FAULT {
            vmcb.save.cr2 = vmcb.control.exit_second;
        }
        self.decode_exit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_mode_is_enabled_only_under_paging() {
        let guests = bits::EFER_LME | bits::EFER_SCE;
        assert_eq!(processor_efer(guests, bits::CR0_PE), bits::EFER_SCE | EFER_SVME);
        assert_eq!(processor_efer(guests, bits::CR0_PE | bits::CR0_PG), guests | EFER_SVME);
    }
}
