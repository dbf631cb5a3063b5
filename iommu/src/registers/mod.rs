//! The registers of a remapping unit (VT-d section 11.4), each with what may be done to it as its type.
//!
//! [`map`] is the one table of offsets. A register's type says its width, its meaning and its access: a read-only
//! register has no `write`, a write-one-to-clear register only `clear`, and GCMD is reached through [`command`] alone,
//! which keeps its protocol. An access of the wrong width or kind does not compile.
//!
//! Who owns which register: GCMD and GSTS belong to [`command::Commander`], under its unit's command lock; IQH, IQT and
//! the queue bits of FSTS to the queue, under the queue lock; FRCD and the fault bits of FSTS to the fault lock; all
//! others are written during bring-up and shutdown only, when nobody else runs.

pub mod capability;
pub mod command;
pub mod map;
pub mod status;
mod wait;

pub use wait::{Wait, WaitExpired};

use core::marker::PhantomData;

use crate::door::Registers;

/// A register's word: 4 or 8 bytes, read and written in one access.
pub trait Word: Copy + sealed::Sealed {
    #[doc(hidden)]
    fn read(registers: &impl Registers, offset: u64) -> Self;
    #[doc(hidden)]
    fn write(registers: &impl Registers, offset: u64, value: Self);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
}

impl Word for u32 {
    fn read(registers: &impl Registers, offset: u64) -> Self {
        registers.read_u32(offset)
    }

    fn write(registers: &impl Registers, offset: u64, value: Self) {
        registers.write_u32(offset, value);
    }
}

impl Word for u64 {
    fn read(registers: &impl Registers, offset: u64) -> Self {
        registers.read_u64(offset)
    }

    fn write(registers: &impl Registers, offset: u64, value: Self) {
        registers.write_u64(offset, value);
    }
}

/// What a register holds: a layout over its word.
pub trait Value: Copy {
    /// The register's width.
    type Word: Word;
    /// From what was read.
    fn from_word(word: Self::Word) -> Self;
    /// To what is written.
    fn into_word(self) -> Self::Word;
}

/// Makes a layout the value of a register.
macro_rules! register_value {
    ($($name:ty: $word:ty),* $(,)?) => { $(
        impl $crate::registers::Value for $name {
            type Word = $word;
            fn from_word(word: $word) -> Self {
                Self::from_bits(word)
            }
            fn into_word(self) -> $word {
                self.bits()
            }
        }
    )* };
}
pub(crate) use register_value;

/// Access kinds: what software may do to a register.
pub mod access {
    /// Hardware writes, software reads.
    #[derive(Clone, Copy, Debug)]
    pub enum ReadOnly {}
    /// Software reads and writes.
    #[derive(Clone, Copy, Debug)]
    pub enum ReadWrite {}
    /// Software writes, and reads nothing of use.
    #[derive(Clone, Copy, Debug)]
    pub enum WriteOnly {}
    /// Software reads, and clears bits by writing ones to them; zeros change nothing.
    #[derive(Clone, Copy, Debug)]
    pub enum WriteOneToClear {}

    /// Kinds that can be read.
    pub trait Readable {}
    impl Readable for ReadOnly {}
    impl Readable for ReadWrite {}
    impl Readable for WriteOneToClear {}

    /// Kinds that take any value.
    pub trait Writable {}
    impl Writable for ReadWrite {}
    impl Writable for WriteOnly {}
}

/// One register: where it is, what it holds, and how it may be used.
pub struct Register<V, A> {
    offset: u64,
    kind: PhantomData<(V, A)>,
}

impl<V, A> core::fmt::Debug for Register<V, A> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Register({:#x})", self.offset)
    }
}

impl<V, A> Clone for Register<V, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V, A> Copy for Register<V, A> {}

impl<V: Value, A> Register<V, A> {
    /// The register at `offset` bytes from the unit's base; naturally aligned.
    pub(crate) const fn at(offset: u64) -> Self {
        assert!(offset.is_multiple_of(size_of::<V::Word>() as u64), "a register is naturally aligned");
        Self { offset, kind: PhantomData }
    }

    /// Bytes from the unit's base.
    pub const fn offset(self) -> u64 {
        self.offset
    }
}

/// The registers of one unit behind typed access.
#[derive(Debug)]
pub struct Window<R> {
    registers: R,
}

impl<R: Registers> Window<R> {
    /// Around the door to one unit's registers.
    pub const fn new(registers: R) -> Self {
        Self { registers }
    }

    /// The window's size in bytes.
    pub fn size(&self) -> u64 {
        self.registers.size()
    }

    /// Reads a register.
    pub fn read<V: Value, A: access::Readable>(&self, register: Register<V, A>) -> V {
        V::from_word(V::Word::read(&self.registers, register.offset))
    }

    /// Writes a register.
    pub fn write<V: Value, A: access::Writable>(&self, register: Register<V, A>, value: V) {
        V::Word::write(&self.registers, register.offset, value.into_word());
    }

    /// Clears the bits of a write-one-to-clear register that are set in `value`.
    pub fn clear<V: Value>(&self, register: Register<V, access::WriteOneToClear>, value: V) {
        V::Word::write(&self.registers, register.offset, value.into_word());
    }
}
