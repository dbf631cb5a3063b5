//! What goes into the VMCS before an entry: controls and state that only the hypervisor changes, the event to be
//! injected, and the guest's translations that are to be forgotten.

use iommu::address::HostPhysical;

use super::controls::{self, Delivery, Word};
use super::field::{Field16, Field32, Field64, FieldNatural};
use super::machine::{self, Scope};
use super::vmcs::Kept;
use super::{BLOCKED_BY_NMI, CR0_TS, CR4_VMXE, EXCEPTIONS, Vmx, permissions};
use crate::cpu;
use crate::vcpu::state::{Event, Exception, bits};

/// What the VMCS does not have yet of what the hypervisor alone changes.
pub(super) mod stale {
    pub(in super::super) const CR0: u32 = 1 << 0;
    pub(in super::super) const CR4: u32 = 1 << 1;
    pub(in super::super) const EFER: u32 = 1 << 2;
    pub(in super::super) const PAT: u32 = 1 << 3;
    pub(in super::super) const PRIMARY: u32 = 1 << 4;
    pub(in super::super) const SECONDARY: u32 = 1 << 5;
    pub(in super::super) const THRESHOLD: u32 = 1 << 6;
    pub(in super::super) const TABLE: u32 = 1 << 7;
    pub(in super::super) const TIMESTAMP: u32 = 1 << 8;
    pub(in super::super) const STATUS: u32 = 1 << 9;
    pub(in super::super) const EOI: u32 = 1 << 10;
    pub(in super::super) const POINTERS: u32 = 1 << 11;
    pub(in super::super) const PENDING_DEBUG: u32 = 1 << 12;
    /// Everything that a VMCS has to say before its first entry.
    pub(in super::super) const FIRST: u32 = 1 << 31;
    pub(in super::super) const ALL: u32 = u32::MAX;
}

impl Vmx {
    /// Writes what has changed of what the hypervisor alone changes.
    #[cold]
    pub(super) fn write_stale(&mut self) {
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
        if let Some(mailbox) = self.mailbox {
            vmcs.write(Field64::PostedInterruptDescriptor, mailbox.as_u64());
            vmcs.write(Field16::NotificationVector, cpu::vectors::NOTIFICATION.into());
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
        let mut word =
            self.common.controls.word(Word::Pin) & !(controls::PREEMPTION_TIMER | controls::POSTED_INTERRUPTS);
        if self.mailbox.is_some() {
            word |= controls::POSTED_INTERRUPTS;
        }
        word
    }

    /// Forgets the guest's translations on this CPU.
    #[cold]
    pub(super) fn forget_translations(&mut self) {
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
    pub(super) fn write_injection(&self, event: Event) {
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
    pub(super) fn unblock(&self, kinds: u64) {
        let blocked = self.part(Kept::Interruptibility);
        if blocked & kinds != 0 {
            self.state.set(Kept::Interruptibility, blocked & !kinds);
        }
    }

    /// Whether an interrupt or an event waits for the next entry, or for the guest to take it.
    pub(super) fn awaits_delivery(&self) -> bool {
        self.injection.is_some()
            || match self.delivery {
                Delivery::Window => self.primary & controls::INTERRUPT_WINDOW != 0,
                Delivery::Virtual | Delivery::Posted => self.apic_page.has_deliverable(),
            }
    }
}
