//! The input and output of a run: plain data, without any image library.

use atedm_core::{Error, Result, Tensor};

use super::control::Control;
use crate::flops::Macs;
use crate::prompt::TextOptions;
use crate::rng::{NoiseDType, RngKind};
use crate::schedulers::SchedulerConfig;
use crate::vae::{LatentDistribution, TileOptions};

/// The input of a run. [`Request::new`] has diffusers' defaults. Change the fields that matter to you.
#[derive(Debug, Clone)]
pub struct Request<T> {
    /// Prompts or embeddings.
    pub conditioning: Conditioning<T>,
    /// How texts are read and encoded.
    pub text: TextOptions,
    /// Images per prompt. They follow each other in the batch.
    pub images_per_prompt: usize,
    /// Number of denoising steps in the full schedule.
    pub steps: usize,
    /// Classifier-free guidance scale. With 1 or less, the U-Net runs on one row per image.
    pub guidance_scale: f64,
    /// How far each guided prediction gets the standard deviation of the prompt's own prediction: from 0, not at all, to 1,
    /// fully. 0.7 suits checkpoints with zero terminal SNR.
    pub guidance_rescale: f64,
    /// Seed of the noise.
    pub seed: u64,
    /// Generator of the noise.
    pub rng: RngKind,
    /// The dtype that the generator draws in.
    pub noise_dtype: NoiseDType,
    /// Width in pixels, divisible by 8; the U-Net's training size if `None`.
    pub width: Option<usize>,
    /// Height in pixels, divisible by 8; the U-Net's training size if `None`.
    pub height: Option<usize>,
    /// SD-XL's size conditioning.
    pub micro: MicroConditioning,
    /// A sampler that replaces the checkpoint's: a name or class of the pipeline's
    /// [registry](crate::schedulers::SamplerRegistry).
    pub scheduler: Option<String>,
    /// The latents that the run starts from.
    pub initial: InitialLatents<T>,
    /// What the ControlNet follows. A pipeline with a ControlNet needs it, another one takes none.
    pub control: Option<Control<T>>,
    /// How the final latents are decoded.
    pub decoding: Decoding,
}

impl<T: Tensor> Request<T> {
    /// The defaults of diffusers' SD-XL pipeline: 50 steps, guidance 5, one image per prompt.
    pub fn new(prompts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let prompts = prompts.into_iter().map(Into::into).collect();
        Self {
            conditioning: Conditioning::Prompts { prompts, negative: None },
            text: TextOptions::default(),
            images_per_prompt: 1,
            steps: 50,
            guidance_scale: 5.0,
            guidance_rescale: 0.0,
            seed: 0,
            rng: RngKind::Torch,
            noise_dtype: NoiseDType::OfModel,
            width: None,
            height: None,
            micro: MicroConditioning::default(),
            scheduler: None,
            initial: InitialLatents::Drawn,
            control: None,
            decoding: Decoding::Whole,
        }
    }

    /// The number of images that the run makes: prompts times images per prompt.
    ///
    /// # Errors
    /// [`Error::Config`] naming `prompt` or `images_per_prompt` if that number is 0.
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

/// The text or the embeddings that condition the images.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Conditioning<T> {
    /// Texts. Both encoders get the same text.
    Prompts {
        /// At least one prompt. All prompts make one batch.
        prompts: Vec<String>,
        /// One negative prompt for all prompts, or one for each. `None` differs from an empty text: a checkpoint with
        /// `force_zeros_for_empty_prompt` takes zeros for it.
        negative: Option<Vec<String>>,
    },
    /// The caller's own embeddings.
    Embeddings {
        /// Embeddings of the prompts.
        prompt: TextEmbeddings<T>,
        /// Embeddings of the negative prompts. `None` means the same as in [`Conditioning::Prompts`].
        negative: Option<TextEmbeddings<T>>,
    },
}

/// Encoded prompts.
#[derive(Debug, Clone)]
pub struct TextEmbeddings<T> {
    /// The hidden states of both encoders, joined: `[prompts, length, channels]`. The length is a multiple of the encoders' own.
    pub tokens: T,
    /// The second encoder's pooled projection `[prompts, channels]`.
    pub pooled: T,
}

impl<T: Tensor> TextEmbeddings<T> {
    /// Tokens of each prompt.
    pub fn length(&self) -> usize {
        self.tokens.shape().get(1).copied().unwrap_or(0)
    }
}

/// The size conditioning that SD-XL was trained with, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MicroConditioning {
    /// Size of the training image before cropping; the output's size if `None`.
    pub original_size: Option<PixelSize>,
    /// Upper left corner of the crop.
    pub crop: Corner,
    /// Size of the crop; the output's size if `None`.
    pub target_size: Option<PixelSize>,
}

/// A height and a width in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelSize {
    /// Pixels down.
    pub height: usize,
    /// Pixels across.
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

/// The latents that a run starts from: `[images, channels, height, width]`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum InitialLatents<T> {
    /// Noise drawn with the seed.
    Drawn,
    /// This standard normal noise, before the sampler's scaling (diffusers' `latents=`).
    Noise(T),
    /// These clean latents, plus noise from the seed at the level of step `start` (image to image).
    Clean {
        /// The latents, scaled for the U-Net.
        latents: T,
        /// The first step to run, as an index in the full schedule.
        start: usize,
    },
    /// A picture as the autoencoder encoded it (diffusers' image to image). The seed's generator first draws latents
    /// from the distribution, in its dtype, then the noise. One row of the distribution serves all images. With
    /// [`RngKind::Torch`] the images share one draw; with [`RngKind::ChaCha`] each image draws its own.
    Encoded {
        /// The unscaled distribution of one image, or of as many images as the run makes.
        distribution: LatentDistribution<T>,
        /// The first step to run, as an index in the full schedule.
        start: usize,
    },
    /// The noisy latents of an earlier run before step `start`.
    Noisy {
        /// The latents.
        latents: T,
        /// The first step to run, as an index in the full schedule.
        start: usize,
    },
    /// A picture of which a part is painted again (inpainting).
    Repainted(Repaint<T>),
}

