//! CPUID as the guest sees it: what the processor has, less what is not virtualized, plus who we are. Computed once,
//! because a guest may ask at any time and an exit is short.

use core::arch::x86_64::__cpuid_count;

use super::body::{Body, Trouble};
use super::engine::{Exit, VcpuEngine};
use super::extended::{self, AVX, AVX512, PKRU};
use super::fetch::Opcode;
use super::platform::Platform;
use super::state::{Register, SystemRegister, bits};

/// The signature in leaf 0x4000_0000.
pub(super) const SIGNATURE: [u8; 12] = *b"PosternHyper";

/// The last leaf of each range that is shown.
const LAST_BASIC: u32 = 0x16;
const LAST_EXTENDED: u32 = 0x8000_0008;
const LAST_HYPERVISOR: u32 = 0x4000_0001;

/// The basic leaves that have sub-leaves: 7, 0xB, 0xD.
const SUBDIVIDED: u32 = 1 << 7 | 1 << 0xb | 1 << 0xd;

/// EAX, EBX, ECX, EDX.
type Leaf = [u32; 4];

/// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, F16C, RDRAND. With XSAVE also
/// XSAVE and AVX.
const FEATURES_ECX: u32 =
    1 | 1 << 1 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 22 | 1 << 23 | 1 << 25 | 1 << 29 | 1 << 30;
const XSAVE: u32 = 1 << 26;
const OSXSAVE: u32 = 1 << 27;
const AVX_PRESENT: u32 = 1 << 28;
/// Those of leaf 1 ECX that need AVX state: FMA, AVX, F16C.
const NEEDS_AVX_1: u32 = 1 << 12 | AVX_PRESENT | 1 << 29;
const X2APIC: u32 = 1 << 21;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: all up to SSE2 but the serial number, debug store, ACPI thermal, self-snoop and hyper-threading.
const FEATURES_EDX: u32 = 0x0783_fbff & !(1 << 18);
const APIC: u32 = 1 << 9;
const HYPER_THREADING: u32 = 1 << 28;
/// Leaf 7 EBX: FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA. AVX-512's apart.
const STRUCTURED_EBX: u32 =
    1 | 1 << 3 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 24 | 1 << 29;
const AVX2: u32 = 1 << 5;
const AVX512_EBX: u32 = 1 << 16 | 1 << 17 | 1 << 21 | 1 << 28 | 1 << 30 | 1 << 31;
/// Leaf 7 ECX: UMIP, GFNI, RDPID. Protection keys, vector AES and AVX-512's apart.
const STRUCTURED_ECX: u32 = 1 << 2 | 1 << 8 | 1 << 22;
const PROTECTION_KEYS: u32 = 1 << 3;
const OS_PROTECTION_KEYS: u32 = 1 << 4;
const NEEDS_AVX_7: u32 = 1 << 9 | 1 << 10;
const AVX512_ECX: u32 = 1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14;
/// Leaf 7 EDX: fast short REP MOVSB, SERIALIZE.
const STRUCTURED_EDX: u32 = 1 << 4 | 1 << 14;
/// Leaf 0x8000_0001 ECX: LAHF, CR8, ABM, SSE4A, misaligned SSE, PREFETCHW.
const EXTENDED_ECX: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8;
/// Leaf 0x8000_0001 EDX: SYSCALL, NX, MMX extensions, 1 GiB pages, RDTSCP, long mode, 3DNow, and what leaf 1 has.
const EXTENDED_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 22 | 1 << 26 | 1 << 27 | 1 << 29 | 1 << 30 | 1 << 31 | 0x0183_f3ff;

/// Every leaf that a guest can read.
pub(super) struct CpuidTable {
    basic: [Leaf; LAST_BASIC as usize + 1],
    extended: [Leaf; (LAST_EXTENDED - 0x8000_0000) as usize + 1],
    hypervisor: [Leaf; 2],
    structured: Leaf,
    topology: [Leaf; 2],
    /// The sub-leaves of leaf 0xD from 2.
    components: [Leaf; 10],
    components_offered: u64,
    /// Which variants of XSAVE there are: leaf 0xD sub-leaf 1 EAX.
    save_variants: u32,
    id: u32,
    /// The CR4 bits that the features shown allow.
    allowed_cr4: u64,
}

impl CpuidTable {
    /// The table for the virtual CPU with APIC id `id` of `count`.
    pub(super) fn new(id: u32, count: u32, x2apic: bool, components: u64) -> Self {
        Self::filter(id, count, x2apic, components, |leaf, subleaf| {
            let result = __cpuid_count(leaf, subleaf);
            [result.eax, result.ebx, result.ecx, result.edx]
        })
    }

