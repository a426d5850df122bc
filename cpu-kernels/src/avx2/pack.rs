//! Queries, keys and values in the order in which [`product`](super::tile::product) reads them. Places beyond the last
//! row, key or element are zero.

use super::tile::{COLUMNS, Line, Tile};
use crate::typed::Typed;

/// Packs rows `start .. start + len` of one head, and zeros into the rows that remain.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn pack_rows(
    tiles: &mut [Tile],
    heads: &Typed<'_, f32>,
    (b, h): (usize, usize),
    start: usize,
    len: usize,
) {
    for (i, to) in tiles.iter_mut().flat_map(|tile| &mut tile.0).enumerate() {
        let from = if i < len { heads.row(b, h, start + i) } else { &[] };
        to[..from.len()].copy_from_slice(from);
        to[from.len()..].fill(0.0);
    }
}

/// Packs at most 16 keys of one head as `[dim]` lines with one column for each key. Returns the square of the longest
/// key's length.
#[target_feature(enable = "avx2,fma")]
pub(super) fn pack_keys(
    lines: &mut [Line],
    heads: &Typed<'_, f32>,
    (b, h): (usize, usize),
    start: usize,
    len: usize,
) -> f32 {
    let mut longest = 0f32;
    lines.fill(Line::ZERO);
    for j in 0..len.min(COLUMNS) {
        let key = heads.row(b, h, start + j);
        lines.iter_mut().zip(key).for_each(|(line, &x)| line.0[j] = x);
        longest = longest.max(square(key));
    }
    longest
}

/// Packs at most 64 values of one head as `[across, 64]` lines with one line for each value and 16 of its elements.
#[target_feature(enable = "avx2,fma")]
pub(super) fn pack_values(
    lines: &mut [Line],
    heads: &Typed<'_, f32>,
    (b, h): (usize, usize),
    start: usize,
    len: usize,
) {
    for j in 0..len {
        let value = heads.row(b, h, start + j);
        for (lines, part) in lines.chunks_mut(64).zip(value.chunks(COLUMNS)) {
            let mut line = Line::ZERO;
            line.0[..part.len()].copy_from_slice(part);
            lines[j] = line;
        }
    }
}

/// The square of a row's length.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn square(row: &[f32]) -> f32 {
    let (parts, rest) = row.as_chunks::<8>();
    let mut sums = [0f32; 8];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x * x);
    }
    sums.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>()
}
