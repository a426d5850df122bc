//! A block of transformer layers, whole or pruned by AT-EDM. This is an independent implementation that stores every
//! map.

use atedm_core::at_edm::scoring::PageRankOptions;
use atedm_core::at_edm::{PrunePoint, ScoreSource};

use super::{Pruned, Recovery, attention_map, combine_heads, geglu, layer_norm, linear, matmul, permute};
use crate::host::{Array, Draws};

/// Epsilon of every layer norm.
pub const NORM_EPSILON: f64 = 1e-5;

/// The sizes of a block.
#[derive(Debug, Clone, Copy)]
pub struct BlockShape {
    /// Number of transformer layers.
    pub depth: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Width of the residual stream.
    pub channels: usize,
    /// Width of the text tokens.
    pub text: usize,
    /// Number of text tokens.
    pub text_tokens: usize,
}

/// An attention sublayer: the norm, and `[out, in]` matrices for queries, keys, values and the output.
#[derive(Debug, Clone)]
pub struct AttentionWeights<A> {
    /// Scale and shift of the norm.
    pub norm: [A; 2],
    /// The matrices for queries, keys, values, and the output.
    pub projections: [A; 4],
    /// The bias of the output matrix.
    pub bias: A,
}

/// One layer. It is generic over the type of a matrix, so that the same weights exist on the host and on a device.
#[derive(Debug, Clone)]
pub struct LayerWeights<A> {
    /// Image tokens attend to image tokens.
    pub self_attention: AttentionWeights<A>,
    /// Image tokens attend to text tokens.
    pub cross_attention: AttentionWeights<A>,
    /// Scale and shift of the feed-forward's norm.
    pub norm: [A; 2],
    /// Weight and bias of GEGLU.
    pub expand: [A; 2],
    /// Weight and bias of the projection back to the channels.
    pub contract: [A; 2],
}

impl<A> AttentionWeights<A> {
    fn map<O, E>(&self, f: &mut impl FnMut(&A) -> Result<O, E>) -> Result<AttentionWeights<O>, E> {
        let [q, k, v, out] = &self.projections;
        Ok(AttentionWeights {
            norm: [f(&self.norm[0])?, f(&self.norm[1])?],
            projections: [f(q)?, f(k)?, f(v)?, f(out)?],
            bias: f(&self.bias)?,
        })
    }
}

impl<A> LayerWeights<A> {
    /// Applies `f` to every matrix.
    pub fn map<O, E>(&self, mut f: impl FnMut(&A) -> Result<O, E>) -> Result<LayerWeights<O>, E> {
        Ok(LayerWeights {
            self_attention: self.self_attention.map(&mut f)?,
            cross_attention: self.cross_attention.map(&mut f)?,
            norm: [f(&self.norm[0])?, f(&self.norm[1])?],
            expand: [f(&self.expand[0])?, f(&self.expand[1])?],
            contract: [f(&self.contract[0])?, f(&self.contract[1])?],
        })
    }
}

impl LayerWeights<Array> {
    /// Plausible random weights. Queries and keys are large enough to give maps with clear maxima.
    pub fn random(shape: &BlockShape, draws: &mut Draws) -> Self {
        let BlockShape { channels: c, text, .. } = *shape;
        let matrix = |draws: &mut Draws, out: usize, inner: usize, gain: f64| {
            draws.normals(&[out, inner]).map(|x| gain * x / (inner as f64).sqrt())
        };
        let norm = |draws: &mut Draws| [draws.uniforms(&[c], 0.8, 1.2), draws.uniforms(&[c], -0.1, 0.1)];
        let attention = |draws: &mut Draws, keys: usize| AttentionWeights {
            norm: norm(draws),
            projections: [
                matrix(draws, c, c, 1.5),
                matrix(draws, c, keys, 1.5),
                matrix(draws, c, keys, 1.0),
                matrix(draws, c, c, 0.5),
            ],
            bias: draws.uniforms(&[c], -0.1, 0.1),
        };
        Self {
            self_attention: attention(draws, c),
            cross_attention: attention(draws, text),
            norm: norm(draws),
            expand: [matrix(draws, 4 * c, c, 1.0), draws.uniforms(&[4 * c], -0.1, 0.1)],
            contract: [matrix(draws, c, 2 * c, 0.5), draws.uniforms(&[c], -0.1, 0.1)],
        }
    }
}

/// How a block is pruned.
#[derive(Debug, Clone)]
pub struct Pruning {
    /// The layers that prune.
    pub layers: Vec<usize>,
    /// The place in the layer.
    pub point: PrunePoint,
    /// The scoring of tokens.
    pub score: PageRankOptions,
    /// The recovery of pruned tokens at the exit.
    pub recovery: Recovery,
    /// Height and width of the token grid.
    pub grid: [usize; 2],
}