    fn filter(id: u32, count: u32, x2apic: bool, components: u64, host: impl Fn(u32, u32) -> Leaf) -> Self {
        let [host_basic, vendor_b, vendor_c, vendor_d] = host(0, 0);
        let [host_extended, ..] = host(0x8000_0000, 0);
        let basic_leaf = |leaf: u32| if leaf <= host_basic { host(leaf, 0) } else { [0; 4] };
        let extended_leaf = |leaf: u32| if leaf <= host_extended { host(leaf, 0) } else { [0; 4] };
        let core_bits = count.max(1).next_power_of_two().trailing_zeros();
        let [level_core, level_thread] = [2 << 8 | 1, 1 << 8];

        let [family, brand, ecx, edx] = basic_leaf(1);
        let mut features_c = ecx & FEATURES_ECX | HYPERVISOR | if x2apic { X2APIC } else { 0 };
        if components != 0 {
            features_c |= ecx & (XSAVE | AVX_PRESENT);
        }
        if components & AVX == 0 {
            features_c &= !NEEDS_AVX_1;
        }
        let features_d = edx & FEATURES_EDX | if count > 1 { HYPER_THREADING } else { 0 };
        let features_b = brand & 0xffff | count.min(255) << 16 | id << 24;

        let [_, ebx, ecx, edx] = basic_leaf(7);
        let mut structured = [0, ebx & STRUCTURED_EBX, ecx & STRUCTURED_ECX, edx & STRUCTURED_EDX];
        if components & AVX512 != 0 {
            structured[1] |= ebx & AVX512_EBX;
            structured[2] |= ecx & AVX512_ECX;
        }
        if components & AVX == 0 {
            structured[1] &= !AVX2;
        } else {
            structured[2] |= ecx & NEEDS_AVX_7;
        }
        if components & PKRU != 0 {
            structured[2] |= ecx & PROTECTION_KEYS;
        }

        let mut basic = [[0; 4]; LAST_BASIC as usize + 1];
        basic[0] = [host_basic.clamp(0xd, LAST_BASIC), vendor_b, vendor_c, vendor_d];
        basic[1] = [family, features_b, features_c, features_d];
        basic[2] = basic_leaf(2);
        // ARAT: the local APIC's timer never stops.
        basic[6] = [1 << 2, 0, 0, 0];
        basic[0x15] = basic_leaf(0x15);
        basic[0x16] = basic_leaf(0x16);
        if components != 0 {
            basic[0xd] = [components as u32, 0, extended::end_of(components), (components >> 32) as u32];
        }

        let mut extended = [[0; 4]; (LAST_EXTENDED - 0x8000_0000) as usize + 1];
        extended[0] = [LAST_EXTENDED, vendor_b, vendor_c, vendor_d];
        let [signature, brand, ecx, edx] = extended_leaf(0x8000_0001);
        let legacy_multi = if count > 1 { 1 << 1 } else { 0 };
        extended[1] = [signature, brand & 0xf000_ffff, ecx & EXTENDED_ECX | legacy_multi, edx & EXTENDED_EDX];
        for (leaf, shown) in (0x8000_0000..=0x8000_0006).zip(&mut extended).skip(2) {
            *shown = extended_leaf(leaf);
        }
        // Invariant time-stamp counter.
        extended[7] = [0, 0, 0, extended_leaf(0x8000_0007)[3] & 1 << 8];
        let [widths, ebx, ..] = extended_leaf(0x8000_0008);
        extended[8] = [widths & 0xffff, ebx & 1, core_bits << 12 | count.saturating_sub(1).min(255), 0];

        let [b, c, d] = [0, 4, 8].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|byte| SIGNATURE[at + byte])));
        let mut table = Self {
            basic,
            extended,
            hypervisor: [[LAST_HYPERVISOR, b, c, d], [super::hypercall::VERSION as u32, 0, 0, 0]],
            structured,
            topology: [[0, 1, level_thread, id], [core_bits, count, level_core, id]],
            components: core::array::from_fn(|index| {
                let component = index as u32 + 2;
                if components & 1 << component == 0 { [0; 4] } else { host(0xd, component) }
            }),
            components_offered: components,
            save_variants: 0,
            id,
            allowed_cr4: 0,
        };
        table.allowed_cr4 = table.cr4_mask();
        if components != 0 {
            // XSAVEOPT, XSAVEC, XGETBV with ECX = 1; no supervisor components.
            let [variants, ..] = host(0xd, 1);
            table.basic[0xd][1] = extended::end_of(0);
            table.save_variants = variants & 7;
        }
        table
    }

    /// The CR4 bits that may be set: those of features that are shown.
    fn cr4_mask(&self) -> u64 {
        /// VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE: on every processor with long mode.
        const COMMON: u64 = 0x1ff;
        let [_, _, features, _] = self.basic[1];
        let [_, structured, structured_c, _] = self.structured;
        let mut mask = COMMON | bits::CR4_OSFXSR | bits::CR4_OSXMMEXCPT;
        for (present, bit) in [
            (features & XSAVE != 0, bits::CR4_OSXSAVE),
            (structured & 1 != 0, bits::CR4_FSGSBASE),
            (structured & 1 << 7 != 0, bits::CR4_SMEP),
            (structured & 1 << 20 != 0, bits::CR4_SMAP),
            (structured_c & 1 << 2 != 0, bits::CR4_UMIP),
            (structured_c & PROTECTION_KEYS != 0, bits::CR4_PKE),
        ] {
            if present {
                mask |= bit;
            }
        }
        mask
    }

    /// The CR4 bits that a guest may set.
    pub(super) const fn allowed_cr4(&self) -> u64 {
        self.allowed_cr4
    }

    /// Brings the bits up to date that follow CR4, XCR0 and the local APIC's enable.
    fn refresh(&mut self, cr4: u64, xcr0: u64, apic_enabled: bool) {
        let set = |word: &mut u32, bit: u32, on: bool| *word = *word & !bit | if on { bit } else { 0 };
        set(&mut self.basic[1][2], OSXSAVE, cr4 & bits::CR4_OSXSAVE != 0);
        set(&mut self.basic[1][3], APIC, apic_enabled);
        set(&mut self.structured[2], OS_PROTECTION_KEYS, cr4 & bits::CR4_PKE != 0);
        if self.components_offered != 0 {
            self.basic[0xd][1] = extended::end_of(xcr0);
        }
    }

    /// What CPUID answers. Leaves that do not exist are zero, as on AMD's processors.
    fn look_up(&self, leaf: u32, subleaf: u32) -> Leaf {
        if let Some(found) = self.basic.get(leaf as usize) {
            return match leaf {
                7 if subleaf == 0 => self.structured,
                0xb => self.topology_level(subleaf),
                0xd if subleaf != 0 => self.component(subleaf),
                _ => *found,
            };
        }
        self.plain(leaf).copied().unwrap_or_default()
    }

    /// A leaf that is the same for all sub-leaves, or the first sub-leaf of one that is not.
    #[inline]
    fn plain(&self, leaf: u32) -> Option<&Leaf> {
        if let Some(found) = self.basic.get(leaf as usize) {
            return Some(found);
        }
        match leaf >> 28 {
            8 => self.extended.get((leaf & 0x0fff_ffff) as usize),
            4 => self.hypervisor.get((leaf & 0x0fff_ffff) as usize),
            _ => None,
        }
    }

    fn topology_level(&self, level: u32) -> Leaf {
        self.topology.get(level as usize).copied().unwrap_or([0, 0, level & 0xff, self.id])
    }

    fn component(&self, component: u32) -> Leaf {
        match component {
            // XSAVEC's size, were it asked for: that of the standard form is never smaller.
            1 => [self.save_variants, self.basic[0xd][1], 0, 0],
            _ => self.components.get(component.wrapping_sub(2) as usize).copied().unwrap_or_default(),
        }
    }
}

