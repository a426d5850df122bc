//! Copies of the operands in the order in which the tiles read them.
//!
//! All arithmetics read 32-bit words. A word is an f32, or a pair of bf16 that follow each other along the depth. The
//! left operand is copied row by row, or read where it lies. The right one comes in panels of 32 columns: word `k` of all columns, then word
//! `k + 1`. Words beyond the end of the depth are zero.

use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtepu16_epi32, _mm512_loadu_si512, _mm512_slli_epi32};

use super::operands::{Matrix, Numbers};
use crate::Threads;
use crate::lanes::{LANES, NO_WORDS, Words, load};
use crate::memory::Spare;
use crate::pack::transpose;
use crate::threads::parallel;

/// The number of columns of a panel, and of their registers.
pub(crate) const COLUMNS: usize = 32;
pub(crate) const WIDTH: usize = COLUMNS / LANES;

/// The largest number of words of a block of the depth.
pub(crate) const DEPTH: usize = 320;

/// A row of the left operand. It is longer than a block, so that rows do not share the same places of the first cache.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Row(pub(crate) [u32; DEPTH + LANES]);

/// A panel of the right operand.
pub(crate) type Panel = [[Words; WIDTH]];

/// What a word holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// An f32, or a bf16 that became an f32.
    Single,
    /// Two bf16.
    Pair,
}

impl Word {
    /// The number of elements in a word.
    pub(crate) fn elements(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Pair => 2,
        }
    }

    /// The number of words for this many elements.
    pub(crate) fn count(self, elements: usize) -> usize {
        elements.div_ceil(self.elements())
    }
}

/// Copies elements as words. The rest of `to` becomes zero.
#[inline]
pub(crate) fn words(from: Numbers<'_>, word: Word, to: &mut [u32]) {
    let used = match from {
        Numbers::F32(from) => {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_bits());
            from.len()
        }
        Numbers::Bf16(from) if word == Word::Single => {
            to.iter_mut().zip(from).for_each(|(to, &from)| *to = u32::from(from) << 16);
            from.len()
        }
        Numbers::Bf16(from) => {
            let (pairs, odd) = from.as_chunks::<2>();
            let pair = |&[low, high]: &[u16; 2]| u32::from(low) | u32::from(high) << 16;
            to.iter_mut().zip(pairs).for_each(|(to, from)| *to = pair(from));
            if let (Some(to), Some(&last)) = (to.get_mut(pairs.len()), odd.first()) {
                *to = u32::from(last);
            }
            from.len().div_ceil(2)
        }
    };
    to[used..].fill(0);
}

/// A part of the depth.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// Its first word, and the number of its words, a multiple of 16.
    pub(crate) first: usize,
    pub(crate) len: usize,
}

impl Span {
    /// Equal parts of `words` words, of at most `limit`.
    pub(crate) fn all(words: usize, limit: usize) -> impl Iterator<Item = Self> {
        let parts = words.div_ceil(limit).max(1);
        let len = words.div_ceil(parts).next_multiple_of(LANES);
        (0..words)
            .step_by(len)
            .map(move |first| Self { first, len: len.min((words - first).next_multiple_of(LANES)) })
    }
}

/// The elements of row `row` in a part of the depth, as words.
pub(crate) fn pack_row(to: &mut [u32], matrix: &Matrix<'_>, row: usize, word: Word, span: Span) {
    let from = span.first * word.elements();
    let len = (span.len * word.elements()).min(matrix.depth - from);
    words(matrix.part(row, from, len), word, &mut to[..span.len]);
}

/// Memory of the last packed matrix.
static SPARE: Spare<[Words; WIDTH]> = Spare::new();

/// All rows of a matrix as the columns of panels.
#[derive(Debug)]
pub(crate) struct Packed {
    panels: Vec<[Words; WIDTH]>,
    /// The number of words of a panel, a multiple of 16.
    words: usize,
}

impl Packed {
    /// Packs a matrix.
    ///
    /// # Safety
    /// The machine must have AVX-512.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn new(threads: &dyn Threads, matrix: &Matrix<'_>, word: Word) -> Self {
        let words = word.count(matrix.depth).next_multiple_of(LANES);
        let mut panels = SPARE.take();
        let len = matrix.rows.div_ceil(COLUMNS) * words;
        panels.resize(panels.len().max(len), [NO_WORDS; WIDTH]);
        let pieces = panels[..len].chunks_mut(words).enumerate().flat_map(|(at, panel)| {
            let piece = move |(piece, to)| (at * COLUMNS, piece * DEPTH, to);
            panel.chunks_mut(DEPTH).enumerate().map(piece)
        });
        parallel(
            threads,
            pieces,
            || (),
            |(), (row, first, to)| {
                let span = Span { first, len: to.len() };
                // SAFETY: the caller's promise.
                unsafe { pack_rows(to, matrix, row, word, span) }
            },
        );
        Self { panels, words }
    }

    /// A part of the depth of the panel that starts with this column.
    pub(crate) fn panel(&self, column: usize, span: Span) -> &Panel {
        &self.panels[column / COLUMNS * self.words + span.first..][..span.len]
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        SPARE.keep(&mut self.panels);
    }
}

/// Packs rows `first .. first + 32` of a matrix as the columns of a panel. Columns beyond the last row are zero.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn pack_rows(panel: &mut Panel, matrix: &Matrix<'_>, first: usize, word: Word, span: Span) {
    for line in 0..WIDTH {
        let first = first + line * LANES;
        let row = |j| (first + j < matrix.rows).then(|| matrix.part(first + j, 0, matrix.depth));
        let rows: [_; LANES] = std::array::from_fn(row);
        for (from, to) in (span.first..).step_by(LANES).zip(panel.chunks_mut(LANES)) {
            let part = rows.map(|row| row.map_or(NO_WORDS, |row| read(row, from, word)));
            to.iter_mut().zip(transpose(part)).for_each(|(to, column)| to[line] = column);
        }
    }
}

/// Words `from .. from + 16` of a row. Those beyond its end are zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn read(row: Numbers<'_>, from: usize, word: Word) -> Words {
    let from = from * word.elements();
    let row = row.part(from, (LANES * word.elements()).min(row.len() - from));
    // SAFETY: 64 bytes of 16 f32 or 32 bf16, or 32 bytes of 16 bf16.
    #[allow(unsafe_code)]
    unsafe {
        match (row, word) {
            (Numbers::F32(row), _) if row.len() == LANES => return _mm512_loadu_si512(row.as_ptr().cast()),
            (Numbers::Bf16(row), Word::Pair) if row.len() == 2 * LANES => {
                return _mm512_loadu_si512(row.as_ptr().cast());
            }
            (Numbers::Bf16(row), Word::Single) if row.len() == LANES => {
                let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(row.as_ptr().cast()));
                return _mm512_slli_epi32::<16>(halves);
            }
            _ => {}
        }
    }
    let mut rest = [0; LANES];
    words(row, word, &mut rest);
    load(&rest, 0)
}
