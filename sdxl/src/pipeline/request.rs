//! What a caller asks for and gets back: plain data, without any image library.

use atedm_core::{Error, Result, Tensor};

use crate::flops::Macs;
use crate::rng::{NoiseDType, RngKind};
use crate::schedulers::SamplerChoice;
use crate::vae::{LatentDistribution, TileOptions};

/// What to make. [`Request::new`] has diffusers' defaults; change the fields that matter.
#[derive(Debug, Clone)]
pub struct Request<T> {
    /// Prompts or embeddings.
    pub conditioning: Conditioning<T>,
    /// Images of each prompt, one after the other in the batch.
    pub images_per_prompt: usize,
    /// Denoising steps of the full schedule.
    pub steps: usize,
    /// Classifier-free guidance scale; 1 or less means one U-Net row an image.
    pub guidance_scale: f64,
    /// Seed of the noise.
    pub seed: u64,
    /// Generator of the noise.
    pub rng: RngKind,
    /// What the generator draws in.
    pub noise_dtype: NoiseDType,
    /// Width in pixels, divisible by 8; the U-Net's training size if `None`.
    pub width: Option<usize>,
    /// Height in pixels, divisible by 8; the U-Net's training size if `None`.
    pub height: Option<usize>,
    /// SD-XL's size conditioning.
    pub micro: MicroConditioning,
    /// Sampler instead of the checkpoint's.
    pub scheduler: Option<SamplerChoice>,
    /// Where the run starts from.
    pub initial: InitialLatents<T>,
    /// What to do with the final latents.
    pub decoding: Decoding,
}

impl<T: Tensor> Request<T> {
    /// Defaults of diffusers' SD-XL pipeline: 50 steps, guidance 5, one image a prompt.
    pub fn new(prompts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let prompts = prompts.into_iter().map(Into::into).collect();
        Self {
            conditioning: Conditioning::Prompts { prompts, negative: None },
            images_per_prompt: 1,
            steps: 50,
            guidance_scale: 5.0,
            seed: 0,
            rng: RngKind::Torch,
            noise_dtype: NoiseDType::OfModel,
            width: None,
            height: None,
            micro: MicroConditioning::default(),
            scheduler: None,
            initial: InitialLatents::Drawn,
            decoding: Decoding::Whole,
        }
    }

    /// How many images the run makes: prompts times images of each.
    ///
    /// # Errors
    /// [`Error::Config`] naming `prompt` or `images_per_prompt` if there are none.
    pub fn images(&self) -> Result<usize> {
        let prompts = match &self.conditioning {
            Conditioning::Prompts { prompts, .. } => prompts.len(),
            Conditioning::Embeddings { prompt, .. } => prompt.tokens.shape().first().copied().unwrap_or(0),
        };
        if prompts == 0 {
            return Err(Error::config("prompt", "expected at least one"));
        }
        match prompts.checked_mul(self.images_per_prompt) {
            Some(images) if images > 0 => Ok(images),
            _ => Err(Error::config(
                "images_per_prompt",
                format!("expected at least 1, got {}", self.images_per_prompt),
            )),
        }
    }
}

/// What the images are to show.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Conditioning<T> {
    /// Texts; both encoders get the same.
    Prompts {
        /// At least one; they make one batch.
        prompts: Vec<String>,
        /// One for all prompts, or one for each. `None` is not the same as an empty text: with
        /// `force_zeros_for_empty_prompt` the checkpoint takes zeros for it.
        negative: Option<Vec<String>>,
    },
    /// Own embeddings.
    Embeddings {
        /// Of the prompts.
        prompt: TextEmbeddings<T>,
        /// Of the negative prompts; as [`Conditioning::Prompts`] without any if `None`.
        negative: Option<TextEmbeddings<T>>,
    },
}

/// Encoded prompts.
#[derive(Debug, Clone)]
pub struct TextEmbeddings<T> {
    /// Both encoders' penultimate hidden states, joined: `[prompts, length, channels]`.
    pub tokens: T,
    /// The second encoder's pooled projection `[prompts, channels]`.
    pub pooled: T,
}

/// Sizes that SD-XL was trained to be told, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MicroConditioning {
    /// Of the training image before cropping; the output's if `None`.
    pub original_size: Option<PixelSize>,
    /// Where the crop begins.
    pub crop: Corner,
    /// Of the crop; the output's if `None`.
    pub target_size: Option<PixelSize>,
}

/// Pixels down and across.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelSize {
    /// Down.
    pub height: usize,
    /// Across.
    pub width: usize,
}

