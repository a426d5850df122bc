//! One layer of the stack.

use atedm_core::{NnOps, Result, Weights};

use crate::attention::Attention;
use crate::config::WanConfig;
use crate::layers::{LayerNorm, Linear, Modulation, gelu_tanh, modulate};

/// Self-attention, cross-attention and a feed-forward, each with a norm before and a residual around it.
#[derive(Debug, Clone)]
pub struct Block<T> {
    /// Self-attention.
    pub self_attention: Attention<T>,
    /// Cross-attention to text.
    pub cross_attention: Attention<T>,
    norm: LayerNorm<T>,
    norm2: LayerNorm<T>,
    up: Linear<T>,
    down: Linear<T>,
    /// `[1, 6, channels]`: added to the time step's modulation.
    modulation: T,
}

impl<T: NnOps> Block<T> {
    /// Loads a layer.
    pub fn load(weights: &Weights<T>, config: &WanConfig) -> Result<Self> {
        let channels = config.channels();
        let modulation = weights.tensor("scale_shift_table", &[1, 6, channels])?;
        let ffn = weights.scope("ffn.net");
        Ok(Self {
            self_attention: Attention::load(&weights.scope("attn1"), config)?,
            cross_attention: Attention::load(&weights.scope("attn2"), config)?,
            norm: LayerNorm::plain(&modulation, channels, config.eps)?,
            norm2: LayerNorm::load(&weights.scope("norm2"), channels, config.eps)?,
            up: Linear::load(&ffn.scope("0.proj"), channels, config.ffn_dim)?,
            down: Linear::load(&ffn.scope("2"), config.ffn_dim, channels)?,
            modulation,
        })
    }

    /// The modulations of self-attention and of the feed-forward, for a time step's `[b, 6, channels]`.
    pub fn modulations(&self, time: &T) -> Result<[Modulation<T>; 2]> {
        let all = time.add(&self.modulation)?;
        let at = |first: usize| {
            Ok(Modulation {
                shift: all.narrow(1, first, 1)?,
                scale: all.narrow(1, first + 1, 1)?,
                gate: all.narrow(1, first + 2, 1)?,
            })
        };
        Ok([at(0)?, at(3)?])
    }

    /// The norm before self-attention and the one before the feed-forward, which differ only in their modulation.
    pub fn modulated_norm(&self, x: &T, by: &Modulation<T>) -> Result<T> {
        modulate(&self.norm.forward(x)?, &by.shift, &by.scale)
    }

    /// The norm before cross-attention.
    pub fn norm2(&self, x: &T) -> Result<T> {
        self.norm2.forward(x)
    }

    /// The feed-forward.
    pub fn feed_forward(&self, x: &T) -> Result<T> {
        self.down.forward(&gelu_tanh(&self.up.forward(x)?)?)
    }
}
