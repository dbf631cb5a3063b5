//! The engine for Intel's VMX with extended page tables (SDM volume 3 chapters 24 to 31).
//!
//! `unsafe` here rests on three facts: a VMCS and its virtual-APIC page are frames that belong to one [`Vmx`] from its
//! making to its end; the VMCS is current on a CPU only between [`VcpuEngine::load`] and [`VcpuEngine::unload`], during
//! which the caller stays on that CPU and loads no other; and the host's own state survives the switch, because an exit
//! loads it from the VMCS, into which `load` wrote that of the same CPU.
//!
//! An access to the VMCS costs as much as a dozen loads, so the guest's state is read when it is asked for and written
//! when it has changed ([`vmcs`]), and what only the hypervisor changes is kept here.

mod apic_page;
mod capability;
mod check;
mod controls;
mod exit;
mod field;
mod host;
mod host_state;
mod machine;
mod permissions;
mod resident;
mod segment;
mod tally;
mod vmcs;
mod write_back;

use core::cell::Cell;

use iommu::address::HostPhysical;
use iommu::interrupt::posted::PostedInterruptDescriptor;

use self::apic_page::VirtualApicPage;
use self::controls::{Delivery, Word};
use self::exit::Left;
use self::field::{Field32, FieldNatural};
use self::host::{Common, Vpid};
pub use self::host::{Refusal, enable};
use self::machine::Resident;
pub use self::tally::Tally;
use self::vmcs::{Accesses, GuestState, Kept};
use self::write_back::stale;
use super::VcpuError;
use super::engine::{Exit, QuickExit, VcpuEngine};
use super::state::{Event, Register, Registers, Segment, SegmentName, SystemRegister, bits};
use crate::cpu;
use crate::memory::{self, NestedPaging, Owner};
use crate::vapic::{LocalApic, VectorSet};

/// CR0: task switched; the only bit of CR0 that a guest changes without an exit.
const CR0_TS: u64 = 1 << 3;
/// CR0: numeric errors are exceptions; fixed by VMX.
const CR0_NE: u64 = 1 << 5;
/// CR4: VMX is on; fixed by VMX.
const CR4_VMXE: u64 = 1 << 13;
/// Intercepted exceptions: #DB and #AC, whose endless delivery would keep the processor from every interrupt, and #MC.
const EXCEPTIONS: u32 = 1 << 1 | 1 << 17 | 1 << 18;
/// EPTP: write-back tables; 4 levels; accessed and dirty flags.
const EPT_WRITE_BACK: u64 = 6;
const EPT_4_LEVELS: u64 = 3 << 3;
const EPT_ACCESSED_DIRTY: u64 = 1 << 6;
/// Interruptibility: STI, MOV SS, NMI.
const BLOCKED_BY_STI: u64 = 1 << 0;
const BLOCKED_BY_MOV_SS: u64 = 1 << 1;
const BLOCKED_BY_NMI: u64 = 1 << 3;

/// The nested paging of this machine's engine. Before the first CPU is [enabled](enable): nothing but small pages.
pub(super) fn nested_paging() -> NestedPaging {
    let ept = iommu::paging::Ept::WRITE_BACK_ALWAYS;
    let Some(common) = host::common() else { return NestedPaging::ept(0, ept) };
    let delivers = common.controls.delivery().0 != Delivery::Window;
    NestedPaging { apic_access: delivers, ..NestedPaging::ept(common.capabilities.ept_vpid(), ept) }
}

