//! The forward pass without pruning.

use candle_core::{Result, Tensor};
use candle_nn::Module;

use crate::layers::Transformer;

/// The whole model: `[batch, tokens, channels]` in and out.
pub fn forward(model: &Transformer, x: &Tensor) -> Result<Tensor> {
    let mut x = x.clone();
    for layer in &model.layers {
        let [q, k, v] = layer.project(&layer.norm1.forward(&x)?, &model.rotary)?;
        x = (&x + layer.attend(&q, &k, &v)?)?;
        x = (&x + layer.feed_forward(&layer.norm2.forward(&x)?)?)?;
    }
    model.norm_out.forward(&x)
}
