//! How many tokens run where: what a method says of itself before any tensor exists.

use super::site::{BlockId, Grid};

/// Tokens that the sublayers of one transformer layer run on.
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

    /// The fewest that any sublayer runs on.
    pub fn least(&self) -> usize {
        self.self_attention.min(self.self_keys).min(self.cross_attention).min(self.feed_forward)
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
}

impl BlockShape {
    /// Every layer at its full size.
    pub fn whole(&self) -> Vec<LayerTokens> {
        vec![LayerTokens::whole(self.grid.tokens()); self.depth]
    }
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
    /// Denoising steps of the run.
    pub steps: usize,
    /// The time step of every step, where the sampler says it.
    pub timesteps: Option<Vec<f64>>,
}

impl ModelShape {
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
