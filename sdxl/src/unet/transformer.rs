//! One attention block: diffusers' `Transformer2DModel` over `BasicTransformerBlock`s.
//!
//! ```text
//! x  = proj_in(tokens(norm(image)))
//! for each layer:  x += attn1(norm1(x));  x += attn2(norm2(x), text);  x += ff(norm3(x))
//! image + proj_out(x)
//! ```

use atedm_core::backend::{Attended, AttentionOptions, dims};
use atedm_core::plugin::{AttentionInput, AttentionOutput, BlockId, BlockPass, Grid, Sublayer};
use atedm_core::{AttentionOps, Result, Weights};

use super::context::ForwardContext;
use crate::layers::{Bias, GroupNorm, LayerNorm, Linear, merge_heads, split_heads, to_image, to_tokens};

/// Epsilon of the block's group norm, fixed in diffusers.
const GROUP_EPSILON: f64 = 1e-6;
/// Epsilon of the layers' norms, fixed in diffusers.
const LAYER_EPSILON: f64 = 1e-5;

/// Geometry of a [`Transformer`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransformerShape {
    pub(crate) block: BlockId,
    pub(crate) channels: usize,
    pub(crate) heads: usize,
    pub(crate) text_channels: usize,
    pub(crate) depth: usize,
    pub(crate) groups: usize,
    /// Whether the projections are stored as matrices.
    pub(crate) linear: bool,
}

/// One attention block.
#[derive(Debug)]
pub(crate) struct Transformer<T> {
    block: BlockId,
    norm: GroupNorm<T>,
    proj_in: Linear<T>,
    layers: Vec<Layer<T>>,
    proj_out: Linear<T>,
}

impl<T: AttentionOps> Transformer<T> {
    pub(crate) fn load(weights: &Weights<T>, shape: TransformerShape) -> Result<Self> {
        let channels = shape.channels;
        let projection = |name: &str| {
            let weights = weights.scope(name);
            if shape.linear {
                Linear::load(&weights, channels, channels, Bias::With)
            } else {
                Linear::load_pointwise(&weights, channels, channels)
            }
        };
        let layer = |i: usize| Layer::load(&weights.scope("transformer_blocks").scope(i), shape);
        Ok(Self {
            block: shape.block,
            norm: GroupNorm::load(&weights.scope("norm"), channels, shape.groups, GROUP_EPSILON)?,
            proj_in: projection("proj_in")?,
            layers: (0..shape.depth).map(layer).collect::<Result<_>>()?,
            proj_out: projection("proj_out")?,
        })
    }

    /// Runs the block on `[b, c, h, w]`. The output has the same shape.
    pub(crate) fn forward(&self, image: T, context: &mut ForwardContext<'_, T>) -> Result<T> {
        let _span = tracing::debug_span!("attention block", block = %self.block).entered();
        let [_, _, height, width] = dims(&image, "attention block")?;
        let mut hidden = self.proj_in.forward(&to_tokens(&self.norm.forward(&image)?)?)?;
        if !self.layers.is_empty() {
            hidden = self.run(hidden, Grid::new(height, width), context)?;
        }
        to_image(&self.proj_out.forward(&hidden)?, height, width)?.add(&image)
    }

    /// Runs only the layers, on tokens `[b, n, c]`.
    pub(super) fn run(&self, mut hidden: T, grid: Grid, context: &mut ForwardContext<'_, T>) -> Result<T> {
        let text = context.text;
        let depth = self.layers.len();
        let mut pass = BlockPass::enter(context.reducer, context.step, context.rows, self.block, depth, grid);
        for (i, layer) in self.layers.iter().enumerate() {
            hidden = pass.layer(i, hidden)?;
            hidden = pass.attention(
                Sublayer::SelfAttention,
                hidden,
                |x| layer.norm1.forward(x),
                |input| layer.attn1.attend(&input, input.keys_values),
            )?;
            hidden = pass.attention(
                Sublayer::CrossAttention,
                hidden,
                |x| layer.norm2.forward(x),
                |input| layer.attn2.attend(&input, text),
            )?;
            hidden = pass.feed_forward(
                hidden,
                |x| layer.norm3.forward(x),
                |input| layer.feed_forward.forward(input.tokens),
            )?;
        }
        pass.exit(hidden)
    }
}

