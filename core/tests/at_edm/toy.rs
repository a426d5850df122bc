//! A toy attention block, once through `BlockPass` and once in plain loops with AT-EDM written out.

use atedm_core::at_edm::{AtEdmConfig, PrunePoint, ScoreSource, pruned_tokens};
use atedm_core::backend::{Attended, AttentionOps, AttentionOptions, GraphRequest};
use atedm_core::plugin::{
    AttentionInput, AttentionOutput, BlockId, BlockPass, Grid, Row, Step, Sublayer, TokenReducer,
};
use atedm_core::reference::NdTensor;
use atedm_core::{NnOps, Result, Tensor};

use crate::oracle::{self, Votes};
use crate::support::{Matrix, Random, mid, tensor};

pub(crate) const CHANNELS: usize = 8;
pub(crate) const HEADS: usize = 2;
const DIM: usize = CHANNELS / HEADS;
pub(crate) const TEXT: usize = 5;

/// Weights of one layer: q, k, v, o of self-attention, then of cross-attention, then two of the feed-forward.
pub(crate) struct Layer {
    weights: Vec<Matrix>,
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
        let mut layer =
            || Layer { weights: (0..10).map(|_| random.matrix(CHANNELS, CHANNELS, 1.0)).collect() };
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

    /// The same for one image in plain loops.
    pub(crate) fn oracle(&self, config: &AtEdmConfig, hidden: &Matrix, text: &Matrix) -> Matrix {
        let mut x = hidden.clone();
        let mut stack = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let own = layer.maps(0, &x, &x);
            x = layer.attended(0, &own, &x, &x);
            let cross = layer.maps(4, &x, text);
            x = layer.attended(4, &cross, &x, text);
            let prunes = config.prune_layers.contains(&i) && i + 1 < self.layers.len();
            if prunes && config.prune_point == PrunePoint::BeforeFf {
                x = prune(config, x, &own, &cross, &mut stack);
            }
            let inner = oracle::product(&x, &layer.weights[8]);
            let gated: Matrix =
                inner.iter().map(|r| r.iter().map(|v| v / (1.0 + (-v).exp())).collect()).collect();
            x = oracle::sum(&x, &oracle::product(&gated, &layer.weights[9]));
            if prunes && config.prune_point == PrunePoint::AfterFf {
                x = prune(config, x, &own, &cross, &mut stack);
            }
        }
        while let Some(frame) = stack.pop() {
            x = restore(&config.recovery, &frame, &x);
        }
        x
    }
}

fn same(x: &NdTensor) -> Result<NdTensor> {
    Ok(x.clone())
}

struct Frame {
    kept: Vec<usize>,
    pruned: Vec<usize>,
    donors: Vec<usize>,
    when_pruned: Matrix,
}

fn prune(
    config: &AtEdmConfig,
    x: Matrix,
    own: &[Matrix],
    cross: &[Matrix],
    stack: &mut Vec<Frame>,
) -> Matrix {
    let by_cross = config.score == ScoreSource::CrossAttention;
    let votes = Votes { most: config.max_iterations, epsilon: config.epsilon, ..Votes::paper(by_cross) };
    let heads: Vec<Vec<f64>> =
        if by_cross { cross } else { own }.iter().map(|map| oracle::page_rank(map, votes).0).collect();
    let kept = x.len() - pruned_tokens(config.ratio, x.len());
    let (kept, pruned) = oracle::top_k(&oracle::rms(&heads), kept);
    let donors = oracle::donors(own, &kept, &pruned);
    let shrunk = kept.iter().map(|&i| x[i].clone()).collect();
    stack.push(Frame { kept, pruned, donors, when_pruned: x });
    shrunk
}

fn restore(recovery: &str, frame: &Frame, reduced: &Matrix) -> Matrix {
    let mut full = frame.when_pruned.clone();
    for (value, &i) in reduced.iter().zip(&frame.kept) {
        full[i] = value.clone();
    }
    for (&b, &donor) in frame.pruned.iter().zip(&frame.donors) {
        match recovery {
            "similarity" => full[b] = full[donor].clone(),
            "zero" => full[b].fill(0.0),
            "direct" => {}
            other => panic!("the oracle has no recovery {other}"),
        }
    }
    full
}

impl Layer {
    fn weight(&self, i: usize) -> NdTensor {
        let flat: Vec<f64> = self.weights[i].concat();
        tensor(&flat, &[CHANNELS, CHANNELS])
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

    fn maps(&self, first: usize, x: &Matrix, source: &Matrix) -> Vec<Matrix> {
        let q = oracle::product(x, &self.weights[first]);
        let k = oracle::product(source, &self.weights[first + 1]);
        let head = |m: &Matrix, h: usize| oracle::columns(m, h * DIM, (h + 1) * DIM);
        (0..HEADS).map(|h| oracle::map(&head(&q, h), &head(&k, h), 1.0 / (DIM as f64).sqrt())).collect()
    }

    fn attended(&self, first: usize, maps: &[Matrix], x: &Matrix, source: &Matrix) -> Matrix {
        let v = oracle::product(source, &self.weights[first + 2]);
        let mut merged: Matrix = vec![Vec::new(); x.len()];
        for (h, map) in maps.iter().enumerate() {
            let out = oracle::product(map, &oracle::columns(&v, h * DIM, (h + 1) * DIM));
            merged.iter_mut().zip(out).for_each(|(row, part)| row.extend(part));
        }
        oracle::sum(x, &oracle::product(&merged, &self.weights[first + 3]))
    }
}
