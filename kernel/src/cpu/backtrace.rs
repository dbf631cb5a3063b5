//! Which functions led to an address: by frame pointers, and where their chain breaks, by what on the stack looks like
//! a return address.

use core::ops::Range;

/// As many frames as are reported.
const MOST: usize = 32;
/// As many words of the stack as are looked at where the chain of frame pointers ends early.
const SCAN: usize = 256;

/// One entry of a backtrace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// An address in a function, the one behind a call.
    pub(super) address: u64,
    /// Read from a frame; else it only looks like a return address.
    pub(super) certain: bool,
}

/// The memory of a stack. A word is read only if it lies in it.
pub(super) struct StackMemory<R: Fn(usize) -> u64> {
    /// The addresses that are mapped.
    pub(super) range: Range<usize>,
    /// Reads the word at an address inside of the range, aligned to 8.
    pub(super) read: R,
}

impl<R: Fn(usize) -> u64> StackMemory<R> {
    fn word(&self, address: u64) -> Option<u64> {
        let address = usize::try_from(address).ok()?;
        let end = address.checked_add(8)?;
        (address % 8 == 0 && address >= self.range.start && end <= self.range.end).then(|| (self.read)(address))
    }
}

/// Calls `report` for each function that led to where `rbp` and `rsp` were, innermost first.
pub(super) fn walk<R: Fn(usize) -> u64>(
    stack: &StackMemory<R>,
    rbp: u64,
    rsp: u64,
    is_code: impl Fn(u64) -> bool,
    mut report: impl FnMut(Entry),
) {
    let mut frame = rbp;
    // What lies below was pushed by frames that were reported.
    let mut top = rsp.max(stack.range.start as u64) & !7;
    let mut count = 0;
    while count < MOST {
        let link = frame.checked_add(8).and_then(|place| Some((stack.word(frame)?, stack.word(place)?)));
        match link {
            Some((next, address)) if frame >= top && is_code(address) => {
                report(Entry { address, certain: true });
                count += 1;
                top = frame + 16;
                frame = next;
            }
            _ => break,
        }
    }
    // The chain of a whole stack ends near the stack's start. Where it ends earlier, some function used RBP for
    // something else.
    for index in 0..SCAN {
        let Some(word) = top.checked_add(8 * index as u64).and_then(|place| stack.word(place)) else { return };
        if is_code(word) && count < MOST {
            report(Entry { address: word, certain: false });
            count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: usize = 0x1000;

    fn run(words: &[u64], rbp: u64, rsp: u64) -> Vec<(u64, bool)> {
        let memory = StackMemory { range: BASE..BASE + words.len() * 8, read: |address| words[(address - BASE) / 8] };
        let mut found = Vec::new();
        walk(
            &memory,
            rbp,
            rsp,
            |address| (0xc000..0xd000).contains(&address),
            |entry| {
                found.push((entry.address, entry.certain));
            },
        );
        found
    }

    #[test]
    fn frames_are_followed_to_the_end() {
        let words = [7, 0x1018, 0xc001, 0x1030, 0xc002, 0xc999, 0, 0xc003];
        assert_eq!(
            run(&words, 0x1008, 0x1000),
            [(0xc001, true)].into_iter().chain([(0xc002, true), (0xc003, true)]).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_broken_chain_is_scanned_and_marked() {
        let words = [0x5555, 0xc001, 1, 2, 0xc002, 3];
        assert_eq!(run(&words, 0x1000, 0x1000), [(0xc001, true), (0xc002, false)]);
        assert_eq!(run(&words, 0xdead_beef, 0x1010), [(0xc002, false)]);
    }

    #[test]
    fn loops_and_wild_pointers_end() {
        assert_eq!(run(&[0x1000, 0xc001], 0x1000, 0x1000), [(0xc001, true)], "a frame that leads to itself");
        assert_eq!(run(&[0, 0], u64::MAX - 3, u64::MAX), []);
        assert_eq!(run(&[0, 0xc001], 0, 0xf00), [(0xc001, false)], "the stack is used up: RSP is below it");
        assert_eq!(run(&[0xc001], 0x1001, 0x1004), [(0xc001, false)]);
        assert_eq!(run(&[0xc001; 400], 0, 0x1000).len(), MOST);
    }
}
