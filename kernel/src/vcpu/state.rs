//! The processor state that exits and entries speak of, in no vendor's layout.

/// A general-purpose register, by its number in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Register {
    Rax = 0,
    Rcx = 1,
    Rdx = 2,
    Rbx = 3,
    Rsp = 4,
    Rbp = 5,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
}

impl Register {
    /// The register with this number, 0 to 15.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Rax,
            1 => Self::Rcx,
            2 => Self::Rdx,
            3 => Self::Rbx,
            4 => Self::Rsp,
            5 => Self::Rbp,
            6 => Self::Rsi,
            7 => Self::Rdi,
            8 => Self::R8,
            9 => Self::R9,
            10 => Self::R10,
            11 => Self::R11,
            12 => Self::R12,
            13 => Self::R13,
            14 => Self::R14,
            15 => Self::R15,
            _ => return None,
        })
    }
}

/// The general-purpose registers. The world switch knows this layout.
#[repr(C)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    values: [u64; 16],
}

impl Registers {
    /// The register's 64 bits.
    #[inline]
    pub const fn get(&self, register: Register) -> u64 {
        self.values[register as usize]
    }

    /// Sets all 64 bits.
    #[inline]
    pub const fn set(&mut self, register: Register, value: u64) {
        self.values[register as usize] = value;
    }

    /// Sets the low 32 bits and clears the rest, as 32-bit instructions do.
    #[inline]
    pub const fn set_u32(&mut self, register: Register, value: u32) {
        self.set(register, value as u64);
    }

    /// EDX:EAX, as the MSR instructions take it.
    #[inline]
    pub const fn pair(&self) -> u64 {
        self.get(Register::Rdx) << 32 | self.get(Register::Rax) & 0xffff_ffff
    }

    /// Sets EDX:EAX and clears the upper halves.
    #[inline]
    pub const fn set_pair(&mut self, value: u64) {
        self.set(Register::Rax, value & 0xffff_ffff);
        self.set(Register::Rdx, value >> 32);
    }
}

/// A segment register with its hidden part. The layout is that of SVM's save area.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The visible part.
    pub selector: u16,
    /// Type 3:0, S 4, DPL 6:5, P 7, AVL 8, L 9, D/B 10, G 11.
    pub attributes: u16,
    /// The last offset, in bytes whatever G says.
    pub limit: u32,
    /// The linear address of offset 0.
    pub base: u64,
}

impl Segment {
    /// Attribute bit L: 64-bit code.
    pub const LONG: u16 = 1 << 9;
    /// Attribute bit D/B: 32-bit code, or a 32-bit stack pointer.
    pub const BIG: u16 = 1 << 10;
}

/// The segment and table registers, in the order of SVM's save area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum SegmentName {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
    Gdtr,
    Ldtr,
    Idtr,
    Tr,
}

/// Registers beside the general ones that handlers read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum SystemRegister {
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    /// CR8: the upper half of the task priority, 0 to 15.
    Cr8,
    Dr6,
    Dr7,
    /// IA32_EFER without the bit with which a vendor marks that virtualization is on.
    Efer,
    /// IA32_PAT.
    Pat,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    Star,
    LongStar,
    CompatibilityStar,
    SyscallMask,
    KernelGsBase,
    DebugControl,
}