/// A picture of which a part is painted again, as in diffusers' `StableDiffusionXLInpaintPipeline`.
///
/// An ordinary U-Net knows nothing of the mask. After each evaluation, the kept part gets the picture's latents with the
/// noise of the next evaluation. An inpainting U-Net ([`UNetConfig::is_inpainting`]) takes the mask and the masked picture as
/// further channels of its input, and nothing is replaced.
///
/// [`UNetConfig::is_inpainting`]: crate::config::UNetConfig::is_inpainting
#[derive(Debug, Clone)]
pub struct Repaint<T> {
    /// `[1, 1, height, width]` in latents: 1 where the picture is repainted, 0 where it is kept.
    pub mask: T,
    /// The picture as the autoencoder encoded it: the unscaled distribution of one image.
    pub picture: LatentDistribution<T>,
    /// The same for the picture with 0 (grey) where it is repainted. Only an inpainting U-Net needs it.
    pub masked: Option<LatentDistribution<T>>,
    /// The first step to run, as an index in the full schedule. The run then starts from the picture with that step's noise.
    /// `None` starts from noise alone, which is diffusers' strength 1.
    pub start: Option<usize>,
}

/// How the final latents are decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Decoding {
    /// They are not decoded (diffusers' `output_type="latent"`).
    Skip,
    /// Decode whole images.
    Whole,
    /// Decode in tiles. `None` takes diffusers' tiles.
    Tiled(Option<TileOptions>),
}

/// The output of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Output<T> {
    /// Final latents `[images, channels, height, width]` before the VAE's scaling, in the sampler's precision. This is
    /// f32, or f64 for a pipeline in f64.
    pub latents: T,
    /// The images, unless decoding was skipped.
    pub images: Option<Images>,
    /// Prompts that did not fit the text encoders.
    pub cut: Vec<CutPrompt>,
    /// Tokens of each row's text: the encoders' own length, times the chunks of the longest prompt.
    pub text_length: usize,
    /// The cost of each U-Net evaluation.
    pub costs: Vec<StepCost>,
}

/// Decoded images.
#[derive(Debug, Clone, PartialEq)]
pub struct Images {
    /// Number of images.
    pub count: usize,
    /// Pixels down.
    pub height: usize,
    /// Pixels across.
    pub width: usize,
    /// Values from 0 to 1, `[count, 3, height, width]`, row-major.
    pub values: Vec<f32>,
}

impl Images {
    /// Image `index` as bytes `[height, width, 3]`, rounded as in diffusers. `None` if there is no such image.
    pub fn rgb8(&self, index: usize) -> Option<Vec<u8>> {
        let plane = self.height * self.width;
        let image = self.values.chunks_exact((3 * plane).max(1)).nth(index)?;
        let byte = |value: f32| (value * 255.0).round_ties_even() as u8;
        let (red, rest) = image.split_at_checked(plane)?;
        let (green, blue) = rest.split_at_checked(plane)?;
        Some(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [byte(r), byte(g), byte(b)]).collect())
    }
}

/// A prompt whose last tokens were cut off, because the text encoder's context is full.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CutPrompt {
    /// The whole prompt.
    pub prompt: String,
    /// The encoder: 1 or 2.
    pub encoder: usize,
    /// Number of tokens cut off.
    pub cut: usize,
    /// Number of tokens that fit, start and end included.
    pub context: usize,
}

impl std::fmt::Display for CutPrompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { prompt, encoder, cut, context } = self;
        write!(f, "text encoder {encoder} takes {context} tokens: the last {cut} of {prompt:?} are cut off")
    }
}

/// The cost of one U-Net evaluation as it actually ran, for one row of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepCost {
    /// The step's index in the full schedule.
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

/// The argument of the step callback, which is called after each step.
#[derive(Debug)]
#[non_exhaustive]
pub struct StepReport<'a, T> {
    /// The index of the finished step in the full schedule.
    pub index: usize,
    /// Number of steps in the full schedule.
    pub total: usize,
    /// The training timestep of the step.
    pub timestep: f64,
    /// The noise level before the step.
    pub sigma: f64,
    /// The latents after the step `[images, channels, height, width]`.
    pub latents: &'a T,
    pub(super) estimate: Estimate<'a, T>,
}

impl<T: Tensor> StepReport<'_, T> {
    /// The clean latents that the step's last evaluation points to: `[images, channels, height, width]`, scaled as the U-Net
    /// has them. [`StepReport::latents`] still hold noise; these show what the image becomes.
    ///
    /// The estimate follows the prediction type of the checkpoint's scheduler.
    ///
    /// # Errors
    /// The errors of the backend.
    pub fn denoised(&self) -> Result<T> {
        let Estimate { scheduler, output, input, sigma } = &self.estimate;
        scheduler.denoised(*output, *input, *sigma)
    }
}

/// The last evaluation of a step.
#[derive(Debug)]
pub(super) struct Estimate<'a, T> {
    pub(super) scheduler: &'a SchedulerConfig,
    /// The guided prediction.
    pub(super) output: &'a T,
    /// The latents before the evaluation, as the sampler scales them for the U-Net.
    pub(super) input: &'a T,
    /// The noise level before the evaluation.
    pub(super) sigma: f64,
}
