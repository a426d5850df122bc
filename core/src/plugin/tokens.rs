//! How many tokens run where: what a method says of itself before any tensor exists.

use std::ops::Range;

use super::nest::NestId;
use super::site::{BlockId, Grid};

/// Tokens that the sublayers of one transformer layer run on: 0 where a sublayer does not run, because its output is given
/// in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerTokens {
    /// Queries of self-attention.
    pub self_attention: usize,
    /// Keys and values of self-attention; other than its queries where a method reduces one side alone.
    pub self_keys: usize,
    /// Queries of cross-attention.
    pub cross_attention: usize,
    /// Rows of the feed-forward.
    pub feed_forward: usize,
}

impl LayerTokens {
    /// A layer that runs whole.
    pub fn whole(tokens: usize) -> Self {
        Self { self_attention: tokens, self_keys: tokens, cross_attention: tokens, feed_forward: tokens }
    }

    /// The fewest that any sublayer runs on; 0 if none runs.
    pub fn least(&self) -> usize {
        let each = [self.self_attention, self.self_keys, self.cross_attention, self.feed_forward];
        each.into_iter().filter(|tokens| *tokens > 0).min().unwrap_or(0)
    }
}

/// An attention block of a model at one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockShape {
    /// Which block.
    pub id: BlockId,
    /// Transformer layers.
    pub depth: usize,
    /// Its token grid.
    pub grid: Grid,
    /// Channels of its stream.
    pub channels: usize,
}

impl BlockShape {
    /// Every layer at its full size.
    pub fn whole(&self) -> Vec<LayerTokens> {
        vec![LayerTokens::whole(self.grid.tokens()); self.depth]
    }
}

/// A nest of a model at one size.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NestShape {
    /// Where the blocks in it stand among [`ModelShape::blocks`].
    pub blocks: Range<usize>,
    /// Values of its output for one batch row.
    pub values: u64,
}

/// A step of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepOf {
    /// 0-based index in the full schedule.
    pub index: usize,
    /// Steps of the full schedule.
    pub total: usize,
}

/// A model at one size, and the run that is to be made with it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelShape {
    /// The attention blocks in the order of a forward pass.
    pub blocks: Vec<BlockShape>,
    /// Its nests, the whole evaluation first; empty for a model that names none.
    pub nests: Vec<NestShape>,
    /// Denoising steps of the run.
    pub steps: usize,
    /// The time step of every step, where the sampler says it.
    pub timesteps: Option<Vec<f64>>,
}

impl ModelShape {
    /// A model of these blocks that names no nests, for a run of `steps` steps.
    pub fn new(blocks: Vec<BlockShape>, steps: usize) -> Self {
        Self { blocks, nests: Vec::new(), steps, timesteps: None }
    }

    /// A nest, if the model has it.
    pub fn nest(&self, id: NestId) -> Option<&NestShape> {
        self.nests.get(id.0)
    }

    /// The deepest level with attention, which `levels = "deepest"` stands for; 0 for a model without blocks.
    pub fn deepest_level(&self) -> usize {
        self.blocks.iter().map(|block| block.id.level).max().unwrap_or(0)
    }

    /// The steps of the run.
    pub fn each_step(&self) -> impl Iterator<Item = StepOf> + use<> {
        let total = self.steps;
        (0..total).map(move |index| StepOf { index, total })
    }
}
