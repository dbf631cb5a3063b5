//! Exact bits of every format, and what they say read back.

use super::super::attributes::MemoryType;
use super::super::entry::is_link;
use super::*;

const HOST: HostPhysical = HostPhysical::new(0x12_4000_0000);

#[test]
fn second_stage_bits() {
    let rw = Permissions::READ_WRITE.into();
    assert_eq!(SecondStage::PLAIN.link(HOST), 0x12_4000_0003);
    assert_eq!(SecondStage::SNOOPED.link(HOST), 0x12_4000_0003, "SNP is reserved in links");
    assert_eq!(SecondStage::PLAIN.leaf(1, HOST, rw), 0x12_4000_0003);
    assert_eq!(SecondStage::PLAIN.leaf(2, HOST, rw), 0x12_4000_0083);
    assert_eq!(SecondStage::PLAIN.leaf(3, HOST, Permissions::READ.into()), 0x12_4000_0081);
    assert_eq!(SecondStage::PLAIN.leaf(1, HOST, Permissions::WRITE.into()), 0x12_4000_0002);
    assert_eq!(SecondStage::PLAIN.leaf(1, HOST, Permissions::ALL.into()), 0x12_4000_0003, "bit 2 needs SSEE");
    assert_eq!(SecondStage::SNOOPED.leaf(1, HOST, rw), 0x12_4000_0803);
    assert_eq!(SecondStage::PLAIN.leaf(1, HOST, Attributes::registers(Permissions::READ_WRITE)), 0x12_4000_0003);
}

#[test]
fn ept_bits() {
    let all = Permissions::ALL.into();
    assert_eq!(Ept::GUEST_PAT.link(HOST), 0x12_4000_0007);
    assert_eq!(Ept::GUEST_PAT.leaf(1, HOST, all), 0x12_4000_0037);
    assert_eq!(Ept::WRITE_BACK_ALWAYS.leaf(1, HOST, all), 0x12_4000_0077);
    assert_eq!(Ept::WRITE_BACK_ALWAYS.leaf(2, HOST, all), 0x12_4000_00f7);
    let registers = Attributes::registers(Permissions::READ_WRITE);
    assert_eq!(Ept::WRITE_BACK_ALWAYS.leaf(1, HOST, registers), 0x12_4000_0003, "the guest's PAT counts");
}

#[test]
fn npt_bits() {
    assert_eq!(Npt.link(HOST), 0x12_4000_0007);
    assert_eq!(Npt.leaf(1, HOST, Permissions::ALL.into()), 0x12_4000_0007);
    assert_eq!(Npt.leaf(2, HOST, Permissions::READ_WRITE.into()), 0x8000_0012_4000_0087);
    assert_eq!(Npt.leaf(1, HOST, Permissions::READ.into()), 0x8000_0012_4000_0005);
    assert_eq!(Npt.leaf(1, HOST, Attributes::registers(Permissions::READ_WRITE)), 0x8000_0012_4000_001f);
}

#[test]
fn first_stage_bits() {
    assert_eq!(FirstStage.link(HOST), 0x12_4000_0027);
    assert_eq!(FirstStage.leaf(1, HOST, Permissions::READ_WRITE.into()), 0x12_4000_0067);
    assert_eq!(FirstStage.leaf(1, HOST, Permissions::READ.into()), 0x12_4000_0025);
    assert_eq!(FirstStage.leaf(3, HOST, Permissions::ALL.into()), 0x12_4000_00e7);
}

/// What a leaf says comes back; other permissions give the leaf that they would have given at once; the parts of a
/// large leaf say what it said.
fn round_trip<F: Format>(format: F, memory_type_kept: bool, execute_kept: bool) {
    for level in 1..=3 {
        for bits in 1..8 {
            let permissions = Permissions::from_bits_truncate(bits);
            if !format.can_say(permissions) {
                continue;
            }
            for memory_type in [MemoryType::WriteBack, MemoryType::Uncached] {
                let given = Attributes { permissions, memory_type };
                let leaf = format.leaf(level, HOST, given);
                assert_eq!(leaf & ADDRESS, HOST.as_u64());
                assert_eq!(leaf & F::LEAF_ADDRESS, HOST.as_u64());
                assert_ne!(leaf & F::PRESENT, 0);
                assert_eq!(leaf & (0x3ff << 52), 0);
                let kept = format.attributes(level, leaf);
                if memory_type_kept {
                    assert_eq!(kept.memory_type, memory_type);
                }
                let asked = if execute_kept { permissions } else { permissions - Permissions::EXECUTE };
                assert_eq!(kept.permissions, asked);
                let other = format.leaf(level, HOST, Attributes { permissions: Permissions::READ, memory_type });
                assert_eq!(format.with_permissions(other, permissions), leaf);
                if level > 1 {
                    assert!(!is_link(leaf));
                    assert_eq!(format.first_part(level, leaf), format.leaf(level - 1, HOST, given));
                }
            }
        }
    }
    assert_eq!(format.link(HOST) & ADDRESS, HOST.as_u64());
    assert!(is_link(format.link(HOST)));
    assert_ne!(format.link(HOST) & F::PRESENT, 0);
    // A chain through an unlinked table is an absent entry to a reader that still walks it.
    assert_eq!(ADDRESS & F::PRESENT, 0);
}

#[test]
fn leaves_say_what_they_were_given() {
    round_trip(SecondStage::PLAIN, false, false);
    round_trip(SecondStage::SNOOPED, false, false);
    round_trip(Ept::GUEST_PAT, true, true);
    round_trip(Ept::WRITE_BACK_ALWAYS, true, true);
    round_trip(Npt, true, true);
    round_trip(FirstStage, true, false);
}
