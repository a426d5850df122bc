//! The layers of a transformer written directly on Candle, with an attention kernel of its own.
//! Nothing here knows of token pruning.

use candle_core::{D, Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module, VarBuilder, layer_norm, linear};

/// A stack of transformer layers over image tokens `[batch, tokens, channels]`.
pub struct Transformer {
    /// The layers.
    pub layers: Vec<Layer>,
    /// The last norm.
    pub norm_out: LayerNorm,
}

/// One layer: self-attention and a feed-forward, each with a norm before and a residual around it.
pub struct Layer {
    /// Norm before the attention.
    pub norm1: LayerNorm,
    qkv: Linear,
    out: Linear,
    /// Norm before the feed-forward.
    pub norm2: LayerNorm,
    up: Linear,
    down: Linear,
    heads: usize,
}

impl Transformer {
    /// Loads `layers` layers of `channels` wide with `heads` heads.
    pub fn load(channels: usize, heads: usize, layers: usize, weights: VarBuilder<'_>) -> Result<Self> {
        let layer = |i| Layer::load(channels, heads, weights.pp("layers").pp(i));
        let layers = (0..layers).map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, norm_out: layer_norm(channels, 1e-5, weights.pp("norm_out"))? })
    }
}

impl Layer {
    fn load(channels: usize, heads: usize, weights: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            norm1: layer_norm(channels, 1e-5, weights.pp("norm1"))?,
            qkv: linear(channels, 3 * channels, weights.pp("qkv"))?,
            out: linear(channels, channels, weights.pp("out"))?,
            norm2: layer_norm(channels, 1e-5, weights.pp("norm2"))?,
            up: linear(channels, 4 * channels, weights.pp("up"))?,
            down: linear(4 * channels, channels, weights.pp("down"))?,
            heads,
        })
    }

    /// Queries, keys and values, each `[batch, heads, tokens, dim]`.
    pub fn project(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let (batch, tokens, channels) = x.dims3()?;
        let split = |x: Tensor| {
            x.reshape((batch, tokens, self.heads, channels / self.heads))?.transpose(1, 2)?.contiguous()
        };
        let all = self.qkv.forward(x)?.chunk(3, D::Minus1)?;
        Ok([split(all[0].clone())?, split(all[1].clone())?, split(all[2].clone())?])
    }

    /// The factor on `q·k`.
    pub fn scale(&self) -> f64 {
        1.0 / ((self.out.weight().dims()[0] / self.heads) as f64).sqrt()
    }

    /// This model's own attention kernel, then the output projection: `[batch, tokens, channels]`.
    pub fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let map = candle_nn::ops::softmax_last_dim(&(q.matmul(&k.t()?)? * self.scale())?)?;
        self.out.forward(&map.matmul(v)?.transpose(1, 2)?.flatten_from(2)?)
    }

    /// The feed-forward.
    pub fn feed_forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&self.up.forward(x)?.gelu_erf()?)
    }
}
