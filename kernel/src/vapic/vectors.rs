//! A set of interrupt vectors: the shape of IRR, ISR, TMR and of a mailbox's requests.

/// A set of vectors 0 to 255.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorSet {
    words: [u64; 4],
}

impl VectorSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { words: [0; 4] }
    }

    /// The set with these words; bit `v & 63` of word `v >> 6` is vector `v`.
    pub const fn from_words(words: [u64; 4]) -> Self {
        Self { words }
    }

    /// The words, as [`from_words`](Self::from_words) takes them.
    pub const fn words(&self) -> [u64; 4] {
        self.words
    }

    const fn place(vector: u8) -> (usize, u64) {
        ((vector >> 6) as usize, 1 << (vector & 63))
    }

    /// Puts `vector` in.
    pub const fn insert(&mut self, vector: u8) {
        let (word, bit) = Self::place(vector);
        self.words[word] |= bit;
    }

    /// Takes `vector` out.
    pub const fn remove(&mut self, vector: u8) {
        let (word, bit) = Self::place(vector);
        self.words[word] &= !bit;
    }

    /// Whether `vector` is in.
    pub const fn contains(&self, vector: u8) -> bool {
        let (word, bit) = Self::place(vector);
        self.words[word] & bit != 0
    }

    /// Whether no vector is in.
    pub const fn is_empty(&self) -> bool {
        self.words[0] | self.words[1] | self.words[2] | self.words[3] == 0
    }

    /// The highest vector in the set.
    pub fn highest(&self) -> Option<u8> {
        for word in (0..4u8).rev() {
            let bits = self.words[usize::from(word)];
            if bits != 0 {
                // A non-zero word has at most 63 leading zeros, and word is at most 3.
                return Some(word << 6 | 63u8.wrapping_sub(bits.leading_zeros() as u8));
            }
        }
        None
    }

    /// 32 vectors from `32 * index`, as a local APIC's registers show them; index 0 to 7, higher ones read 0.
    pub fn register(&self, index: usize) -> u32 {
        self.words.get(index / 2).map_or(0, |word| (word >> (32 * (index % 2))) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_is_found_across_words() {
        let mut set = VectorSet::new();
        assert_eq!(set.highest(), None);
        for vector in [0, 1, 63, 64, 127, 128, 200, 255] {
            set.insert(vector);
            assert_eq!(set.highest(), Some(vector));
        }
        set.remove(255);
        assert_eq!(set.highest(), Some(200));
    }

    #[test]
    fn registers_show_32_vectors_each() {
        let mut set = VectorSet::new();
        set.insert(0x21);
        set.insert(0xff);
        assert_eq!(set.register(0), 0);
        assert_eq!(set.register(1), 2);
        assert_eq!(set.register(7), 1 << 31);
        assert_eq!(set.register(8), 0);
    }
}
