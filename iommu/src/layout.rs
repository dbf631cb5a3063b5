//! How a hardware layout is written down: one table of named bit ranges, from which the accessors come.
//!
//! A layout that names a bit twice does not compile. Bits that no field names are reserved: accessors never touch them.

/// Declares a type over one word (`u32`, `u64` or `u128`) with named bit ranges, inclusive, `[high:low]` for a number
/// and `[bit]` for a flag. Each field gives a reader and a builder that returns the changed word; a number larger than
/// its field is cut to the field.
macro_rules! layout {
    (
        $(#[$doc:meta])*
        $visibility:vis struct $name:ident($word:ty) {
            $( $(#[$field_doc:meta])* $field:ident, $with:ident: [$high:literal $(: $low:literal)?]; )*
        }
    ) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, Default)]
        $visibility struct $name($word);

        impl $name {
            /// From the word as hardware has it.
            $visibility const fn from_bits(bits: $word) -> Self {
                Self(bits)
            }

            /// The word as hardware has it.
            $visibility const fn bits(self) -> $word {
                self.0
            }

            /// The bits that a field names; all others are reserved.
            $visibility const DEFINED: $word = {
                let mut defined: $word = 0;
                $(
                    let mask = layout!(@mask $word, $high $(, $low)?);
                    assert!(defined & mask == 0, "two fields share a bit");
                    defined |= mask;
                )*
                defined
            };

            $( layout!(@field $visibility, $(#[$field_doc])* $field, $with, $word, $high $(, $low)?); )*
        }

        const _: $word = $name::DEFINED;

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("bits", &format_args!("{:#x}", self.0))
                    $( .field(stringify!($field), &self.$field()) )*
                    .finish()
            }
        }

        #[cfg(test)]
        impl $name {
            /// Sets each field alone to all ones and to its lowest bit, and finds exactly that in the word and back.
            pub(crate) fn check_round_trip() {
                $( layout!(@check $name, $field, $with, $word, $high $(, $low)?); )*
            }
        }
    };
    (@mask $word:ty, $bit:literal) => { (1 as $word) << $bit };
    (@mask $word:ty, $high:literal, $low:literal) => {
        (<$word>::MAX >> (<$word>::BITS - 1 - ($high - $low))) << $low
    };
    (@field $visibility:vis, $(#[$doc:meta])* $field:ident, $with:ident, $word:ty, $bit:literal) => {
        $(#[$doc])*
        $visibility const fn $field(self) -> bool {
            self.0 & layout!(@mask $word, $bit) != 0
        }

        #[doc = concat!("The same word with [`", stringify!($field), "`](Self::", stringify!($field), ") changed.")]
        $visibility const fn $with(self, value: bool) -> Self {
            let mask = layout!(@mask $word, $bit);
            Self(if value { self.0 | mask } else { self.0 & !mask })
        }
    };
    (@field $visibility:vis, $(#[$doc:meta])* $field:ident, $with:ident, $word:ty, $high:literal, $low:literal) => {
        $(#[$doc])*
        $visibility const fn $field(self) -> $word {
            (self.0 & layout!(@mask $word, $high, $low)) >> $low
        }

        #[doc = concat!("The same word with [`", stringify!($field), "`](Self::", stringify!($field), ") changed.")]
        $visibility const fn $with(self, value: $word) -> Self {
            let mask = layout!(@mask $word, $high, $low);
            Self(self.0 & !mask | (value << $low) & mask)
        }
    };
    (@check $name:ident, $field:ident, $with:ident, $word:ty, $bit:literal) => {
        assert_eq!($name::default().$with(true).bits(), 1 << $bit, stringify!($field));
        assert!($name::default().$with(true).$field(), stringify!($field));
        assert_eq!($name::from_bits(<$word>::MAX).$with(false).bits(), !(1 << $bit), stringify!($field));
        assert!(!$name::from_bits(!(1 << $bit)).$field(), stringify!($field));
    };
    (@check $name:ident, $field:ident, $with:ident, $word:ty, $high:literal, $low:literal) => {
        let mask = layout!(@mask $word, $high, $low);
        assert_eq!($name::default().$with(<$word>::MAX).bits(), mask, stringify!($field));
        assert_eq!($name::default().$with(1).bits(), 1 << $low, stringify!($field));
        assert_eq!($name::from_bits(mask).$field(), mask >> $low, stringify!($field));
        assert_eq!($name::from_bits(<$word>::MAX).$with(0).bits(), !mask, stringify!($field));
        assert_eq!($name::from_bits(!mask).$field(), 0, stringify!($field));
    };
}

pub(crate) use layout;

#[cfg(test)]
mod tests {
    layout! {
        /// A sample.
        pub(crate) struct Sample(u32) {
            /// One bit.
            flag, with_flag: [31];
            /// Five bits.
            number, with_number: [8:4];
        }
    }

    #[test]
    fn fields_round_trip_and_leave_the_rest_alone() {
        Sample::check_round_trip();
        assert_eq!(Sample::DEFINED, 0x8000_01f0);
        let sample = Sample::from_bits(0x7fff_fe0f).with_number(0x3f).with_flag(true);
        assert_eq!(sample.bits(), 0xffff_ffff, "a number too large is cut to its field");
        assert_eq!(sample.number(), 0x1f);
    }
}
