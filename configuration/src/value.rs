//! Reading one value by serde: the type says what belongs here, the error is the rule that the value breaks.
//!
//! TOML's own deserializer gives its errors as text. This one gives them as a [`Rule`], so that a mistake in a value
//! comes with a remedy. Tables and arrays are not read by it but walked ([`crate::read`]): serde would stop at the
//! first mistake in them.

use alloc::borrow::ToOwned;
use alloc::string::ToString;
use core::fmt;

use serde::de::{Deserializer, Error, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use toml::de::DeValue;

use crate::problem::Rule;

/// A value that serde reads: a string, a whole number, a truth value, or a word that stands for a variant.
pub(crate) struct Value<'de>(pub(crate) DeValue<'de>);

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = Rule;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Rule> {
        match &self.0 {
            DeValue::String(_) => self.deserialize_string(visitor),
            DeValue::Integer(_) => self.deserialize_u32(visitor),
            DeValue::Boolean(_) => self.deserialize_bool(visitor),
            other => Err(wrong_type("a single value", other)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Rule> {
        match self.0 {
            DeValue::String(text) => visitor.visit_string(text.into_owned()),
            other => Err(wrong_type("a string", &other)),
        }
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Rule> {
        match self.0 {
            DeValue::Integer(integer) => match u32::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(number) => visitor.visit_u32(number),
                Err(_) => Err(Rule::OutOfRange { low: 0, high: u32::MAX }),
            },
            other => Err(wrong_type("a whole number", &other)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Rule> {
        match self.0 {
            DeValue::Boolean(value) => visitor.visit_bool(value),
            other => Err(wrong_type("true or false", &other)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Rule> {
        match self.0 {
            DeValue::String(word) => visitor.visit_enum((&*word).into_deserializer()),
            other => Err(wrong_type("a string", &other)),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u64 u128 f32 f64 char str bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

impl core::error::Error for Rule {}

impl Error for Rule {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Refused(message.to_string())
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::UnknownWord { found: word.to_owned(), known: known.to_vec() }
    }
}

/// What is wrong with a value of this type where another is `expected`.
pub(crate) fn wrong_type(expected: &'static str, found: &DeValue<'_>) -> Rule {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    Rule::WrongType { expected, found }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use serde::Deserialize;

    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Rule> {
        T::deserialize(Value(DeValue::parse(text).unwrap().into_inner()))
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Word {
        One,
        TwoParts,
    }

    #[test]
    fn values_of_the_right_type_are_read() {
        assert_eq!(read("'two words'"), Ok(String::from("two words")));
        assert_eq!([read("0"), read("0xFF"), read("4_294_967_295")], [Ok(0), Ok(255_u32), Ok(u32::MAX)]);
        assert_eq!(read("true"), Ok(true));
        assert_eq!([read("\"one\""), read("'two-parts'")], [Ok(Word::One), Ok(Word::TwoParts)]);
    }

    #[test]
    fn what_is_wrong_with_a_value_is_a_rule() {
        let wrong = |expected, found| Rule::WrongType { expected, found };
        assert_eq!(read::<String>("1"), Err(wrong("a string", "a whole number")));
        assert_eq!(read::<u32>("1.0"), Err(wrong("a whole number", "a number with a fraction")));
        assert_eq!(read::<bool>("[]"), Err(wrong("true or false", "an array")));
        assert_eq!(read::<Word>("{ one = 1 }"), Err(wrong("a string", "a table")));
        assert_eq!(
            read::<Word>("'One'"),
            Err(Rule::UnknownWord { found: "One".into(), known: ["one", "two-parts"].into() })
        );
        for text in ["-1", "4294967296", "0x1_0000_0000"] {
            assert_eq!(read::<u32>(text), Err(Rule::OutOfRange { low: 0, high: u32::MAX }), "{text}");
        }
    }

    #[test]
    fn a_type_that_is_not_of_the_configuration_is_refused_with_words() {
        let Err(Rule::Refused(message)) = read::<char>("7") else { panic!("a number is no character") };
        assert!(message.contains("integer `7`"), "{message}");
        assert!(matches!(read::<f64>("1979-05-27"), Err(Rule::WrongType { .. })));
    }
}
