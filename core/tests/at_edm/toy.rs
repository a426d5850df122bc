//! A toy attention block, once through `BlockPass` and once by the oracle's operations with AT-EDM written out.

use atedm_conformance::host::Array;
use atedm_conformance::oracle::{self, Pruned, Recovery};
use atedm_core::at_edm::scoring::PageRankOptions;
use atedm_core::at_edm::{AtEdmConfig, PrunePoint, ScoreSource, pruned_tokens};
use atedm_core::backend::{Attended, AttentionOps, AttentionOptions, GraphRequest};
use atedm_core::plugin::{
    AttentionInput, AttentionOutput, BlockId, BlockPass, Grid, Row, Step, Sublayer, TokenReducer,
};
use atedm_core::reference::NdTensor;
use atedm_core::{NnOps, Result, Tensor};

use crate::support::{Matrix, Random, mid, tensor};

pub(crate) const CHANNELS: usize = 8;
pub(crate) const HEADS: usize = 2;
const DIM: usize = CHANNELS / HEADS;
pub(crate) const TEXT: usize = 5;

/// Weights of one layer, each `[1, CHANNELS, CHANNELS]`: q, k, v, o of self-attention, the same of cross-attention, and two of
/// the feed-forward.
pub(crate) struct Layer {
    weights: Vec<Array>,
}

pub(crate) struct Toy {
    pub(crate) layers: Vec<Layer>,
    pub(crate) block: BlockId,
    pub(crate) grid: Grid,
    pub(crate) protected: (usize, usize),
    pub(crate) with_cross: bool,
}

/// What the attention sublayers were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Nothing,
    Graph,
    FirstVote,
}

impl Toy {
    pub(crate) fn new(seed: u64, depth: usize, grid: Grid) -> Self {
        let mut random = Random(seed);
        let mut weight = || Array::new(&[1, CHANNELS, CHANNELS], random.numbers(CHANNELS * CHANNELS));
        let mut layer = || Layer { weights: (0..10).map(|_| weight()).collect() };
        let layers = (0..depth).map(|_| layer()).collect();
        Self { layers, block: mid(), grid, protected: (0, 0), with_cross: true }
    }

    /// One pass over `[b, n, CHANNELS]` with text `[b, TEXT, CHANNELS]`; also what every attention was asked for.
    pub(crate) fn run(
        &self,
        reducer: &mut dyn TokenReducer<NdTensor>,
        step: &Step,
        rows: &[Row],
        hidden: NdTensor,
        text: &NdTensor,
    ) -> Result<(NdTensor, Vec<Asked>)> {
        let mut asked = Vec::new();
        let mut pass = BlockPass::enter(reducer, step, rows, self.block, self.layers.len(), self.grid)
            .with_protected(self.protected.0, self.protected.1);
        let mut x = hidden;
        for (i, layer) in self.layers.iter().enumerate() {
            x = pass.layer(i, x)?;
            x = pass.attention(Sublayer::SelfAttention, x, same, |input| {
                layer.attend(0, &input, None, &mut asked)
            })?;
            if self.with_cross {
                let cross =
                    |input: AttentionInput<'_, NdTensor>| layer.attend(4, &input, Some(text), &mut asked);
                x = pass.attention(Sublayer::CrossAttention, x, same, cross)?;
            }
            x = pass.feed_forward(x, same, |input| layer.feed_forward(input.tokens))?;
        }
        Ok((pass.exit(x)?, asked))
    }

    /// The same for one image by the oracle's operations.
    pub(crate) fn oracle(&self, config: &AtEdmConfig, hidden: &Matrix, text: &Matrix) -> Array {
        let [mut x, text] = [hidden, text].map(|rows| Array::new(&[1, rows.len(), CHANNELS], rows.concat()));
        let mut stack = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let own = layer.map(0, &x, &x);
            x = layer.attended(0, &own, &x, &x);
            let cross = layer.map(4, &x, &text);
            x = layer.attended(4, &cross, &x, &text);
            let prunes = config.prune_layers.contains(&i) && i + 1 < self.layers.len();
            if prunes && config.prune_point == PrunePoint::BeforeFf {
                x = prune(config, x, &own, &cross, &mut stack);
            }
            let gated = layer.product(&x, 8).map(|v| v / (1.0 + (-v).exp()));
            x = oracle::binary(&x, &layer.product(&gated, 9), |a, b| a + b);
            if prunes && config.prune_point == PrunePoint::AfterFf {
                x = prune(config, x, &own, &cross, &mut stack);
            }
        }
        let recovery = match config.recovery.as_str() {
            "similarity" => Recovery::Similarity,
            "zero" => Recovery::Zero,
            "direct" => Recovery::Direct,
            other => panic!("the oracle has no recovery {other}"),
        };
        while let Some(decision) = stack.pop() {
            x = oracle::restore(&x, &decision, recovery, [self.grid.height, self.grid.width]);
        }
        x
    }
}

