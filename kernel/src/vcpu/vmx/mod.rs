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
mod segment;
mod tally;
mod vmcs;

use core::cell::Cell;

use iommu::address::HostPhysical;

use self::apic_page::VirtualApicPage;
use self::controls::{Delivery, Word};
use self::exit::Left;
use self::field::{Field16, Field32, Field64, FieldNatural};
use self::host::{Common, Vpid};
pub use self::host::{Refusal, enable};
use self::machine::{Resident, Scope};
pub use self::tally::Tally;
use self::vmcs::{Accesses, GuestState, Kept};
use super::VcpuError;
use super::engine::{Exit, QuickExit, VcpuEngine};
use super::state::{Event, Exception, Register, Registers, Segment, SegmentName, SystemRegister, bits};
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

/// What the VMCS does not have yet of what the hypervisor alone changes.
mod stale {
    pub(super) const CR0: u32 = 1 << 0;
    pub(super) const CR4: u32 = 1 << 1;
    pub(super) const EFER: u32 = 1 << 2;
    pub(super) const PAT: u32 = 1 << 3;
    pub(super) const PRIMARY: u32 = 1 << 4;
    pub(super) const SECONDARY: u32 = 1 << 5;
    pub(super) const THRESHOLD: u32 = 1 << 6;
    pub(super) const TABLE: u32 = 1 << 7;
    pub(super) const TIMESTAMP: u32 = 1 << 8;
    pub(super) const STATUS: u32 = 1 << 9;
    pub(super) const EOI: u32 = 1 << 10;
    pub(super) const POINTERS: u32 = 1 << 11;
    pub(super) const PENDING_DEBUG: u32 = 1 << 12;
    /// Everything that a VMCS has to say before its first entry.
    pub(super) const FIRST: u32 = 1 << 31;
    pub(super) const ALL: u32 = u32::MAX;
}

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

    /// Writes what has changed of what the hypervisor alone changes.
    #[cold]
    fn write_stale(&mut self) {
        let stale = core::mem::replace(&mut self.stale, 0);
        let vmcs = &self.vmcs;
        if stale & stale::FIRST != 0 {
            self.write_first();
        }
        if stale & stale::CR0 != 0 {
            vmcs.write(FieldNatural::Cr0Shadow, self.cr0);
        }
        if stale & stale::CR4 != 0 {
            vmcs.write(FieldNatural::GuestCr4, self.cr4 | CR4_VMXE);
            vmcs.write(FieldNatural::Cr4Shadow, self.cr4);
        }
        if stale & stale::EFER != 0 {
            let long = if self.efer & bits::EFER_LMA == 0 { 0 } else { controls::LONG_MODE_GUEST };
            vmcs.write(Field64::GuestEfer, self.efer);
            vmcs.write(Field32::EntryControls, self.common.controls.word(Word::Entry) | long);
        }
        if stale & stale::PAT != 0 {
            vmcs.write(Field64::GuestPat, self.page_attributes);
        }
        if stale & stale::PRIMARY != 0 {
            vmcs.write(Field32::PrimaryControls, self.primary);
        }
        if stale & stale::SECONDARY != 0 {
            vmcs.write(Field32::SecondaryControls, self.secondary);
            if let Some(permissions) = permissions::permissions() {
                let x2apic = self.secondary & controls::X2APIC_MODE != 0;
                let map = if x2apic { permissions.msrs_with_x2apic } else { permissions.msrs };
                vmcs.write(Field64::MsrBitmap, map.as_u64());
            }
        }
        if stale & stale::THRESHOLD != 0 {
            // One above the task priority would be refused.
            let priority = u32::from(self.apic_page.task_priority() >> 4);
            vmcs.write(Field32::TaskPriorityThreshold, self.threshold.min(priority));
        }
        if stale & stale::TABLE != 0 {
            vmcs.write(Field64::EptPointer, self.table);
        }
        if stale & stale::TIMESTAMP != 0 {
            vmcs.write(Field64::TimestampOffset, self.timestamp_offset);
        }
        if self.delivery != Delivery::Window {
            if stale & stale::STATUS != 0 {
                vmcs.write(Field16::GuestInterruptStatus, self.interrupt_status);
            }
            if stale & stale::EOI != 0 {
                let fields = [Field64::EoiExit0, Field64::EoiExit1, Field64::EoiExit2, Field64::EoiExit3];
                for (field, word) in fields.into_iter().zip(self.eoi_exits.words()) {
                    vmcs.write(field, word);
                }
            }
        }
        if stale & stale::POINTERS != 0 {
            let fields = [Field64::GuestPdpte0, Field64::GuestPdpte1, Field64::GuestPdpte2, Field64::GuestPdpte3];
            for (field, pointer) in fields.into_iter().zip(self.page_pointers) {
                vmcs.write(field, pointer);
            }
        }
        if stale & stale::PENDING_DEBUG != 0 {
            vmcs.write(FieldNatural::PendingDebug, 0);
        }
    }

    /// Writes what never changes.
    fn write_first(&self) {
        let (vmcs, controls) = (&self.vmcs, &self.common.controls);
        vmcs.write(Field32::PinControls, self.pin());
        vmcs.write(Field32::ExitControls, controls.word(Word::Exit));
        vmcs.write(Field32::ExceptionBitmap, EXCEPTIONS);
        for field in [
            Field32::PageFaultMask,
            Field32::PageFaultMatch,
            Field32::Cr3TargetCount,
            Field32::ExitMsrStoreCount,
            Field32::ExitMsrLoadCount,
            Field32::EntryMsrLoadCount,
            Field32::EntryInterruption,
            Field32::ActivityState,
        ] {
            vmcs.write(field, 0);
        }
        vmcs.write(Field64::LinkPointer, u64::MAX);
        vmcs.write(Field64::GuestDebugControl, 0);
        vmcs.write(FieldNatural::Cr0Mask, !CR0_TS);
        vmcs.write(FieldNatural::Cr4Mask, u64::MAX);
        if let Some(permissions) = permissions::permissions() {
            let [first, second] = permissions.ports;
            vmcs.write(Field64::PortBitmapA, first.as_u64());
            vmcs.write(Field64::PortBitmapB, second.as_u64());
        }
        vmcs.write(Field64::VirtualApicPage, self.apic_page.address().as_u64());
        if self.delivery != Delivery::Window {
            // The processor compares its address with what the guest's accesses lead to; nothing is ever read there.
            vmcs.write(Field64::ApicAccessPage, self.apic_access.map_or(0, HostPhysical::as_u64));
        }
        if let Some(vpid) = &self.vpid {
            vmcs.write(Field16::Vpid, vpid.number());
        }
        if self.secondary & controls::ENCLS != 0 {
            vmcs.write(Field64::EnclsExiting, u64::MAX);
        }
    }

    /// The pin-based controls.
    fn pin(&self) -> u32 {
        // What this engine does not use yet of what the processor has stays off.
        self.common.controls.word(Word::Pin) & !(controls::PREEMPTION_TIMER | controls::POSTED_INTERRUPTS)
    }

    /// Forgets the guest's translations on this CPU.
    #[cold]
    fn forget_translations(&mut self) {
        self.flush = false;
        let capabilities = &self.common.capabilities;
        let scope = if capabilities.invalidates_one_table() { Scope::One } else { Scope::All };
        let mut done = machine::invalidate_tables(scope, self.table).is_ok();
        if let Some(vpid) = &self.vpid {
            let scope = if capabilities.invalidates_one_guest() { Scope::One } else { Scope::All };
            done &= machine::invalidate_guests(scope, vpid.number()).is_ok();
        }
        if !done {
            log::error!("INVEPT or INVVPID failed; this is a defect of Postern");
        }
    }

    /// Says the event to be delivered.
    fn write_injection(&self, event: Event) {
        const VALID: u32 = 1 << 31;
        const HAS_ERROR: u32 = 1 << 11;
        const EXTERNAL: u32 = 0;
        const NON_MASKABLE: u32 = 2 << 8;
        const HARDWARE_EXCEPTION: u32 = 3 << 8;
        let information = match event {
            Event::Interrupt(vector) => EXTERNAL | u32::from(vector),
            Event::NonMaskable => NON_MASKABLE | 2,
            Event::Exception(Exception { vector, error }) => {
                // In real mode exceptions have no error code.
                let error = error.filter(|_| self.cr0 & bits::CR0_PE != 0);
                if let Some(code) = error {
                    // Only 16 bits are allowed, and there are no more in any error code but SGX's.
                    self.vmcs.write(Field32::EntryErrorCode, code & 0x7fff);
                }
                HARDWARE_EXCEPTION | error.map_or(0, |_| HAS_ERROR) | u32::from(vector)
            }
        };
        if event == Event::NonMaskable {
            // It was delivered before and is delivered again, or the one before is over.
            self.unblock(BLOCKED_BY_NMI);
        }
        self.vmcs.write(Field32::EntryInterruption, VALID | information);
    }

    /// Ends these kinds of blocking.
    fn unblock(&self, kinds: u64) {
        let blocked = self.part(Kept::Interruptibility);
        if blocked & kinds != 0 {
            self.state.set(Kept::Interruptibility, blocked & !kinds);
        }
    }

    /// Whether an interrupt or an event waits for the next entry, or for the guest to take it.
    fn awaits_delivery(&self) -> bool {
        self.injection.is_some()
            || match self.delivery {
                Delivery::Window => self.primary & controls::INTERRUPT_WINDOW != 0,
                Delivery::Virtual | Delivery::Posted => self.apic_page.has_requests(),
            }
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

impl Vmx {
    #[cfg(target_os = "none")]
    fn resident(&self) -> Resident {
        if self.loaded {
            return Resident { cr2: machine::cr2(), dr6: machine::dr6(), ..self.resident };
        }
        self.resident
    }

    #[cfg(not(target_os = "none"))]
    fn resident(&self) -> Resident {
        self.resident
    }

    /// Changes CR2 or DR6.
    fn set_resident(&mut self, change: impl FnOnce(&mut Resident)) {
        let before = self.resident();
        let mut after = before;
        change(&mut after);
        #[cfg(target_os = "none")]
        if self.loaded {
            if after.cr2 != before.cr2 {
                machine::set_cr2(after.cr2);
            }
            if after.dr6 != before.dr6 {
                machine::set_dr6(after.dr6);
            }
        }
        self.resident.cr2 = after.cr2;
        self.resident.dr6 = after.dr6;
    }

    fn call(&self, at: usize) -> u64 {
        #[cfg(target_os = "none")]
        if self.loaded {
            return Resident::call(at);
        }
        self.resident.calls.get(at).copied().unwrap_or(0)
    }

    fn set_call(&mut self, at: usize, value: u64) {
        if let Some(call) = self.resident.calls.get_mut(at) {
            *call = value;
        }
        #[cfg(target_os = "none")]
        if self.loaded {
            self.resident.put_call(at);
        }
    }
}
