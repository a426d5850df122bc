//! One product, cut into blocks.

use std::cell::RefCell;

use super::finish::{Out, Place};
use super::job::{Block, Call, Order, Right, Scratch, tile_rows};
use super::operands::{Destination, Matrix, Numbers, NumbersMut};
use super::pack::{COLUMNS, DEPTH, Row, Span, WIDTH, pack_row};
use super::tile;
use super::unit::Unit;
use crate::amx;
use crate::lanes::{LANES, NO_LANES, NO_WORDS};
use crate::output::Output;
use crate::threads::parallel;

/// The largest number of rows of a task, and of its panels.
const BLOCK_ROWS: usize = 384;
const BLOCK_PANELS: usize = 16;

/// The largest number of words of a block of the depth in AMX's tiles. A tile's rows and one panel share the first cache.
const TILES_DEPTH: usize = 96;

/// As many tasks as there should be at least, if the result is large enough.
const TASKS: usize = 16;

thread_local! {
    /// It stays with the thread, because fresh pages would cost a call several percent.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Call<'_> {
    /// Writes the result, its first column at `offset` of each row of the destination.
    pub(crate) fn run(&self, into: Destination<'_>, offset: usize) {
        let (rows, columns) = match self.order {
            Order::RowsFirst => (self.left.rows, self.columns()),
            Order::ColumnsFirst => (self.columns(), self.left.rows),
            Order::Gated => (self.columns(), self.left.rows / 2),
        };
        let biases = if self.order == Order::Gated { 2 * columns } else { columns };
        assert!(into.takes(rows, offset + columns, biases), "room for {rows} x {columns}");
        let Destination { numbers, stride, bias } = into;
        let out = match numbers {
            NumbersMut::F32(out) => Out::F32(Output::new(out)),
            NumbersMut::Bf16(out) => Out::Bf16(Output::new(out)),
        };
        let place = Place { out, stride, offset, bias };
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
                        self.finish(scratch, block, &place);
                    }
                });
            },
        );
    }

    /// The blocks of the result. Each column of blocks reads all left rows. Of an image, each row of blocks copies all columns.
    /// The grid with the least work wins. Rows count twice, because those of a weight come from far memory.
    fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let (rows, columns) = (self.rows(), self.columns());
        let tile = if self.order == Order::Gated { 2 * LANES } else { tile_rows(self.unit) };
        let copies = usize::from(matches!(self.right, Right::Image(_)));
        let panels = columns.div_ceil(COLUMNS);
        let (most_down, least_down) = (rows.div_ceil(tile), rows.div_ceil(BLOCK_ROWS));
        let grids = (panels.div_ceil(BLOCK_PANELS)..=panels.div_ceil(2)).map(|across| {
            let down = TASKS.div_ceil(across).min(most_down).max(least_down);
            (2 * across * rows + copies * down * columns, across, down)
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
        if matches!(self.right, Right::Image(_)) {
            right.resize(right.len().max(DEPTH * panels), [NO_WORDS; WIDTH]);
        }
        sums.resize(sums.len().max(rows * panels), [NO_LANES; WIDTH]);
        // SAFETY: `Products` proves that the machine has the unit.
        #[allow(unsafe_code)]
        let tiles = (unit == Unit::Tiles).then(|| unsafe { amx::Tiles::new() });
        for span in Span::all(self.words(), if tiles.is_some() { TILES_DEPTH } else { DEPTH }) {
            if let Right::Image(band) = self.right {
                for (at, panel) in right[..span.len * panels].chunks_mut(span.len).enumerate() {
                    // SAFETY: `Products` proves that the machine has AVX-512.
                    #[allow(unsafe_code)]
                    unsafe {
                        band.pack(panel, block.column + at * COLUMNS, span);
                    }
                }
            }
            let panel = |at: usize| match self.right {
                Right::Packed(packed, _) => packed.panel(block.column + at * COLUMNS, span),
                Right::Image(_) => &right[at * span.len..][..span.len],
            };
            let add = span.first > 0;
            for (tile, sums) in sums[..rows * panels].chunks_mut(height * panels).enumerate() {
                let in_place = self.in_place(block, tile, span);
                if in_place.is_none() {
                    for (row, to) in (tile * height..block.rows).zip(&mut *left) {
                        if let Some(row) = self.source(block.row + row) {
                            pack_row(&mut to.0, &self.left, row, word, span);
                        }
                    }
                }
                for (panel, sums) in (0..panels).map(panel).zip(sums.chunks_mut(height)) {
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
        let (first, from) = (block.row + tile * amx::ROWS, span.first * self.word.elements());
        let (start, second) = (self.source(first)?, self.source(first + LANES)?);
        self.source(first + amx::ROWS - 1)?;
        let whole = (tile + 1) * amx::ROWS <= block.rows && from + span.len * self.word.elements() <= depth;
        (self.unit == Unit::Tiles && whole && !stride.is_multiple_of(512)).then(|| {
            let rows = &bits[start * stride + from..];
            amx::Left::halves(rows, 2 * stride, 2 * stride * (second - start), 64)
        })
    }
}
