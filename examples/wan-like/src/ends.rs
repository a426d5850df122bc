//! What comes before the stack (patches, time step, text) and after it.

use atedm_core::backend::dims;
use atedm_core::{Error, NnOps, Result, Weights};

use crate::config::WanConfig;
use crate::layers::{LayerNorm, Linear, gelu_tanh, modulate};

/// Latents to tokens.
#[derive(Debug, Clone)]
pub struct PatchEmbedding<T> {
    linear: Linear<T>,
    patch: [usize; 3],
}

impl<T: NnOps> PatchEmbedding<T> {
    /// Loads the 3-D convolution that diffusers has here. Its stride is its size, so it is one linear layer.
    pub fn load(weights: &Weights<T>, config: &WanConfig) -> Result<Self> {
        let [frames, height, width] = config.patch_size;
        let shape = [config.channels(), config.in_channels, frames, height, width];
        Ok(Self { linear: Linear::load_shaped(weights, &shape)?, patch: config.patch_size })
    }

    /// The token grid of latents `[b, c, frames, height, width]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if patches do not divide them.
    pub fn grid(&self, latents: &T) -> Result<[usize; 3]> {
        let [_, _, frames, height, width] = dims(latents, "latents")?;
        let [f, h, w] = self.patch;
        if [frames % f, height % h, width % w] != [0; 3] {
            let expected = format!("[batch, channels] and multiples of {:?}", self.patch);
            return Err(Error::shape("latents", expected, latents.shape()));
        }
        Ok([frames / f, height / h, width / w])
    }

    /// `[b, c, frames, height, width]` → `[b, tokens, channels]`.
    pub fn forward(&self, latents: &T) -> Result<T> {
        let [batch, channels, ..] = dims::<5, T>(latents, "latents")?;
        let ([frames, height, width], [f, h, w]) = (self.grid(latents)?, self.patch);
        let patches = latents
            .reshape(&[batch, channels, frames, f, height, h, width, w])?
            .permute(&[0, 2, 4, 6, 1, 3, 5, 7])?
            .reshape(&[batch, frames * height * width, channels * f * h * w])?;
        self.linear.forward(&patches)
    }
}

/// Turns time steps and text into inputs of the stack.
#[derive(Debug, Clone)]
pub struct Conditioning<T> {
    time: [Linear<T>; 2],
    time_proj: Linear<T>,
    text: [Linear<T>; 2],
    frequencies: usize,
}

impl<T: NnOps> Conditioning<T> {
    /// Loads diffusers' `condition_embedder`.
    pub fn load(weights: &Weights<T>, config: &WanConfig) -> Result<Self> {
        let channels = config.channels();
        let two = |name: &str, inputs: usize| {
            let weights = weights.scope(name);
            let first = Linear::load(&weights.scope("linear_1"), inputs, channels)?;
            Result::Ok([first, Linear::load(&weights.scope("linear_2"), channels, channels)?])
        };
        Ok(Self {
            time: two("time_embedder", config.freq_dim)?,
            time_proj: Linear::load(&weights.scope("time_proj"), channels, 6 * channels)?,
            text: two("text_embedder", config.text_dim)?,
            frequencies: config.freq_dim / 2,
        })
    }

    /// The embedding `[b, 1, channels]` of one time step for each image, in the dtype and on the device of `like`.
    pub fn time(&self, timesteps: &[f32], like: &T) -> Result<T> {
        let half = self.frequencies;
        let frequency = |i: usize| (-(10_000f32.ln()) * i as f32 / half as f32).exp();
        let angles = |t: &f32| (0..half).map(|i| t * frequency(i)).collect::<Vec<f32>>();
        let sinusoids = timesteps.iter().map(angles).flat_map(|angles| {
            let sines: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
            angles.into_iter().map(f32::cos).chain(sines)
        });
        let shape = [timesteps.len(), 1, 2 * half];
        let sinusoids = T::from_f32(&sinusoids.collect::<Vec<_>>(), &shape, like.dtype(), &like.device())?;
        self.time[1].forward(&self.time[0].forward(&sinusoids)?.silu()?)
    }

    /// The modulation of every layer, `[b, 6, channels]`, from [`Conditioning::time`].
    pub fn modulation(&self, time: &T) -> Result<T> {
        let [batch, _, channels] = dims(time, "time embedding")?;
        self.time_proj.forward(&time.silu()?)?.reshape(&[batch, 6, channels])
    }

    /// The text encoder's output `[b, length, text_dim]` → `[b, length, channels]`.
    pub fn text(&self, text: &T) -> Result<T> {
        self.text[1].forward(&gelu_tanh(&self.text[0].forward(text)?)?)
    }
}

/// Tokens to the prediction.
#[derive(Debug, Clone)]
pub struct Head<T> {
    norm: LayerNorm<T>,
    linear: Linear<T>,
    modulation: T,
    patch: [usize; 3],
}

impl<T: NnOps> Head<T> {
    /// Loads `scale_shift_table` and `proj_out`.
    pub fn load(weights: &Weights<T>, config: &WanConfig) -> Result<Self> {
        let channels = config.channels();
        let modulation = weights.tensor("scale_shift_table", &[1, 2, channels])?;
        let outputs = config.out_channels * config.patch_len();
        Ok(Self {
            norm: LayerNorm::plain(&modulation, channels, config.eps)?,
            linear: Linear::load(&weights.scope("proj_out"), channels, outputs)?,
            modulation,
            patch: config.patch_size,
        })
    }

    /// `[b, tokens, channels]` → `[b, c, frames, height, width]`, with [`Conditioning::time`] and the token grid.
    pub fn forward(&self, x: &T, time: &T, [frames, height, width]: [usize; 3]) -> Result<T> {
        let modulation = time.add(&self.modulation)?;
        let (shift, scale) = (modulation.narrow(1, 0, 1)?, modulation.narrow(1, 1, 1)?);
        let x = self.linear.forward(&modulate(&self.norm.forward(x)?, &shift, &scale)?)?;
        let ([batch, _, outputs], [f, h, w]) = (dims(&x, "head")?, self.patch);
        let channels = outputs / (f * h * w);
        x.reshape(&[batch, frames, height, width, f, h, w, channels])?
            .permute(&[0, 7, 1, 4, 2, 5, 3, 6])?
            .reshape(&[batch, channels, frames * f, height * h, width * w])
    }
}
