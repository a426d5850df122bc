//! A small transformer block on a backend, written as an outside model would write it, and its oracle.

use std::cell::RefCell;

use atedm_core::backend::{Attended, AttentionOptions};
use atedm_core::plugin::{
    AttentionInput, AttentionOutput, BlockId, BlockPass, Grid, Row, Step, Sublayer, TokenReducer,
};
use atedm_core::{AttentionOps, Backend, Error, GraphRequest, Result};

use super::support::{Lab, Sample, TensorOf};
use crate::oracle::{self, AttentionWeights, BlockShape, LayerWeights, NORM_EPSILON};

/// A block with seeded weights, its input and its text, on the host and on a device.
#[derive(Debug, Clone)]
pub struct TestBlock<T> {
    /// The weights on the host.
    pub host: oracle::Block,
    /// The same weights on the device.
    pub layers: Vec<LayerWeights<T>>,
    /// The residual stream `[b, n, c]`.
    pub hidden: Sample<T>,
    /// The text `[b, l, text]`.
    pub text: Sample<T>,
    /// The token grid.
    pub grid: Grid,
    /// The id of the block in a model.
    pub id: BlockId,
    /// The sublayers of each of its layers.
    pub sublayers: &'static [Sublayer],
}

/// One pass through a block: its inputs, its place and step, and where it stops.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Visit<'a, T> {
    /// The residual stream `[b, tokens, channels]`.
    pub hidden: &'a T,
    /// The text tokens `[b, l, text]`.
    pub text: &'a T,
    /// The image tokens' grid.
    pub grid: Grid,
    /// The role of each batch row.
    pub rows: &'a [Row],
    /// The denoising step.
    pub step: Step,
    /// Tokens of the stream that must not be removed, `start..end`.
    pub protected: (usize, usize),
    /// The layer and the sublayer in which the model fails with [`Error::Cancelled`].
    pub stops_in: Option<(usize, Sublayer)>,
    /// A table that every sublayer gathers by the positions of its tokens.
    pub probe: Option<&'a Probe<T>>,
}

/// Records the rows of a per-token table that every sublayer gets.
#[derive(Debug)]
pub struct Probe<T> {
    /// The table `[tokens, d]`, with a row for every token at the block's entry.
    pub table: T,
    seen: RefCell<Vec<Gathered<T>>>,
}

/// The table rows that one sublayer got.
#[derive(Debug)]
pub struct Gathered<T> {
    /// The layer.
    pub layer: usize,
    /// The sublayer.
    pub sub: Sublayer,
    /// The rows for its queries, or for the feed-forward's tokens.
    pub queries: Result<T>,
    /// The rows for its keys and values, if these are tokens of the stream.
    pub keys: Option<Result<T>>,
}

/// Takes the rows of a table that belong to a sublayer's tokens.
type Gather<'a, T> = &'a dyn Fn(&T) -> Result<T>;

impl<T> Probe<T> {
    /// A probe with this table.
    pub fn new(table: T) -> Self {
        Self { table, seen: RefCell::new(Vec::new()) }
    }

    /// The gathered rows, in the order of the sublayers.
    pub fn gathered(self) -> Vec<Gathered<T>> {
        self.seen.into_inner()
    }
}

