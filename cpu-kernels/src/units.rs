//! Logits of bf16 in AMX's tiles: units of 32 queries and 32 keys.
//!
//! While the caller works on the logits of one unit, the tiles already compute those of the next.

use crate::amx::{Left, ROWS, Right, Tiles};
use crate::lanes::{LANES, Lanes, NO_LANES, Words};
use crate::pack::{Panel, pack_rows};
use crate::typed::Typed;

/// The largest number of queries at a time.
pub(crate) const BLOCK: usize = 2 * ROWS;
/// The number of registers in a row of a unit.
pub(crate) const PAIR: usize = 2;

/// The logits of a unit.
pub(crate) type Logits = [[Lanes; PAIR]; ROWS];

/// 32 queries of a block, and 32 keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit {
    /// The first query.
    pub(crate) row: usize,
    pub(crate) panel: Panel,
    /// The first register of the panel.
    pub(crate) register: usize,
    /// The number of units before it that have the same queries.
    pub(crate) at: usize,
}

impl Unit {
    /// The units of the first `rows` queries and of these panels.
    fn all(panels: &[Panel], rows: usize) -> impl Iterator<Item = Self> {
        let registers =
            |&panel: &Panel| (0..panel.width).step_by(PAIR).map(move |register| (panel, register));
        let keys = panels.iter().flat_map(registers).enumerate();
        keys.flat_map(move |(at, (panel, register))| {
            (0..rows).step_by(ROWS).map(move |row| Self { row, panel, register, at })
        })
    }

    /// The columns that are keys.
    pub(crate) fn masks(self) -> [u16; PAIR] {
        [self.panel.mask(self.register), self.panel.mask(self.register + 1)]
    }

    #[inline]
    fn logits(self, tiles: &Tiles, q: &Queries, keys: &[Words], into: &mut Logits) {
        let left = Left::new(&q.0[self.row..], size_of_val(&q.0[0]), size_of::<[u32; LANES]>());
        let right = Right::new(keys, self.panel.width, self.register);
        let steps = keys.len() / (self.panel.width * LANES);
        tiles.product(left, right, steps, into.as_flattened_mut(), PAIR, false);
    }
}

/// Rows of 64 elements.
#[repr(C, align(64))]
struct Queries([[u32; 32]; BLOCK]);

/// The tiles of one thread, and a block of queries.
pub(crate) struct Units {
    pub(crate) tiles: Tiles,
    q: Queries,
    logits: [Logits; 2],
}

impl Units {
    /// # Safety
    /// The machine must have AMX.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn new() -> Self {
        let logits = [[[NO_LANES; PAIR]; ROWS]; 2];
        // SAFETY: the caller's promise.
        Self { tiles: unsafe { Tiles::new() }, q: Queries([[0; 32]; BLOCK]), logits }
    }

    /// Copies queries `start .. start + len` of a head. Those beyond are zero.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(crate) fn pack(&mut self, heads: &Typed<'_, u16>, head: (usize, usize), start: usize, len: usize) {
        pack_rows::<u16>(self.q.0.iter_mut(), heads, head, start, len);
    }

    /// The queries.
    pub(crate) fn queries(&self) -> &[[u32; 32]; BLOCK] {
        &self.q.0
    }

    /// Gives the logits of the first `rows` queries and of these panels, unit by unit.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(crate) fn each<'a>(
        &mut self,
        panels: &[Panel],
        rows: usize,
        keys: impl Fn(Panel) -> &'a [Words],
        mut take: impl FnMut(Unit, &Logits),
    ) {
        let Self { tiles, q, logits: [now, next] } = self;
        let (mut now, mut next) = (now, next);
        let mut units = Unit::all(panels, rows).peekable();
        if let Some(first) = units.peek() {
            first.logits(tiles, q, keys(first.panel), now);
        }
        while let Some(unit) = units.next() {
            if let Some(after) = units.peek() {
                after.logits(tiles, q, keys(after.panel), next);
            }
            take(unit, now);
            std::mem::swap(&mut now, &mut next);
        }
    }
}
