//! The layers of a transformer written directly on Candle, with an attention kernel of its own.
//! Nothing here knows of token pruning.

use candle_core::{D, Device, Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module, VarBuilder, layer_norm, linear};

/// A stack of transformer layers over image tokens `[batch, tokens, channels]`.
pub struct Transformer {
    /// The layers.
    pub layers: Vec<Layer>,
    /// The rotary tables of the token grid.
    pub rotary: Rotary,
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
    /// Loads `depth` layers of `channels` wide with `heads` heads, for a grid of `[height, width]` tokens.
    pub fn load(
        [channels, heads, depth]: [usize; 3],
        grid: [usize; 2],
        weights: VarBuilder<'_>,
    ) -> Result<Self> {
        let layer = |i| Layer::load(channels, heads, weights.pp("layers").pp(i));
        let layers = (0..depth).map(layer).collect::<Result<_>>()?;
        let rotary = Rotary::new(grid, channels / heads, weights.device())?;
        Ok(Self { layers, rotary, norm_out: layer_norm(channels, 1e-5, weights.pp("norm_out"))? })
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

    /// Queries, keys and values, each `[batch, heads, tokens, dim]`. Positions rotate queries and keys.
    pub fn project(&self, x: &Tensor, rotary: &Rotary) -> Result<[Tensor; 3]> {
        let (batch, tokens, channels) = x.dims3()?;
        let split = |x: Tensor| {
            x.reshape((batch, tokens, self.heads, channels / self.heads))?.transpose(1, 2)?.contiguous()
        };
        let all = self.qkv.forward(x)?.chunk(3, D::Minus1)?;
        let [q, k, v] = [split(all[0].clone())?, split(all[1].clone())?, split(all[2].clone())?];
        Ok([rotary.turn(&q)?, rotary.turn(&k)?, v])
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

/// Rotary position embeddings over rows and columns: a row of each table for every token.
pub struct Rotary {
    /// `[tokens, dim]` or `[batch, tokens, dim]`.
    pub cos: Tensor,
    /// The same.
    pub sin: Tensor,
}

impl Rotary {
    /// The tables of a grid: half of the angles go by the row, half by the column.
    pub fn new([height, width]: [usize; 2], dim: usize, device: &Device) -> Result<Self> {
        let quarter = dim / 4;
        let frequency = |i: usize| 1e4f64.powf(-(i as f64) / quarter as f64);
        let angle = |token: usize, i: usize| match i % (2 * quarter) {
            i if i < quarter => (token / width) as f64 * frequency(i),
            i => (token % width) as f64 * frequency(i - quarter),
        };
        let angles = (0..height * width).flat_map(|token| (0..dim).map(move |i| angle(token, i) as f32));
        let angles = Tensor::from_vec(angles.collect::<Vec<f32>>(), (height * width, dim), device)?;
        Ok(Self { cos: angles.cos()?, sin: angles.sin()? })
    }

    /// The tables of some of the tokens: `rows` selects their rows.
    pub fn of(&self, rows: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { cos: rows(&self.cos)?, sin: rows(&self.sin)? })
    }

    /// Rotates queries or keys `[batch, heads, tokens, dim]`.
    fn turn(&self, x: &Tensor) -> Result<Tensor> {
        let over_heads = |table: &Tensor| match table.rank() {
            2 => table.unsqueeze(0)?.unsqueeze(0),
            _ => table.unsqueeze(1),
        };
        let halves = x.chunk(2, D::Minus1)?;
        let across = Tensor::cat(&[&halves[1].neg()?, &halves[0]], D::Minus1)?;
        x.broadcast_mul(&over_heads(&self.cos)?)? + across.broadcast_mul(&over_heads(&self.sin)?)?
    }
}