impl<T> Visit<'_, T> {
    /// Fails with [`Error::Cancelled`] if the pass stops in this sublayer.
    fn alive(&self, layer: usize, sub: Sublayer) -> Result<()> {
        if self.stops_in == Some((layer, sub)) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// The first of `steps` steps.
pub fn first_step(steps: usize) -> Step {
    Step { index: 0, total: steps, evaluation: 0, sigma: 1.0, timestep: 999.0 }
}

impl<T: AttentionOps> TestBlock<T> {
    /// A block with weights, stream and text drawn from the lab, rounded to its dtype.
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
        let sublayers = &[Sublayer::SelfAttention, Sublayer::CrossAttention, Sublayer::FeedForward];
        Ok(Self { layers: layers?, hidden, text, grid, id: BlockId::whole(), sublayers, host })
    }

    /// The same weights with other sublayers. Joint attention takes the text's keys and values from the weights of
    /// cross-attention. A parallel sublayer is self-attention and feed-forward on one norm.
    pub fn made_of(self, id: BlockId, sublayers: &'static [Sublayer]) -> Self {
        Self { id, sublayers, ..self }
    }

    /// The oracle's output for the whole block, as a block of a U-Net.
    pub fn expected(&self) -> crate::host::Array {
        self.host.run(&self.hidden.host, &self.text.host)
    }

    /// Runs the block under a reducer, in the first of 10 steps.
    pub fn run(&self, reducer: &mut dyn TokenReducer<T>) -> Result<T> {
        self.run_rows(reducer, &Row::singles(self.hidden.host.shape[0]))
    }

    /// Like [`TestBlock::run`], with given batch rows.
    pub fn run_rows(&self, reducer: &mut dyn TokenReducer<T>, rows: &[Row]) -> Result<T> {
        self.run_at(reducer, rows, first_step(10))
    }

    /// Like [`TestBlock::run_rows`], at a given step.
    pub fn run_at(&self, reducer: &mut dyn TokenReducer<T>, rows: &[Row], step: Step) -> Result<T> {
        let (hidden, text, grid) = (&self.hidden.on, &self.text.on, self.grid);
        let visit = Visit { hidden, text, grid, rows, step, protected: (0, 0), stops_in: None, probe: None };
        self.visit(reducer, visit)
    }

    /// Runs the block's weights on another stream.
    pub fn visit(&self, reducer: &mut dyn TokenReducer<T>, visit: Visit<'_, T>) -> Result<T> {
        let (start, end) = visit.protected;
        let pass = BlockPass::enter(reducer, &visit.step, visit.rows, self.id, self.layers.len(), visit.grid);
        let mut pass = pass.with_protected(start, end);
        let mut x = visit.hidden.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            x = pass.layer(index, x)?;
            for &sub in self.sublayers {
                x = self.sublayer((index, sub), layer, &mut pass, x, &visit)?;
            }
        }
        pass.exit(x)
    }

    fn sublayer(
        &self,
        (index, sub): (usize, Sublayer),
        layer: &LayerWeights<T>,
        pass: &mut BlockPass<'_, T>,
        x: T,
        visit: &Visit<'_, T>,
    ) -> Result<T> {
        let note = |queries: Gather<'_, T>, keys: Option<Gather<'_, T>>| {
            if let Some(Probe { table, seen }) = visit.probe {
                let keys = keys.map(|rows| rows(table));
                seen.borrow_mut().push(Gathered { layer: index, sub, queries: queries(table), keys });
            }
        };
        let normed = match sub {
            Sublayer::CrossAttention => &layer.cross_attention.norm,
            Sublayer::FeedForward => &layer.norm,
            _ => &layer.self_attention.norm,
        };
        let normed = |x: &T| norm(x, normed);
        if sub == Sublayer::FeedForward {
            return pass.feed_forward(x, normed, |input| {
                visit.alive(index, sub)?;
                note(&|table| input.rows(table), None);
                feed_forward(layer, input.tokens)
            });
        }
        pass.attention(sub, x, normed, |input| {
            visit.alive(index, sub)?;
            let keys: Gather<'_, T> = &|table| input.key_rows(table);
            note(&|table| input.query_rows(table), sub.has_self_graph().then_some(keys));
            self.branch(sub, layer, &input, visit.text)
        })
    }

    /// One attention sublayer, without norm and residual.
    fn branch(
        &self,
        sub: Sublayer,
        layer: &LayerWeights<T>,
        input: &AttentionInput<'_, T>,
        text: &T,
    ) -> Result<AttentionOutput<T>> {
        match sub {
            Sublayer::CrossAttention => self.attend(&layer.cross_attention, input, text),
            Sublayer::JointAttention => self.attend_jointly(layer, input, text),
            Sublayer::Parallel => {
                let output = self.attend(&layer.self_attention, input, input.keys_values)?;
                let hidden = output.hidden.add(&feed_forward(layer, input.queries)?)?;
                Ok(AttentionOutput { hidden, ..output })
            }
            _ => self.attend(&layer.self_attention, input, input.keys_values),
        }
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
        let options = AttentionOptions { graph: input.graph, ..AttentionOptions::for_dim(self.dim()) };
        let Attended { hidden, graph, first_vote } = T::attention(&q, &k, &v, options)?;
        let merged = hidden.permute(&[0, 2, 1, 3])?.reshape(&input.queries.shape())?;
        Ok(AttentionOutput { hidden: merged.linear(out, Some(&weights.bias))?, graph, first_vote, values: v })
    }

    /// Image queries over the keys of image and text. If a text layer followed, it would take its own output from here.
    fn attend_jointly(
        &self,
        layer: &LayerWeights<T>,
        input: &AttentionInput<'_, T>,
        text: &T,
    ) -> Result<AttentionOutput<T>> {
        let [q, k, v, out] = &layer.self_attention.projections;
        let [_, text_k, text_v, _] = &layer.cross_attention.projections;
        let project = |x: &T, weight: &T| self.split(&x.linear(weight, None)?);
        let (q, k, v) =
            (project(input.queries, q)?, project(input.keys_values, k)?, project(input.keys_values, v)?);
        let keys = T::concat(&[&project(text, text_k)?, &k], 2)?;
        let values = T::concat(&[&project(text, text_v)?, &v], 2)?;
        let options = AttentionOptions::for_dim(self.dim());
        let graph = input.graph.from_qk(&q, &k, options.scale)?;
        let merged = T::attention(&q, &keys, &values, options)?.hidden.permute(&[0, 2, 1, 3])?;
        let bias = &layer.self_attention.bias;
        let hidden = merged.reshape(&input.queries.shape())?.linear(out, Some(bias))?;
        Ok(AttentionOutput { hidden, graph, first_vote: None, values: v })
    }

    fn dim(&self) -> usize {
        self.host.shape.channels / self.host.shape.heads
    }

    /// The block without a pass: every sublayer's output is added to the stream.
    pub fn plain(&self) -> Result<T> {
        let mut x = self.hidden.on.clone();
        let nothing = GraphRequest::None;
        for layer in &self.layers {
            for &sub in self.sublayers {
                let output = match sub {
                    Sublayer::FeedForward => feed_forward(layer, &norm(&x, &layer.norm)?)?,
                    Sublayer::CrossAttention => {
                        let normed = norm(&x, &layer.cross_attention.norm)?;
                        self.branch(sub, layer, &AttentionInput::whole(&normed, &nothing), &self.text.on)?
                            .hidden
                    }
                    _ => {
                        let normed = norm(&x, &layer.self_attention.norm)?;
                        self.branch(sub, layer, &AttentionInput::whole(&normed, &nothing), &self.text.on)?
                            .hidden
                    }
                };
                x = x.add(&output)?;
            }
        }
        Ok(x)
    }

    fn split(&self, x: &T) -> Result<T> {
        let BlockShape { heads, channels, .. } = self.host.shape;
        let shape = x.shape();
        x.reshape(&[shape[0], shape[1], heads, channels / heads])?.permute(&[0, 2, 1, 3])
    }
}

fn feed_forward<T: AttentionOps>(layer: &LayerWeights<T>, x: &T) -> Result<T> {
    let [weight, bias] = &layer.expand;
    let wide = x.geglu(weight, Some(bias))?;
    let [weight, bias] = &layer.contract;
    wide.linear(weight, Some(bias))
}

fn norm<T: AttentionOps>(x: &T, [weight, bias]: &[T; 2]) -> Result<T> {
    x.layer_norm(weight, bias, NORM_EPSILON)
}

/// The block that most checks use: two heads of 8, on a grid of 5 x 7.
pub fn small<B: Backend>(lab: &mut Lab<'_, B>, depth: usize) -> Result<TestBlock<TensorOf<B>>> {
    let shape = BlockShape { depth, heads: 2, channels: 16, text: 12, text_tokens: 5 };
    TestBlock::new(lab, shape, 2, Grid::new(5, 7))
}
