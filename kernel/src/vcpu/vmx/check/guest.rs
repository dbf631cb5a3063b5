//! Guest state (SDM volume 3 section 27.3.1).

use super::super::controls as bit;
use super::super::field::{Field16, Field32, Field64, FieldNatural};
use super::super::segment::UNUSABLE;
use super::{Fields, Report, Surroundings, is_canonical, is_page_attributes};
use crate::vcpu::state::bits;

/// What many rules depend on.
struct Mode {
    long: bool,
    unrestricted: bool,
    virtual_8086: bool,
    cr0: u64,
    cr4: u64,
    flags: u64,
}

pub(super) fn check(fields: &impl Fields, surroundings: &Surroundings<'_>, report: &mut Report<'_>) {
    let primary = fields.get(Field32::PrimaryControls);
    let secondary = fields.get(Field32::SecondaryControls);
    let flags = fields.get(FieldNatural::GuestFlags);
    let mode = Mode {
        long: fields.get(Field32::EntryControls) & bit::LONG_MODE_GUEST != 0,
        unrestricted: primary & bit::ACTIVATE_SECONDARY != 0 && secondary & bit::UNRESTRICTED != 0,
        virtual_8086: flags & bits::FLAGS_VM != 0,
        cr0: fields.get(FieldNatural::GuestCr0),
        cr4: fields.get(FieldNatural::GuestCr4),
        flags,
    };
    registers(fields, surroundings, &mode, report);
    segments(fields, &mode, report);
    task(fields, &mode, report);
    tables(fields, &mode, report);
    pointer(fields, &mode, report);
    activity(fields, surroundings, &mode, report);
}

/// Control registers, debug registers and MSRs (section 27.3.1.1).
fn registers(fields: &impl Fields, surroundings: &Surroundings<'_>, mode: &Mode, report: &mut Report<'_>) {
    let capabilities = surroundings.capabilities;
    let Mode { cr0, cr4, .. } = *mode;
    let free = if mode.unrestricted { bits::CR0_PE | bits::CR0_PG } else { 0 };
    // Caches may be on or off.
    let free = free | bits::CR0_NW | bits::CR0_CD;
    report.rule(
        capabilities.cr0_fixed.takes(cr0, free),
        "guest CR0",
        cr0,
        "bits as IA32_VMX_CR0_FIXED0 and 1 allow, but for PE and PG of an unrestricted guest",
    );
    report.rule(cr0 & bits::CR0_PG == 0 || cr0 & bits::CR0_PE != 0, "guest CR0", cr0, "paging needs protection");
    report.rule(capabilities.cr4_fixed.takes(cr4, 0), "guest CR4", cr4, "bits as IA32_VMX_CR4_FIXED0 and 1 allow");
    if mode.long {
        report.rule(cr0 & bits::CR0_PG != 0, "guest CR0", cr0, "an IA-32e mode guest has paging on");
        report.rule(cr4 & bits::CR4_PAE != 0, "guest CR4", cr4, "an IA-32e mode guest has PAE on");
    } else {
        report.rule(cr4 & 1 << 17 == 0, "guest CR4", cr4, "PCIDE only in an IA-32e mode guest");
    }
    let cr3 = fields.get(FieldNatural::GuestCr3);
    report.rule(cr3 >> surroundings.physical_bits == 0, "guest CR3", cr3, "inside the physical width");
    let entry = fields.get(Field32::EntryControls);
    if entry & bit::LOAD_DEBUG != 0 {
        let dr7 = fields.get(FieldNatural::GuestDr7);
        report.rule(dr7 >> 32 == 0, "guest DR7", dr7, "bits 63:32 are 0");
        let control = fields.get(Field64::GuestDebugControl);
        report.rule(control & !0xffc3 == 0, "guest IA32_DEBUGCTL", control, "reserved bits are 0");
    }
    for (field, name) in
        [(FieldNatural::GuestSysenterEsp, "guest SYSENTER_ESP"), (FieldNatural::GuestSysenterEip, "guest SYSENTER_EIP")]
    {
        let address = fields.get(field);
        report.rule(is_canonical(address), name, address, "canonical");
    }
    if entry & bit::LOAD_PAT != 0 {
        let attributes = fields.get(Field64::GuestPat);
        report.rule(is_page_attributes(attributes), "guest IA32_PAT", attributes, "each byte is a memory type");
    }
    if entry & bit::LOAD_EFER != 0 {
        let efer = fields.get(Field64::GuestEfer);
        report.rule(efer & !0xd01 == 0, "guest IA32_EFER", efer, "reserved bits are 0");
        let active = efer & bits::EFER_LMA != 0;
        report.rule(active == mode.long, "guest IA32_EFER", efer, "LMA is as the entry control IA-32e mode guest");
        report.rule(
            cr0 & bits::CR0_PG == 0 || active == (efer & bits::EFER_LME != 0),
            "guest IA32_EFER",
            efer,
            "LMA is as LME while paging is on",
        );
    }
}