impl<E: VcpuEngine> Body<E> {
    /// CPUID of a leaf without sub-leaves, where the instruction's end is plain. False: nothing was done.
    #[inline]
    pub(super) fn quick_cpuid(&mut self) -> bool {
        let registers = self.engine.registers();
        let leaf = registers.get(Register::Rax) as u32;
        if leaf < 32 && SUBDIVIDED & 1 << leaf != 0 {
            return false;
        }
        let (Some(&[eax, ebx, ecx, edx]), Some(next)) = (self.cpuid.plain(leaf), self.quick_next(Opcode::CPUID)) else {
            return false;
        };
        self.exits[Exit::Cpuid.kind()] = self.exits[Exit::Cpuid.kind()].wrapping_add(1);
        let registers = self.engine.registers_mut();
        registers.set_u32(Register::Rax, eax);
        registers.set_u32(Register::Rbx, ebx);
        registers.set_u32(Register::Rcx, ecx);
        registers.set_u32(Register::Rdx, edx);
        self.go_on_at(next);
        true
    }

    pub(super) fn handle_cpuid(&mut self, platform: &dyn Platform) -> Result<(), Trouble> {
        let next = self.next_instruction(Opcode::CPUID, platform)?;
        let registers = self.engine.registers_mut();
        let [eax, ebx, ecx, edx] =
            self.cpuid.look_up(registers.get(Register::Rax) as u32, registers.get(Register::Rcx) as u32);
        registers.set_u32(Register::Rax, eax);
        registers.set_u32(Register::Rbx, ebx);
        registers.set_u32(Register::Rcx, ecx);
        registers.set_u32(Register::Rdx, edx);
        self.go_on_at(next);
        Ok(())
    }