/// A virtual CPU's state under VMX.
pub struct Vmx {
    registers: Registers,
    /// RSP as the VMCS has it.
    stack_pointer: u64,
    /// The VMCS.
    page: HostPhysical,
    apic_page: VirtualApicPage,
    owner: Owner,
    common: &'static Common,
    delivery: Delivery,
    vpid: Option<Vpid>,
    vmcs: Accesses,
    state: GuestState,
    stale: u32,
    resident: Resident,
    /// What the guest reads of CR0 but TS, and of CR4.
    cr0: u64,
    cr4: u64,
    efer: u64,
    page_attributes: u64,
    debug_control: u64,
    page_pointers: [u64; 4],
    timestamp_offset: u64,
    table: u64,
    apic_access: Option<HostPhysical>,
    /// Where interrupts are posted, if the processor takes them from there.
    mailbox: Option<HostPhysical>,
    primary: u32,
    secondary: u32,
    threshold: u32,
    /// RVI and SVI as the VMCS has or gets them.
    interrupt_status: u16,
    eoi_exits: VectorSet,
    injection: Option<Event>,
    /// The instruction behind STI or MOV SS was carried out by the hypervisor.
    shadow_over: bool,
    flush: bool,
    /// This VMCS was entered since it was last cleared.
    launched: bool,
    loaded: bool,
    /// The host CPU whose state the VMCS holds.
    cpu: u32,
    /// HOST_RSP as the VMCS has it.
    host_stack: u64,
    left: Left,
    /// Whether the guest was seen to trace itself.
    traced: Cell<bool>,
    tally: Tally,
}

// SAFETY: the VMCS and its pages are the engine's own; the cells are reached through `&Vmx` by its own thread only.
unsafe impl Send for Vmx {}

impl Vmx {
    /// An engine whose memory is charged to `owner`.
    ///
    /// # Errors
    ///
    /// No memory, or [`enable`] has succeeded on no CPU yet.
    pub fn new(owner: Owner) -> Result<Self, VcpuError> {
        let common = host::common().ok_or(Refusal::NoVmx)?;
        let vpid = if common.controls.has(Word::Secondary, controls::VPID) { Some(Vpid::take()?) } else { None };
        let apic_page = VirtualApicPage::new(owner)?;
        let page = host::structure(owner, &common.capabilities)?;
        let (delivery, _) = common.controls.delivery();
        let mut secondary = common.controls.word(Word::Secondary);
        if delivery != Delivery::Window {
            secondary |= controls::APIC_REGISTERS | controls::INTERRUPT_DELIVERY;
        }
        Ok(Self {
            registers: Registers::default(),
            stack_pointer: 0,
            page,
            apic_page,
            owner,
            common,
            delivery,
            vpid,
            vmcs: Accesses::default(),
            state: GuestState::new(),
            stale: stale::ALL,
            resident: Resident::default(),
            cr0: 0,
            cr4: 0,
            efer: 0,
            page_attributes: 0,
            debug_control: 0,
            page_pointers: [0; 4],
            timestamp_offset: 0,
            table: 0,
            apic_access: None,
            mailbox: None,
            primary: common.controls.word(Word::Primary),
            secondary,
            threshold: 0,
            interrupt_status: 0,
            eoi_exits: VectorSet::new(),
            injection: None,
            shadow_over: false,
            flush: true,
            launched: false,
            loaded: false,
            cpu: u32::MAX,
            host_stack: 0,
            left: Left::default(),
            traced: Cell::new(false),
            tally: Tally::default(),
        })
    }

    #[inline]
    fn part(&self, part: Kept) -> u64 {
        self.state.get(part, &self.vmcs)
    }

    /// CR0 as the processor has it while the guest runs: caches are left on, since the type of the guest's memory is
    /// the hypervisor's to say.
    fn real_cr0(&self, value: u64) -> u64 {
        value & !(bits::CR0_CD | bits::CR0_NW) | CR0_NE
    }

    /// What each kind of exit cost in accesses to the VMCS.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Drop for Vmx {
    fn drop(&mut self) {
        if let Err(error) = memory::frames().free(self.owner, self.page, 1) {
            log::error!("a virtual CPU's control structure is not given back: {error}");
        }
    }
}