/// One transformer layer.
#[derive(Debug)]
struct Layer<T> {
    norm1: LayerNorm<T>,
    attn1: Attention<T>,
    norm2: LayerNorm<T>,
    attn2: Attention<T>,
    norm3: LayerNorm<T>,
    feed_forward: FeedForward<T>,
}

impl<T: AttentionOps> Layer<T> {
    fn load(weights: &Weights<T>, shape: TransformerShape) -> Result<Self> {
        let channels = shape.channels;
        let norm = |name: &str| LayerNorm::load(&weights.scope(name), channels, LAYER_EPSILON);
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: Attention::load(&weights.scope("attn1"), shape, channels)?,
            norm2: norm("norm2")?,
            attn2: Attention::load(&weights.scope("attn2"), shape, shape.text_channels)?,
            norm3: norm("norm3")?,
            feed_forward: FeedForward::load(&weights.scope("ff"), channels)?,
        })
    }
}

/// Multi-head attention with its projections.
///
/// Keys and values are computed as one product: their weights are stacked.
#[derive(Debug)]
struct Attention<T> {
    heads: usize,
    /// The queries' weight, `[channels, channels]`.
    queries: T,
    /// The stacked weights of keys and values, `[2 · channels, source channels]`.
    keys_values: T,
    to_out: Linear<T>,
}

impl<T: AttentionOps> Attention<T> {
    /// Loads the projections. The source of keys and values is the stream, or the text in cross-attention.
    fn load(weights: &Weights<T>, shape: TransformerShape, source_channels: usize) -> Result<Self> {
        let channels = shape.channels;
        let below = |names: &[&str], inputs: usize| {
            let each = names.iter().map(|name| weights.scope(name).tensor("weight", &[channels, inputs]));
            let each = each.collect::<Result<Vec<T>>>()?;
            T::concat(&each.iter().collect::<Vec<_>>(), 0)?.linear_weight()
        };
        Ok(Self {
            heads: shape.heads,
            queries: below(&["to_q"], channels)?,
            keys_values: below(&["to_k", "to_v"], source_channels)?,
            to_out: Linear::load(&weights.scope("to_out.0"), channels, channels, Bias::With)?,
        })
    }

    /// Attention of the input's queries to `source`, `[b, length, source channels]`.
    fn attend(&self, input: &AttentionInput<'_, T>, source: &T) -> Result<AttentionOutput<T>> {
        let h = self.heads;
        let queries = split_heads(&input.queries.linear(&self.queries, None)?, h)?;
        let keys_values = split_heads(&source.linear(&self.keys_values, None)?, 2 * h)?;
        let (keys, values) = (keys_values.narrow(1, 0, h)?, keys_values.narrow(1, h, h)?);
        let [_, _, _, dim] = dims(&queries, "attention")?;
        let options = AttentionOptions { graph: input.graph, ..AttentionOptions::for_dim(dim) };
        let Attended { hidden, graph, first_vote } = T::attention(&queries, &keys, &values, options)?;
        let hidden = self.to_out.forward(&merge_heads(&hidden)?)?;
        Ok(AttentionOutput { hidden, graph, first_vote, values })
    }
}

/// GEGLU to four times the channels, and a projection back.
#[derive(Debug)]
struct FeedForward<T> {
    inner: Linear<T>,
    outer: Linear<T>,
}

impl<T: AttentionOps> FeedForward<T> {
    fn load(weights: &Weights<T>, channels: usize) -> Result<Self> {
        let inner = Linear::load(&weights.scope("net.0.proj"), channels, 8 * channels, Bias::With)?;
        let outer = Linear::load(&weights.scope("net.2"), 4 * channels, channels, Bias::With)?;
        Ok(Self { inner, outer })
    }

    fn forward(&self, x: &T) -> Result<T> {
        self.outer.forward(&x.geglu(&self.inner.weight, self.inner.bias.as_ref())?)
    }
}
