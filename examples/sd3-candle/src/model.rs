//! The whole transformer: weights, embeddings, layers, output.

use candle_core::{Result, Tensor, bail};
use candle_nn::{Linear, Module, VarBuilder, linear};
use candle_transformers::models::mmdit::blocks::FinalLayer;
use candle_transformers::models::mmdit::embedding::{
    PatchEmbedder, PositionEmbedder, Unpatchifier, VectorEmbedder,
};
use candle_transformers::models::stable_diffusion::embeddings::Timesteps;

use crate::config::Config;
use crate::layers::Layer;

/// The number of sines and cosines of a time step.
const FREQUENCIES: usize = 256;

/// Stable Diffusion 3's transformer.
pub struct Mmdit {
    patch: usize,
    image_in: PatchEmbedder,
    positions: PositionEmbedder,
    frequencies: Timesteps,
    time: VectorEmbedder,
    pooled: VectorEmbedder,
    text_in: Linear,
    /// The layers.
    pub layers: Vec<Layer>,
    out: FinalLayer,
    pixels: Unpatchifier,
}

/// The inputs of one evaluation.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// `[batch, channels, height, width]`.
    pub latents: Tensor,
    /// The text encoders' states `[batch, text tokens, channels]`.
    pub text: Tensor,
    /// The pooled text `[batch, channels]`.
    pub pooled: Tensor,
    /// The time step `[batch]`: 1000 is noise, 0 the image.
    pub time: Tensor,
}

/// The inputs of the layers.
#[derive(Debug)]
pub struct Entry {
    /// The image's tokens `[batch, height·width, channels]` of a grid of patches.
    pub image: Tensor,
    /// The text's tokens `[batch, text tokens, channels]`.
    pub text: Tensor,
    /// Time and pooled text `[batch, channels]`.
    pub time: Tensor,
    /// Rows and columns of tokens.
    pub grid: (usize, usize),
}

impl Mmdit {
    /// Loads weights under their original names.
    pub fn load(config: &Config, weights: &VarBuilder<'_>) -> Result<Self> {
        let (channels, patch) = (config.channels(), config.patch_size);
        let layer = |i: usize| {
            let last = i + 1 == config.num_layers;
            Layer::load(config, last, &weights.pp("joint_blocks").pp(i))
        };
        Ok(Self {
            patch,
            image_in: PatchEmbedder::new(patch, config.in_channels, channels, weights.pp("x_embedder"))?,
            positions: PositionEmbedder::new(channels, patch, config.pos_embed_max_size, weights.clone())?,
            frequencies: Timesteps::new(FREQUENCIES, true, 0.0),
            time: VectorEmbedder::new(FREQUENCIES, channels, weights.pp("t_embedder"))?,
            pooled: VectorEmbedder::new(config.pooled_projection_dim, channels, weights.pp("y_embedder"))?,
            text_in: linear(config.joint_attention_dim, channels, weights.pp("context_embedder"))?,
            layers: (0..config.num_layers).map(layer).collect::<Result<_>>()?,
            out: FinalLayer::new(channels, patch, config.out_channels, weights.pp("final_layer"))?,
            pixels: Unpatchifier::new(patch, config.out_channels)?,
        })
    }

    /// Embeds the inputs.
    ///
    /// # Errors
    /// When the latents are not made of whole patches, or there are more than the model has positions for.
    pub fn enter(&self, inputs: &Inputs) -> Result<Entry> {
        let (_, _, height, width) = inputs.latents.dims4()?;
        if height % self.patch != 0 || width % self.patch != 0 {
            bail!("{height} x {width} latents are not made of patches of {0} x {0}", self.patch);
        }
        let image = self.image_in.forward(&inputs.latents)?;
        let time =
            self.time.forward(&self.frequencies.forward(&inputs.time)?.to_dtype(inputs.latents.dtype())?)?;
        Ok(Entry {
            image: image.broadcast_add(&self.positions.get_cropped_pos_embed(height, width)?)?,
            text: self.text_in.forward(&inputs.text)?,
            time: (time + self.pooled.forward(&inputs.pooled)?)?,
            grid: (height / self.patch, width / self.patch),
        })
    }

    /// The prediction `[batch, channels, height, width]` from the image's tokens.
    pub fn exit(&self, image: &Tensor, time: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
        self.pixels.unpatchify(&self.out.forward(image, time)?, height * self.patch, width * self.patch)
    }
}