/// Bits of the control registers, EFER and RFLAGS (SDM volume 3 section 2.5, APM volume 2 section 3.1).
pub mod bits {
    /// CR0: protection.
    pub const CR0_PE: u64 = 1 << 0;
    /// CR0: extension type, always 1.
    pub const CR0_ET: u64 = 1 << 4;
    /// CR0: write protection in supervisor mode.
    pub const CR0_WP: u64 = 1 << 16;
    /// CR0: not write-through.
    pub const CR0_NW: u64 = 1 << 29;
    /// CR0: cache disable.
    pub const CR0_CD: u64 = 1 << 30;
    /// CR0: paging.
    pub const CR0_PG: u64 = 1 << 31;
    /// CR0: every bit that is defined.
    pub const CR0_DEFINED: u64 = 0xe005_003f;
    /// CR4: 4 MiB pages in 32-bit paging.
    pub const CR4_PSE: u64 = 1 << 4;
    /// CR4: physical-address extension.
    pub const CR4_PAE: u64 = 1 << 5;
    /// CR4: machine-check exceptions.
    pub const CR4_MCE: u64 = 1 << 6;
    /// CR4: global pages.
    pub const CR4_PGE: u64 = 1 << 7;
    /// CR4: RDPMC in user mode.
    pub const CR4_PCE: u64 = 1 << 8;
    /// CR4: FXSAVE and SSE.
    pub const CR4_OSFXSR: u64 = 1 << 9;
    /// CR4: SSE exceptions.
    pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
    /// CR4: SGDT, SIDT, SLDT, SMSW and STR only in supervisor mode.
    pub const CR4_UMIP: u64 = 1 << 11;
    /// CR4: five-level paging.
    pub const CR4_LA57: u64 = 1 << 12;
    /// CR4: RDFSBASE and its kin.
    pub const CR4_FSGSBASE: u64 = 1 << 16;
    /// CR4: XSAVE and XCR0.
    pub const CR4_OSXSAVE: u64 = 1 << 18;
    /// CR4: no execution of user pages in supervisor mode.
    pub const CR4_SMEP: u64 = 1 << 20;
    /// CR4: no access of user pages in supervisor mode.
    pub const CR4_SMAP: u64 = 1 << 21;
    /// CR4: protection keys.
    pub const CR4_PKE: u64 = 1 << 22;
    /// EFER: SYSCALL.
    pub const EFER_SCE: u64 = 1 << 0;
    /// EFER: long mode enable.
    pub const EFER_LME: u64 = 1 << 8;
    /// EFER: long mode active.
    pub const EFER_LMA: u64 = 1 << 10;
    /// EFER: no-execute.
    pub const EFER_NXE: u64 = 1 << 11;
    /// RFLAGS: always 1.
    pub const FLAGS_ONE: u64 = 1 << 1;
    /// RFLAGS: trap after every instruction.
    pub const FLAGS_TF: u64 = 1 << 8;
    /// RFLAGS: maskable interrupts on.
    pub const FLAGS_IF: u64 = 1 << 9;
    /// RFLAGS: string instructions go down.
    pub const FLAGS_DF: u64 = 1 << 10;
    /// RFLAGS: no instruction breakpoint on the next instruction.
    pub const FLAGS_RF: u64 = 1 << 16;
    /// RFLAGS: virtual-8086 mode.
    pub const FLAGS_VM: u64 = 1 << 17;
    /// RFLAGS: user pages may be accessed in spite of SMAP.
    pub const FLAGS_AC: u64 = 1 << 18;
}

/// What entries deliver into a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An external interrupt.
    Interrupt(u8),
    /// The non-maskable interrupt.
    NonMaskable,
    /// A fault or trap of the processor.
    Exception(Exception),
}

/// A fault or trap of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// 0 to 31, not 2.
    pub vector: u8,
    /// The error code, for those vectors that have one.
    pub error: Option<u32>,
}

impl Exception {
    /// #DB.
    pub const DEBUG: Self = Self { vector: 1, error: None };
    /// #UD.
    pub const UNDEFINED: Self = Self { vector: 6, error: None };
    /// #DF.
    pub const DOUBLE_FAULT: Self = Self { vector: 8, error: Some(0) };
    /// #GP with error code 0.
    pub const GENERAL_PROTECTION: Self = Self { vector: 13, error: Some(0) };
    /// #SS with error code 0.
    pub const STACK: Self = Self { vector: 12, error: Some(0) };
    /// #AC.
    pub const ALIGNMENT: Self = Self { vector: 17, error: Some(0) };

    /// #PF with this error code. The address goes to CR2.
    pub const fn page_fault(error: u32) -> Self {
        Self { vector: 14, error: Some(error) }
    }
}
