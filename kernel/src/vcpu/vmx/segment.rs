//! A segment's attributes in the engines' common form and as VMX's access rights (SDM volume 3 section 25.4.1): the
//! same bits at other places, and a bit for a register that cannot be used.

/// Access rights: the register cannot be used.
pub(super) const UNUSABLE: u32 = 1 << 16;
/// In both forms: present.
const PRESENT: u16 = 1 << 7;

/// Access rights of these attributes: type, S, DPL and P in bits 7:0, AVL, L, D/B and G in bits 15:12.
pub(super) const fn rights(attributes: u16) -> u32 {
    let rights = (attributes & 0xff) as u32 | ((attributes & 0xf00) as u32) << 4;
    if attributes & PRESENT == 0 { rights | UNUSABLE } else { rights }
}

/// The attributes that these access rights say: a register that cannot be used is not present.
pub(super) const fn attributes(rights: u32) -> u16 {
    let attributes = rights as u16 & 0xff | (rights >> 4) as u16 & 0xf00;
    if rights & UNUSABLE == 0 { attributes } else { attributes & !PRESENT }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::state::Segment;

    #[test]
    fn attributes_come_back_as_they_went() {
        for usable in [0x09b, 0x293 | Segment::BIG, 0xa9b, 0x08b, 0xc93] {
            assert_eq!(attributes(rights(usable)), usable, "{usable:#x}");
            assert_eq!(rights(usable) & UNUSABLE, 0);
        }
        assert_eq!(rights(0xa9b), 0xa09b);
        // A null segment keeps its level, which in SS is the processor's.
        assert_eq!(rights(0x60), UNUSABLE | 0x60);
        assert_eq!(attributes(UNUSABLE | 0xf3), 0x73);
    }
}
