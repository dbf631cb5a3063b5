//! Text on a linear framebuffer: 8 x 16 pixels a character, no scrolling. The lines go round: the one below the newest
//! is blank. Moving a whole screen of pixels for each line would cost more than everything else at boot.

use font8x8::legacy::BASIC_LEGACY;
use handoff::Framebuffer;

use crate::memory::Mmio;

/// Pixels of a character.
const WIDTH: usize = 8;
const HEIGHT: usize = 16;
const BYTES: usize = 4;

/// Light grey; the same in both orders of colours.
const FOREGROUND: u32 = 0x00c0_c0c0;

/// A screen of text.
pub(super) struct Screen {
    window: Mmio,
    /// Bytes from one row of pixels to the next.
    stride: usize,
    /// Bytes of a row that are seen.
    row: usize,
    columns: usize,
    lines: usize,
    line: usize,
    column: usize,
}

impl Screen {
    /// Takes over a framebuffer that is mapped as `window`; `None` where it is too small for text or its numbers do
    /// not fit together.
    pub(super) fn new(window: Mmio, framebuffer: &Framebuffer) -> Option<Self> {
        let (width, height) = (framebuffer.width as usize, framebuffer.height as usize);
        let stride = framebuffer.stride as usize;
        let size = stride.checked_mul(height)?.checked_mul(BYTES)?;
        let (columns, lines) = (width / WIDTH, height / HEIGHT);
        // Pixels are written two at a time.
        if stride < width || !stride.is_multiple_of(2) || (size as u64) > window.length() || columns < 40 || lines < 4 {
            return None;
        }
        let (stride, row) = (stride * BYTES, columns * WIDTH * BYTES);
        let mut screen = Self { window, stride, row, columns, lines, line: 0, column: 0 };
        screen.clear_line(0);
        screen.clear_line(1);
        Some(screen)
    }

    /// Writes text; what is not ASCII is written as `?`.
    pub(super) fn write(&mut self, text: &str) {
        for character in text.chars() {
            if character == '\n' {
                self.new_line();
                continue;
            }
            if self.column == self.columns {
                self.new_line();
            }
            self.draw(character);
            self.column += 1;
        }
    }

    fn new_line(&mut self) {
        self.line = (self.line + 1) % self.lines;
        self.column = 0;
        self.clear_line((self.line + 1) % self.lines);
    }

    fn clear_line(&mut self, line: usize) {
        for row in line * HEIGHT..(line + 1) * HEIGHT {
            self.window.clear((row * self.stride) as u64, self.row / 8);
        }
    }

    fn draw(&mut self, character: char) {
        let glyph = glyph(character);
        let start = self.line * HEIGHT * self.stride + self.column * WIDTH * BYTES;
        // What is blank was cleared already. The font is 8 x 8: each row is drawn twice.
        for (row, bits) in glyph.into_iter().enumerate().filter(|(_, bits)| *bits != 0) {
            let pixels = [bits, bits >> 2, bits >> 4, bits >> 6].map(pair);
            for row in [row * 2, row * 2 + 1] {
                self.window.write_all_u64((start + row * self.stride) as u64, &pixels);
            }
        }
    }
}

/// Two pixels: the left one is bit 0.
fn pair(bits: u8) -> u64 {
    const BOTH: u64 = FOREGROUND as u64 | (FOREGROUND as u64) << 32;
    const PAIRS: [u64; 4] = [0, FOREGROUND as u64, (FOREGROUND as u64) << 32, BOTH];
    let [none, left, right, both] = PAIRS;
    match bits & 3 {
        0 => none,
        1 => left,
        2 => right,
        _ => both,
    }
}

/// A character's rows, the leftmost pixel in bit 0.
fn glyph(character: char) -> [u8; 8] {
    let known = |character: char| BASIC_LEGACY.get(character as usize).copied();
    known(character).or_else(|| known('?')).unwrap_or([0xff; 8])
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;

    use super::*;

    const SHAPE: Framebuffer = Framebuffer { address: 1 << 31, width: 322, height: 70, stride: 324, format: 0 };

    fn screen() -> (Screen, Mmio) {
        let memory = Box::leak(vec![0x1111_1111_1111_1111u64; 324 * 70 / 2].into_boxed_slice());
        let length = memory.len() as u64 * 8;
        // SAFETY: leaked, aligned, and only reached through the window.
        let window = unsafe { Mmio::new(NonNull::from(memory).cast(), length) };
        (Screen::new(window, &SHAPE).unwrap(), window)
    }

    /// What the pixels of a cell show, as the glyph that they are.
    fn cell(window: &Mmio, column: usize, line: usize) -> Option<[u8; 8]> {
        let mut rows = [0; 8];
        for row in 0..16 {
            let mut bits = 0;
            for pixel in 0..8 {
                match window.read_u32((((line * 16 + row) * 324 + column * 8 + pixel) * 4) as u64) {
                    0 => {}
                    FOREGROUND => bits |= 1 << pixel,
                    _ => return None,
                }
            }
            rows[row / 2] = bits;
        }
        Some(rows)
    }

    #[test]
    fn text_is_drawn_wraps_and_goes_round() {
        let (mut screen, window) = screen();
        screen.write("Hi\u{e9}");
        assert_eq!(cell(&window, 0, 0), Some(glyph('H')));
        assert_eq!(cell(&window, 1, 0), Some(glyph('i')));
        assert_eq!(cell(&window, 2, 0), Some(glyph('?')));
        assert_eq!(cell(&window, 3, 0), Some([0; 8]));
        assert_eq!(cell(&window, 0, 2), None, "not cleared yet");
        screen.write(&"x".repeat(40 - 3 + 1));
        assert_eq!(cell(&window, 0, 1), Some(glyph('x')), "the 41st character is on the next line");
        screen.write("\n\n\nA");
        assert_eq!(cell(&window, 0, 0), Some(glyph('A')));
        assert_eq!(cell(&window, 0, 1), Some([0; 8]), "the line below the newest is blank");
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let (_, window) = screen();
        for wrong in [
            Framebuffer { height: 1000, ..SHAPE },
            Framebuffer { height: u32::MAX, stride: u32::MAX - 1, ..SHAPE },
            Framebuffer { width: 330, ..SHAPE },
            Framebuffer { width: 100, ..SHAPE },
            Framebuffer { height: 40, ..SHAPE },
            Framebuffer { stride: 323, ..SHAPE },
        ] {
            assert!(Screen::new(window, &wrong).is_none(), "{wrong:?}");
        }
    }
}
