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
    /// `AutoencoderKL`, the kind that SD-XL uses.
    Kl(Box<AutoencoderKl<B>>),
    /// `AutoencoderTiny`, the TAESD family.
    Tiny(AutoencoderTiny<B>),
}

/// The output of an encoder for an image.
#[derive(Debug, Clone)]
pub struct LatentDistribution<T> {
    /// Unscaled latents `[b, c, h, w]`. If they are normally distributed, their mean.
    pub mean: T,
    /// Their standard deviation. `None` for an autoencoder that gives plain latents (`AutoencoderTiny`).
    pub deviation: Option<T>,
}

impl<T: Tensor> LatentDistribution<T> {
    /// Draws unscaled latents. `noise` gives standard normal noise in the mean's shape. It is called only if there is a
    /// standard deviation.
    ///
    /// # Errors
    /// The errors of `noise` and of the backend.
    pub fn sample(&self, noise: impl FnOnce() -> Result<T>) -> Result<T> {
        match &self.deviation {
            Some(deviation) => self.mean.add(&deviation.mul(&noise()?)?),
            None => Ok(self.mean.clone()),
        }
    }
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

    /// Converts diffusion latents `[b, c, h, w]` for the decoder, as in diffusers' SD-XL pipeline. It divides by the
    /// scaling factor. If the config gives each channel's mean and standard deviation, it restores them too.
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

    /// The inverse of [`Vae::unscale`]: converts an encoder's output to diffusion latents.
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

    /// Decodes unscaled latents `[b, c, h, w]` to an image `[b, 3, factor · h, factor · w]` with values of about −1 to
    /// 1.
    pub fn decode(&self, latents: &B::Tensor) -> Result<B::Tensor> {
        let _span = tracing::debug_span!("vae decode").entered();
        match self {
            Self::Kl(vae) => vae.decode(latents),
            Self::Tiny(vae) => vae.decode(latents),
        }
    }

    /// Decodes in overlapping tiles, and blends them. This needs less memory and gives nearly the same image.
    ///
    /// Latents that fit one tile are decoded whole, as in diffusers.
    pub fn decode_tiled(&self, latents: &B::Tensor, tiles: &TileOptions) -> Result<B::Tensor> {
        let _span = tracing::debug_span!("vae decode", tiles = tiles.size).entered();
        match self {
            Self::Kl(vae) => vae.decode_tiled(latents, tiles),
            Self::Tiny(vae) => vae.decode_tiled(latents, tiles),
        }
    }

    /// diffusers' tile size and overlap for this autoencoder.
    pub fn tiles(&self) -> TileOptions {
        match self {
            Self::Kl(vae) => TileOptions::kl(vae.config().sample_size),
            Self::Tiny(_) => TileOptions::TINY,
        }
    }

    /// Encodes an image `[b, 3, h, w]` with values from −1 to 1 to unscaled latents. For [`AutoencoderKl`], these are
    /// the distribution's mean.
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

    /// Like [`Vae::encode`], with the standard deviation of the latents if there is one. As in diffusers, variances are
    /// clipped to e⁻³⁰ … e²⁰.
    ///
    /// # Errors
    /// [`Error::Weights`] if the checkpoint holds no encoder, or if its output is not finite.
    pub fn distribution(&self, image: &B::Tensor) -> Result<LatentDistribution<B::Tensor>> {
        let encoded = match self {
            Self::Kl(vae) => vae.encode(image)?,
            Self::Tiny(vae) => vae.encode(image)?,
        };
        self.expect_finite(&encoded, "latents")?;
        let Self::Kl(vae) = self else { return Ok(LatentDistribution { mean: encoded, deviation: None }) };
        let channels = vae.config().latent_channels;
        let logarithm = encoded.narrow(1, channels, channels)?.clamp_min(-30.0)?.affine(-1.0, 0.0)?;
        let deviation = logarithm.clamp_min(-20.0)?.affine(-0.5, 0.0)?.exp()?;
        Ok(LatentDistribution { mean: encoded.narrow(1, 0, channels)?, deviation: Some(deviation) })
    }

    /// Returns the values of the autoencoder's output if all are finite.
    ///
    /// # Errors
    /// [`Error::Weights`] that names the autoencoder and suggests a remedy.
    pub(crate) fn expect_finite(&self, given: &B::Tensor, what: &str) -> Result<Vec<f32>> {
        let values = given.to_f32()?;
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        let class = match self {
            Self::Kl(_) => "AutoencoderKL",
            Self::Tiny(_) => "AutoencoderTiny",
        };
        let dtype = given.dtype();
        let advice = match dtype {
            DType::F16 => {
                "run it in f32 (\"force_upcast\": true in vae/config.json, or another --dtype), or take another VAE"
            }
            _ => "take another VAE",
        };
        Err(Error::weights(
            "vae",
            "",
            format!("{class} in {dtype} gives {what} that are not finite: {advice}"),
        ))
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(vae) => vae.config().latent_channels,
            Self::Tiny(vae) => vae.config().latent_channels,
        }
    }

    /// Image pixels per latent, in one dimension.
    pub fn factor(&self) -> usize {
        match self {
            Self::Kl(vae) => VaeConfig::Kl(vae.config().clone()).factor(),
            Self::Tiny(vae) => VaeConfig::Tiny(vae.config().clone()).factor(),
        }
    }

    /// The dtype to load it in when everything else runs in `dtype`: f32 if `force_upcast` is set and `dtype` is f16,
    /// else `dtype`.
    pub fn dtype_beside(config: &VaeConfig, dtype: DType) -> DType {
        config.dtype_beside(dtype)
    }

    /// The dtype to encode an image in when everything else runs in `dtype`. It is f32 if `force_upcast` is set and
    /// `dtype` is f16 or bf16. This follows diffusers, which still decodes in bf16.
    pub fn encoding_dtype(config: &VaeConfig, dtype: DType) -> DType {
        let half = matches!(dtype, DType::F16 | DType::BF16);
        if half && config.force_upcast() { DType::F32 } else { dtype }
    }
}

/// Checks that `x` is a nonempty `[b, channels, h, w]`. Else it returns an [`Error::Shape`] that names `op`.
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