impl VcpuEngine for Vmx {
    fn reset(&mut self) {
        const PRESENT_CODE: u16 = 0x9b;
        const PRESENT_DATA: u16 = 0x93;
        const LOCAL_TABLE: u16 = 0x82;
        const BUSY_TASK: u16 = 0x8b;
        /// The page-attribute table after reset.
        const PAGE_ATTRIBUTES: u64 = 0x0007_0406_0007_0406;
        self.registers = Registers::default();
        // DX has the processor's family, model and stepping.
        self.registers.set_u32(Register::Rdx, core::arch::x86_64::__cpuid_count(1, 0).eax);
        // Not what any register holds, so that RSP is written.
        self.stack_pointer = u64::MAX;
        self.primary = self.common.controls.word(Word::Primary);
        self.threshold = 0;
        self.injection = None;
        self.shadow_over = false;
        let segment = |attributes| Segment { selector: 0, attributes, limit: 0xffff, base: 0 };
        for (name, value) in [
            (SegmentName::Es, segment(PRESENT_DATA)),
            (SegmentName::Cs, Segment { selector: 0xf000, base: 0xffff_0000, ..segment(PRESENT_CODE) }),
            (SegmentName::Ss, segment(PRESENT_DATA)),
            (SegmentName::Ds, segment(PRESENT_DATA)),
            (SegmentName::Fs, segment(PRESENT_DATA)),
            (SegmentName::Gs, segment(PRESENT_DATA)),
            (SegmentName::Gdtr, segment(0)),
            (SegmentName::Ldtr, segment(LOCAL_TABLE)),
            (SegmentName::Idtr, segment(0)),
            (SegmentName::Tr, segment(BUSY_TASK)),
        ] {
            self.set_segment(name, value);
        }
        self.efer = 0;
        // Caches are left on: CR0.CD and NW of the manual's reset value only cost time.
        self.cr0 = bits::CR0_ET;
        self.cr4 = 0;
        for (part, value) in [
            (Kept::Cr0, self.real_cr0(bits::CR0_ET)),
            (Kept::Cr3, 0),
            (Kept::Dr7, 0x400),
            (Kept::Flags, bits::FLAGS_ONE),
            (Kept::Rip, 0xfff0),
            (Kept::Interruptibility, 0),
            (Kept::SysenterCs, 0),
            (Kept::SysenterEsp, 0),
            (Kept::SysenterEip, 0),
        ] {
            self.state.set(part, value);
        }
        self.page_attributes = PAGE_ATTRIBUTES;
        self.debug_control = 0;
        self.page_pointers = [0; 4];
        self.resident = Resident { cr2: 0, dr6: 0xffff_0ff0, calls: [0; 5] };
        #[cfg(target_os = "none")]
        if self.loaded {
            self.resident.put();
        }
        self.set_system(SystemRegister::Cr8, 0);
        self.traced.set(false);
        self.stale |= stale::ALL & !stale::FIRST;
        self.flush = true;
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
        self.part(Kept::Rip)
    }

    #[inline]
    fn set_instruction_pointer(&mut self, address: u64) {
        self.state.set(Kept::Rip, address);
    }

    #[inline]
    fn flags(&self) -> u64 {
        let flags = self.part(Kept::Flags);
        if flags & bits::FLAGS_TF != 0 {
            self.traced.set(true);
        }
        flags
    }

    #[inline]
    fn set_flags(&mut self, flags: u64) {
        self.state.set(Kept::Flags, flags);
    }

    #[inline]
    fn may_be_traced(&self) -> bool {
        // An exit caused by an instruction leaves RF clear. TF is a look at the VMCS, which is spared where an exit has
        // to look at more than others, until the guest is seen to trace itself: the first step of its life that meets
        // such an instruction ends one instruction late.
        let spared = matches!(self.left.reason, exit::VMCALL | exit::PORT) && !self.traced.get();
        !spared && self.flags() & (bits::FLAGS_TF | bits::FLAGS_RF) != 0
    }

