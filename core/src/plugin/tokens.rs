//! How many tokens run where: what a method says of itself before any tensor exists.

use std::ops::Range;

use super::block::BlockId;
use super::nest::NestId;
use super::site::{Grid, Sublayer};

/// Tokens that the sublayers of one transformer layer run on: 0 where the layer has no such sublayer, or where its output
/// is given in its place.
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

    /// The queries or rows of `sub`.
    pub fn of_queries(&self, sub: Sublayer) -> usize {
        match sub {
            Sublayer::CrossAttention => self.cross_attention,
            Sublayer::FeedForward => self.feed_forward,
            Sublayer::SelfAttention | Sublayer::JointAttention | Sublayer::Parallel => self.self_attention,
        }
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
    /// Channels of its stream; 0 where nobody said, and then nothing can be told of memory.
    pub channels: usize,
    /// What each of its layers is made of, in order.
    pub sublayers: &'static [Sublayer],
}

/// What a layer of a U-Net is made of.
const UNET_LAYER: [Sublayer; 3] = [Sublayer::SelfAttention, Sublayer::CrossAttention, Sublayer::FeedForward];

impl BlockShape {
    /// A block of `depth` layers on `grid`, each of self-attention, cross-attention and feed-forward.
    pub const fn new(id: BlockId, depth: usize, grid: Grid) -> Self {
        Self { id, depth, grid, channels: 0, sublayers: &UNET_LAYER }
    }

    /// The same block with a stream of so many channels.
    #[must_use]
    pub const fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
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
    /// Whether the model asks where tokens stand, for rotary embeddings, say.
    pub needs_positions: bool,
}

impl ModelShape {
    /// A model of these blocks that names no nests and asks for no positions, for a run of `steps` steps of which no time
    /// steps are known.
    pub fn new(blocks: Vec<BlockShape>, steps: usize) -> Self {
        Self { blocks, nests: Vec::new(), steps, timesteps: None, needs_positions: false }
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
