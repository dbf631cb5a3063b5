//! The instruction at the guest's instruction pointer: its bytes, its length, its meaning.

use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::body::{Body, Trouble};
use super::engine::VcpuEngine;
use super::platform::{CrashReason, LONGEST_INSTRUCTION, Platform};
use super::quick::{self, Move};
use super::state::{Exception, Segment, SegmentName, SystemRegister};
use super::walk::{self, Access, Paging, Trail};
use crate::memory::{self, GuestPhysical};

const PAGE: u64 = 4096;

/// An instruction without prefixes that exits always have: its bytes, to be recognised at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opcode {
    bytes: u32,
    mask: u32,
    length: u8,
}

impl Opcode {
    pub(super) const CPUID: Self = Self::two(0x0f, 0xa2);
    pub(super) const READ_MSR: Self = Self::two(0x0f, 0x32);
    pub(super) const WRITE_MSR: Self = Self::two(0x0f, 0x30);
    pub(super) const HALT: Self = Self { bytes: 0xf4, mask: 0xff, length: 1 };
    /// VMMCALL; VMCALL has another last byte and the same length.
    pub(super) const HYPERCALL: Self = Self { bytes: 0x00d9_010f, mask: 0x00ff_ffff, length: 3 };
    /// INVD (0F 08) and WBINVD (0F 09).
    pub(super) const CACHE_INVALIDATE: Self = Self { bytes: 0x080f, mask: 0xfeff, length: 2 };
    pub(super) const SET_EXTENDED_CONTROL: Self = Self { bytes: 0x00d1_010f, mask: 0x00ff_ffff, length: 3 };

    const fn two(first: u8, second: u8) -> Self {
        Self { bytes: u32::from_le_bytes([first, second, 0, 0]), mask: 0xffff, length: 2 }
    }
}

/// The page of guest code that was looked at last, where the host sees it. It saves the walk of the guest's page tables
/// on processors that do not tell an instruction's length.
#[derive(Clone, Copy, Debug)]
pub(super) struct CodePage {
    /// The page as the instruction pointer says it.
    page: u64,
    /// The code segment's base and the paging root that it was found by.
    base: u64,
    root: u64,
    /// A page of guest RAM, or [`NO_CODE`].
    host: *const u8,
    /// The guest's page-table entries that led there.
    trail: Trail,
}

/// A page of the alignment and size of code, without an instruction that is looked for.
#[repr(align(4096))]
struct Empty([u8; PAGE as usize]);

static NO_CODE: Empty = Empty([0; PAGE as usize]);

// SAFETY: the pointer is to guest RAM or a static, which no thread owns, and is only read.
unsafe impl Send for CodePage {}

impl CodePage {
    pub(super) const fn none() -> Self {
        Self { page: 0, base: 0, root: 0, host: NO_CODE.0.as_ptr(), trail: Trail::LOST }
    }

    /// Four bytes at an instruction pointer, if this is the page and they are all in it. Where the guest changed its
    /// mapping of the page without changing CR3 they are stale; a wrong look harms nobody, because whoever asks
    /// compares them with the instruction that the processor says was there.
    #[inline]
    fn peek(&self, pointer: u64, base: u64, root: u64) -> Option<u32> {
        let offset = pointer.wrapping_sub(self.page);
        if offset > PAGE - 4 || root != self.root || base != self.base {
            return None;
        }
        // SAFETY: `host` points to 4096 bytes, a static or guest RAM that is mapped while the machine exists, and the
        // four bytes are inside. The guest may write them meanwhile; any value will do.
        Some(unsafe { self.host.add(offset as usize).cast::<u32>().read_unaligned() })
    }

    /// As [`peek`](Self::peek), but certain: the guest's page tables still lead here.
    #[inline]
    fn look(&self, pointer: u64, base: u64, root: u64) -> Option<[u8; quick::LONGEST]> {
        let offset = pointer.wrapping_sub(self.page);
        let inside = offset <= PAGE - quick::LONGEST as u64 && root == self.root && base == self.base;
        if !inside || !self.trail.holds() {
            return None;
        }
        // SAFETY: as in `peek`.
        Some(unsafe { self.host.add(offset as usize).cast::<[u8; quick::LONGEST]>().read_unaligned() })
    }
}

/// The pages of code that last reached devices: a driver's, an interrupt handler's.
pub(super) type DriverPages = [CodePage; 4];

/// Builds the decoder's tables, which are made at its first use, so that no exit has to.
pub(super) fn prepare() {
    let _ = Decoder::new(64, &[0x90], DecoderOptions::NONE).decode();
}

impl<E: VcpuEngine> Body<E> {
    /// The address behind the instruction that exited. `expected` is what it is unless it has prefixes.
    #[inline]
    pub(super) fn next_instruction(&mut self, expected: Opcode, platform: &dyn Platform) -> Result<u64, Trouble> {
        match self.quick_next(expected) {
            Some(next) => Ok(next),
            None => self.next_by_decoding(platform),
        }
    }

    /// The same, if it can be told at a glance.
    #[inline]
    pub(super) fn quick_next(&self, expected: Opcode) -> Option<u64> {
        if let Some(next) = self.engine.next_instruction() {
            return Some(next);
        }
        let pointer = self.engine.instruction_pointer();
        let base = self.engine.segment(SegmentName::Cs).base;
        let bytes = self.code.peek(pointer, base, self.engine.system(SystemRegister::Cr3))?;
        // The bytes and so the sum are in one page: there is no wrapping around.
        (bytes & expected.mask == expected.bytes).then(|| pointer.wrapping_add(u64::from(expected.length)))
    }

