//! One attention: self-attention, or cross-attention to text.

use atedm_core::backend::{AttentionOptions, dims};
use atedm_core::{NnOps, Result, Weights};

use crate::config::WanConfig;
use crate::layers::{Linear, RmsNorm};
use crate::rope::rotate;

/// Projections, norms of queries and keys, and the output projection.
#[derive(Debug, Clone)]
pub struct Attention<T> {
    to_q: Linear<T>,
    to_k: Linear<T>,
    to_v: Linear<T>,
    to_out: Linear<T>,
    norm_q: RmsNorm<T>,
    norm_k: RmsNorm<T>,
    heads: usize,
    dim: usize,
}

impl<T: NnOps> Attention<T> {
    /// Loads an attention.
    pub fn load(weights: &Weights<T>, config: &WanConfig) -> Result<Self> {
        let channels = config.channels();
        let linear = |name: &str| Linear::load(&weights.scope(name), channels, channels);
        let norm = |name: &str| RmsNorm::load(&weights.scope(name), channels, config.eps);
        Ok(Self {
            to_q: linear("to_q")?,
            to_k: linear("to_k")?,
            to_v: linear("to_v")?,
            to_out: linear("to_out.0")?,
            norm_q: norm("norm_q")?,
            norm_k: norm("norm_k")?,
            heads: config.num_attention_heads,
            dim: config.attention_head_dim,
        })
    }

    fn split_heads(&self, x: &T) -> Result<T> {
        let [batch, n, _] = dims(x, "attention")?;
        x.reshape(&[batch, n, self.heads, self.dim])?.permute(&[0, 2, 1, 3])
    }

    /// Queries of tokens `[b, m, channels]`, keys and values of a context `[b, n, channels]`, each `[b, heads, .., dim]`.
    /// If there are rows of the rotary table, for the tokens and for the context, queries and keys are rotated by them.
    pub fn project(&self, x: &T, context: &T, rope: Option<[&T; 2]>) -> Result<[T; 3]> {
        let q = self.split_heads(&self.norm_q.forward(&self.to_q.forward(x)?)?)?;
        let k = self.split_heads(&self.norm_k.forward(&self.to_k.forward(context)?)?)?;
        let v = self.split_heads(&self.to_v.forward(context)?)?;
        match rope {
            Some([of_x, of_context]) => Ok([rotate(&q, of_x)?, rotate(&k, of_context)?, v]),
            None => Ok([q, k, v]),
        }
    }

    /// The options of the attention itself.
    pub fn options<'a>(&self) -> AttentionOptions<'a, T> {
        AttentionOptions::for_dim(self.dim)
    }

    /// The output projection of the heads `[b, heads, n, dim]`: `[b, n, channels]`.
    pub fn output(&self, attended: &T) -> Result<T> {
        let [batch, heads, n, dim] = dims(attended, "attention")?;
        self.to_out.forward(&attended.permute(&[0, 2, 1, 3])?.reshape(&[batch, n, heads * dim])?)
    }
}
