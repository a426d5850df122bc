//! One product, cut into blocks.

use std::arch::x86_64::{
    __m256i, _CMP_UNORD_Q, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512, _mm512_castps_si512,
    _mm512_cmp_ps_mask, _mm512_cvtepi32_epi16, _mm512_mask_or_epi32, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_srli_epi32,
};
use std::cell::RefCell;

use super::image::Band;
use super::operands::{Bias, Destination, Matrix, Numbers, NumbersMut};
use super::pack::{COLUMNS, DEPTH, Row, Span, WIDTH, Word, pack_row, pack_rows};
use super::tile::{self, Sums};
use super::unit::Unit;
use crate::Threads;
use crate::amx;
use crate::lanes::{LANES, Lanes, NO_LANES, NO_WORDS, Words, floats, lanes};
use crate::output::Output;
use crate::threads::parallel;

/// The number of rows of a tile.
fn tile_rows(unit: Unit) -> usize {
    match unit {
        Unit::Fma | Unit::Pairs => tile::ROWS,
        Unit::Tiles => amx::ROWS,
    }
}

/// The right operand.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Right<'a> {
    /// Columns are rows of a matrix.
    Rows(Matrix<'a>),
    /// Columns are output pixels of a convolution.
    Image(&'a Band),
}

/// One product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) unit: Unit,
    pub(crate) word: Word,
    pub(crate) left: Matrix<'a>,
    pub(crate) right: Right<'a>,
    pub(crate) threads: &'a dyn Threads,
}

/// The largest number of rows of a task, and of its panels.
const BLOCK_ROWS: usize = 384;
const BLOCK_PANELS: usize = 16;

/// The largest number of words of a block of the depth in AMX's tiles. A tile's rows and one panel share the first cache.
const TILES_DEPTH: usize = 192;

/// As many tasks as there should be at least, if the result is large enough.
const TASKS: usize = 16;

/// A block of the result: rows, and columns of whole panels.
#[derive(Debug, Clone, Copy)]
struct Block {
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

/// The working memory of one thread.
#[derive(Debug, Default)]
struct Scratch {
    left: Vec<Row>,
    right: Vec<[Words; WIDTH]>,
    /// Tile after tile of rows, and panel after panel of each.
    sums: Vec<Sums>,
    bias: Vec<f32>,
}

thread_local! {
    /// It stays with the thread, because fresh pages would cost a call several percent.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Call<'_> {
    /// Writes the result, its first column at `offset` of each row of the destination.
    pub(crate) fn run(&self, into: Destination<'_>, offset: usize) {
        let (rows, columns) = (self.left.rows, self.columns());
        assert!(into.takes(rows, offset + columns), "room for {rows} x {columns}");
        let Destination { numbers, stride, bias } = into;
        let out = match numbers {
            NumbersMut::F32(out) => Out::F32(Output::new(out)),
            NumbersMut::Bf16(out) => Out::Bf16(Output::new(out)),
        };
        parallel(
            self.threads,
            self.blocks(),
            || (),
            |(), block| {
                SCRATCH.with_borrow_mut(|scratch| {
                    self.sums(scratch, block);
                    // SAFETY: `Products` proves that the machine has AVX-512.
                    #[allow(unsafe_code)]
                    unsafe {
                        self.finish(scratch, block, &out, (stride, offset), bias);
                    }
                });
            },
        );
    }

    fn columns(&self) -> usize {
        match self.right {
            Right::Rows(matrix) => matrix.rows,
            Right::Image(band) => band.pixels,
        }
    }

    /// The blocks of the result. Each column of blocks copies all left rows, and each row of blocks all right columns. The
    /// grid with the cheapest copies wins. Rows count twice: those of a convolution's weight come from far memory.
    fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let (rows, columns, tile) = (self.left.rows, self.columns(), tile_rows(self.unit));
        let panels = columns.div_ceil(COLUMNS);
        let (most_down, least_down) = (rows.div_ceil(tile), rows.div_ceil(BLOCK_ROWS));
        let grids = (panels.div_ceil(BLOCK_PANELS)..=panels.div_ceil(2)).map(|across| {
            let down = TASKS.div_ceil(across).min(most_down).max(least_down);
            (2 * across * rows + down * columns, across, down)
        });
        let (_, across, down) = grids.min().unwrap_or((0, 1, 1));
        let height = rows.div_ceil(down).next_multiple_of(tile);
        let width = panels.div_ceil(across) * COLUMNS;
        (0..columns).step_by(width).flat_map(move |column| {
            (0..rows).step_by(height).map(move |row| Block {
                row,
                rows: height.min(rows - row),
                column,
                columns: width.min(columns - column),
            })
        })
    }

