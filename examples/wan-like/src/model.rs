//! The whole model with its weights.

use atedm_core::{NnOps, Result, Weights};

use crate::block::Block;
use crate::config::WanConfig;
use crate::ends::{Conditioning, Head, PatchEmbedding};
use crate::rope;

/// Everything between latents and prediction.
#[derive(Debug, Clone)]
pub struct Wan<T> {
    /// Latents to tokens.
    pub patches: PatchEmbedding<T>,
    /// Time step and text.
    pub conditioning: Conditioning<T>,
    /// The stack.
    pub blocks: Vec<Block<T>>,
    /// Tokens to the prediction.
    pub head: Head<T>,
    head_dim: usize,
}

/// The inputs of a forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a, T> {
    /// `[b, c, frames, height, width]`.
    pub latents: &'a T,
    /// One time step an image, 0 to 1000.
    pub timesteps: &'a [f32],
    /// The text encoder's output `[b, length, text_dim]`.
    pub text: &'a T,
}

/// The inputs of the stack.
#[derive(Debug, Clone)]
pub struct Embedded<T> {
    /// The tokens `[b, tokens, channels]`.
    pub tokens: T,
    /// Their grid: frames, height, width.
    pub grid: [usize; 3],
    /// Their rotary positions `[tokens, head_dim]`.
    pub rope: T,
    /// The time step's embedding `[b, 1, channels]`.
    pub time: T,
    /// What modulates every layer, `[b, 6, channels]`.
    pub modulation: T,
    /// `[b, length, channels]`.
    pub text: T,
}

impl<T: NnOps> Wan<T> {
    /// Loads a model under diffusers' names.
    ///
    /// # Errors
    /// [`atedm_core::Error::Weights`] naming a tensor that is missing or does not fit.
    pub fn load(weights: &Weights<T>, config: &WanConfig) -> Result<Self> {
        let block = |i| Block::load(&weights.scope("blocks").scope(i), config);
        Ok(Self {
            patches: PatchEmbedding::load(&weights.scope("patch_embedding"), config)?,
            conditioning: Conditioning::load(&weights.scope("condition_embedder"), config)?,
            blocks: (0..config.num_layers).map(block).collect::<Result<_>>()?,
            head: Head::load(weights, config)?,
            head_dim: config.attention_head_dim,
        })
    }

    /// Everything before the stack.
    ///
    /// # Errors
    /// [`atedm_core::Error::Shape`] if the latents do not fit.
    pub fn embed(&self, input: &Input<'_, T>) -> Result<Embedded<T>> {
        let latents = input.latents;
        let grid = self.patches.grid(latents)?;
        let time = self.conditioning.time(input.timesteps, latents)?;
        Ok(Embedded {
            tokens: self.patches.forward(latents)?,
            grid,
            rope: rope::table(grid, self.head_dim, latents.dtype(), &latents.device())?,
            modulation: self.conditioning.modulation(&time)?,
            time,
            text: self.conditioning.text(input.text)?,
        })
    }
}
