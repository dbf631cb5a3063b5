//! Reading TOML tables without giving up at the first mistake. Their values are read by serde, one by one
//! ([`crate::value`]).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::position::{Placed, Position};
use crate::problem::{Problem, Rule};
use crate::value::{Value, wrong_type};

/// The problems found so far, and the text that they are in.
pub(crate) struct Notes<'t> {
    text: &'t str,
    problems: Vec<Problem>,
    /// Lines that are not TOML: what else is said of them may be a mere consequence.
    broken: Vec<u32>,
}

impl<'t> Notes<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, problems: Vec::new(), broken: Vec::new() }
    }

    /// The text is not TOML at `span`, or somewhere, if that is `None`.
    pub(crate) fn syntax(&mut self, span: Option<Range<usize>>, message: &str) {
        let span = span.unwrap_or_default();
        let position = self.position(span.start);
        self.broken.push(position.line);
        let rule = match self.text.get(span) {
            Some(key) if message == "duplicate key" => Rule::KeyTwice(key.to_owned()),
            _ => Rule::Syntax(message.to_owned()),
        };
        self.problems.push(Problem::new(position, "the configuration".to_owned(), rule));
    }

    /// Something at the byte `offset` breaks a rule.
    pub(crate) fn problem(&mut self, offset: usize, thing: &str, rule: Rule) {
        let position = self.position(offset);
        self.problem_at(position, thing, rule);
    }

    /// Something at `position` breaks a rule.
    pub(crate) fn problem_at(&mut self, position: Position, thing: &str, rule: Rule) {
        if !self.broken.contains(&position.line) {
            self.problems.push(Problem::new(position, thing.to_owned(), rule));
        }
    }

    /// Something that belongs into the table at the byte `offset` is not there. Not worth a word where the text is not
    /// TOML: it may stand in the part that could not be read.
    pub(crate) fn missing(&mut self, offset: usize, thing: &str, rule: Rule) {
        if self.broken.is_empty() {
            self.problem(offset, thing, rule);
        }
    }

    /// Whether all of the text is TOML.
    pub(crate) fn is_toml(&self) -> bool {
        self.broken.is_empty()
    }

    pub(crate) fn position(&self, offset: usize) -> Position {
        Position::of(self.text, offset)
    }

    /// The value, if nothing was wrong; else the problems in the order of their places.
    pub(crate) fn finish<T>(mut self, value: Option<T>) -> Result<T, Vec<Problem>> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => {
                self.problems.sort_by_key(|problem| (problem.line, problem.column));
                self.problems.dedup();
                if self.problems.is_empty() {
                    // Nothing was said, yet nothing was read: the reader has a gap. Refuse all the same.
                    self.syntax(None, "the file could not be read");
                }
                Err(self.problems)
            }
        }
    }
}

/// A table of the file while its keys are read, one after the other.
pub(crate) struct Section<'t, 'n, 'i> {
    /// What the table is, for messages.
    thing: String,
    /// Where it begins, in bytes.
    start: usize,
    table: DeTable<'i>,
    notes: &'n mut Notes<'t>,
    known: Vec<&'static str>,
}

/// A value with its place in bytes and the words for it in messages.
pub(crate) struct Item<'i> {
    pub(crate) value: DeValue<'i>,
    pub(crate) offset: usize,
    pub(crate) thing: String,
}

impl<'t, 'n, 'i> Section<'t, 'n, 'i> {
    pub(crate) fn new(thing: impl Into<String>, start: usize, table: DeTable<'i>, notes: &'n mut Notes<'t>) -> Self {
        Self { thing: thing.into(), start, table, notes, known: Vec::new() }
    }

    /// A section from a value that must be a table.
    pub(crate) fn of(item: Item<'i>, notes: &'n mut Notes<'t>) -> Option<Self> {
        match item.value {
            DeValue::Table(table) => Some(Self::new(item.thing, item.offset, table, notes)),
            other => {
                notes.problem(item.offset, &item.thing, wrong_type("a table", &other));
                None
            }
        }
    }

    pub(crate) fn thing(&self) -> &str {
        &self.thing
    }

    pub(crate) fn start(&self) -> usize {
        self.start
    }

    pub(crate) fn notes(&mut self) -> &mut Notes<'t> {
        self.notes
    }

    /// Changes what messages call the table.
    pub(crate) fn rename(&mut self, thing: String) {
        self.thing = thing;
    }

    /// What messages call this key.
    pub(crate) fn name_of(&self, key: &str) -> String {
        format!("{}, {key}", self.thing)
    }

    /// Takes the value of `key`, if it is there.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Item<'i>> {
        self.known.push(key);
        let value = self.table.remove(key)?;
        Some(Item { offset: value.span().start, value: value.into_inner(), thing: self.name_of(key) })
    }

    /// Takes the value of `key`, and complains if it is not there.
    pub(crate) fn require(&mut self, key: &'static str, example: &'static str) -> Option<Item<'i>> {
        let item = self.take(key);
        if item.is_none() {
            let thing = self.name_of(key);
            self.notes.missing(self.start, &thing, Rule::MissingKey { example });
        }
        item
    }

    /// A value of a type that serde knows how to read; `None` if absent or wrong.
    pub(crate) fn read<T: Deserialize<'i>>(&mut self, key: &'static str) -> Option<Placed<T>> {
        let item = self.take(key)?;
        item.read(self.notes)
    }

    /// An array's elements; `None` if absent or wrong.
    pub(crate) fn array(&mut self, key: &'static str) -> Option<Vec<Item<'i>>> {
        let item = self.take(key)?;
        item.array(self.notes)
    }

    /// Complains of every key that nobody asked for.
    pub(crate) fn no_more_keys(mut self) {
        for (key, _) in core::mem::take(&mut self.table) {
            let thing = self.name_of(&format!("`{}`", key.get_ref()));
            self.notes.problem(key.span().start, &thing, Rule::UnknownKey { known: self.known.clone() });
        }
    }
}

impl<'i> Item<'i> {
    /// The value, by serde; `None` if it is wrong.
    pub(crate) fn read<T: Deserialize<'i>>(self, notes: &mut Notes<'_>) -> Option<Placed<T>> {
        self.read_as(Ok, notes)
    }

    /// What `check` makes of the value that serde reads; `None` if either finds it wrong.
    pub(crate) fn read_as<W: Deserialize<'i>, T>(
        self,
        check: impl FnOnce(W) -> Result<T, Rule>,
        notes: &mut Notes<'_>,
    ) -> Option<Placed<T>> {
        match W::deserialize(Value(self.value)).and_then(check) {
            Ok(value) => Some(Placed { value, position: notes.position(self.offset) }),
            Err(rule) => {
                notes.problem(self.offset, &self.thing, rule);
                None
            }
        }
    }

    pub(crate) fn array(self, notes: &mut Notes<'_>) -> Option<Vec<Item<'i>>> {
        match self.value {
            DeValue::Array(array) => Some(elements(array, &self.thing)),
            other => {
                notes.problem(self.offset, &self.thing, wrong_type("an array", &other));
                None
            }
        }
    }
}

fn elements<'i>(array: DeArray<'i>, thing: &str) -> Vec<Item<'i>> {
    array
        .into_iter()
        .map(|element: Spanned<DeValue<'i>>| Item {
            offset: element.span().start,
            value: element.into_inner(),
            thing: thing.to_string(),
        })
        .collect()
}