/// The upper left corner of a crop, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Corner {
    /// Pixels cut off above.
    pub top: usize,
    /// Pixels cut off on the left.
    pub left: usize,
}

/// Where a run starts from. Latents are `[images, channels, height, width]`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum InitialLatents<T> {
    /// Noise from the seed.
    Drawn,
    /// This standard normal noise, before the sampler's scaling (diffusers' `latents=`).
    Noise(T),
    /// These clean latents, with noise from the seed added to the level of step `start` (image to image).
    Clean {
        /// The latents, scaled as the U-Net knows them.
        latents: T,
        /// The first step to run, in the full schedule.
        start: usize,
    },
    /// A picture as the autoencoder encoded it: latents are drawn from the distribution by the seed's generator before the
    /// noise is, in the distribution's dtype (diffusers' image to image). One row stands for all images: with
    /// [`RngKind::Torch`] they share a draw, with [`RngKind::ChaCha`] each draws its own.
    Encoded {
        /// The distribution, unscaled: of one image, or of as many as the run makes.
        distribution: LatentDistribution<T>,
        /// The first step to run, in the full schedule.
        start: usize,
    },
    /// The state of an earlier run before step `start`.
    Noisy {
        /// The latents.
        latents: T,
        /// The first step to run, in the full schedule.
        start: usize,
    },
}

/// What to do with the final latents.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Decoding {
    /// Nothing (diffusers' `output_type="latent"`).
    Skip,
    /// Decode at once.
    Whole,
    /// Decode in tiles; diffusers' tiles if `None`.
    Tiled(Option<TileOptions>),
}

/// What a run gives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Output<T> {
    /// Final latents `[images, channels, height, width]` before the VAE's scaling, in the sampler's precision (f32,
    /// or f64 for a pipeline in f64).
    pub latents: T,
    /// The images, unless decoding was skipped.
    pub images: Option<Images>,
    /// Prompts that did not fit.
    pub cut: Vec<CutPrompt>,
    /// What each U-Net evaluation cost.
    pub costs: Vec<StepCost>,
}

/// Decoded images.
#[derive(Debug, Clone, PartialEq)]
pub struct Images {
    /// How many.
    pub count: usize,
    /// Pixels down.
    pub height: usize,
    /// Pixels across.
    pub width: usize,
    /// Values from 0 to 1, `[count, 3, height, width]`, row-major.
    pub values: Vec<f32>,
}

impl Images {
    /// Image `index` as bytes `[height, width, 3]`, rounded as diffusers does; `None` if there is none.
    pub fn rgb8(&self, index: usize) -> Option<Vec<u8>> {
        let plane = self.height * self.width;
        let image = self.values.chunks_exact((3 * plane).max(1)).nth(index)?;
        let byte = |value: f32| (value * 255.0).round_ties_even() as u8;
        let (red, rest) = image.split_at_checked(plane)?;
        let (green, blue) = rest.split_at_checked(plane)?;
        Some(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [byte(r), byte(g), byte(b)]).collect())
    }
}

/// A prompt of which tokens were cut off because the text encoder's context is full.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CutPrompt {
    /// The whole prompt.
    pub prompt: String,
    /// Which encoder: 1 or 2.
    pub encoder: usize,
    /// Tokens cut off.
    pub cut: usize,
    /// Tokens that fit, start and end included.
    pub context: usize,
}

impl std::fmt::Display for CutPrompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { prompt, encoder, cut, context } = self;
        write!(f, "text encoder {encoder} takes {context} tokens: the last {cut} of {prompt:?} are cut off")
    }
}

/// The cost of one U-Net evaluation as it really ran, for one row of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepCost {
    /// The step, in the full schedule.
    pub step: usize,
    /// Batch rows of the evaluation.
    pub rows: usize,
    /// Batch rows of the run: twice the images with guidance. An evaluation without guidance has half of them.
    pub run_rows: usize,
    /// Multiply-accumulates of one row.
    pub macs: Macs,
}

impl StepCost {
    /// TFLOP (2 × MAC) for each of the run's rows: half of a row's cost where guidance has ended.
    pub fn tflop(&self) -> f64 {
        self.macs.tflop() * (self.rows as f64 / self.run_rows as f64)
    }
}

/// What the step callback is told, after each step.
#[derive(Debug)]
#[non_exhaustive]
pub struct StepReport<'a, T> {
    /// The step just done, in the full schedule.
    pub index: usize,
    /// Steps of the full schedule.
    pub total: usize,
    /// The training timestep of the step.
    pub timestep: f64,
    /// Noise level before the step.
    pub sigma: f64,
    /// Latents after the step `[images, channels, height, width]`.
    pub latents: &'a T,
}