    #[inline]
    fn system(&self, register: SystemRegister) -> u64 {
        match register {
            SystemRegister::Cr0 => self.cr0 & !CR0_TS | self.part(Kept::Cr0) & CR0_TS,
            SystemRegister::Cr2 => self.resident().cr2,
            SystemRegister::Cr3 => self.part(Kept::Cr3),
            SystemRegister::Cr4 => self.cr4,
            SystemRegister::Cr8 => u64::from(self.apic_page.task_priority() >> 4),
            SystemRegister::Dr6 => self.resident().dr6,
            SystemRegister::Dr7 => self.part(Kept::Dr7),
            SystemRegister::Efer => self.efer,
            SystemRegister::Pat => self.page_attributes,
            SystemRegister::SysenterCs => self.part(Kept::SysenterCs),
            SystemRegister::SysenterEsp => self.part(Kept::SysenterEsp),
            SystemRegister::SysenterEip => self.part(Kept::SysenterEip),
            SystemRegister::Star => self.call(0),
            SystemRegister::LongStar => self.call(1),
            SystemRegister::CompatibilityStar => self.call(2),
            SystemRegister::SyscallMask => self.call(3),
            SystemRegister::KernelGsBase => self.call(4),
            SystemRegister::DebugControl => self.debug_control,
        }
    }

    fn set_system(&mut self, register: SystemRegister, value: u64) {
        match register {
            SystemRegister::Cr0 => {
                self.cr0 = value;
                self.state.set(Kept::Cr0, self.real_cr0(value));
                self.stale |= stale::CR0;
            }
            SystemRegister::Cr2 => self.set_resident(|resident| resident.cr2 = value),
            SystemRegister::Cr3 => self.state.set(Kept::Cr3, value),
            SystemRegister::Cr4 => {
                self.cr4 = value;
                self.stale |= stale::CR4;
            }
            SystemRegister::Cr8 => {
                let priority = (value as u8 & 0xf) << 4;
                if self.apic_page.task_priority() & 0xf0 != priority {
                    self.apic_page.set_task_priority(priority);
                    self.stale |= stale::THRESHOLD;
                }
            }
            SystemRegister::Dr6 => self.set_resident(|resident| resident.dr6 = value),
            SystemRegister::Dr7 => self.state.set(Kept::Dr7, value),
            SystemRegister::Efer => {
                self.efer = value;
                self.stale |= stale::EFER;
            }
            SystemRegister::Pat => {
                self.page_attributes = value;
                self.stale |= stale::PAT;
            }
            SystemRegister::SysenterCs => self.state.set(Kept::SysenterCs, value),
            SystemRegister::SysenterEsp => self.state.set(Kept::SysenterEsp, value),
            SystemRegister::SysenterEip => self.state.set(Kept::SysenterEip, value),
            SystemRegister::Star => self.set_call(0, value),
            SystemRegister::LongStar => self.set_call(1, value),
            SystemRegister::CompatibilityStar => self.set_call(2, value),
            SystemRegister::SyscallMask => self.set_call(3, value),
            SystemRegister::KernelGsBase => self.set_call(4, value),
            SystemRegister::DebugControl => self.debug_control = value,
        }
    }

    fn wants_page_pointers(&self) -> bool {
        true
    }

    fn set_page_pointers(&mut self, pointers: [u64; 4]) {
        self.page_pointers = pointers;
        self.stale |= stale::POINTERS;
    }

    fn segment(&self, name: SegmentName) -> Segment {
        Segment {
            selector: self.part(Kept::Selector(name)) as u16,
            attributes: segment::attributes(self.part(Kept::Rights(name)) as u32),
            limit: self.part(Kept::Limit(name)) as u32,
            base: self.part(Kept::Base(name)),
        }
    }

    fn set_segment(&mut self, name: SegmentName, segment: Segment) {
        self.state.set(Kept::Selector(name), segment.selector.into());
        self.state.set(Kept::Rights(name), segment::rights(segment.attributes).into());
        self.state.set(Kept::Limit(name), segment.limit.into());
        self.state.set(Kept::Base(name), segment.base);
    }

    #[inline]
    fn privilege(&self) -> u8 {
        // The stack segment's level, whether it is usable or not.
        (self.part(Kept::Rights(SegmentName::Ss)) >> 5) as u8 & 3
    }

    fn set_privilege(&mut self, level: u8) {
        let rights = self.part(Kept::Rights(SegmentName::Ss)) & !(3 << 5);
        self.state.set(Kept::Rights(SegmentName::Ss), rights | u64::from(level & 3) << 5);
    }

