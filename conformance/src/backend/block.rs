//! A small transformer block on a backend, written as a model outside would write it, beside its oracle.

use atedm_core::backend::{Attended, AttentionOptions};
use atedm_core::plugin::{
    AttentionInput, AttentionOutput, BlockId, BlockPass, Grid, Row, Step, Sublayer, TokenReducer,
};
use atedm_core::{AttentionOps, Backend, Error, Result};

use super::support::{Lab, Sample, TensorOf};
use crate::oracle::{self, AttentionWeights, BlockShape, LayerWeights, NORM_EPSILON};

/// A block with seeded weights, its input and its text, on the host and on a device.
#[derive(Debug, Clone)]
pub struct TestBlock<T> {
    /// On the host.
    pub host: oracle::Block,
    /// The same weights on the device.
    pub layers: Vec<LayerWeights<T>>,
    /// The residual stream `[b, n, c]`.
    pub hidden: Sample<T>,
    /// The text `[b, l, text]`.
    pub text: Sample<T>,
    /// The token grid.
    pub grid: Grid,
    /// Which block of a U-Net it plays.
    pub id: BlockId,
}

/// One pass through a block: what comes in, where and when, and whether it comes to its end.
#[derive(Debug, Clone, Copy)]
pub struct Visit<'a, T> {
    /// The residual stream `[b, tokens, channels]`.
    pub hidden: &'a T,
    /// The text `[b, l, text]`.
    pub text: &'a T,
    /// The image tokens' grid.
    pub grid: Grid,
    /// What each batch row is.
    pub rows: &'a [Row],
    /// The denoising step.
    pub step: Step,
    /// Tokens of the stream that stay, `start..end`.
    pub protected: (usize, usize),
    /// The layer and the sublayer in which the model fails with [`Error::Cancelled`].
    pub stops_in: Option<(usize, Sublayer)>,
}

/// The first of `steps` steps.
pub fn first_step(steps: usize) -> Step {
    Step { index: 0, total: steps, evaluation: 0, sigma: 1.0, timestep: 999.0 }
}

impl<T: AttentionOps> TestBlock<T> {
    /// Weights, stream and text from the lab's draws, rounded to its dtype.
    pub fn new<B: Backend<Tensor = T>>(
        lab: &mut Lab<'_, B>,
        shape: BlockShape,
        batch: usize,
        grid: Grid,
    ) -> Result<Self> {
        let dtype = lab.dtype;
        let mut host = oracle::Block::random(shape, &mut lab.draws);
        for layer in &mut host.layers {
            *layer = layer.map(|matrix| Result::Ok(matrix.rounded(dtype)))?;
        }
        let layers: Result<Vec<_>> =
            host.layers.iter().map(|layer| layer.map(|matrix| matrix.upload(dtype, lab.device))).collect();
        let hidden = lab.normals(&[batch, grid.tokens(), shape.channels])?;
        let text = lab.normals(&[batch, shape.text_tokens, shape.text])?;
        Ok(Self { layers: layers?, hidden, text, grid, id: BlockId::whole(), host })
    }

    /// The oracle on the whole block.
    pub fn expected(&self) -> crate::host::Array {
        self.host.run(&self.hidden.host, &self.text.host)
    }

    /// The block under a reducer, in the first of 10 steps.
    pub fn run(&self, reducer: &mut dyn TokenReducer<T>) -> Result<T> {
        self.run_rows(reducer, &Row::singles(self.hidden.host.shape[0]))
    }

    /// [`TestBlock::run`] with the batch rows given.
    pub fn run_rows(&self, reducer: &mut dyn TokenReducer<T>, rows: &[Row]) -> Result<T> {
        self.run_at(reducer, rows, first_step(10))
    }

    /// [`TestBlock::run_rows`] at the step given.
    pub fn run_at(&self, reducer: &mut dyn TokenReducer<T>, rows: &[Row], step: Step) -> Result<T> {
        let (hidden, text, grid) = (&self.hidden.on, &self.text.on, self.grid);
        self.visit(reducer, Visit { hidden, text, grid, rows, step, protected: (0, 0), stops_in: None })
    }

    /// The block's weights on another stream.
    pub fn visit(&self, reducer: &mut dyn TokenReducer<T>, visit: Visit<'_, T>) -> Result<T> {
        let Visit { hidden, text, grid, rows, step, protected: (start, end), stops_in } = visit;
        let pass = BlockPass::enter(reducer, &step, rows, self.id, self.layers.len(), grid);
        let mut pass = pass.with_protected(start, end);
        let alive = |layer: usize, sub: Sublayer| match stops_in == Some((layer, sub)) {
            true => Err(Error::Cancelled),
            false => Ok(()),
        };
        let mut x = hidden.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            x = pass.layer(index, x)?;
            let attend = &layer.self_attention;
            x = pass.attention(
                Sublayer::SelfAttention,
                x,
                |x| norm(x, &attend.norm),
                |input| {
                    alive(index, Sublayer::SelfAttention)?;
                    self.attend(attend, &input, input.keys_values)
                },
            )?;
            let attend = &layer.cross_attention;
            x = pass.attention(
                Sublayer::CrossAttention,
                x,
                |x| norm(x, &attend.norm),
                |input| {
                    alive(index, Sublayer::CrossAttention)?;
                    self.attend(attend, &input, text)
                },
            )?;
            x = pass.feed_forward(
                x,
                |x| norm(x, &layer.norm),
                |x| {
                    alive(index, Sublayer::FeedForward)?;
                    let [weight, bias] = &layer.expand;
                    let wide = x.geglu(weight, Some(bias))?;
                    let [weight, bias] = &layer.contract;
                    wide.linear(weight, Some(bias))
                },
            )?;
        }
        pass.exit(x)
    }

    fn attend(
        &self,
        weights: &AttentionWeights<T>,
        input: &AttentionInput<'_, T>,
        keys: &T,
    ) -> Result<AttentionOutput<T>> {
        let [q, k, v, out] = &weights.projections;
        let q = self.split(&input.queries.linear(q, None)?)?;
        let (k, v) = (self.split(&keys.linear(k, None)?)?, self.split(&keys.linear(v, None)?)?);
        let dim = self.host.shape.channels / self.host.shape.heads;
        let options = AttentionOptions { graph: input.graph, ..AttentionOptions::for_dim(dim) };
        let Attended { hidden, graph, first_vote } = T::attention(&q, &k, &v, options)?;
        let merged = hidden.permute(&[0, 2, 1, 3])?.reshape(&input.queries.shape())?;
        Ok(AttentionOutput { hidden: merged.linear(out, Some(&weights.bias))?, graph, first_vote, values: v })
    }

    fn split(&self, x: &T) -> Result<T> {
        let BlockShape { heads, channels, .. } = self.host.shape;
        let shape = x.shape();
        x.reshape(&[shape[0], shape[1], heads, channels / heads])?.permute(&[0, 2, 1, 3])
    }
}

fn norm<T: AttentionOps>(x: &T, [weight, bias]: &[T; 2]) -> Result<T> {
    x.layer_norm(weight, bias, NORM_EPSILON)
}

/// The block of most checks: two heads of 8, on a grid of 5 x 7.
pub fn small<B: Backend>(lab: &mut Lab<'_, B>, depth: usize) -> Result<TestBlock<TensorOf<B>>> {
    let shape = BlockShape { depth, heads: 2, channels: 16, text: 12, text_tokens: 5 };
    TestBlock::new(lab, shape, 2, Grid::new(5, 7))
}
