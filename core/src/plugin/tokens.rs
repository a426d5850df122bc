//! How many tokens run where. A method states these counts before any tensor exists.

use std::ops::Range;

use super::block::BlockId;
use super::nest::NestId;
use super::site::{Grid, Sublayer};

/// The number of tokens on which each sublayer of one transformer layer runs. It is 0 where the layer has no such
/// sublayer, and where another output replaces the sublayer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerTokens {
    /// Queries of self-attention, of the image in a joint attention, or of a parallel sublayer.
    pub self_attention: usize,
    /// Keys and values of the same attention. The number differs from the queries where a method reduces only one side.
    pub self_keys: usize,
    /// Queries of cross-attention.
    pub cross_attention: usize,
    /// Rows of the feed-forward, including one within a parallel sublayer.
    pub feed_forward: usize,
}

impl LayerTokens {
    /// A layer of self-attention, cross-attention and feed-forward in which every sublayer runs on all `tokens`.
    pub fn whole(tokens: usize) -> Self {
        Self::of(&UNET_LAYER, tokens)
    }

    /// A layer of these sublayers, all of which run on `tokens`.
    pub fn of(sublayers: &[Sublayer], tokens: usize) -> Self {
        let mut layer = Self { self_attention: 0, self_keys: 0, cross_attention: 0, feed_forward: 0 };
        sublayers.iter().for_each(|&sub| layer.set(sub, tokens, tokens));
        layer
    }

    /// Notes the tokens on which `sub` runs.
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
    /// The name of the block.
    pub id: BlockId,
    /// The number of transformer layers.
    pub depth: usize,
    /// Its token grid.
    pub grid: Grid,
    /// The number of channels of its stream. 0 means unknown; memory can then not be estimated.
    pub channels: usize,
    /// The sublayers of each of its layers, in order.
    pub sublayers: &'static [Sublayer],
}

/// The sublayers of a U-Net's layer.
const UNET_LAYER: [Sublayer; 3] = [Sublayer::SelfAttention, Sublayer::CrossAttention, Sublayer::FeedForward];

impl BlockShape {
    /// A block of `depth` layers on `grid`. Each layer has self-attention, cross-attention and feed-forward.
    pub const fn new(id: BlockId, depth: usize, grid: Grid) -> Self {
        Self { id, depth, grid, channels: 0, sublayers: &UNET_LAYER }
    }

    /// The same block with a stream of this many channels.
    #[must_use]
    pub const fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// The same block with layers of these sublayers.
    #[must_use]
    pub const fn made_of(self, sublayers: &'static [Sublayer]) -> Self {
        Self { sublayers, ..self }
    }

    /// A layer of the block that runs on `tokens`.
    pub fn layer(&self, tokens: usize) -> LayerTokens {
        LayerTokens::of(self.sublayers, tokens)
    }

    /// Every layer at full size.
    pub fn whole(&self) -> Vec<LayerTokens> {
        vec![self.layer(self.grid.tokens()); self.depth]
    }
}

/// A nest of a model at one size.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NestShape {
    /// The range of its blocks in [`ModelShape::blocks`].
    pub blocks: Range<usize>,
    /// The number of values in its output for one batch row.
    pub values: u64,
}

/// A step of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepOf {
    /// 0-based index in the full schedule.
    pub index: usize,
    /// The number of steps in the full schedule.
    pub total: usize,
}

/// A model at one size, and the planned run.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelShape {
    /// The attention blocks in the order of a forward pass.
    pub blocks: Vec<BlockShape>,
    /// Its nests, with the whole evaluation first. Empty for a model that names none.
    pub nests: Vec<NestShape>,
    /// The number of denoising steps in the run.
    pub steps: usize,
    /// The time step of every step, if the sampler gives it.
    pub timesteps: Option<Vec<f64>>,
    /// Whether the model asks for the places of tokens, for example for rotary embeddings.
    pub needs_positions: bool,
}

impl ModelShape {
    /// A model of these blocks and a run of `steps` steps. It has no nests, needs no positions and knows no time steps.
    pub fn new(blocks: Vec<BlockShape>, steps: usize) -> Self {
        Self { blocks, nests: Vec::new(), steps, timesteps: None, needs_positions: false }
    }

    /// The nest `id`, if the model has it.
    pub fn nest(&self, id: NestId) -> Option<&NestShape> {
        self.nests.get(id.0)
    }

    /// The deepest level with attention, which is the meaning of `levels = "deepest"`. 0 for a model without blocks.
    pub fn deepest_level(&self) -> usize {
        self.blocks.iter().map(|block| block.id.level).max().unwrap_or(0)
    }

    /// The steps of the run.
    pub fn each_step(&self) -> impl Iterator<Item = StepOf> + use<> {
        let total = self.steps;
        (0..total).map(move |index| StepOf { index, total })
    }
}
