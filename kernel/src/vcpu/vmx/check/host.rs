//! Host state (SDM volume 3 sections 27.2.2 to 27.2.4).

use super::super::controls as bit;
use super::super::field::{Field16, Field32, Field64, FieldNatural};
use super::{Fields, Report, Surroundings, is_canonical, is_page_attributes};

const CR4_PAE: u64 = 1 << 5;
const EFER_LONG: u64 = 1 << 8 | 1 << 10;

pub(super) fn check(fields: &impl Fields, surroundings: &Surroundings<'_>, report: &mut Report<'_>) {
    let capabilities = surroundings.capabilities;
    let cr0 = fields.get(FieldNatural::HostCr0);
    report.rule(capabilities.cr0_fixed.takes(cr0, 0), "host CR0", cr0, "bits as IA32_VMX_CR0_FIXED0 and 1 allow");
    let cr4 = fields.get(FieldNatural::HostCr4);
    report.rule(capabilities.cr4_fixed.takes(cr4, 0), "host CR4", cr4, "bits as IA32_VMX_CR4_FIXED0 and 1 allow");
    let cr3 = fields.get(FieldNatural::HostCr3);
    report.rule(cr3 >> surroundings.physical_bits == 0, "host CR3", cr3, "inside the physical width");
    let exit = fields.get(Field32::ExitControls);
    report.rule(exit & bit::HOST_64 != 0, "exit controls", exit, "the host is in 64-bit mode");
    report.rule(cr4 & CR4_PAE != 0, "host CR4", cr4, "PAE is set in 64-bit mode");
    if exit & bit::LOAD_HOST_EFER != 0 {
        let efer = fields.get(Field64::HostEfer);
        report.rule(efer & EFER_LONG == EFER_LONG, "host IA32_EFER", efer, "LME and LMA are set in 64-bit mode");
        report.rule(efer & !0xd01 == 0, "host IA32_EFER", efer, "reserved bits are 0");
    }
    if exit & bit::LOAD_HOST_PAT != 0 {
        let attributes = fields.get(Field64::HostPat);
        report.rule(is_page_attributes(attributes), "host IA32_PAT", attributes, "each byte is a memory type");
    }
    for (field, name, may_be_null) in [
        (Field16::HostEs, "host ES", true),
        (Field16::HostCs, "host CS", false),
        (Field16::HostSs, "host SS", true),
        (Field16::HostDs, "host DS", true),
        (Field16::HostFs, "host FS", true),
        (Field16::HostGs, "host GS", true),
        (Field16::HostTr, "host TR", false),
    ] {
        let selector = fields.get(field);
        report.rule(selector & 7 == 0, name, selector, "the privilege level and the table bit are 0");
        report.rule(may_be_null || selector != 0, name, selector, "not the null selector");
    }
    for (field, name) in [
        (FieldNatural::HostFsBase, "host FS base"),
        (FieldNatural::HostGsBase, "host GS base"),
        (FieldNatural::HostTrBase, "host TR base"),
        (FieldNatural::HostGdtrBase, "host GDTR base"),
        (FieldNatural::HostIdtrBase, "host IDTR base"),
        (FieldNatural::HostSysenterEsp, "host SYSENTER_ESP"),
        (FieldNatural::HostSysenterEip, "host SYSENTER_EIP"),
        (FieldNatural::HostRip, "host RIP"),
    ] {
        let address = fields.get(field);
        report.rule(is_canonical(address), name, address, "canonical");
    }
}
