//! What a host vector stands for: a bit in a vCPU's mailbox, packed in one word.
//!
//! The word is the argument of the vector's handler. `assignment` writes it before the remapping entry that raises the
//! vector becomes valid, and clears the handler after that entry is gone and flushed. One word cannot be seen half
//! changed, so a late interrupt reaches the old mailbox or none, never a mixture.

use iommu::interrupt::posted::PostedInterruptDescriptor;

/// Bits of the word that hold the guest's vector; the mailbox's address is shifted above them.
const VECTOR_BITS: u32 = 8;

/// A mailbox and a vector in it.
///
/// Mailboxes live as long as the hypervisor: a VM's vCPU keeps its own over restarts. So the word stays good even when
/// an interrupt is taken long after its binding was cleared.
#[derive(Clone, Copy)]
pub struct Binding {
    /// Where the interrupt lands.
    pub mailbox: &'static PostedInterruptDescriptor,
    /// Which bit of it: the vector that the guest chose.
    pub vector: u8,
}

impl Binding {
    /// The word. The mailbox's address loses its top byte, which [`post`] restores: it repeats bit 55.
    pub fn to_word(self) -> usize {
        core::ptr::from_ref(self.mailbox).expose_provenance() << VECTOR_BITS | usize::from(self.vector)
    }
}

/// The handler of every host vector that stands for a device's interrupt: posts it. `word` is [`Binding::to_word`]'s.
///
/// Runs in interrupt context on the CPU of the vCPU, which the interrupt itself brought out of the guest or out of HLT:
/// nobody has to be told.
pub fn post(word: usize) {
    let address = (word as isize >> VECTOR_BITS) as usize;
    // SAFETY: the word was made by `to_word` from a 'static mailbox with exposed provenance; the arithmetic shift
    // restores the address, whose bits 63:55 are equal in every address that x86-64's 4-level paging can map.
    let mailbox = unsafe { &*core::ptr::with_exposed_provenance::<PostedInterruptDescriptor>(address) };
    mailbox.post(word as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_posts_into_its_own_mailbox() {
        let mailbox: &'static PostedInterruptDescriptor = Box::leak(Box::default());
        let other: &'static PostedInterruptDescriptor = Box::leak(Box::default());
        post(Binding { mailbox, vector: 0x93 }.to_word());
        assert_eq!(mailbox.take(), Some([0, 0, 1 << (0x93 - 0x80), 0]));
        assert_eq!(other.take(), None);
    }

    #[test]
    fn an_address_of_the_upper_half_survives_the_packing() {
        for address in [0xffff_8000_1234_5640_usize, 0xffff_ffff_8000_0040, 0x0000_7fff_dead_bec0] {
            let word = address << VECTOR_BITS | 0xff;
            assert_eq!((word as isize >> VECTOR_BITS) as usize, address);
        }
    }
}