    /// After a change of CR4, XCR0 or IA32_APIC_BASE.
    pub(super) fn refresh_cpuid(&mut self) {
        let cr4 = self.engine.system(SystemRegister::Cr4);
        self.cpuid.refresh(cr4, self.extended.control(), self.apic.is_enabled());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A processor that has everything.
    fn everything(leaf: u32, _: u32) -> Leaf {
        match leaf {
            0 => [0x20, 1, 2, 3],
            0x8000_0000 => [0x8000_0030, 1, 2, 3],
            _ => [u32::MAX; 4],
        }
    }

    fn table(count: u32, x2apic: bool) -> CpuidTable {
        CpuidTable::filter(1, count, x2apic, 0, everything)
    }

    #[test]
    fn what_is_not_virtualized_is_hidden() {
        let table = table(2, false);
        let [_, _, ecx, edx] = table.look_up(1, 0);
        for (bit, name) in
            [(3, "MONITOR"), (5, "VMX"), (6, "SMX"), (17, "PCID"), (21, "x2APIC"), (24, "deadline"), (26, "XSAVE")]
        {
            assert_eq!(ecx & 1 << bit, 0, "{name}");
        }
        assert_eq!(edx & 1 << 18, 0, "serial number");
        assert_ne!(ecx & HYPERVISOR, 0);
        let [_, ebx, ecx, edx] = table.look_up(7, 0);
        assert_eq!(ebx & (1 << 10 | 1 << 4 | 1 << 11 | 1 << 2 | 1 << 25), 0, "INVPCID, TSX, SGX, processor trace");
        assert_eq!(ecx & (1 << 16 | 1 << 7 | 1 << 5), 0, "LA57, shadow stacks, user wait");
        assert_eq!(edx & 0xfc00_0000, 0, "speculation controls");
        assert_eq!(table.look_up(0x8000_0001, 0)[2] & (1 << 2 | 1 << 12 | 1 << 22), 0, "SVM, SKINIT, topology");
        for leaf in [5, 0xa, 0x14, 0x17, 0x1f, 0x8000_000a, 0x8000_001f, 0x4000_0002, 0xc000_0000, u32::MAX] {
            assert_eq!(table.look_up(leaf, 0), [0; 4], "{leaf:#x}");
        }
    }

    #[test]
    fn topology_matches_the_machine() {
        let table = table(3, true);
        let [_, ebx, ecx, edx] = table.look_up(1, 0);
        assert_eq!((ebx >> 24, ebx >> 16 & 0xff), (1, 3));
        assert!(ecx & X2APIC != 0 && edx & HYPER_THREADING != 0);
        assert_eq!(table.look_up(0xb, 0), [0, 1, 0x100, 1]);
        assert_eq!(table.look_up(0xb, 1), [2, 3, 0x201, 1]);
        assert_eq!(table.look_up(0xb, 2), [0, 0, 2, 1]);
        assert_eq!(table.look_up(0x8000_0008, 0)[2], 2 << 12 | 2);
    }

    #[test]
    fn the_signature_reads_in_order() {
        let [last, ebx, ecx, edx] = table(1, false).look_up(0x4000_0000, 0);
        assert_eq!(last, LAST_HYPERVISOR);
        let text: Vec<u8> = [ebx, ecx, edx].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(text, SIGNATURE);
    }

    #[test]
    fn enabled_bits_follow_the_registers() {
        let mut table = CpuidTable::filter(0, 1, false, 7, everything);
        assert_ne!(table.look_up(1, 0)[2] & XSAVE, 0);
        table.refresh(bits::CR4_OSXSAVE, 1, false);
        assert_ne!(table.look_up(1, 0)[2] & OSXSAVE, 0);
        assert_eq!(table.look_up(1, 0)[3] & APIC, 0);
        table.refresh(0, 1, true);
        assert_eq!(table.look_up(1, 0)[2] & OSXSAVE, 0);
        assert_ne!(table.look_up(1, 0)[3] & APIC, 0);
        assert_eq!(table.look_up(0xd, 0)[1], 576);
    }

    #[test]
    fn cr4_allows_what_is_shown_and_no_more() {
        let allowed = table(1, false).allowed_cr4();
        assert_eq!(allowed & (bits::CR4_LA57 | bits::CR4_OSXSAVE | bits::CR4_PKE | 1 << 13 | 1 << 17 | 1 << 23), 0);
        assert_ne!(allowed & bits::CR4_PAE, 0);
    }
}
