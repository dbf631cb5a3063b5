//! The brute-force record: a list of pieces, cut at every boundary, that says what a table should translate.

use std::vec::Vec;

use crate::paging::{Attributes, Permissions};

/// Bytes that are mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) output: u64,
    pub(crate) attributes: Attributes,
}

/// All that is mapped, in no order.
#[derive(Clone, Default)]
pub(crate) struct Record {
    pieces: Vec<Piece>,
}

impl Record {
    pub(crate) fn at(&self, address: u64) -> Option<(u64, Attributes)> {
        let piece = self.pieces.iter().find(|piece| piece.start <= address && address < piece.end)?;
        Some((piece.output + (address - piece.start), piece.attributes))
    }

    pub(crate) fn overlaps(&self, start: u64, end: u64) -> bool {
        self.pieces.iter().any(|piece| piece.start < end && start < piece.end)
    }

    pub(crate) fn map(&mut self, piece: Piece) {
        self.pieces.push(piece);
    }

    /// Forgets the range; returns how many bytes of it were mapped.
    pub(crate) fn unmap(&mut self, start: u64, end: u64) -> u64 {
        self.cut(start);
        self.cut(end);
        let (gone, left): (Vec<_>, Vec<_>) =
            self.pieces.iter().copied().partition(|piece| start <= piece.start && piece.end <= end);
        self.pieces = left;
        gone.iter().map(|piece| piece.end - piece.start).sum()
    }

    pub(crate) fn protect(&mut self, start: u64, end: u64, permissions: Permissions) {
        self.cut(start);
        self.cut(end);
        for piece in &mut self.pieces {
            if start <= piece.start && piece.end <= end {
                piece.attributes.permissions = permissions;
            }
        }
    }

    fn cut(&mut self, boundary: u64) {
        if let Some(piece) = self.pieces.iter_mut().find(|piece| piece.start < boundary && boundary < piece.end) {
            let upper = Piece { start: boundary, output: piece.output + (boundary - piece.start), ..*piece };
            piece.end = boundary;
            self.pieces.push(upper);
        }
    }

    /// The longest runs, in order.
    pub(crate) fn runs(&self) -> Vec<Piece> {
        let mut pieces = self.pieces.clone();
        pieces.sort_by_key(|piece| piece.start);
        let mut runs: Vec<Piece> = Vec::new();
        for piece in pieces {
            match runs.last_mut() {
                Some(run)
                    if run.end == piece.start
                        && run.output + (run.end - run.start) == piece.output
                        && run.attributes == piece.attributes =>
                {
                    run.end = piece.end;
                }
                _ => runs.push(piece),
            }
        }
        runs
    }
}
