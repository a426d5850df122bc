//! The largest number of each column, and its row.

use super::math::vectorised;
use super::number::Number;
use super::pool::each;

/// Columns of one task: their numbers stay in the first cache.
const WIDTH: usize = 512;

/// What each column of some maps holds, `[maps, columns]`.
#[derive(Debug)]
pub(crate) struct Columns {
    /// Its largest number. It is NaN if the column has one.
    pub(crate) highest: Vec<f32>,
    /// The lowest row with this number.
    pub(crate) row: Vec<u32>,
}

/// The columns of maps `[maps, rows, columns]`. No length is 0.
pub(crate) fn columns<N: Number>(values: &[N], rows: usize, columns: usize) -> Columns {
    let maps = values.len() / (rows * columns);
    let mut found = Columns { highest: vec![0.0; maps * columns], row: vec![0; maps * columns] };
    let outputs = found.highest.chunks_mut(columns).zip(found.row.chunks_mut(columns));
    let pieces = outputs.zip(values.chunks(rows * columns)).flat_map(|((highest, at), map)| {
        let pieces = highest.chunks_mut(WIDTH).zip(at.chunks_mut(WIDTH)).enumerate();
        pieces.map(move |(piece, outputs)| (outputs, map, piece * WIDTH))
    });
    each(pieces, |((highest, at), map, first)| {
        let mut nan = [0; WIDTH];
        vectorised(
            #[inline(always)]
            || {
                highest.iter_mut().zip(&map[first..]).for_each(|(high, value)| *high = value.single());
                for (i, values) in (0..).zip(map.chunks(columns)) {
                    let outputs = highest.iter_mut().zip(at.iter_mut()).zip(&mut nan);
                    for (((high, at), nan), value) in outputs.zip(&values[first..]) {
                        let value = value.single();
                        let above = value > *high;
                        *high = if above { value } else { *high };
                        *at = if above { i } else { *at };
                        *nan |= u32::from(value.is_nan());
                    }
                }
                for (high, nan) in highest.iter_mut().zip(nan) {
                    *high = if nan == 0 { *high } else { f32::NAN };
                }
            },
        );
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_of_equal_rows_and_nan() {
        let width = WIDTH + 3;
        let mut values: Vec<f32> = (0..2 * 3 * width).map(|i| (i * 7 % 5) as f32).collect();
        values[width + 1] = 9.0;
        values[2 * width + 1] = 9.0;
        values[5 * width + WIDTH] = f32::NAN;
        let found = columns(&values, 3, width);
        assert_eq!((found.highest[1], found.row[1]), (9.0, 1));
        for map in 0..2 {
            for column in 0..width {
                let at = |row: usize| values[(map * 3 + row) * width + column];
                let found = (found.highest[map * width + column], found.row[map * width + column]);
                if (map, column) == (1, WIDTH) {
                    assert!(found.0.is_nan());
                    continue;
                }
                let highest = (0..3).map(at).fold(f32::NEG_INFINITY, f32::max);
                let row = (0..3).find(|&row| at(row) == highest);
                assert_eq!((found.0, Some(found.1 as usize)), (highest, row));
            }
        }
    }
}
