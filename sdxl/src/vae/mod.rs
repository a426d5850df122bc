//! Autoencoders between images and latents: diffusers' `AutoencoderKL` and `AutoencoderTiny`.

mod kl;
mod tiles;
mod tiny;

use atedm_core::backend::dims;
use atedm_core::{Backend, DType, Error, Result, Tensor, Weights};

pub use crate::config::{KlConfig, TinyVaeConfig, VaeConfig};
pub use kl::AutoencoderKl;
pub use tiles::TileOptions;
pub use tiny::AutoencoderTiny;

/// An autoencoder of either kind.
#[derive(Debug)]
pub enum Vae<B: Backend> {
    /// SD-XL's own kind.
    Kl(Box<AutoencoderKl<B>>),
    /// The TAESD family.
    Tiny(AutoencoderTiny<B>),
}

impl<B: Backend> Vae<B> {
    /// Loads the decoder, and the encoder if its weights are there.
    ///
    /// # Errors
    /// [`Error::Weights`] naming the tensor that is missing or has another shape.
    pub fn load(weights: &Weights<B::Tensor>, config: &VaeConfig) -> Result<Self> {
        match config {
            VaeConfig::Kl(config) => AutoencoderKl::load(weights, config).map(|vae| Self::Kl(Box::new(vae))),
            VaeConfig::Tiny(config) => AutoencoderTiny::load(weights, config).map(Self::Tiny),
        }
    }

    /// Diffusion latents `[b, c, h, w]` as the decoder wants them: divided by the scaling factor, or with each channel's
    /// mean and standard deviation restored if the config gives them (diffusers' SD-XL pipeline).
    pub fn unscale(&self, latents: &B::Tensor) -> Result<B::Tensor> {
        let (factor, statistics) = match self {
            Self::Kl(vae) => (vae.config().scaling_factor, vae.config().latent_statistics.as_ref()),
            Self::Tiny(vae) => (vae.config().scaling_factor, None),
        };
        let Some((mean, std)) = statistics else { return latents.affine(1.0 / factor, 0.0) };
        let row = |values: &[f64], scale: f64| {
            let values: Vec<f32> = values.iter().map(|v| (v * scale) as f32).collect();
            let shape = [1, values.len(), 1, 1];
            B::Tensor::from_f32(&values, &shape, latents.dtype(), &latents.device())
        };
        latents.mul(&row(std, 1.0 / factor)?)?.add(&row(mean, 1.0)?)
    }

    /// The reverse of [`Vae::unscale`]: an encoder's output as diffusion latents.
    pub fn scale(&self, encoded: &B::Tensor) -> Result<B::Tensor> {
        let (factor, statistics) = match self {
            Self::Kl(vae) => (vae.config().scaling_factor, vae.config().latent_statistics.as_ref()),
            Self::Tiny(vae) => (vae.config().scaling_factor, None),
        };
        let Some((mean, std)) = statistics else { return encoded.affine(factor, 0.0) };
        let row = |values: Vec<f32>| {
            let shape = [1, values.len(), 1, 1];
            B::Tensor::from_f32(&values, &shape, encoded.dtype(), &encoded.device())
        };
        let mean = row(mean.iter().map(|m| *m as f32).collect())?;
        encoded.sub(&mean)?.mul(&row(std.iter().map(|s| (factor / s) as f32).collect())?)
    }

    /// Decodes unscaled latents `[b, c, h, w]` to an image `[b, 3, factor · h, factor · w]` with values around −1 to 1.
    pub fn decode(&self, latents: &B::Tensor) -> Result<B::Tensor> {
        let _span = tracing::debug_span!("vae decode").entered();
        match self {
            Self::Kl(vae) => vae.decode(latents),
            Self::Tiny(vae) => vae.decode(latents),
        }
    }

    /// Decodes in overlapping tiles, which are blended: less memory, nearly the same image.
    ///
    /// Latents that fit one tile are decoded whole, as diffusers does.
    pub fn decode_tiled(&self, latents: &B::Tensor, tiles: &TileOptions) -> Result<B::Tensor> {
        let _span = tracing::debug_span!("vae decode", tiles = tiles.size).entered();
        match self {
            Self::Kl(vae) => vae.decode_tiled(latents, tiles),
            Self::Tiny(vae) => vae.decode_tiled(latents, tiles),
        }
    }

    /// The tile size and overlap that diffusers takes for this autoencoder.
    pub fn tiles(&self) -> TileOptions {
        match self {
            Self::Kl(vae) => TileOptions { size: vae.config().sample_size, overlap: 0.25 },
            Self::Tiny(_) => TileOptions { size: 512, overlap: 0.125 },
        }
    }

    /// Encodes an image `[b, 3, h, w]` with values from −1 to 1 to unscaled latents: the distribution's mean for
    /// [`AutoencoderKl`].
    ///
    /// # Errors
    /// [`Error::Weights`] if the checkpoint holds no encoder.
    pub fn encode(&self, image: &B::Tensor) -> Result<B::Tensor> {
        match self {
            Self::Kl(vae) => {
                let moments = vae.encode(image)?;
                moments.narrow(1, 0, vae.config().latent_channels)
            }
            Self::Tiny(vae) => vae.encode(image),
        }
    }

    /// Image pixels per latent, along one side.
    pub fn factor(&self) -> usize {
        match self {
            Self::Kl(vae) => VaeConfig::Kl(vae.config().clone()).factor(),
            Self::Tiny(vae) => VaeConfig::Tiny(vae.config().clone()).factor(),
        }
    }

    /// The dtype to load it in when all else runs in `dtype`: f32 where `force_upcast` asks for it beside f16.
    pub fn dtype_beside(config: &VaeConfig, dtype: DType) -> DType {
        config.dtype_beside(dtype)
    }
}

/// `[b, channels, h, w]` with nothing empty, or an [`Error::Shape`] in the name of `op`.
fn check_channels<T: Tensor>(x: &T, channels: usize, op: &'static str) -> Result<[usize; 4]> {
    let shape: [usize; 4] = dims(x, op)?;
    if shape[1] == channels && !shape.contains(&0) {
        Ok(shape)
    } else {
        Err(Error::shape(op, format!("[batch, {channels}, height, width]"), shape))
    }
}

fn no_encoder() -> Error {
    Error::weights("vae", "encoder", "the checkpoint holds no encoder")
}
