//! Why VMRUN refused a VMCB: the consistency rules of APM volume 2 section 15.5.1, in words.

use super::vmcb::{NESTED_PAGING, Vmcb, event, second};
use crate::vcpu::state::{Segment, SegmentName, bits};

const EFER_SVME: u64 = 1 << 12;
/// SCE, LME, LMA, NXE, SVME, LMSLE, FFXSR, TCE, MCOMMIT, INTWB, UAIE, AIBRSE: the rest is reserved.
const EFER_DEFINED: u64 = 0x26_fd01;

/// The first rule that the VMCB breaks.
pub(super) fn broken(vmcb: &Vmcb) -> Option<&'static str> {
    let (control, save) = (&vmcb.control, &vmcb.save);
    let cs = save.segments[SegmentName::Cs as usize].attributes;
    let long = save.efer & bits::EFER_LME != 0 && save.cr0 & bits::CR0_PG != 0;
    let rules = [
        (save.efer & EFER_SVME == 0, "EFER.SVME is 0"),
        (save.efer & !EFER_DEFINED != 0, "EFER has a reserved bit set"),
        (save.cr0 & (bits::CR0_CD | bits::CR0_NW) == bits::CR0_NW, "CR0.NW is 1 while CR0.CD is 0"),
        (save.cr0 >> 32 != 0, "CR0 has a bit above 31 set"),
        (save.cr4 >> 32 != 0, "CR4 has a bit above 31 set"),
        (save.dr6 >> 32 != 0, "DR6 has a bit above 31 set"),
        (save.dr7 >> 32 != 0, "DR7 has a bit above 31 set"),
        (long && save.cr4 & bits::CR4_PAE == 0, "long mode with paging but without CR4.PAE"),
        (long && save.cr0 & bits::CR0_PE == 0, "long mode with paging but without CR0.PE"),
        (
            long && save.cr4 & bits::CR4_PAE != 0
                && cs & (Segment::LONG | Segment::BIG) == Segment::LONG | Segment::BIG,
            "a code segment that is both 64-bit and 32-bit",
        ),
        (control.second & second::VMRUN == 0, "VMRUN is not intercepted"),
        (control.address_space == 0, "the address-space id is 0"),
        (control.nested & NESTED_PAGING == 0, "nested paging is off"),
        (control.nested_root & 0xfff != 0, "the nested page table is not aligned to a page"),
        (is_illegal(control.injection), "the event to be injected does not exist"),
        (
            control.nested & NESTED_PAGING != 0
                && save.page_attributes.to_le_bytes().iter().any(|kind| !matches!(kind, 0 | 1 | 4 | 5 | 6 | 7)),
            "the page-attribute table has a reserved memory type",
        ),
    ];
    rules.iter().find(|(broken, _)| *broken).map(|(_, rule)| *rule)
}

fn is_illegal(injection: u64) -> bool {
    if injection & event::VALID == 0 {
        return false;
    }
    let vector = injection & 0xff;
    match injection & event::TYPE {
        event::EXCEPTION => vector == 2 || vector > 31,
        event::EXTERNAL | event::NON_MASKABLE => false,
        kind => kind >> event::TYPE_SHIFT != 4,
    }
}