    /// Computes the sums of a block.
    fn sums(&self, scratch: &mut Scratch, block: Block) {
        let (unit, word) = (self.unit, self.word);
        let Scratch { left, right, sums, .. } = scratch;
        let (height, panels) = (tile_rows(unit), block.columns.div_ceil(COLUMNS));
        let rows = block.rows.next_multiple_of(height);
        left.resize(left.len().max(height), Row([0; DEPTH + LANES]));
        right.resize(right.len().max(DEPTH * panels), [NO_WORDS; WIDTH]);
        sums.resize(sums.len().max(rows * panels), [NO_LANES; WIDTH]);
        // SAFETY: `Products` proves that the machine has the unit.
        #[allow(unsafe_code)]
        let tiles = (unit == Unit::Tiles).then(|| unsafe { amx::Tiles::new() });
        for span in Span::all(self.words(), if tiles.is_some() { TILES_DEPTH } else { DEPTH }) {
            let right = &mut right[..span.len * panels];
            for (at, panel) in right.chunks_mut(span.len).enumerate() {
                let first = block.column + at * COLUMNS;
                match &self.right {
                    // SAFETY: `Products` proves that the machine has AVX-512.
                    #[allow(unsafe_code)]
                    Right::Rows(matrix) => unsafe { pack_rows(panel, matrix, first, word, span) },
                    // SAFETY: as above.
                    #[allow(unsafe_code)]
                    Right::Image(band) => unsafe { band.pack(panel, first, span) },
                }
            }
            let add = span.first > 0;
            for (tile, sums) in sums[..rows * panels].chunks_mut(height * panels).enumerate() {
                let in_place = self.in_place(block, tile, span);
                if in_place.is_none() {
                    for (row, to) in (tile * height..block.rows).zip(&mut *left) {
                        pack_row(&mut to.0, &self.left, block.row + row, word, span);
                    }
                }
                for (panel, sums) in right.chunks(span.len).zip(sums.chunks_mut(height)) {
                    if let Some(tiles) = &tiles {
                        let left = in_place.unwrap_or_else(|| amx::Left::new(left, size_of::<Row>(), 64));
                        let right = amx::Right::new(panel.as_flattened(), WIDTH, 0);
                        let steps = span.len / LANES;
                        tiles.product(left, right, steps, sums.as_flattened_mut(), WIDTH, add);
                    } else if let Some(left) = left.first_chunk() {
                        // SAFETY: `Products` proves that the machine has the unit.
                        #[allow(unsafe_code)]
                        unsafe {
                            match unit {
                                Unit::Pairs => tile::pairs(left, panel, sums, add),
                                Unit::Fma | Unit::Tiles => tile::fma(left, panel, sums, add),
                            }
                        }
                    }
                }
            }
        }
    }

    /// The left rows of a tile of AMX where they lie, if all exist and have all words of the span. Rows that lie a multiple
    /// of 1024 bytes apart are copied, because they share the same places of the first cache.
    fn in_place(&self, block: Block, tile: usize, span: Span) -> Option<amx::Left<'_>> {
        let Matrix { numbers: Numbers::Bf16(bits), depth, stride, .. } = self.left else { return None };
        let (first, from) = (tile * amx::ROWS, span.first * self.word.elements());
        let whole = first + amx::ROWS <= block.rows && from + span.len * self.word.elements() <= depth;
        (self.unit == Unit::Tiles && whole && !stride.is_multiple_of(512))
            .then(|| amx::Left::new(&bits[(block.row + first) * stride + from..], 2 * stride, 64))
    }

    /// The number of words of the depth.
    fn words(&self) -> usize {
        self.word.count(self.left.depth)
    }

    /// Adds the bias and writes the block.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn finish(
        &self,
        scratch: &mut Scratch,
        block: Block,
        out: &Out<'_>,
        (stride, offset): (usize, usize),
        bias: Bias<'_>,
    ) {
        let Block { row, rows, column, columns } = block;
        let Scratch { sums, bias: by_column, .. } = scratch;
        let panels = columns.div_ceil(COLUMNS);
        by_column.clear();
        by_column.resize(panels * COLUMNS, 0.0);
        if let Bias::Columns(numbers) = bias {
            by_column
                .iter_mut()
                .zip(singles(numbers.part(column, columns)))
                .for_each(|(to, bias)| *to = bias);
        }
        let height = tile_rows(self.unit);
        for i in 0..rows {
            let tile = sums[i / height * height * panels..].iter();
            let sums = tile.skip(i % height).step_by(height).flatten().copied();
            let by_row = match bias {
                Bias::Rows(numbers) => singles(numbers.part(row + i, 1)).next().unwrap_or(0.0),
                Bias::None | Bias::Columns(_) => 0.0,
            };
            let start = (row + i) * stride + offset + column;
            // SAFETY: this block alone has these elements.
            #[allow(unsafe_code)]
            unsafe {
                match out {
                    Out::F32(out) => write(out.row(start, columns), sums, by_column, by_row, floats),
                    Out::Bf16(out) => {
                        write(out.row(start, columns), sums, by_column, by_row, |x| rounded(x));
                    }
                }
            }
        }
    }
}

/// The destination, which several threads write.
enum Out<'a> {
    F32(Output<'a, f32>),
    Bf16(Output<'a, u16>),
}

/// Writes sums and biases.
#[inline]
#[target_feature(enable = "avx512f")]
fn write<T: Copy>(
    to: &mut [T],
    sums: impl Iterator<Item = Lanes>,
    by_column: &[f32],
    by_row: f32,
    round: impl Fn(Lanes) -> [T; LANES],
) {
    let by_row = _mm512_set1_ps(by_row);
    for ((to, sums), bias) in to.chunks_mut(LANES).zip(sums).zip(by_column.as_chunks().0) {
        let biased = round(_mm512_add_ps(sums, _mm512_add_ps(lanes(bias), by_row)));
        to.copy_from_slice(&biased[..to.len()]);
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
