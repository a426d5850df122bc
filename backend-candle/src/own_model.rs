//! The plugin interface in Candle's own types and errors, for models that are written directly on Candle.

use std::ops::Deref;

use atedm_core::plugin::{
    AttentionInput, AttentionOutput, BlockId, BlockPass, Grid, Positions, Row, Step, Sublayer, TokenReducer,
};
use candle_core::{Error, Module, Result, Tensor};

use crate::CandleTensor;
use crate::error::OrBackend;

/// A [`BlockPass`] over plain [`candle_core::Tensor`]s. It is for a model with its own layers and its own attention
/// kernel.
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
/// let mut pass = CandleBlockPass::enter(&mut method, &step, &rows, BlockId::whole(), 1, Grid::new(2, 2));
/// x = pass.layer(0, x)?;
/// x = pass.self_attention(x, &identity, |x| Ok([x.unsqueeze(1)?, x.unsqueeze(1)?, x.unsqueeze(1)?]), 0.5, |_, _, v| v.squeeze(1))?;
/// x = pass.feed_forward(x, &identity, |x| identity(x))?;
/// x = pass.exit(x)?;
/// # assert_eq!(x.to_vec3::<f32>()?[0][0][0], 4.0);
/// # Ok(())
/// # }
/// ```
///
/// All attention methods have the same form. `project` makes queries, keys and values `[batch, heads, tokens, dim]` from
/// normalised tokens. `attend` is the model's own kernel with its output projection and gate. `scale` is the factor on
/// `q·k`. The kernel need not return a map. If a method asks for the graph, the pass makes it from queries and keys.
#[must_use = "tokens that were removed come back with `exit`"]
pub struct CandleBlockPass<'a>(BlockPass<'a, CandleTensor>);

/// The tokens on which a sublayer runs, `[batch, tokens, channels]`. They are normalised, and reduced if the method
/// says so. Their places in the sequence that entered the block are known.
#[derive(Debug)]
pub struct CandleTokens<'a> {
    tensor: &'a Tensor,
    positions: Positions<'a, CandleTensor>,
}

impl CandleTokens<'_> {
    /// The rows of a table that belong to these tokens: `[batch, m, d]`. The table is `[tokens, d]` or
    /// `[batch, tokens, d]`, with a row for every token of the block's entry. While nothing is reduced the result
    /// is the table itself. Rotary tables, masks and modulations need it.
    ///
    /// # Errors
    /// Fails for a table with another number of tokens, and for a method whose tokens have no single places.
    pub fn rows(&self, table: &Tensor) -> Result<Tensor> {
        to_candle(self.positions.rows(&table.clone().into()))
    }
}

