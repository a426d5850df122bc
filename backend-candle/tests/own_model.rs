//! The pass in Candle's own types. Every form of layer gives the same result as without a pass, and tables follow the tokens.

// helpers outside `#[test]` functions belong to the tests, too
#![allow(clippy::unwrap_used)]

use atedm_candle::{CandleBlockPass, CandleIndices, CandleTensor, CandleTokens};
use atedm_core::plugin::{
    Action, BlockId, Event, Grid, IndexPlan, Reduction, Row, Scope, Site, Step, Sublayer, TokenReducer,
    Unpruned,
};
use atedm_core::{GraphRequest, Indices, Partition};
use candle_core::{D, Device, Result, Tensor};

const TOKENS: usize = 12;
const CHANNELS: usize = 8;
const STEP: Step = Step { index: 0, total: 1, evaluation: 0, sigma: 1.0, timestep: 999.0 };

fn noise(shape: &[usize], seed: u32) -> Tensor {
    let count: usize = shape.iter().product();
    let value =
        |i: u32| ((i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97)) >> 16) as f32 / 65_536.0 - 0.5;
    Tensor::from_vec((0..count as u32).map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

/// The weights of a layer. Its attention has one head, and a table of places shifts queries and keys.
struct Model {
    weights: [Tensor; 3],
    text: Tensor,
    table: Tensor,
}

impl Model {
    fn new() -> Self {
        let weights = [1, 2, 3].map(|seed| noise(&[CHANNELS, CHANNELS], seed));
        Self { weights, text: noise(&[1, 5, CHANNELS], 4), table: noise(&[TOKENS, CHANNELS], 5) }
    }

    fn project(&self, x: &Tensor, table: &Tensor) -> Result<[Tensor; 3]> {
        let shifted = x.broadcast_add(table)?;
        let by = |x: &Tensor, i: usize| x.broadcast_matmul(&self.weights[i])?.unsqueeze(1);
        Ok([by(&shifted, 0)?, by(&shifted, 1)?, by(x, 2)?])
    }

    fn to_text(&self, x: &Tensor, table: &Tensor) -> Result<[Tensor; 3]> {
        let [q, ..] = self.project(x, table)?;
        Ok([q, self.text.unsqueeze(1)?, self.text.unsqueeze(1)?])
    }

    fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        candle_nn::ops::softmax_last_dim(&q.matmul(&k.t()?)?)?.matmul(v)?.squeeze(1)
    }

    /// Joins the image's keys and values with the text's.
    fn jointly(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let text = self.text.unsqueeze(1)?;
        Self::attend(q, &Tensor::cat(&[&text, k], 2)?, &Tensor::cat(&[&text, v], 2)?)
    }

    /// A layer of each form by hand, on these tokens and these rows of the table.
    fn plain(&self, x: &Tensor, table: &Tensor) -> Result<Tensor> {
        let [q, k, v] = self.project(&halved(x)?, table)?;
        self.after_self_attention(&(x + Self::attend(&q, &k, &v)?)?, table)
    }

    /// The forms after self-attention.
    fn after_self_attention(&self, x: &Tensor, table: &Tensor) -> Result<Tensor> {
        let [q, k, v] = self.to_text(&halved(x)?, table)?;
        let x = (x + Self::attend(&q, &k, &v)?)?;
        let x = (&x + halved(&x)?.broadcast_mul(table)?)?;
        let [q, k, v] = self.project(&halved(&x)?, table)?;
        let x = (&x + self.jointly(&q, &k, &v)?)?;
        let normed = halved(&x)?;
        let [q, k, v] = self.project(&normed, table)?;
        &x + (Self::attend(&q, &k, &v)? + normed.sqr()?)?
    }

    /// The same layers through a pass.
    fn passed(&self, x: &Tensor, method: &mut dyn TokenReducer<CandleTensor>) -> Result<Tensor> {
        let rows = Row::singles(1);
        let (block, grid) = (BlockId::whole(), Grid::new(3, 4));
        let mut pass = CandleBlockPass::enter(method, &STEP, &rows, block, 1, grid).with_protected(0, 1);
        let project = |x: &CandleTokens<'_>| self.project(x, &x.rows(&self.table)?);
        let x = pass.layer(0, x.clone())?;
        let x = pass.self_attention(x, &halved, project, 1.0, Self::attend)?;
        let x =
            pass.cross_attention(x, &halved, |x| self.to_text(x, &x.rows(&self.table)?), 1.0, Self::attend)?;
        let x = pass.feed_forward(x, &halved, |x| x.broadcast_mul(&x.rows(&self.table)?))?;
        let x = pass.joint_attention(x, &halved, project, 1.0, |q, k, v| self.jointly(q, k, v))?;
        let x = pass.parallel(x, &halved, project, 1.0, |x, q, k, v| Self::attend(q, k, v)? + x.sqr()?)?;
        assert_eq!(pass.rows(&self.table)?.dim(D::Minus2)?, x.dim(1)?);
        pass.exit(x)
    }
}

