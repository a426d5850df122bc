//! ToMA's own options, and the grid in tiles.

use atedm_core::plugin::{Grid, Scope, Sublayer};
use atedm_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::around::Moment;
use crate::method_options::{BlockAtStep, MethodOptions};
use crate::reuse::Reuse;
use crate::tome::{check_sublayers, merges};

/// The options of ToMA besides where and how much it merges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TomaOptions {
    /// The maximum number of tiles, a square number. A grid that does not divide into that many gets fewer. 1 is
    /// one tile. Default 16.
    pub num_tiles: usize,
    /// s, the factor on similarities before the softmax. A higher s moves each token closer to a single
    /// destination. Default 1000.
    pub attention_scale: f64,
    /// Whether self-attention runs on merged tokens. Default true.
    pub merge_attn: bool,
    /// Whether cross-attention runs on merged tokens. Default false.
    pub merge_crossattn: bool,
    /// Whether the feed-forward runs on merged tokens. Default false.
    pub merge_mlp: bool,
    /// The tensor that is compared: `layer_input`, as in the authors' program for SD-XL, or `normalised`, as in
    /// their program for FLUX. Default `layer_input`.
    pub compare: Moment,
    /// How long a plan is reused. Default: 5 steps, over all layers of a block.
    pub reuse: Reuse,
}

impl Default for TomaOptions {
    fn default() -> Self {
        Self {
            num_tiles: 16,
            attention_scale: 1000.0,
            merge_attn: true,
            merge_crossattn: false,
            merge_mlp: false,
            compare: Moment::LayerInput,
            reuse: Reuse { steps: 5, at: None, layers: 1000 },
        }
    }
}

/// A grid in equal tiles. Each tile lies within one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    grid: Grid,
    rows: usize,
    columns: usize,
}

impl Tiles {
    /// The number of tiles.
    pub fn count(&self) -> usize {
        self.grid.frames * self.rows * self.columns
    }

    /// The number of tokens in each tile.
    pub fn tokens(&self) -> usize {
        self.grid.tokens() / self.count()
    }

    /// The number of tokens that `ratio` leaves in each tile: `floor((N − floor(ratio · N)) / tiles)` for a grid of
    /// N, at least 1.
    pub fn kept(&self, ratio: f64) -> usize {
        let tokens = self.grid.tokens();
        let removed = ((ratio * tokens as f64).floor() as usize).min(tokens);
        ((tokens - removed) / self.count()).max(1)
    }

    /// The grid's tokens tile by tile, row-major within each.
    pub fn order(&self) -> Vec<u32> {
        let (height, width) = (self.grid.height / self.rows, self.grid.width / self.columns);
        let tiles = (0..self.rows).flat_map(|row| (0..self.columns).map(move |column| (row, column)));
        let tiles = (0..self.grid.frames)
            .flat_map(|frame| tiles.clone().map(move |(row, column)| (frame, row, column)));
        let tokens = |(frame, row, column): (usize, usize, usize)| {
            let top = frame * self.grid.height + row * height;
            let line = move |y: usize| (top + y) * self.grid.width + column * width;
            (0..height).flat_map(move |y| (0..width).map(move |x| (line(y) + x) as u32))
        };
        tiles.flat_map(tokens).collect()
    }
}

impl TomaOptions {
    /// Whether self-attention, cross-attention and feed-forward are reduced.
    fn merged(&self) -> [bool; 3] {
        [self.merge_attn, self.merge_crossattn, self.merge_mlp]
    }

    /// Cuts `grid` into tiles. Each side has as many as divide it, at most the root of `num_tiles`.
    pub(crate) fn tiles_of(&self, grid: Grid) -> Tiles {
        let most = self.num_tiles.isqrt().max(1);
        let divisor =
            |side: usize| (1..=most.min(side.max(1))).rev().find(|n| side.is_multiple_of(*n)).unwrap_or(1);
        Tiles { grid, rows: divisor(grid.height), columns: divisor(grid.width) }
    }
}

impl MethodOptions for TomaOptions {
    fn validate(&self) -> Result<()> {
        if self.num_tiles == 0 {
            return Err(Error::config("num_tiles", "expected at least 1, got 0"));
        }
        if !(self.attention_scale > 0.0 && self.attention_scale.is_finite()) {
            let reason = format!("expected a finite number above 0, got {}", self.attention_scale);
            return Err(Error::config("attention_scale", reason));
        }
        check_sublayers(self.merged())?;
        self.reuse.validate()
    }

    fn kept(&self, ratio: f64, &BlockAtStep { grid, .. }: &BlockAtStep) -> usize {
        let tiles = self.tiles_of(grid);
        tiles.count() * tiles.kept(ratio)
    }

    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        merges(sub, self.merged()).then_some(Scope::Both)
    }

    fn reuse(&self) -> Reuse {
        self.reuse.clone()
    }

    fn why_nothing(&self, _finest: usize) -> String {
        format!("the ratio is less than one token of a tile (num_tiles = {})", self.num_tiles)
    }

    fn why_capped(&self) -> String {
        "each tile keeps whole tokens, and at least one".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_divide_the_grid() {
        let options = TomaOptions::default();
        let of = |height, width| {
            let tiles = options.tiles_of(Grid::new(height, width));
            (tiles.rows, tiles.columns, tiles.tokens())
        };
        assert_eq!(of(64, 64), (4, 4, 256));
        assert_eq!(of(6, 9), (3, 3, 6));
        assert_eq!(of(13, 7), (1, 1, 91));
        assert_eq!(of(2, 10), (2, 2, 5));
        let tiles = options.tiles_of(Grid::new(2, 6));
        assert_eq!(tiles.order(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11].map(|i| i as u32));
        let video = Tiles { grid: Grid::of_frames(2, 2, 4), rows: 1, columns: 2 };
        assert_eq!((video.count(), video.tokens()), (4, 4));
        assert_eq!(video.order(), [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
        let tiles = Tiles { grid: Grid::new(2, 4), rows: 1, columns: 2 };
        assert_eq!(tiles.order(), [0, 1, 4, 5, 2, 3, 6, 7]);
        assert_eq!((tiles.kept(0.0), tiles.kept(0.5), tiles.kept(0.99)), (4, 2, 1));
        // of 54 tokens 21 are removed; 33 stay, and each of 9 tiles keeps 3, not 6 - floor(2.4)
        let nine = options.tiles_of(Grid::new(6, 9));
        assert_eq!([0.0, 0.1, 0.4, 0.5].map(|ratio| nine.kept(ratio)), [6, 5, 3, 3]);
    }
}