impl Deref for CandleTokens<'_> {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        self.tensor
    }
}

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

    /// Protects tokens `start..end` from removal, such as text or register tokens in the same sequence.
    pub fn with_protected(self, start: usize, end: usize) -> Self {
        Self(self.0.with_protected(start, end))
    }

    /// Layer `index` begins with the residual stream `[batch, tokens, channels]`.
    ///
    /// # Errors
    /// Those of the method, for this and every other call, and those of the closures.
    pub fn layer(&mut self, index: usize, x: Tensor) -> Result<Tensor> {
        to_candle(self.0.layer(index, x.into()))
    }

    /// The rows of a table that belong to the current tokens of the stream, as in [`CandleTokens::rows`]. It serves
    /// uses outside of sublayers, such as the scale and shift of a norm.
    ///
    /// # Errors
    /// As [`CandleTokens::rows`].
    pub fn rows(&self, table: &Tensor) -> Result<Tensor> {
        to_candle(self.0.positions().rows(&table.clone().into()))
    }

    /// Self-attention with its residual. The pass calls `project` again where a method reduces keys and queries differently.
    ///
    /// # Errors
    /// As [`CandleBlockPass::layer`].
    pub fn self_attention(
        &mut self,
        x: Tensor,
        norm: &impl Module,
        project: impl Fn(&CandleTokens<'_>) -> Result<[Tensor; 3]>,
        scale: f64,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let kernel = |_: &CandleTokens<'_>, q: &Tensor, k: &Tensor, v: &Tensor| attend(q, k, v);
        self.within_image(Sublayer::SelfAttention, x, norm, (project, scale, kernel))
    }

    /// Joint attention of two streams with the image's residual. `x` is the image's stream. `project` makes the image's
    /// queries, keys and values. `attend` joins the text's to them, stores the text's output itself, and returns the image's.
    ///
    /// # Errors
    /// As [`CandleBlockPass::layer`].
    pub fn joint_attention(
        &mut self,
        x: Tensor,
        norm: &impl Module,
        project: impl Fn(&CandleTokens<'_>) -> Result<[Tensor; 3]>,
        scale: f64,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let kernel = |_: &CandleTokens<'_>, q: &Tensor, k: &Tensor, v: &Tensor| attend(q, k, v);
        self.within_image(Sublayer::JointAttention, x, norm, (project, scale, kernel))
    }

    /// Attention and feed-forward as one branch, with its residual. `branch` gets the normalised tokens (for the
    /// feed-forward) and the queries, keys and values.
    ///
    /// # Errors
    /// As [`CandleBlockPass::layer`].
    pub fn parallel(
        &mut self,
        x: Tensor,
        norm: &impl Module,
        project: impl Fn(&CandleTokens<'_>) -> Result<[Tensor; 3]>,
        scale: f64,
        branch: impl FnOnce(&CandleTokens<'_>, &Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        self.within_image(Sublayer::Parallel, x, norm, (project, scale, branch))
    }

    /// Cross-attention with its residual. `project` makes queries of the tokens, and keys and values of the text.
    ///
    /// # Errors
    /// As [`CandleBlockPass::layer`].
    pub fn cross_attention(
        &mut self,
        x: Tensor,
        norm: &impl Module,
        project: impl FnOnce(&CandleTokens<'_>) -> Result<[Tensor; 3]>,
        scale: f64,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let output = self.0.attention(Sublayer::CrossAttention, x.into(), normed(norm), |input| {
            let [q, k, v] = project(&queries(&input)).or_backend("project")?;
            let hidden = attend(&q, &k, &v).or_backend("attend")?;
            output(&input, hidden, [q, k, v], scale)
        });
        to_candle(output)
    }

    /// An attention in which image tokens attend to image tokens.
    fn within_image<P, K>(
        &mut self,
        sub: Sublayer,
        x: Tensor,
        norm: &impl Module,
        (project, scale, kernel): (P, f64, K),
    ) -> Result<Tensor>
    where
        P: Fn(&CandleTokens<'_>) -> Result<[Tensor; 3]>,
        K: FnOnce(&CandleTokens<'_>, &Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    {
        let output = self.0.attention(sub, x.into(), normed(norm), |input| {
            let tokens = queries(&input);
            let [q, mut k, mut v] = project(&tokens).or_backend("project")?;
            if !std::ptr::eq(input.queries, input.keys_values) {
                let keys =
                    CandleTokens { tensor: input.keys_values.as_ref(), positions: input.key_positions };
                [_, k, v] = project(&keys).or_backend("project")?;
            }
            let hidden = kernel(&tokens, &q, &k, &v).or_backend("attend")?;
            output(&input, hidden, [q, k, v], scale)
        });
        to_candle(output)
    }

    /// The feed-forward with its residual.
    ///
    /// # Errors
    /// As [`CandleBlockPass::layer`].
    pub fn feed_forward(
        &mut self,
        x: Tensor,
        norm: &impl Module,
        feed_forward: impl FnOnce(&CandleTokens<'_>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        to_candle(self.0.feed_forward(x.into(), normed(norm), |input| {
            let tokens = CandleTokens { tensor: input.tokens.as_ref(), positions: input.positions };
            feed_forward(&tokens).map(CandleTensor::from).or_backend("feed_forward")
        }))
    }

    /// Leaves the block. All tokens are restored.
    ///
    /// # Errors
    /// As [`CandleBlockPass::layer`].
    pub fn exit(self, x: Tensor) -> Result<Tensor> {
        to_candle(self.0.exit(x.into()))
    }
}

/// The norm on our tensors.
fn normed(norm: &impl Module) -> impl FnOnce(&CandleTensor) -> atedm_core::Result<CandleTensor> {
    |x| norm.forward(x.as_ref()).map(CandleTensor::from).or_backend("norm")
}

fn queries<'a>(input: &AttentionInput<'a, CandleTensor>) -> CandleTokens<'a> {
    CandleTokens { tensor: input.queries.as_ref(), positions: input.query_positions }
}

fn output(
    input: &AttentionInput<'_, CandleTensor>,
    hidden: Tensor,
    [q, k, v]: [Tensor; 3],
    scale: f64,
) -> atedm_core::Result<AttentionOutput<CandleTensor>> {
    let graph = input.graph.from_qk(&q.into(), &k.into(), scale)?;
    Ok(AttentionOutput { hidden: hidden.into(), graph, first_vote: None, values: v.into() })
}

fn to_candle(result: atedm_core::Result<CandleTensor>) -> Result<Tensor> {
    result.map(Tensor::from).map_err(Error::wrap)
}