fn halved(x: &Tensor) -> Result<Tensor> {
    x * 0.5
}

fn off(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// Keeps tokens 1, 4, 7, ... of the stream until the exit, or of keys and values of self-attention.
struct Thirds {
    around_keys: bool,
    heard: Vec<Sublayer>,
}

fn thirds() -> Vec<u32> {
    (1..TOKENS as u32).step_by(3).collect()
}

impl TokenReducer<CandleTensor> for Thirds {
    fn wants(&mut self, site: &Site<'_>, _: Sublayer) -> atedm_core::Result<GraphRequest<CandleTensor>> {
        assert_eq!(site.protected, (0, 1));
        Ok(GraphRequest::Lazy)
    }

    fn on_event(
        &mut self,
        site: &Site<'_>,
        event: Event<'_, CandleTensor>,
    ) -> atedm_core::Result<Action<CandleTensor>> {
        let plan = || -> atedm_core::Result<Box<dyn Reduction<CandleTensor>>> {
            let partition = Partition::from_kept(&[thirds()], site.tokens, &Device::Cpu)?;
            let donors = vec![(0..site.tokens as u32 - 4).map(|i| i / 2).collect()];
            Ok(Box::new(IndexPlan::new(&partition, &CandleIndices::from_host(&donors, &Device::Cpu)?)?))
        };
        Ok(match event {
            Event::LayerEnter { .. } if !self.around_keys => Action::UntilExit(plan()?),
            Event::Before { sub: Sublayer::SelfAttention, .. } if self.around_keys => {
                Action::Around { scope: Scope::KeysValues, by: plan()? }
            }
            Event::Attended { sub, graph, .. } => {
                let [_, _, m, n] = graph.map(|graph| graph.dims()).transpose()?.unwrap();
                let text = if sub == Sublayer::CrossAttention { 5 } else { m };
                let keys = if self.around_keys && sub == Sublayer::SelfAttention { 4 } else { text };
                assert_eq!((m, n), (site.tokens, keys), "{sub:?}");
                self.heard.push(sub);
                Action::Continue
            }
            _ => Action::Continue,
        })
    }
}

#[test]
fn every_form_of_layer_is_what_it_is_without_a_pass() {
    let model = Model::new();
    let x = noise(&[1, TOKENS, CHANNELS], 6);
    let plain = model.plain(&x, &model.table).unwrap();
    assert!(off(&model.passed(&x, &mut Unpruned).unwrap(), &plain) < 1e-6);
}

/// The kept tokens give the result of a model of only these tokens: their rows of the table went with them.
#[test]
fn tables_follow_the_tokens_through_every_form() {
    let model = Model::new();
    let x = noise(&[1, TOKENS, CHANNELS], 6);
    let at = Tensor::new(thirds(), &Device::Cpu).unwrap();
    let kept = |x: &Tensor, axis: usize| x.index_select(&at, axis).unwrap();
    let mut method = Thirds { around_keys: false, heard: Vec::new() };
    let pruned = kept(&model.passed(&x, &mut method).unwrap(), 1);
    let alone = model.plain(&kept(&x, 1), &kept(&model.table, 0)).unwrap();
    assert!(off(&pruned, &alone) < 1e-5, "{}", off(&pruned, &alone));
    let wrong = model.plain(&kept(&x, 1), &model.table.narrow(0, 0, 4).unwrap()).unwrap();
    assert!(off(&pruned, &wrong) > 1e-3);
    use Sublayer::{CrossAttention, JointAttention, Parallel, SelfAttention};
    assert_eq!(method.heard, [SelfAttention, CrossAttention, JointAttention, Parallel]);
}

/// Keys and values that are reduced without the queries have their own places.
#[test]
fn reduced_keys_take_their_own_rows() {
    let model = Model::new();
    let x = noise(&[1, TOKENS, CHANNELS], 6);
    let mut method = Thirds { around_keys: true, heard: Vec::new() };
    let got = model.passed(&x, &mut method).unwrap();
    let at = Tensor::new(thirds(), &Device::Cpu).unwrap();
    let normed = halved(&x).unwrap();
    let [q, ..] = model.project(&normed, &model.table).unwrap();
    let rows = model.table.index_select(&at, 0).unwrap();
    let [_, k, v] = model.project(&normed.index_select(&at, 1).unwrap(), &rows).unwrap();
    let first = (&x + Model::attend(&q, &k, &v).unwrap()).unwrap();
    let rest = model.after_self_attention(&first, &model.table).unwrap();
    assert!(off(&got, &rest) < 1e-5, "{}", off(&got, &rest));
}
