//! How many tokens run where: what a method says of itself before any tensor exists.

use super::block::BlockId;
use super::site::{Grid, Sublayer};

/// Tokens that the sublayers of one transformer layer run on; 0 where the layer has no such sublayer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerTokens {
    /// Queries of self-attention; of a joint attention the image's; of a parallel sublayer.
    pub self_attention: usize,
    /// Keys and values beside them; other than the queries where a method reduces one side alone.
    pub self_keys: usize,
    /// Queries of cross-attention.
    pub cross_attention: usize,
    /// Rows of the feed-forward, also of one within a parallel sublayer.
    pub feed_forward: usize,
}

impl LayerTokens {
    /// A layer of self-attention, cross-attention and feed-forward that runs whole.
    pub fn whole(tokens: usize) -> Self {
        Self::of(&UNET_LAYER, tokens)
    }

    /// A layer of these sublayers, all of which run on `tokens`.
    pub fn of(sublayers: &[Sublayer], tokens: usize) -> Self {
        let mut layer = Self { self_attention: 0, self_keys: 0, cross_attention: 0, feed_forward: 0 };
        sublayers.iter().for_each(|&sub| layer.set(sub, tokens, tokens));
        layer
    }

    /// Notes what `sub` runs on.
    pub fn set(&mut self, sub: Sublayer, queries: usize, keys: usize) {
        if sub.has_self_graph() {
            (self.self_attention, self.self_keys) = (queries, keys);
        }
        if sub == Sublayer::CrossAttention {
            self.cross_attention = queries;
        }
        if sub.has_feed_forward() {
            self.feed_forward = queries;
        }
    }

    /// The fewest that any sublayer of the layer runs on.
    pub fn least(&self) -> usize {
        let all = [self.self_attention, self.self_keys, self.cross_attention, self.feed_forward];
        all.into_iter().filter(|&tokens| tokens > 0).min().unwrap_or(0)
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
    /// What each of its layers is made of, in order.
    pub sublayers: &'static [Sublayer],
}

/// What a layer of a U-Net is made of.
const UNET_LAYER: [Sublayer; 3] = [Sublayer::SelfAttention, Sublayer::CrossAttention, Sublayer::FeedForward];

impl BlockShape {
    /// A block of `depth` layers on `grid`, each of self-attention, cross-attention and feed-forward.
    pub const fn new(id: BlockId, depth: usize, grid: Grid) -> Self {
        Self { id, depth, grid, sublayers: &UNET_LAYER }
    }

    /// The same block with layers of other sublayers.
    #[must_use]
    pub const fn made_of(self, sublayers: &'static [Sublayer]) -> Self {
        Self { sublayers, ..self }
    }

    /// A layer of the block that runs on `tokens`.
    pub fn layer(&self, tokens: usize) -> LayerTokens {
        LayerTokens::of(self.sublayers, tokens)
    }

    /// Every layer at its full size.
    pub fn whole(&self) -> Vec<LayerTokens> {
        vec![self.layer(self.grid.tokens()); self.depth]
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
    /// Whether the model asks where tokens stand, for rotary embeddings, say.
    pub needs_positions: bool,
}

impl ModelShape {
    /// A model with these blocks and a run of so many steps, of whose time steps nothing is known; it does not ask where
    /// tokens stand.
    pub fn new(blocks: Vec<BlockShape>, steps: usize) -> Self {
        Self { blocks, steps, timesteps: None, needs_positions: false }
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
