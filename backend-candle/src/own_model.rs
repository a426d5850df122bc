//! For models written directly on Candle: the seam in Candle's own types and errors.

use atedm_core::plugin::{AttentionOutput, BlockId, BlockPass, Grid, Row, Step, Sublayer, TokenReducer};
use candle_core::{Error, Module, Result, Tensor};

use crate::CandleTensor;
use crate::error::OrBackend;

/// A [`BlockPass`] over plain [`candle_core::Tensor`]s, for a model with its own layers and its own attention kernel.
///
/// ```
/// # use atedm_candle::CandleBlockPass;
/// # use atedm_core::plugin::{BlockId, Grid, Row, Step, Unpruned};
/// # use candle_core::{DType, Device, Tensor};
/// # fn main() -> candle_core::Result<()> {
/// # let mut x = Tensor::ones((1, 4, 8), DType::F32, &Device::Cpu)?;
/// # let (mut method, rows) = (Unpruned, Row::singles(1));
/// # let step = Step { index: 0, total: 1, evaluation: 0, sigma: 1.0, timestep: 999.0 };
/// # let identity = |x: &Tensor| Ok(x.clone());
/// # let attend = |_: &Tensor, _: &Tensor, v: &Tensor| v.flatten_from(2)?.squeeze(1);
/// let mut pass = CandleBlockPass::enter(&mut method, &step, &rows, BlockId::whole(), 1, Grid::new(2, 2));
/// x = pass.layer(0, x)?;
/// x = pass.self_attention(x, &identity, |x| Ok([x.unsqueeze(1)?, x.unsqueeze(1)?, x.unsqueeze(1)?]), 0.5, |_, _, v| v.squeeze(1))?;
/// x = pass.feed_forward(x, &identity, identity)?;
/// x = pass.exit(x)?;
/// # assert_eq!(x.to_vec3::<f32>()?[0][0][0], 4.0);
/// # Ok(())
/// # }
/// ```
pub struct CandleBlockPass<'a>(BlockPass<'a, CandleTensor>);

impl<'a> CandleBlockPass<'a> {
    /// Enters `block`, a run of `depth` layers over `grid`.
    pub fn enter(
        method: &'a mut dyn TokenReducer<CandleTensor>,
        step: &Step,
        rows: &'a [Row],
        block: BlockId,
        depth: usize,
        grid: Grid,
    ) -> Self {
        Self(BlockPass::enter(method, step, rows, block, depth, grid))
    }

    /// Layer `index` begins with the residual stream `[batch, tokens, channels]`.
    pub fn layer(&mut self, index: usize, x: Tensor) -> Result<Tensor> {
        to_candle(self.0.layer(index, x.into()))
    }

    /// Self-attention with its residual. `project` gives queries, keys and values `[batch, heads, tokens, dim]`;
    /// `attend` is the model's own kernel with its output projection; `scale` is the factor on `q·k`.
    pub fn self_attention(
        &mut self,
        x: Tensor,
        norm: &impl Module,
        project: impl Fn(&Tensor) -> Result<[Tensor; 3]>,
        scale: f64,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let normed = |x: &CandleTensor| norm.forward(x.as_ref()).map(CandleTensor::from).or_backend("norm");
        let output = self.0.attention(Sublayer::SelfAttention, x.into(), normed, |input| {
            let [q, mut k, mut v] = project(input.queries.as_ref()).or_backend("project")?;
            if !std::ptr::eq(input.queries, input.keys_values) {
                [_, k, v] = project(input.keys_values.as_ref()).or_backend("project")?;
            }
            let hidden = attend(&q, &k, &v).or_backend("attend")?.into();
            let graph = input.graph.from_qk(&q.into(), &k.into(), scale)?;
            Ok(AttentionOutput { hidden, graph, first_vote: None, values: v.into() })
        });
        to_candle(output)
    }

    /// The feed-forward with its residual.
    pub fn feed_forward(
        &mut self,
        x: Tensor,
        norm: &impl Module,
        feed_forward: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let normed = |x: &CandleTensor| norm.forward(x.as_ref()).map(CandleTensor::from).or_backend("norm");
        let output =
            |x: &CandleTensor| feed_forward(x.as_ref()).map(CandleTensor::from).or_backend("feed_forward");
        to_candle(self.0.feed_forward(x.into(), normed, output))
    }

    /// Leaves the block: every token is back.
    pub fn exit(self, x: Tensor) -> Result<Tensor> {
        to_candle(self.0.exit(x.into()))
    }
}

fn to_candle(result: atedm_core::Result<CandleTensor>) -> Result<Tensor> {
    result.map(Tensor::from).map_err(Error::wrap)
}
