//! The prompt and the sampling: flags of every command that makes pictures from a prompt.

use std::path::PathBuf;

use atedm_core::reference::NdTensor;
use atedm_sdxl::prompt::{PLAIN, TextOptions};
use atedm_sdxl::rng::RngKind;
use atedm_sdxl::schedulers::SamplerRegistry;
use clap::{Args, ValueEnum};

use super::{DTypeKind, ModelArgs, SizeArgs, parse};

/// The prompt and the sampling.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Image")]
pub(crate) struct SampleArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Prompt; repeat it for a batch of several images (writes OUT-0.png, OUT-1.png, …)
    #[arg(long, value_name = "TEXT", required = true)]
    pub(crate) prompt: Vec<String>,
    /// Negative prompt
    #[arg(long, value_name = "TEXT")]
    pub(crate) negative_prompt: Option<String>,
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Denoising steps
    #[arg(long, value_name = "N", default_value = "50", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) steps: usize,
    /// Classifier-free guidance scale; with 1 or less only the prompt runs
    #[arg(long, value_name = "SCALE", default_value = "7", value_parser = parse::finite, allow_negative_numbers = true)]
    pub(crate) guidance_scale: f64,
    /// Bring guided predictions to the deviation of the prompt's own: 0 not, 1 wholly; 0.7 suits checkpoints with zero terminal SNR
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse::share, allow_negative_numbers = true)]
    pub(crate) guidance_rescale: f64,
    /// Seed of the initial noise
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse::seed, allow_negative_numbers = true)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) size: SizeArgs,
    #[arg(long, value_name = "NAME", help = SCHEDULER_HELP, long_help = scheduler_help())]
    pub(crate) scheduler: Option<String>,
    /// Generator of the noise: torch gives diffusers' CPU latents for a seed, chacha is portable
    #[arg(long, value_name = "NAME", default_value = "torch")]
    pub(crate) rng: RngName,
    #[arg(long, value_name = "TYPE", help = RNG_DTYPE_HELP)]
    pub(crate) rng_dtype: Option<DTypeKind>,
    /// Start from these latents, not from noise of the seed: one f32 tensor `latents [B,4,h,w]`, standard normal
    #[arg(long, value_name = "IN.safetensors")]
    pub(crate) latents: Option<PathBuf>,
    /// Start from this picture (image to image): a PNG, JPEG or WebP. One of another size is scaled to cover the output's,
    /// then cut in the middle
    #[arg(long, value_name = "IN.png", conflicts_with = "latents")]
    pub(crate) init_image: Option<PathBuf>,
    /// With --init-image: paint the picture again only where this mask is white. It has the size of the picture
    #[arg(long, value_name = "MASK.png", requires = "init_image")]
    pub(crate) mask_image: Option<PathBuf>,
    /// With --init-image: start from the mean of the picture's latents, not from a draw from their distribution
    #[arg(long, requires = "init_image")]
    pub(crate) init_mean: bool,
    /// With --init-image: the share of the schedule that runs; with 1 nothing of what is painted remains [default: 0.3;
    /// 0.9999 with a mask]
    #[arg(long, value_name = "SHARE", requires = "init_image", value_parser = parse::finite, allow_negative_numbers = true)]
    pub(crate) strength: Option<f64>,
    #[command(flatten)]
    pub(crate) control: ControlArgs,
    /// Decode in overlapping tiles of this many pixels [512 if no number is given]: less memory, nearly the same
    /// picture (diffusers' VAE tiling)
    #[arg(long, value_name = "PIXELS", num_args = 0..=1, default_missing_value = "512", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) vae_tiling: Option<usize>,
}

/// What a ControlNet follows.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Image")]
pub(crate) struct ControlArgs {
    /// With --controlnet: the picture that the ControlNet follows, such as edges or depths; a PNG, JPEG or WebP. It is fitted to the
    /// output's size like --init-image
    #[arg(long, value_name = "IN.png", requires = "controlnet")]
    pub(crate) control_image: Option<PathBuf>,
    /// With --control-image: how strongly the ControlNet acts; 0 not at all [default: 1]
    #[arg(long, value_name = "SCALE", requires = "control_image", value_parser = parse::finite, allow_negative_numbers = true)]
    pub(crate) control_scale: Option<f64>,
    /// With --control-image: the share of the steps after which the ControlNet begins [default: 0]
    #[arg(long, value_name = "SHARE", requires = "control_image", value_parser = parse::share, allow_negative_numbers = true)]
    pub(crate) control_start: Option<f64>,
    /// With --control-image: the share of the steps after which the ControlNet ends [default: 1]
    #[arg(long, value_name = "SHARE", requires = "control_image", value_parser = parse::share, allow_negative_numbers = true)]
    pub(crate) control_end: Option<f64>,
}

/// How prompts are read and encoded.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Image")]
pub(crate) struct TextArgs {
    /// How weights and long prompts are written: none (plain text, cut after 75 tokens), a1111, compel, or a plugin's name
    #[arg(long, value_name = "NAME", default_value = PLAIN)]
    pub(crate) prompt_syntax: String,
    /// Leave out N more of the text encoders' last layers, as diffusers counts: 0 is SD-XL as trained, which AUTOMATIC1111's web UI
    /// calls 2; its 3 is 1 here
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse::count, allow_negative_numbers = true)]
    pub(crate) clip_skip: usize,
}

impl TextArgs {
    /// The options that these flags select.
    pub(crate) fn options(&self) -> TextOptions {
        TextOptions { syntax: self.prompt_syntax.clone(), clip_skip: self.clip_skip }
    }
}

/// A noise generator by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RngName {
    /// torch's CPU generator: a seed gives diffusers' latents
    Torch,
    /// ChaCha: portable, and the same for an image alone or in a batch
    Chacha,
}

impl RngName {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        RngKind::from(self).name()
    }
}

impl From<RngName> for RngKind {
    fn from(name: RngName) -> Self {
        match name {
            RngName::Torch => Self::Torch,
            RngName::Chacha => Self::ChaCha,
        }
    }
}

/// What `--scheduler` takes.
const SCHEDULER_HELP: &str = "Sampler: euler-sgm is the paper's; --help lists all [default: from the checkpoint's \
    scheduler_config.json]";

/// [`SCHEDULER_HELP`] with every name that is registered here.
fn scheduler_help() -> String {
    let samplers = SamplerRegistry::<NdTensor>::with_builtins();
    let (names, classes) = (samplers.plain_names().join(", "), samplers.classes().join(", "));
    format!(
        "Sampler; euler-sgm is the paper's. One of\n  {names}.\neuler, heun, lms, unipc and the dpm++ names also take the endings \
         -karras, -exponential and -beta, which choose other noise levels than those of training.\nOr a class of diffusers, \
         with the noise levels of the checkpoint's config:\n  {classes}.\nOr a plugin's name [default: from the checkpoint's \
         scheduler_config.json]"
    )
}

/// Help of `--rng-dtype`.
pub(super) const RNG_DTYPE_HELP: &str = "\
    Element type that torch's noise is drawn in; f32 gives one picture over types [default: that of --dtype, as diffusers draws]";