    #[inline]
    fn next_instruction(&self) -> Option<u64> {
        if !self.left.tells_length() {
            return None;
        }
        let pointer = self.part(Kept::Rip);
        let next = pointer.wrapping_add(u64::from(self.vmcs.read(Field32::InstructionLength)));
        if next >> 32 == 0 || pointer >> 32 != 0 {
            return Some(next);
        }
        let code = segment::attributes(self.part(Kept::Rights(SegmentName::Cs)) as u32);
        let long = self.efer & bits::EFER_LMA != 0 && code & Segment::LONG != 0;
        Some(if long { next } else { next & 0xffff_ffff })
    }

    #[inline]
    fn has_interrupt_shadow(&self) -> bool {
        !self.shadow_over && self.part(Kept::Interruptibility) & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS) != 0
    }

    #[inline]
    fn end_interrupt_shadow(&mut self) {
        // The VMCS is told only where something waits for it.
        self.shadow_over = true;
    }

    fn inject(&mut self, event: Event) {
        self.injection = Some(event);
    }

    #[inline]
    fn injected(&self) -> Option<Event> {
        self.injection
    }

    fn open_window(&mut self, vector: Option<u8>) {
        let (before, threshold) = (self.primary, self.threshold);
        self.primary &= !controls::INTERRUPT_WINDOW;
        self.threshold = 0;
        match vector {
            // The task priority holds it back: its fall is waited for.
            Some(vector) if vector >> 4 <= self.apic_page.task_priority() >> 4 => {
                self.threshold = u32::from(vector >> 4);
            }
            Some(_) => self.primary |= controls::INTERRUPT_WINDOW,
            None => {}
        }
        if self.primary != before {
            self.stale |= stale::PRIMARY;
        }
        if self.threshold != threshold {
            self.stale |= stale::THRESHOLD;
        }
    }

    fn open_external_window(&mut self) {
        if self.primary & controls::INTERRUPT_WINDOW == 0 {
            self.primary |= controls::INTERRUPT_WINDOW;
            self.stale |= stale::PRIMARY;
        }
    }

    fn watch_interrupt_return(&mut self, watch: bool) {
        let before = self.primary;
        if watch {
            self.primary |= controls::NMI_WINDOW;
        } else {
            self.primary &= !controls::NMI_WINDOW;
        }
        if self.primary != before {
            self.stale |= stale::PRIMARY;
        }
    }

    fn set_nested_root(&mut self, root: HostPhysical) {
        let accessed = if self.common.capabilities.ept_has_accessed_dirty() { EPT_ACCESSED_DIRTY } else { 0 };
        let table = root.as_u64() | EPT_4_LEVELS | EPT_WRITE_BACK | accessed;
        if table != self.table {
            self.table = table;
            self.stale |= stale::TABLE;
            self.flush = true;
        }
    }

    fn flush_translations(&mut self) {
        self.flush = true;
    }

    fn timestamp_offset(&self) -> u64 {
        self.timestamp_offset
    }

    fn set_timestamp_offset(&mut self, offset: u64) {
        self.timestamp_offset = offset;
        self.stale |= stale::TIMESTAMP;
    }

    fn load(&mut self) -> Result<(), &'static str> {
        let index = cpu::index();
        if !host::is_enabled(index) {
            return Err("VMX is not enabled on the CPU that is to run it");
        }
        let fresh = self.stale & stale::FIRST != 0;
        let page = machine::pointer(self.page);
        // SAFETY: VMX is on on this CPU; no other holds the VMCS, because `unload` cleared it there.
        unsafe {
            if fresh {
                machine::clear(page).map_err(|_| "VMCLEAR of its control structure failed")?;
            }
            machine::make_current(page).map_err(|_| "VMPTRLD of its control structure failed")?;
        }
        self.loaded = true;
        if self.cpu != index || fresh {
            host_state::write(&self.vmcs);
            self.host_stack = 0;
            self.cpu = index;
            // Here it may have run long ago, under the same number.
            self.flush = true;
        }
        #[cfg(target_os = "none")]
        self.resident.put();
        Ok(())
    }

    fn unload(&mut self) {
        if !self.loaded {
            return;
        }
        // Whoever looks at the guest while it is nowhere finds these.
        let _ = (self.part(Kept::Rip), self.part(Kept::Flags));
        // What changed last goes where the processor keeps it.
        self.state.write_back(&self.vmcs);
        #[cfg(target_os = "none")]
        self.resident.take();
        self.loaded = false;
        self.launched = false;
        // SAFETY: the VMCS is current here, and nobody else holds it; another CPU may load it from now on.
        if unsafe { machine::clear(machine::pointer(self.page)) }.is_err() {
            log::error!("VMCLEAR of a loaded control structure failed; this is a defect of Postern");
        }
    }

    #[inline]
    fn hold(&mut self) {
        cpu::interrupts::disable();
    }

    #[inline]
    fn release(&mut self) {
        cpu::interrupts::enable();
    }

    #[inline]
    fn enter(&mut self) {
        if self.shadow_over && self.awaits_delivery() {
            self.unblock(BLOCKED_BY_STI | BLOCKED_BY_MOV_SS);
        }
        if self.stale != 0 {
            self.write_stale();
        }
        if let Some(event) = self.injection.take() {
            self.write_injection(event);
        }
        if self.flush {
            self.forget_translations();
        }
        let stack_pointer = self.registers.get(Register::Rsp);
        if stack_pointer != self.stack_pointer {
            self.stack_pointer = stack_pointer;
            self.vmcs.write(FieldNatural::GuestRsp, stack_pointer);
        }
        self.state.write_back(&self.vmcs);
        self.shadow_over = false;
        self.tally.note(self.left.reason, self.vmcs.take());
        // SAFETY: `load` made the VMCS current here, wrote this CPU's state to it, and the caller stays on this CPU; its
        // extended page tables are the machine's own, its permissions pass nothing but the guest's; `hold` was called.
        let entered = unsafe { machine::run(&mut self.registers, self.launched, &mut self.host_stack) };
        self.state.forget();
        self.leave(entered);
        cpu::interrupts::enable();
    }

    #[inline]
    fn quick_exit(&self) -> Option<QuickExit> {
        match self.left.reason {
            exit::CPUID => Some(QuickExit::Cpuid),
            exit::VMCALL => Some(QuickExit::Hypercall),
            exit::READ_MSR => Some(QuickExit::ReadMsr),
            _ => None,
        }
    }

    fn exit(&mut self) -> Exit {
        self.decode_exit()
    }

    fn delivers_interrupts(&self) -> bool {
        self.delivery != Delivery::Window
    }

    fn take_interrupts(&mut self, apic: &mut LocalApic) {
        self.interrupt_status = self.apic_page.read(apic);
    }

    fn set_mailbox(&mut self, mailbox: &PostedInterruptDescriptor) {
        let place = if self.delivery == Delivery::Posted { memory::physical_of(mailbox) } else { None };
        if place != self.mailbox {
            self.mailbox = place;
            self.stale |= stale::FIRST;
        }
    }

    fn set_apic_access(&mut self, page: Option<HostPhysical>) {
        if page != self.apic_access {
            self.apic_access = page;
            self.stale |= stale::FIRST;
        }
    }

    fn give_interrupts(&mut self, apic: &LocalApic) {
        if self.delivery == Delivery::Window {
            return;
        }
        let status = self.apic_page.write(apic);
        if status != self.interrupt_status {
            self.interrupt_status = status;
            self.stale |= stale::STATUS;
        }
        if apic.level_triggered() != self.eoi_exits {
            self.eoi_exits = apic.level_triggered();
            self.stale |= stale::EOI;
        }
        let mode = match (apic.is_in_memory(), apic.is_x2apic()) {
            (true, _) if self.apic_access.is_some() => controls::APIC_ACCESSES,
            (_, true) => controls::X2APIC_MODE,
            _ => 0,
        };
        let secondary = self.secondary & !(controls::APIC_ACCESSES | controls::X2APIC_MODE) | mode;
        if secondary != self.secondary {
            self.secondary = secondary;
            self.stale |= stale::SECONDARY;
            // Translations that led to the APIC-access page, or did not.
            self.flush = true;
        }
    }
}
