//! The forward pass with token pruning.

use atedm_candle::{CandleBlockPass, CandleTensor, CandleTokens};
use atedm_core::plugin::{BlockId, Grid, Row, Step, TokenReducer};
use candle_core::{Result, Tensor};
use candle_nn::Module;

use crate::layers::Transformer;

// ANCHOR: forward
/// A method, for the image that is being made.
pub type Method<'a> = &'a mut dyn TokenReducer<CandleTensor>;

/// The whole model: `[batch, tokens, channels]` in and out.
pub fn forward(model: &Transformer, x: &Tensor, by: Method<'_>, step: &Step, grid: Grid) -> Result<Tensor> {
    let (mut x, rows) = (x.clone(), Row::singles(x.dim(0)?));
    let mut pass = CandleBlockPass::enter(by, step, &rows, BlockId::whole(), model.layers.len(), grid);
    for (index, layer) in model.layers.iter().enumerate() {
        x = pass.layer(index, x)?;
        // the rotary tables' rows of the tokens that are still there
        let project = |x: &CandleTokens<'_>| layer.project(x, &model.rotary.of(|table| x.rows(table))?);
        x = pass.self_attention(x, &layer.norm1, project, layer.scale(), |q, k, v| layer.attend(q, k, v))?;
        x = pass.feed_forward(x, &layer.norm2, |x| layer.feed_forward(x))?;
    }
    model.norm_out.forward(&pass.exit(x)?)
}
// ANCHOR_END: forward
