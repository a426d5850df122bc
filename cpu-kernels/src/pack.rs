//! Copies of queries, keys and values in the order in which [`product`](crate::tile::product) reads them.
//!
//! Keys and values come in panels of 64 keys. The last panel has only as many registers of 16 keys as it needs.
//! Places beyond the last key, row or element are zero.

use std::arch::x86_64::{
    _mm512_max_ps, _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_setzero_ps, _mm512_shuffle_i32x4,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use crate::element::Element;
use crate::lanes::{LANES, Words, load, numbers};
use crate::typed::Typed;

/// The number of keys in a panel, and the number of their registers.
pub(crate) const PANEL: usize = 64;
pub(crate) const WIDTH: usize = PANEL / LANES;

/// The sizes of which packed operands have multiples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grain {
    /// Words of a row.
    pub(crate) words: usize,
    /// Registers of columns.
    pub(crate) registers: usize,
}

impl Grain {
    /// Operands of [`product`](crate::tile::product).
    pub(crate) const REGISTERS: Self = Self { words: 1, registers: 1 };
    /// Operands of [`Tiles::product`](crate::amx::Tiles::product).
    pub(crate) const TILES: Self = Self { words: LANES, registers: 2 };
}

/// One panel of `n` keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panel {
    /// The panel's number.
    pub(crate) at: usize,
    /// The number of its keys.
    pub(crate) len: usize,
    /// The number of registers of columns.
    pub(crate) width: usize,
}

impl Panel {
    /// The panel of this number.
    pub(crate) fn new(at: usize, len: usize, grain: Grain) -> Self {
        Self { at, len, width: len.div_ceil(LANES).next_multiple_of(grain.registers) }
    }

    /// The panels of keys `0 .. n`.
    pub(crate) fn all(n: usize, grain: Grain) -> impl Iterator<Item = Self> {
        (0..n.div_ceil(PANEL)).map(move |at| Self::new(at, PANEL.min(n - at * PANEL), grain))
    }

    /// Its first key.
    pub(crate) fn first(self) -> usize {
        self.at * PANEL
    }

    /// The columns of a register that are keys.
    pub(crate) fn mask(self, register: usize) -> u16 {
        let keys = self.len.saturating_sub(register * LANES).min(LANES);
        ((1u32 << keys) - 1) as u16
    }

    /// The columns of the last register that are keys.
    pub(crate) fn last(self) -> u16 {
        self.mask(self.width - 1)
    }
}

/// The number of words in a row of `dim` elements.
pub(crate) fn depth<E: Element>(dim: usize) -> usize {
    dim.div_ceil(E::IN_WORD)
}

/// Packs rows `start .. start + len` of one head, and zeros into the rows that remain.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) fn pack_rows<'a, E: Element>(
    rows: impl Iterator<Item = &'a mut E::Row>,
    heads: &Typed<'_, E>,
    head: (usize, usize),
    start: usize,
    len: usize,
) {
    for (i, to) in rows.enumerate() {
        pack_row(to, heads, head, if i < len { Some(start + i) } else { None });
    }
}

/// One row, or zeros if it does not exist.
#[inline]
fn pack_row<E: Element>(to: &mut E::Row, heads: &Typed<'_, E>, (b, h): (usize, usize), row: Option<usize>) {
    E::copy(row.map_or(&[], |row| heads.row(b, h, row)), to);
}

/// Packs the keys of one panel as `[words, width]` registers, with one column for each key. Returns the square of
/// the longest key's length.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) fn pack_keys<E: Element>(
    columns: &mut [Words],
    heads: &Typed<'_, E>,
    head: (usize, usize),
    panel: Panel,
) -> f32 {
    let mut longest = _mm512_setzero_ps();
    for line in 0..panel.width {
        let mut rows = [E::ZEROS; LANES];
        for (j, row) in rows.iter_mut().enumerate() {
            let key = line * LANES + j;
            pack_row(row, heads, head, if key < panel.len { Some(panel.first() + key) } else { None });
        }
        let mut squares = _mm512_setzero_ps();
        let depth = columns.len() / panel.width;
        for from in (0..depth).step_by(LANES) {
            let part = rows.each_ref().map(|row| load(row.as_ref(), from));
            let to = columns[from * panel.width..].chunks_mut(panel.width);
            for (column, to) in transpose(part).into_iter().zip(to) {
                // SAFETY: the features are those of this function.
                #[allow(unsafe_code)]
                unsafe {
                    squares = E::add_product(squares, column, column);
                }
                to[line] = column;
            }
        }
        longest = _mm512_max_ps(longest, squares);
    }
    _mm512_reduce_max_ps(longest)
}

/// Transposes 16 rows of 16 numbers. It exchanges pairs of rows, then pairs of these within quarters of 4, then the quarters.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose(rows: [Words; LANES]) -> [Words; LANES] {
    let mut by_two = rows;
    for i in (0..LANES).step_by(2) {
        by_two[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        by_two[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // by_four[4 g + c]: rows 4 g .. 4 g + 4 of columns c, 4 + c, 8 + c and 12 + c
    let mut by_four = by_two;
    for i in (0..LANES).step_by(4) {
        by_four[i] = _mm512_unpacklo_epi64(by_two[i], by_two[i + 2]);
        by_four[i + 1] = _mm512_unpackhi_epi64(by_two[i], by_two[i + 2]);
        by_four[i + 2] = _mm512_unpacklo_epi64(by_two[i + 1], by_two[i + 3]);
        by_four[i + 3] = _mm512_unpackhi_epi64(by_two[i + 1], by_two[i + 3]);
    }
    let mut columns = by_four;
    for c in 0..4 {
        let [p, q, r, s] = [by_four[c], by_four[4 + c], by_four[8 + c], by_four[12 + c]];
        // quarters 0 and 2, then 1 and 3, of both
        let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(p, q), _mm512_shuffle_i32x4::<0xdd>(p, q));
        let (even_after, odd_after) =
            (_mm512_shuffle_i32x4::<0x88>(r, s), _mm512_shuffle_i32x4::<0xdd>(r, s));
        columns[c] = _mm512_shuffle_i32x4::<0x88>(even, even_after);
        columns[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd, odd_after);
        columns[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even, even_after);
        columns[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd, odd_after);
    }
    columns
}

/// Packs the values of one panel as `[keys, registers]`. A row is a key or a pair of keys, and a column is an element of `dim`.
pub(crate) fn pack_values<E: Element>(
    columns: &mut [Words],
    heads: &Typed<'_, E>,
    (b, h): (usize, usize),
    panel: Panel,
) {
    let across = numbers(columns).len() / (panel.width * LANES / E::IN_WORD);
    for (t, columns) in numbers(columns).chunks_mut(across).enumerate() {
        let row = |at| if at < panel.len { heads.row(b, h, panel.first() + at) } else { &[] };
        E::copy_values([row(E::IN_WORD * t), row(E::IN_WORD * t + 1)], columns);
    }
}

/// The squared length of a row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) fn square<E: Element>(row: &E::Row) -> f32 {
    let mut sum = _mm512_setzero_ps();
    for from in (0..E::WORDS).step_by(LANES) {
        let words = load(row.as_ref(), from);
        // SAFETY: the features are those of this function.
        #[allow(unsafe_code)]
        unsafe {
            sum = E::add_product(sum, words, words);
        }
    }
    _mm512_reduce_add_ps(sum)
}
