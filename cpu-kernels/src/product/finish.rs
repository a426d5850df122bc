//! The last step of a product: the biases, the gate, and the place of each sum.

use std::arch::x86_64::{
    __m256i, _CMP_UNORD_Q, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512, _mm512_castps_si512,
    _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepi32_epi16, _mm512_mask_or_epi32, _mm512_mul_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_srli_epi32,
};

use super::job::{Block, Call, Order, Scratch, tile_rows};
use super::operands::{Bias, Numbers};
use super::pack::{COLUMNS, WIDTH};
use crate::lanes::{LANES, Lanes, NO_LANES, floats, gelu, lanes};
use crate::output::Output;
use crate::pack::transpose;

/// The place of the result, which several threads write, and what is added to it.
pub(crate) struct Place<'a> {
    pub(crate) out: Out<'a>,
    /// The distance between rows of the destination, and the first element of each.
    pub(crate) stride: usize,
    pub(crate) offset: usize,
    pub(crate) bias: Bias<'a>,
}

/// The numbers of the destination.
pub(crate) enum Out<'a> {
    F32(Output<'a, f32>),
    Bf16(Output<'a, u16>),
}

impl Call<'_> {
    /// Adds the bias and writes the block.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(crate) fn finish(&self, scratch: &mut Scratch, block: Block, place: &Place<'_>) {
        match self.order {
            Order::RowsFirst => self.rows_first(scratch, block, place),
            Order::ColumnsFirst | Order::Gated => self.columns_first(scratch, block, place),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn rows_first(&self, scratch: &mut Scratch, block: Block, place: &Place<'_>) {
        let Block { row, rows, column, columns } = block;
        let Scratch { sums, bias: by_column, .. } = scratch;
        let panels = columns.div_ceil(COLUMNS);
        by_column.clear();
        by_column.resize(panels * COLUMNS, 0.0);
        if let Bias::Columns(numbers) = place.bias {
            by_column
                .iter_mut()
                .zip(singles(numbers.part(column, columns)))
                .for_each(|(to, bias)| *to = bias);
        }
        let height = tile_rows(self.unit);
        for i in 0..rows {
            let tile = sums[i / height * height * panels..].iter();
            let sums = tile.skip(i % height).step_by(height).flatten();
            let by_row = match place.bias {
                Bias::Rows(numbers) => singles(numbers.part(row + i, 1)).next().unwrap_or(0.0),
                Bias::None | Bias::Columns(_) => 0.0,
            };
            let by_row = _mm512_set1_ps(by_row);
            let firsts = (0..columns).step_by(LANES);
            for ((first, &sums), bias) in firsts.zip(sums).zip(by_column.as_chunks().0) {
                let biased = _mm512_add_ps(sums, _mm512_add_ps(lanes(bias), by_row));
                place.write(row + i, column + first, LANES.min(columns - first), biased);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn columns_first(&self, scratch: &mut Scratch, block: Block, place: &Place<'_>) {
        let Block { row, rows, column, columns } = block;
        let Scratch { sums, bias: by_row, .. } = scratch;
        let (height, panels) = (tile_rows(self.unit), columns.div_ceil(COLUMNS));
        by_row.clear();
        by_row.resize(rows.next_multiple_of(2 * LANES), 0.0);
        if let Bias::Columns(numbers) = place.bias {
            let bias = |i| singles(numbers.part(self.source(row + i)?, 1)).next();
            by_row.iter_mut().enumerate().for_each(|(i, to)| *to = bias(i).unwrap_or(0.0));
        }
        let gated = self.order == Order::Gated;
        let (step, share) = if gated { (2 * LANES, 2) } else { (LANES, 1) };
        // rows `first .. first + 16` as columns, with their biases
        let swapped = |first: usize, panel: usize, side: usize| {
            let (mut tile, mut within) = (first / height, first % height);
            let rows: [_; LANES] = std::array::from_fn(|_| {
                let sums = sums.get((tile * panels + panel) * height + within);
                within += 1;
                if within == height {
                    (tile, within) = (tile + 1, 0);
                }
                _mm512_castps_si512(sums.map_or(NO_LANES, |sums| sums[side]))
            });
            let bias = by_row[first..].first_chunk().map_or(NO_LANES, lanes);
            transpose(rows).map(|column| _mm512_add_ps(_mm512_castsi512_ps(column), bias))
        };
        // the last group of a block may reach into the next one
        let end = self.left.rows.min(row + rows) / share;
        for (panel, side) in (0..panels).flat_map(|panel| (0..WIDTH).map(move |side| (panel, side))) {
            let first = panel * COLUMNS + side * LANES;
            for start in (0..rows).step_by(step) {
                let mut values = swapped(start, panel, side);
                if gated {
                    let gates = swapped(start + LANES, panel, side);
                    for (value, gate) in values.iter_mut().zip(gates) {
                        *value = _mm512_mul_ps(*value, gelu(gate));
                    }
                }
                let at = (row + start) / share;
                for (j, values) in (first..columns).zip(values) {
                    place.write(column + j, at, LANES.min(end - at), values);
                }
            }
        }
    }
}

impl Place<'_> {
    /// Writes the first `len` numbers of a register to a row of the destination.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn write(&self, row: usize, column: usize, len: usize, values: Lanes) {
        let at = row * self.stride + self.offset + column;
        // SAFETY: the blocks of a product are disjoint, so this task alone has these elements.
        #[allow(unsafe_code)]
        unsafe {
            match &self.out {
                Out::F32(out) => store(out.row(at, len), floats(values)),
                Out::Bf16(out) => store(out.row(at, len), rounded(values)),
            }
        }
    }
}

/// Copies the first of the numbers. All of them are stored without a call.
#[inline]
fn store<T: Copy>(to: &mut [T], from: [T; LANES]) {
    match to.first_chunk_mut() {
        Some(to) => *to = from,
        None => to.copy_from_slice(&from[..to.len()]),
    }
}

/// The numbers as f32.
fn singles(numbers: Numbers<'_>) -> impl Iterator<Item = f32> {
    let (singles, halves) = match numbers {
        Numbers::F32(numbers) => (numbers, &[][..]),
        Numbers::Bf16(numbers) => (&[][..], numbers),
    };
    singles.iter().copied().chain(halves.iter().map(|&bits| f32::from_bits(u32::from(bits) << 16)))
}

/// The nearest bf16, and the even one of two. NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn rounded(x: Lanes) -> [u16; LANES] {
    let bits = _mm512_castps_si512(x);
    let high = _mm512_srli_epi32::<16>(bits);
    let odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    let more = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd);
    let nearest = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, more));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    let rounded = _mm512_mask_or_epi32(nearest, nan, high, _mm512_set1_epi32(0x40));
    // SAFETY: both are 32 bytes, and every bit pattern is valid.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::transmute::<__m256i, [u16; LANES]>(_mm512_cvtepi32_epi16(rounded))
    }
}