/// A segment register's fields and names.
type Names = (&'static str, Field16, Field32, Field32, FieldNatural);

const SEGMENTS: [Names; 6] = [
    ("guest ES", Field16::GuestEs, Field32::GuestEsRights, Field32::GuestEsLimit, FieldNatural::GuestEsBase),
    ("guest CS", Field16::GuestCs, Field32::GuestCsRights, Field32::GuestCsLimit, FieldNatural::GuestCsBase),
    ("guest SS", Field16::GuestSs, Field32::GuestSsRights, Field32::GuestSsLimit, FieldNatural::GuestSsBase),
    ("guest DS", Field16::GuestDs, Field32::GuestDsRights, Field32::GuestDsLimit, FieldNatural::GuestDsBase),
    ("guest FS", Field16::GuestFs, Field32::GuestFsRights, Field32::GuestFsLimit, FieldNatural::GuestFsBase),
    ("guest GS", Field16::GuestGs, Field32::GuestGsRights, Field32::GuestGsLimit, FieldNatural::GuestGsBase),
];
const CS: usize = 1;
const SS: usize = 2;
const FS: usize = 4;

/// Segment registers (section 27.3.1.2).
fn segments(fields: &impl Fields, mode: &Mode, report: &mut Report<'_>) {
    let stack_level = fields.get(Field32::GuestSsRights) >> 5 & 3;
    for (at, (name, selector, rights, limit, base)) in SEGMENTS.into_iter().enumerate() {
        let (selector, rights) = (fields.get(selector), fields.get(rights));
        let (limit, base) = (fields.get(limit), fields.get(base));
        if mode.virtual_8086 {
            report.rule(base == u64::from(selector) << 4, name, base, "in virtual-8086 mode the base is 16 selectors");
            report.rule(limit == 0xffff, name, limit, "in virtual-8086 mode the limit is 0xffff");
            report.rule(rights == 0xf3, name, rights, "in virtual-8086 mode the access rights are 0xf3");
            continue;
        }
        let usable = rights & UNUSABLE == 0;
        match at {
            FS.. => report.rule(is_canonical(base), name, base, "the base is canonical"),
            CS => report.rule(base >> 32 == 0, name, base, "the base has 32 bits"),
            _ => report.rule(!usable || base >> 32 == 0, name, base, "the base has 32 bits"),
        }
        if at == CS || usable {
            ordinary(mode, at, (name, rights, limit), report);
        }
        let (level, requested) = (rights >> 5 & 3, u32::from(selector & 3));
        match at {
            CS => match rights & 0xf {
                3 => report.rule(
                    mode.unrestricted && level == 0,
                    name,
                    rights,
                    "a data segment's type 3 needs an unrestricted guest and level 0",
                ),
                9 | 11 => report.rule(level == stack_level, name, rights, "the level is that of SS"),
                13 | 15 => report.rule(level <= stack_level, name, rights, "the level is at most that of SS"),
                _ => report.rule(false, name, rights, "the type is 3, 9, 11, 13 or 15"),
            },
            SS => {
                if usable {
                    report.rule(matches!(rights & 0xf, 3 | 7), name, rights, "the type is 3 or 7");
                }
                if !mode.unrestricted {
                    let code = u32::from(fields.get(Field16::GuestCs) & 3);
                    report.rule(requested == code, name, selector, "the requested level is that of CS");
                    report.rule(level == requested, name, rights, "the level is the requested one");
                }
                let real = mode.cr0 & bits::CR0_PE == 0 || fields.get(Field32::GuestCsRights) & 0xf == 3;
                report.rule(!real || level == 0, name, rights, "in real mode the level is 0");
            }
            _ if usable => {
                report.rule(rights & 1 != 0, name, rights, "the segment is accessed");
                report.rule(rights & 8 == 0 || rights & 2 != 0, name, rights, "a code segment is readable");
                if !mode.unrestricted && rights & 0xf <= 11 {
                    report.rule(level >= requested, name, rights, "the level is at least the requested one");
                }
            }
            _ => {}
        }
    }
}

/// Rules of every code and data segment that can be used.
fn ordinary(mode: &Mode, at: usize, (name, rights, limit): (&'static str, u32, u32), report: &mut Report<'_>) {
    report.rule(rights & 1 << 4 != 0, name, rights, "it is a code or data segment (S)");
    report.rule(rights & 1 << 7 != 0, name, rights, "it is present (P)");
    report.rule(rights & 0xfffe_0f00 == 0, name, rights, "bits 31:17 and 11:8 are 0");
    granularity((name, rights, limit), report);
    if at == CS && mode.long {
        report.rule(rights >> 13 & 3 != 3, name, rights, "not both 64-bit (L) and 32-bit (D)");
    }
}

/// G is as the limit needs it.
fn granularity((name, rights, limit): (&'static str, u32, u32), report: &mut Report<'_>) {
    let coarse = rights & 1 << 15 != 0;
    report.rule(limit & 0xfff == 0xfff || !coarse, name, rights, "G is 0 unless bits 11:0 of the limit are ones");
    report.rule(limit >> 20 == 0 || coarse, name, rights, "G is 1 where the limit has more than 20 bits");
}

/// TR and LDTR (section 27.3.1.2).
fn task(fields: &impl Fields, mode: &Mode, report: &mut Report<'_>) {
    let (name, rights) = ("guest TR", fields.get(Field32::GuestTrRights));
    let (selector, limit) = (fields.get(Field16::GuestTr), fields.get(Field32::GuestTrLimit));
    report.rule(rights & UNUSABLE == 0, name, rights, "it is usable");
    let kind = rights & 0xf;
    report.rule(
        kind == 11 || kind == 3 && !mode.long,
        name,
        rights,
        "it is a busy task (type 11, or 3 outside IA-32e)",
    );
    report.rule(rights & 1 << 4 == 0, name, rights, "it is a system segment (S)");
    report.rule(rights & 1 << 7 != 0, name, rights, "it is present (P)");
    report.rule(rights & 0xfffe_0f00 == 0, name, rights, "bits 31:17 and 11:8 are 0");
    report.rule(selector & 4 == 0, name, selector, "it is in the global table");
    granularity((name, rights, limit), report);
    let base = fields.get(FieldNatural::GuestTrBase);
    report.rule(is_canonical(base), name, base, "the base is canonical");
    let (name, rights) = ("guest LDTR", fields.get(Field32::GuestLdtrRights));
    if rights & UNUSABLE == 0 {
        let (selector, limit) = (fields.get(Field16::GuestLdtr), fields.get(Field32::GuestLdtrLimit));
        report.rule(rights & 0xf == 2, name, rights, "it is a local descriptor table (type 2)");
        report.rule(rights & 1 << 4 == 0, name, rights, "it is a system segment (S)");
        report.rule(rights & 1 << 7 != 0, name, rights, "it is present (P)");
        report.rule(rights & 0xfffe_0f00 == 0, name, rights, "bits 31:17 and 11:8 are 0");
        report.rule(selector & 4 == 0, name, selector, "it is in the global table");
        granularity((name, rights, limit), report);
        let base = fields.get(FieldNatural::GuestLdtrBase);
        report.rule(is_canonical(base), name, base, "the base is canonical");
    }
}

/// GDTR and IDTR (section 27.3.1.3).
fn tables(fields: &impl Fields, _: &Mode, report: &mut Report<'_>) {
    for (name, limit, base) in [
        ("guest GDTR", Field32::GuestGdtrLimit, FieldNatural::GuestGdtrBase),
        ("guest IDTR", Field32::GuestIdtrLimit, FieldNatural::GuestIdtrBase),
    ] {
        let (limit, base) = (fields.get(limit), fields.get(base));
        report.rule(limit >> 16 == 0, name, limit, "the limit has 16 bits");
        report.rule(is_canonical(base), name, base, "the base is canonical");
    }
}

/// RIP and RFLAGS (section 27.3.1.4).
fn pointer(fields: &impl Fields, mode: &Mode, report: &mut Report<'_>) {
    let pointer = fields.get(FieldNatural::GuestRip);
    if mode.long && fields.get(Field32::GuestCsRights) & 1 << 13 != 0 {
        report.rule(is_canonical(pointer), "guest RIP", pointer, "canonical in 64-bit code");
    } else {
        report.rule(pointer >> 32 == 0, "guest RIP", pointer, "32 bits outside 64-bit code");
    }
    let flags = mode.flags;
    report.rule(flags & 0xffff_ffff_ffc0_8028 == 0, "guest RFLAGS", flags, "reserved bits are 0");
    report.rule(flags & bits::FLAGS_ONE != 0, "guest RFLAGS", flags, "bit 1 is 1");
    report.rule(
        !mode.virtual_8086 || !mode.long && mode.cr0 & bits::CR0_PE != 0,
        "guest RFLAGS",
        flags,
        "virtual-8086 mode needs protected mode outside IA-32e",
    );
    let information = fields.get(Field32::EntryInterruption);
    if information & (1 << 31 | 7 << 8) == 1 << 31 {
        report.rule(flags & bits::FLAGS_IF != 0, "guest RFLAGS", flags, "IF is set where an interrupt is injected");
    }
}

/// Activity, interruptibility, pending exceptions, the link pointer (section 27.3.1.5).
fn activity(fields: &impl Fields, surroundings: &Surroundings<'_>, mode: &Mode, report: &mut Report<'_>) {
    const STI: u32 = 1 << 0;
    const MOV_SS: u32 = 1 << 1;
    const NMI: u32 = 1 << 3;
    let (name, activity) = ("guest activity state", fields.get(Field32::ActivityState));
    report.rule(activity <= 3, name, activity, "0 to 3");
    report.rule(
        activity != 1 || surroundings.capabilities.has_halt_state(),
        name,
        activity,
        "HLT where IA32_VMX_MISC has it",
    );
    let stack_level = fields.get(Field32::GuestSsRights) >> 5 & 3;
    report.rule(activity != 1 || stack_level == 0, name, activity, "HLT at level 0 only");
    let (name, blocked) = ("guest interruptibility", fields.get(Field32::Interruptibility));
    report.rule(
        activity == 0 || blocked & (STI | MOV_SS) == 0,
        name,
        blocked,
        "STI and MOV SS block an active guest only",
    );
    report.rule(blocked >> 5 == 0, name, blocked, "bits 31:5 are 0");
    report.rule(blocked & (STI | MOV_SS) != STI | MOV_SS, name, blocked, "not blocked by both STI and MOV SS");
    report.rule(blocked & STI == 0 || mode.flags & bits::FLAGS_IF != 0, name, blocked, "STI blocks with IF set only");
    let information = fields.get(Field32::EntryInterruption);
    if information & 1 << 31 != 0 {
        match information >> 8 & 7 {
            0 => report.rule(blocked & (STI | MOV_SS) == 0, name, blocked, "nothing blocks an injected interrupt"),
            2 => report.rule(blocked & (MOV_SS | NMI) == 0, name, blocked, "nothing blocks an injected NMI"),
            _ => {}
        }
    }
    let pending = fields.get(FieldNatural::PendingDebug);
    report.rule(pending & !0x1_d00f == 0, "guest pending debug exceptions", pending, "reserved bits are 0");
    let link = fields.get(Field64::LinkPointer);
    report.rule(link == u64::MAX, "VMCS link pointer", link, "all ones: no VMCS is shadowed");
    // PDPTEs of a guest with PAE paging.
    if mode.cr0 & bits::CR0_PG != 0 && mode.cr4 & bits::CR4_PAE != 0 && !mode.long {
        let reserved = !((1 << surroundings.physical_bits) - 1) | 0x1e6;
        for field in [Field64::GuestPdpte0, Field64::GuestPdpte1, Field64::GuestPdpte2, Field64::GuestPdpte3] {
            let entry = fields.get(field);
            report.rule(entry & 1 == 0 || entry & reserved == 0, "guest PDPTE", entry, "reserved bits are 0");
        }
    }
}