fn same(x: &NdTensor) -> Result<NdTensor> {
    Ok(x.clone())
}

/// The kept tokens of `x`; the decision goes on `stack`.
fn prune(config: &AtEdmConfig, x: Array, own: &Array, cross: &Array, stack: &mut Vec<Pruned>) -> Array {
    let options = PageRankOptions {
        source: config.score,
        max_iterations: config.max_iterations,
        epsilon: config.epsilon,
        ..PageRankOptions::default()
    };
    let map = if config.score == ScoreSource::CrossAttention { cross } else { own };
    let scores = oracle::combine_heads(&oracle::page_rank(map, &options).0, options.heads);
    let tokens = x.shape[1];
    let (kept, _) = oracle::split_top_k(&scores.data, tokens - pruned_tokens(config.ratio, tokens));
    // the recoveries of these tests need no places on the grid
    let places = (0..tokens as u32).collect();
    let decision = Pruned::new(vec![kept], own.clone(), x, vec![places]);
    let reduced = decision.reduced();
    stack.push(decision);
    reduced
}

impl Layer {
    fn weight(&self, i: usize) -> NdTensor {
        tensor(&self.weights[i].data, &[CHANNELS, CHANNELS])
    }

    fn project(&self, x: &NdTensor, i: usize) -> Result<NdTensor> {
        let s = x.shape();
        x.reshape(&[s[0] * s[1], CHANNELS])?.matmul(&self.weight(i))?.reshape(&s)
    }

    fn split(&self, x: &NdTensor, i: usize) -> Result<NdTensor> {
        let s = x.shape();
        self.project(x, i)?.reshape(&[s[0], s[1], HEADS, DIM])?.permute(&[0, 2, 1, 3])
    }

    fn attend(
        &self,
        first: usize,
        input: &AttentionInput<'_, NdTensor>,
        text: Option<&NdTensor>,
        asked: &mut Vec<Asked>,
    ) -> Result<AttentionOutput<NdTensor>> {
        asked.push(match input.graph {
            GraphRequest::None => Asked::Nothing,
            GraphRequest::Lazy | GraphRequest::Stored => Asked::Graph,
            GraphRequest::FirstVote(_) => Asked::FirstVote,
        });
        let source = text.unwrap_or(input.keys_values);
        let (q, k, v) = (
            self.split(input.queries, first)?,
            self.split(source, first + 1)?,
            self.split(source, first + 2)?,
        );
        let options = AttentionOptions { graph: input.graph, ..AttentionOptions::for_dim(DIM) };
        let Attended { hidden: heads, graph, first_vote } = NdTensor::attention(&q, &k, &v, options)?;
        let merged = heads.permute(&[0, 2, 1, 3])?.reshape(&input.queries.shape())?;
        Ok(AttentionOutput { hidden: self.project(&merged, first + 3)?, graph, first_vote, values: v })
    }

    fn feed_forward(&self, x: &NdTensor) -> Result<NdTensor> {
        self.project(&self.project(x, 8)?.silu()?, 9)
    }

    fn product(&self, x: &Array, i: usize) -> Array {
        oracle::matmul(x, &self.weights[i])
    }

    /// `x` times a weight, split into heads: `[1, HEADS, n, DIM]`.
    fn heads(&self, x: &Array, i: usize) -> Array {
        oracle::permute(&self.product(x, i).reshaped(&[1, x.shape[1], HEADS, DIM]), &[0, 2, 1, 3])
    }

    fn map(&self, first: usize, x: &Array, source: &Array) -> Array {
        let (q, k) = (self.heads(x, first), self.heads(source, first + 1));
        oracle::attention_map(&q, &k, 1.0 / (DIM as f64).sqrt(), None)
    }

    fn attended(&self, first: usize, map: &Array, x: &Array, source: &Array) -> Array {
        let heads = oracle::matmul(map, &self.heads(source, first + 2));
        let merged = oracle::permute(&heads, &[0, 2, 1, 3]).reshaped(&x.shape);
        oracle::binary(x, &self.product(&merged, first + 3), |a, b| a + b)
    }
}