/// A block on the host.
#[derive(Debug, Clone)]
pub struct Block {
    /// The sizes.
    pub shape: BlockShape,
    /// The weights of every layer.
    pub layers: Vec<LayerWeights<Array>>,
}

impl Block {
    /// A block with random weights.
    pub fn random(shape: BlockShape, draws: &mut Draws) -> Self {
        Self { shape, layers: (0..shape.depth).map(|_| LayerWeights::random(&shape, draws)).collect() }
    }

    /// Runs the whole block on `[b, n, c]` with text `[b, l, text]`.
    pub fn run(&self, hidden: &Array, text: &Array) -> Array {
        self.run_pruned(hidden, text, None, &mut |_, _| unreachable!("nothing is pruned"))
    }

    /// Runs the block under `pruning`. `choose` gets each pruning layer and its scores `[b, tokens]`, and returns the
    /// kept tokens.
    pub fn run_pruned(
        &self,
        hidden: &Array,
        text: &Array,
        pruning: Option<&Pruning>,
        choose: &mut dyn FnMut(usize, &Array) -> Vec<Vec<u32>>,
    ) -> Array {
        let mut x = hidden.clone();
        let mut positions = vec![(0..hidden.shape[1] as u32).collect::<Vec<u32>>(); hidden.shape[0]];
        let mut stack: Vec<Pruned> = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let (self_map, after) = self.attend(&layer.self_attention, &x, None);
            let (cross_map, after) = self.attend(&layer.cross_attention, &after, Some(text));
            x = after;
            let mut prune = |x: Array| -> Array {
                let Some(pruning) = pruning else { return x };
                let source = match pruning.score.source {
                    ScoreSource::SelfAttention => &self_map,
                    ScoreSource::CrossAttention => &cross_map,
                };
                let scores = super::page_rank(source, &pruning.score).0;
                let kept = choose(index, &combine_heads(&scores, pruning.score.heads));
                let of_kept =
                    |(row, old): (&Vec<u32>, &Vec<u32>)| row.iter().map(|&i| old[i as usize]).collect();
                let next = kept.iter().zip(&positions).map(of_kept).collect();
                let positions = std::mem::replace(&mut positions, next);
                let decision = Pruned::new(kept, self_map.clone(), x, positions);
                let reduced = decision.reduced();
                stack.push(decision);
                reduced
            };
            let here = |point| pruning.is_some_and(|p| p.point == point && p.layers.contains(&index));
            if here(PrunePoint::BeforeFf) {
                x = prune(x);
            }
            x = feed_forward(layer, &x);
            if here(PrunePoint::AfterFf) {
                x = prune(x);
            }
        }
        while let (Some(decision), Some(pruning)) = (stack.pop(), pruning) {
            x = super::restore(&x, &decision, pruning.recovery, pruning.grid);
        }
        x
    }

    /// The map and `x + attention(norm(x))`.
    fn attend(&self, weights: &AttentionWeights<Array>, x: &Array, text: Option<&Array>) -> (Array, Array) {
        let AttentionWeights { norm, projections: [q, k, v, out], bias } = weights;
        let normed = layer_norm(x, &norm[0], &norm[1], NORM_EPSILON);
        let keys = text.unwrap_or(&normed);
        let (q, k, v) = (linear(&normed, q, None), linear(keys, k, None), linear(keys, v, None));
        let (q, k, v) = (self.split(&q), self.split(&k), self.split(&v));
        let scale = ((self.shape.heads as f64) / self.shape.channels as f64).sqrt();
        let map = attention_map(&q, &k, scale, None);
        let merged = permute(&matmul(&map, &v), &[0, 2, 1, 3]).reshaped(&x.shape);
        (map, super::binary(x, &linear(&merged, out, Some(bias)), |a, b| a + b))
    }

    fn split(&self, x: &Array) -> Array {
        let (heads, channels) = (self.shape.heads, self.shape.channels);
        permute(&x.reshaped(&[x.shape[0], x.shape[1], heads, channels / heads]), &[0, 2, 1, 3])
    }
}

fn feed_forward(layer: &LayerWeights<Array>, x: &Array) -> Array {
    let normed = layer_norm(x, &layer.norm[0], &layer.norm[1], NORM_EPSILON);
    let wide = geglu(&normed, &layer.expand[0], Some(&layer.expand[1]));
    super::binary(x, &linear(&wide, &layer.contract[0], Some(&layer.contract[1])), |a, b| a + b)
}
