//! The states in which a virtual CPU begins.

use super::body::{Activity, Body};
use super::engine::VcpuEngine;
use super::state::{Register, Segment, SegmentName, SystemRegister, bits};

/// Where and how a virtual CPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Real mode at `page` times 4096, as after a start-up interrupt.
    RealMode {
        /// The page.
        page: u8,
    },
    /// The local APIC is in virtual wire mode, as firmware leaves it. 32-bit protected mode without paging, flat segments, as Multiboot 1 wants it.
    Protected {
        /// The first instruction.
        entry: u32,
        /// EAX: the boot loader's magic number.
        eax: u32,
        /// EBX: the address of the boot information.
        ebx: u32,
    },
    /// The local APIC likewise. 64-bit mode, as Linux's 64-bit entry wants it: CS 0x10, data segments 0x18.
    Long {
        /// The first instruction.
        entry: u64,
        /// RSI: the address of the boot parameters.
        rsi: u64,
        /// CR3: the root of four-level page tables.
        page_table: u64,
        /// The address of a GDT with those two segments.
        gdt: u64,
        /// Its last byte's offset.
        gdt_limit: u16,
    },
}

/// Present, read/execute, accessed.
const CODE: u16 = 0x9b;
/// Present, read/write, accessed.
const DATA: u16 = 0x93;
const GRANULAR: u16 = 1 << 11;

const DATA_SEGMENTS: [SegmentName; 5] =
    [SegmentName::Ds, SegmentName::Es, SegmentName::Ss, SegmentName::Fs, SegmentName::Gs];

impl<E: VcpuEngine> Body<E> {
    pub(super) fn start_at(&mut self, start: Start) {
        let offset = self.engine.timestamp_offset();
        self.engine.reset();
        self.engine.set_timestamp_offset(offset);
        match start {
            Start::RealMode { page } => {
                let selector = u16::from(page) << 8;
                let code = Segment { selector, attributes: CODE, limit: 0xffff, base: u64::from(selector) << 4 };
                self.engine.set_segment(SegmentName::Cs, code);
                self.engine.set_instruction_pointer(0);
            }
            Start::Protected { entry, eax, ebx } => {
                self.set_flat(0x08, CODE | Segment::BIG, 0x10);
                self.engine.set_system(SystemRegister::Cr0, bits::CR0_PE | bits::CR0_ET);
                self.engine.registers_mut().set_u32(Register::Rax, eax);
                self.engine.registers_mut().set_u32(Register::Rbx, ebx);
                self.engine.set_instruction_pointer(u64::from(entry));
            }
            Start::Long { entry, rsi, page_table, gdt, gdt_limit } => {
                self.set_flat(0x10, CODE | Segment::LONG, 0x18);
                self.engine.set_segment(
                    SegmentName::Gdtr,
                    Segment { limit: u32::from(gdt_limit), base: gdt, ..Segment::default() },
                );
                self.engine.set_system(SystemRegister::Cr3, page_table);
                self.engine.set_system(SystemRegister::Cr4, bits::CR4_PAE);
                self.engine.set_system(SystemRegister::Efer, bits::EFER_LME | bits::EFER_LMA);
                self.engine.set_system(SystemRegister::Cr0, bits::CR0_PE | bits::CR0_ET | bits::CR0_PG);
                self.engine.registers_mut().set(Register::Rsi, rsi);
                self.engine.set_instruction_pointer(entry);
            }
        }
        if !matches!(start, Start::RealMode { .. })
            && let Some(endpoint) = self.bus.endpoint(self.index)
        {
            self.apic.set_virtual_wire(endpoint);
        }
        self.refresh_cpuid();
        self.activity = Activity::Running;
        self.attention = true;
    }

    fn set_flat(&mut self, code: u16, attributes: u16, data: u16) {
        let flat = Segment { selector: code, attributes: attributes | GRANULAR, limit: u32::MAX, base: 0 };
        self.engine.set_segment(SegmentName::Cs, flat);
        for name in DATA_SEGMENTS {
            self.engine
                .set_segment(name, Segment { selector: data, attributes: DATA | Segment::BIG | GRANULAR, ..flat });
        }
    }
}
