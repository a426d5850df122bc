//! One product, cut into blocks.

use std::cell::RefCell;

use super::image::Band;
use super::operands::{Bias, Destination, Matrix, Numbers, NumbersMut};
use super::pack::{COLUMNS, DEPTH, Row, Span, WIDTH, Word, pack_row, pack_rows};
use super::tile::{self, Sums};
use super::unit::Unit;
use crate::Threads;
use crate::amx;
use crate::lanes::{LANES, Lanes, NO_LANES, NO_WORDS, Words, floats};
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
    panel: Vec<[Words; WIDTH]>,
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
        let Scratch { left, panel, sums, .. } = scratch;
        let (rows, panels) = (block.rows.next_multiple_of(tile_rows(unit)), block.columns.div_ceil(COLUMNS));
        left.resize(left.len().max(rows), Row([0; DEPTH + LANES]));
        panel.resize(DEPTH, [NO_WORDS; WIDTH]);
        sums.resize(sums.len().max(rows * panels), [NO_LANES; WIDTH]);
        // SAFETY: `Products` proves that the machine has the unit.
        #[allow(unsafe_code)]
        let tiles = (unit == Unit::Tiles).then(|| unsafe { amx::Tiles::new() });
        for span in Span::all(self.words(), DEPTH) {
            for (at, to) in left.iter_mut().enumerate().take(block.rows) {
                pack_row(&mut to.0, &self.left, block.row + at, word, span);
            }
            let panel = &mut panel[..span.len];
            for at in 0..panels {
                let first = block.column + at * COLUMNS;
                match &self.right {
                    // SAFETY: `Products` proves that the machine has AVX-512.
                    #[allow(unsafe_code)]
                    Right::Rows(matrix) => unsafe { pack_rows(panel, matrix, first, word, span) },
                    // SAFETY: as above.
                    #[allow(unsafe_code)]
                    Right::Image(band) => unsafe { band.pack(panel, first, span) },
                }
                let (add, sums) = (span.first > 0, &mut sums[at..]);
                match &tiles {
                    Some(tiles) => {
                        for (left, sums) in left[..rows]
                            .as_chunks::<{ amx::ROWS }>()
                            .0
                            .iter()
                            .zip(sums.chunks_mut(amx::ROWS * panels))
                        {
                            let left = amx::Left::new(left, size_of::<Row>(), 64);
                            let right = amx::Right::new(panel.as_flattened(), WIDTH, 0);
                            let steps = span.len / LANES;
                            tiles.product(left, right, steps, sums.as_flattened_mut(), WIDTH * panels, add);
                        }
                    }
                    None => {
                        for (left, sums) in
                            left[..rows].as_chunks().0.iter().zip(sums.chunks_mut(tile::ROWS * panels))
                        {
                            // SAFETY: `Products` proves that the machine has the unit.
                            #[allow(unsafe_code)]
                            unsafe {
                                match unit {
                                    Unit::Pairs => tile::pairs(left, panel, sums, panels, add),
                                    Unit::Fma | Unit::Tiles => tile::fma(left, panel, sums, panels, add),
                                }
                            }
                        }
                    }
                }
            }
        }
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
        for (i, sums) in sums.chunks(panels).enumerate().take(rows) {
            let by_row = match bias {
                Bias::Rows(numbers) => singles(numbers.part(row + i, 1)).next().unwrap_or(0.0),
                Bias::None | Bias::Columns(_) => 0.0,
            };
            let (start, lanes) = ((row + i) * stride + offset + column, sums.as_flattened());
            // SAFETY: this block alone has these elements.
            #[allow(unsafe_code)]
            unsafe {
                match out {
                    Out::F32(out) => write(out.row(start, columns), lanes, by_column, by_row, |x| x),
                    Out::Bf16(out) => write(out.row(start, columns), lanes, by_column, by_row, rounded),
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

/// Writes sums and biases. It is compiled for the instructions of its caller.
#[inline(always)]
fn write<T>(to: &mut [T], sums: &[Lanes], by_column: &[f32], by_row: f32, round: impl Fn(f32) -> T) {
    let biased = |lanes: Lanes, bias: &[f32; LANES]| -> [T; LANES] {
        let sums = floats(lanes);
        std::array::from_fn(
            #[inline(always)]
            |i| round(sums[i] + (bias[i] + by_row)),
        )
    };
    let (whole, rest) = to.as_chunks_mut::<LANES>();
    let mut sums = sums.iter().zip(by_column.as_chunks::<LANES>().0);
    for (to, (&lanes, bias)) in whole.iter_mut().zip(sums.by_ref()) {
        *to = biased(lanes, bias);
    }
    if let Some((&lanes, bias)) = sums.next() {
        rest.iter_mut().zip(biased(lanes, bias)).for_each(|(to, value)| *to = value);
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
#[inline(always)]
pub(crate) fn rounded(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if x.is_nan() { bits >> 16 | 0x40 } else { nearest }) as u16
}
