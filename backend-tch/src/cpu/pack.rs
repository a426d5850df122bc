//! Copies of queries, keys and values in the order in which [`product`](super::tile::product) reads them.
//!
//! Keys and values come in panels of 64 keys, the last one with as many registers of 16 as it needs; what is beyond the
//! last key, row or element is zero.

use super::heads::Heads;
use super::pool::parallel;
use super::tile::{LANES, NO_PAIRS, PAIRS, Pairs, ROWS, Tile, numbers};

/// Keys of a panel, and their registers.
pub(super) const PANEL: usize = 64;
pub(super) const WIDTH: usize = PANEL / LANES;

/// One panel of `n` keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panel {
    /// Its number.
    pub(super) at: usize,
    /// Its keys.
    pub(super) len: usize,
}

impl Panel {
    /// The panels of keys `0 .. n`.
    pub(super) fn all(n: usize) -> impl Iterator<Item = Self> {
        (0..n.div_ceil(PANEL)).map(move |at| Self { at, len: PANEL.min(n - at * PANEL) })
    }

    /// Its first key.
    pub(super) fn first(self) -> usize {
        self.at * PANEL
    }

    /// Registers of columns.
    pub(super) fn width(self) -> usize {
        self.len.div_ceil(LANES)
    }

    /// The columns of the last register that are keys.
    pub(super) fn last(self) -> u16 {
        u16::MAX >> (self.width() * LANES - self.len)
    }
}

/// Pairs in a row of `dim` elements.
pub(super) fn pairs(dim: usize) -> usize {
    dim.div_ceil(2)
}

/// Rows `start .. start + len` of one head as tiles, of which there must be enough.
pub(super) fn pack_rows(
    tiles: &mut [Tile],
    heads: &Heads<'_>,
    (b, h): (usize, usize),
    start: usize,
    len: usize,
) {
    for (at, tile) in tiles.iter_mut().enumerate() {
        for (r, packed) in tile.0.iter_mut().enumerate() {
            let row = at * ROWS + r;
            let row = if row < len { heads.row(b, h, start + row) } else { &[] };
            let (whole, rest) = row.as_chunks::<2>();
            packed[whole.len()..].fill(0);
            packed.iter_mut().zip(whole).for_each(|(packed, &[low, high])| *packed = pair(low, high));
            if let (&[last], Some(packed)) = (rest, packed.get_mut(whole.len())) {
                *packed = pair(last, 0);
            }
        }
    }
}

/// Keys of one panel: `[pairs, width]` registers, one column a key.
pub(super) fn pack_keys(columns: &mut [Pairs], heads: &Heads<'_>, (b, h): (usize, usize), panel: Panel) {
    let across = panel.width() * LANES;
    let columns = numbers(columns);
    for (j, key) in (panel.first()..panel.first() + panel.len).enumerate() {
        for (t, elements) in heads.row(b, h, key).chunks(2).enumerate() {
            columns[t * across + j] = pair(elements[0], elements.get(1).copied().unwrap_or(0));
        }
    }
    for row in columns.chunks_mut(across) {
        row[panel.len..].fill(0);
    }
}

/// Values of one panel: `[width · 8, registers]`, a pair of keys a row, one column an element of `dim`.
fn pack_values(columns: &mut [Pairs], heads: &Heads<'_>, (b, h): (usize, usize), panel: Panel) {
    let across = heads.dims()[3].div_ceil(LANES) * LANES;
    for (t, columns) in numbers(columns).chunks_mut(across).enumerate() {
        let row = |at| if at < panel.len { heads.row(b, h, panel.first() + at) } else { &[] };
        let (even, odd) = (row(2 * t), row(2 * t + 1));
        columns[even.len()..].fill(0);
        if odd.is_empty() {
            columns.iter_mut().zip(even).for_each(|(column, &low)| *column = pair(low, 0));
        } else {
            let both = even.iter().zip(odd);
            columns.iter_mut().zip(both).for_each(|(column, (&low, &high))| *column = pair(low, high));
        }
    }
}

/// Two neighbours as the instruction wants them, the first in the low half.
fn pair(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

/// Keys and values of all heads.
#[derive(Debug)]
pub(super) struct Packed {
    heads: usize,
    keys: Vec<Pairs>,
    values: Vec<Pairs>,
    /// Registers from one panel to the next, and from one head to the next.
    key_strides: (usize, usize),
    value_strides: (usize, usize),
    /// The length of each head's longest key: `[b, h]`.
    longest: Vec<f32>,
}

impl Packed {
    /// Packs them, head by head.
    pub(super) fn new(keys: &Heads<'_>, values: &Heads<'_>, threads: usize) -> Self {
        let [batch, heads, n, dim] = keys.dims();
        let panels = n.div_ceil(PANEL);
        let key_panel = pairs(dim) * PANEL / LANES;
        let value_panel = PAIRS * values.dims()[3].div_ceil(LANES);
        let mut packed = Self {
            heads,
            keys: vec![NO_PAIRS; batch * heads * panels * key_panel],
            values: vec![NO_PAIRS; batch * heads * panels * value_panel],
            key_strides: (key_panel, key_panel * panels),
            value_strides: (value_panel, value_panel * panels),
            longest: vec![0.0; batch * heads],
        };
        let by_head = packed.keys.chunks_mut(packed.key_strides.1);
        let by_head = by_head.zip(packed.values.chunks_mut(packed.value_strides.1)).zip(&mut packed.longest);
        parallel(
            threads,
            by_head.enumerate(),
            || (),
            |(), (at, ((to_keys, to_values), longest))| {
                let head = (at / heads, at % heads);
                let to = to_keys.chunks_mut(key_panel).zip(to_values.chunks_mut(value_panel));
                for (panel, (to_keys, to_values)) in Panel::all(n).zip(to) {
                    pack_keys(&mut to_keys[..pairs(dim) * panel.width()], keys, head, panel);
                    let width = value_panel / PAIRS;
                    pack_values(&mut to_values[..panel.width() * 8 * width], values, head, panel);
                }
                *longest = (0..n).map(|key| length(keys.row(head.0, head.1, key))).fold(0.0, f32::max);
            },
        );
        packed
    }

    /// The registers of one panel of one head.
    pub(super) fn keys(&self, (b, h): (usize, usize), panel: Panel) -> &[Pairs] {
        let (by_panel, by_head) = self.key_strides;
        &self.keys[(b * self.heads + h) * by_head + panel.at * by_panel..][..by_panel / WIDTH * panel.width()]
    }

    /// As [`Self::keys`].
    pub(super) fn values(&self, (b, h): (usize, usize), panel: Panel) -> &[Pairs] {
        let (by_panel, by_head) = self.value_strides;
        &self.values[(b * self.heads + h) * by_head + panel.at * by_panel..]
            [..by_panel / WIDTH * panel.width()]
    }

    /// The length of the longest key of a head.
    pub(super) fn longest(&self, (b, h): (usize, usize)) -> f32 {
        self.longest[b * self.heads + h]
    }
}

/// `√(Σ x²)`.
pub(super) fn length(row: &[u16]) -> f32 {
    let mut lanes = [0f32; LANES];
    let square = |&bits: &u16| {
        let x = f32::from_bits(u32::from(bits) << 16);
        x * x
    };
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += square(x));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane += square(x));
    lanes.iter().sum::<f32>().sqrt()
}
