//! Where something stands in the text.

use core::fmt;
use core::ops::Deref;

/// A place in the configuration's text, as editors count: both numbers begin at 1, columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl Position {
    /// The place of the byte at `offset`; past the end, the end.
    pub(crate) fn of(text: &str, offset: usize) -> Self {
        let before = text.char_indices().take_while(|(index, _)| *index < offset).map(|(_, character)| character);
        let mut position = Self { line: 1, column: 1 };
        for character in before {
            if character == '\n' {
                position.line = position.line.saturating_add(1);
                position.column = 1;
            } else {
                position.column = position.column.saturating_add(1);
            }
        }
        position
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// A value and the place that it was read from, for complaints that come later. Reads like the value itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub position: Position,
}

impl<T> Deref for Placed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Display> fmt::Display for Placed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_characters_from_one() {
        let text = "ab\nä\u{1F980}c\n";
        let place = |offset| {
            let position = Position::of(text, offset);
            (position.line, position.column)
        };
        assert_eq!(place(0), (1, 1));
        assert_eq!(place(2), (1, 3));
        assert_eq!(place(3), (2, 1));
        assert_eq!(place(text.find('c').unwrap()), (2, 3));
        assert_eq!(place(text.len()), (3, 1));
        assert_eq!(place(1000), (3, 1));
    }
}