    #[cold]
    fn next_by_decoding(&mut self, platform: &dyn Platform) -> Result<u64, Trouble> {
        self.remember_code_page(platform)?;
        let instruction = self.decode(platform)?;
        Ok(self.wrap(instruction.next_ip()))
    }

    /// The simple move at the instruction pointer, if it is one and its page is known.
    pub(super) fn quick_move(&self) -> Option<Move> {
        let code = self.engine.segment(SegmentName::Cs);
        let long = walk::is_long(&self.engine);
        if !long && code.attributes & Segment::BIG == 0 {
            return None;
        }
        let pointer = self.engine.instruction_pointer();
        let page = self.driver_pages.get((pointer >> 12) as usize % self.driver_pages.len())?;
        quick::decode(&page.look(pointer, code.base, self.engine.system(SystemRegister::Cr3))?, long)
    }

    /// Remembers the page of the instruction pointer for [`quick_move`](Self::quick_move).
    pub(super) fn remember_driver_page(&mut self, platform: &dyn Platform) -> Result<(), Trouble> {
        let found = self.code_page(platform)?;
        let place = (self.engine.instruction_pointer() >> 12) as usize % self.driver_pages.len();
        if let Some(page) = self.driver_pages.get_mut(place) {
            *page = found;
        }
        Ok(())
    }

    /// Forgets all pages: the guest translates its addresses in another way from now on.
    pub(super) fn forget_code_pages(&mut self) {
        self.code = CodePage::none();
        self.driver_pages = [CodePage::none(); 4];
    }

    fn remember_code_page(&mut self, platform: &dyn Platform) -> Result<(), Trouble> {
        self.code = self.code_page(platform)?;
        Ok(())
    }

    fn code_page(&self, platform: &dyn Platform) -> Result<CodePage, Trouble> {
        let pointer = self.engine.instruction_pointer();
        let base = self.engine.segment(SegmentName::Cs).base;
        let linear = walk::linear_instruction_pointer(&self.engine);
        let mut trail = Trail::NEW;
        let address = Paging::of(&self.engine).translate_by(linear, Access::Fetch, platform, Some(&mut trail))?;
        Ok(match platform.host_page(GuestPhysical::new(address.as_u64() & !(PAGE - 1))) {
            // A segment that begins inside a page would need two of them.
            Some(host) if (pointer ^ linear) & (PAGE - 1) == 0 => CodePage {
                page: pointer & !(PAGE - 1),
                base,
                root: self.engine.system(SystemRegister::Cr3),
                host: memory::to_pointer(host),
                trail,
            },
            _ => CodePage::none(),
        })
    }

    /// Outside 64-bit code the instruction pointer has 32 bits.
    #[inline]
    fn wrap(&self, pointer: u64) -> u64 {
        if pointer >> 32 == 0 || walk::is_long(&self.engine) { pointer } else { pointer & 0xffff_ffff }
    }

    /// The address behind `instruction`.
    pub(super) fn behind(&self, instruction: &Instruction) -> u64 {
        self.wrap(instruction.next_ip())
    }

    /// The bytes at the instruction pointer, as many as can be read, and how many those are.
    pub(super) fn instruction_bytes(
        &self,
        platform: &dyn Platform,
    ) -> Result<([u8; LONGEST_INSTRUCTION], usize), Trouble> {
        let linear = walk::linear_instruction_pointer(&self.engine);
        let paging = Paging::of(&self.engine);
        let mut bytes = [0; LONGEST_INSTRUCTION];
        let in_page = usize::try_from(PAGE - linear % PAGE).unwrap_or(usize::MAX).min(LONGEST_INSTRUCTION);
        let (first, second) = bytes.split_at_mut(in_page);
        let address = paging.translate(linear, Access::Fetch, platform)?;
        if platform.read_memory(address, first).is_err() {
            let instruction = self.engine.instruction_pointer();
            return Err(Trouble::Crash(CrashReason::FetchOutsideMemory { instruction, address }));
        }
        // The instruction may well end before the page does: what cannot be read behind it is no fault yet.
        let behind = paging.translate(linear.wrapping_add(in_page as u64), Access::Fetch, platform);
        let read = behind.is_ok_and(|address| platform.read_memory(address, second).is_ok());
        Ok((bytes, if read { LONGEST_INSTRUCTION } else { in_page }))
    }

    /// The instruction at the instruction pointer.
    pub(super) fn decode(&self, platform: &dyn Platform) -> Result<Instruction, Trouble> {
        let (bytes, length) = self.instruction_bytes(platform)?;
        let bitness = if walk::is_long(&self.engine) {
            64
        } else if self.engine.segment(SegmentName::Cs).attributes & Segment::BIG != 0 {
            32
        } else {
            16
        };
        let bytes = bytes.get(..length).unwrap_or_default();
        let pointer = self.engine.instruction_pointer();
        let instruction = Decoder::with_ip(bitness, bytes, pointer, DecoderOptions::NONE).decode();
        if !instruction.is_invalid() {
            return Ok(instruction);
        }
        if length < LONGEST_INSTRUCTION {
            // It goes on where it cannot be read: now that is a fault.
            let behind = walk::linear_instruction_pointer(&self.engine).wrapping_add(length as u64);
            Paging::of(&self.engine).translate(behind, Access::Fetch, platform)?;
        }
        Err(Exception::UNDEFINED.into())
    }
}
