//! The command line. Flags are in groups that the commands share.

mod ablate;
mod bench;
mod compare;
mod convert;
mod eval;
mod flops;
mod model;
mod parse;
mod report;
mod scenes;
#[cfg(feature = "train")]
mod train;

use std::path::PathBuf;

use atedm_core::DType;
use atedm_core::reference::NdTensor;
use atedm_experiment::platform::{Platform, cores};
use atedm_sdxl::prompt::{PLAIN, TextOptions};
use atedm_sdxl::rng::RngKind;
use atedm_sdxl::schedulers::SamplerRegistry;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use ablate::{AblateAction, AblateArgs, MergeArgs, ShardArgs};
pub(crate) use bench::BenchArgs;
pub(crate) use compare::CompareArgs;
pub(crate) use convert::ConvertArgs;
pub(crate) use eval::{EvalAction, EvalArgs, ExportArgs};
pub(crate) use flops::FlopsArgs;
pub(crate) use model::ModelArgs;
pub(crate) use parse::Device;
pub(crate) use report::ReportArgs;
pub(crate) use scenes::ScenesArgs;
#[cfg(feature = "train")]
pub(crate) use train::{Activations, TrainArgs};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "atedm",
    version,
    about = "Text to image with SD-XL, its attention blocks pruned by AT-EDM",
    long_about = "Text to image with SD-XL from a diffusers folder or a single file, its attention blocks pruned at run time by \
                  AT-EDM (Wang et al., CVPR 2024) or by a method of your own. No training, no conversion.",
    after_help = EXAMPLE,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make images from prompts.
    Generate(Box<GenerateArgs>),
    /// Show a checkpoint's blocks, what a configuration prunes in them, and the cost.
    Inspect(Box<InspectArgs>),
    /// Make an image and draw the pruned tokens (the paper's Fig. 8 and Fig. 5).
    Masks(Box<MasksArgs>),
    /// Show the cost of a U-Net evaluation by kind and by block, whole and pruned (the paper's Fig. 2 and Tables 1 and
    /// 2).
    Flops(Box<FlopsArgs>),
    /// Time the U-Net at its real size, whole and under each method (no checkpoint needed).
    Bench(Box<BenchArgs>),
    /// Make the same images with several methods: a contact sheet, distances to the unpruned images, FLOPs, times.
    Compare(Box<CompareArgs>),
    /// Make the images of a grid of methods and options, with one line of results each. Resumable, in shards.
    Ablate(Box<AblateArgs>),
    /// Write one HTML page for an ablation: tables, curves, images, configurations. It needs no network.
    Report(ReportArgs),
    /// Make images for captions, in folders that FID and CLIP programs read.
    Eval(EvalArgs),
    /// Write composed scenes with captions, exact masks and labels. `atedm train` learns from such scenes.
    Scenes(ScenesArgs),
    /// Train a small SD-XL from random weights: first its autoencoder, then its U-Net and text encoders. Resumable.
    #[cfg(feature = "train")]
    Train(TrainArgs),
    /// Write a single-file SD-XL checkpoint as a diffusers folder.
    Convert(ConvertArgs),
    /// Write a tiny SD-XL with random weights. It makes only noise, but needs no download.
    InitTiny(InitTinyArgs),
}

impl Command {
    /// The engine's flags, if the command has them.
    pub(crate) fn engine(&mut self) -> Option<&mut EngineArgs> {
        match self {
            Self::Generate(args) => Some(&mut args.engine),
            Self::Masks(args) => Some(&mut args.engine),
            Self::Bench(args) => Some(&mut args.engine),
            Self::Compare(args) => Some(&mut args.engine),
            Self::Ablate(args) => Some(&mut args.engine),
            Self::Eval(EvalArgs { action: EvalAction::Export(args) }) => Some(&mut args.engine),
            Self::Inspect(_) | Self::Flops(_) | Self::Report(_) | Self::Scenes(_) => None,
            Self::Convert(_) | Self::InitTiny(_) => None,
            #[cfg(feature = "train")]
            Self::Train(_) => None,
        }
    }
}

/// Flags of `atedm generate`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  atedm generate --model sdxl-base --prompt \"a red fox in the snow\" \\\n    \
    --prune at-edm --prune-opt ratio=0.63,tau=15 --output fox.png"
)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) sample: SampleArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) prune: PruneArgs,
    #[command(flatten)]
    pub(crate) replay: ReplayArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

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
    /// Width in pixels [default: the checkpoint's own size]
    #[arg(long, value_name = "PIXELS", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) width: Option<usize>,
    /// Height in pixels [default: the checkpoint's own size]
    #[arg(long, value_name = "PIXELS", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) height: Option<usize>,
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

/// The backend, device and precision.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineArgs {
    /// Tensor library
    #[arg(long, value_name = "NAME", default_value = DEFAULT_BACKEND)]
    pub(crate) backend: BackendKind,
    /// Device: cpu, cuda:N or metal
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: Device,
    /// Element type of weights and activations (f64: CPU only)
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub(crate) dtype: DTypeKind,
    /// CPU threads, at most four per core [default: one per core]
    #[arg(long, value_name = "N", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) threads: Option<usize>,
    /// Guarantee the same bits for the same command on the same machine; refuses devices that cannot
    #[arg(long)]
    pub(crate) deterministic: bool,
}

impl EngineArgs {
    /// The platform that these flags select.
    pub(crate) fn platform(&self) -> Platform {
        Platform {
            backend: self.backend.name().to_string(),
            device: self.device.to_string(),
            dtype: self.dtype.into(),
            threads: self.threads.unwrap_or_else(cores),
        }
    }
}

/// The pruning method.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Pruning")]
pub(crate) struct PruneArgs {
    /// Method: none, at-edm, at-edm-dagger, at-edm-fast, at-edm-dagger-fast, at-edm-best, at-edm-a … at-edm-d, tome-c and other
    /// merging, a plugin's name, or several joined by +, outer first [default: none; at-edm for masks]
    #[arg(long, value_name = "NAME")]
    pub(crate) prune: Option<String>,
    /// The method's options: ratio=0.63,tau=30%,prune_point=before_ff,levels=1+2 (repeatable; a.b=1 sets a table's entry)
    #[arg(long, value_name = "KEY=VALUE,…", action = clap::ArgAction::Append, long_help = PRUNE_OPT_HELP)]
    pub(crate) prune_opt: Vec<String>,
    /// Method and options from a TOML file: `method = "at-edm"` and one line per option; --prune-opt wins. `method =
    /// ["a", "b"]` is `a+b`, with the options of each in a table of its name
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) prune_config: Option<PathBuf>,
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

/// Every option of AT-EDM. The first value is the default.
const PRUNE_OPT_HELP: &str = "\
The method's options, as key=value,key=value,… (repeatable; a.b=1 sets entry b of table a, 1+2 is a list).
Of methods joined by + each takes its own: --prune todo-sdxl+at-edm --prune-opt at-edm.levels=2,at-edm.ratio=0.5.
AT-EDM takes, its default first:
  ratio=0.63            share of tokens removed; or budget_tflops=4.1 a U-Net evaluation, or 80% of the whole model's
  schedule=prune-less   | prune-more | constant | table (with schedule_file=FILE)
  tau=30%               early steps, as a share or a number (15)
  prune_point=after_ff  | before_ff
  prune_layers=0        | 0+4 …: the layers that prune
  protect=none          | mask: prune no token that --mask-image paints again
  levels=all            | deepest | 1+2 …: the resolution levels that are pruned
  score=self            | cross: whose attention votes
  scorer=page-rank      | column-mean | value-norm | token-norm | random
  max_iterations=5, epsilon=1e-4, damping=0, norm=l1 | l2
  cross_vote=entropy    | plain | hard: Eq. 1 and its variants, with score=cross
  heads=rms             | mean | max
  selector=top-k        | sample: draws tokens by their scores (selector.temperature=1)
  recovery=similarity   | soft (recovery.k=4, recovery.temperature=1) | update (recovery.changes=soft | bicubic)
                        | direct | bicubic | zero
  guidance=per_row      | cond | mean: whose scores decide in the two halves of guidance
  keep_multiple=1       kept counts are rounded up to a multiple of this";

/// Mask files to read and to write.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Pruning")]
pub(crate) struct ReplayArgs {
    /// Write scores, kept sets and votes of every site and step
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) masks_out: Option<PathBuf>,
    /// Take the kept sets from a file of --masks-out, without scoring
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) masks_in: Option<PathBuf>,
}

/// The output files of `generate`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// The picture
    #[arg(long, short, value_name = "OUT.png")]
    pub(crate) output: PathBuf,
    /// Also write the final latents, before the VAE's scaling: one f32 tensor `latents [B,4,h,w]`
    #[arg(long, value_name = "OUT.safetensors")]
    pub(crate) save_latents: Option<PathBuf>,
    /// Every N steps, write what the picture becomes beside it: OUT.preview-0010.png after ten steps, and so on
    #[arg(long, value_name = "N", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) preview: Option<usize>,
    /// With --preview: decode previews with this autoencoder, such as TAESDXL, as --vae takes it [default: a linear
    /// projection, one pixel for each latent]
    #[arg(long, value_name = "DIR|FILE", requires = "preview")]
    pub(crate) preview_vae: Option<PathBuf>,
    /// Leave the prompt and the settings out of the picture's metadata
    #[arg(long)]
    pub(crate) no_metadata: bool,
    /// Show no progress bar and no summary
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Flags of `atedm inspect`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  atedm inspect --model sdxl-base --prune at-edm --prune-opt ratio=0.63 --width 1024 --height 1024"
)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Denoising steps of the schedule
    #[arg(long, value_name = "N", default_value = "50", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) steps: usize,
    /// Width in pixels [default: the checkpoint's own size]
    #[arg(long, value_name = "PIXELS", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) width: Option<usize>,
    /// Height in pixels [default: the checkpoint's own size]
    #[arg(long, value_name = "PIXELS", value_parser = parse::positive, allow_negative_numbers = true)]
    pub(crate) height: Option<usize>,
    #[command(flatten)]
    pub(crate) prune: PruneArgs,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `atedm masks`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  atedm masks --model sdxl-base --prompt \"a red fox in the snow\" --prune at-edm \\\n    \
    --steps-shown 0,15,30,49 --variance --output-dir fox-masks"
)]
pub(crate) struct MasksArgs {
    #[command(flatten)]
    pub(crate) sample: SampleArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) prune: PruneArgs,
    /// Take the kept sets from a file of --masks-out, without scoring
    #[arg(long, value_name = "FILE.safetensors", help_heading = "Pruning")]
    pub(crate) masks_in: Option<PathBuf>,
    /// Folder for the pictures: one per block and step, and contact-sheet.png
    #[arg(long, short, value_name = "DIR", help_heading = "Output")]
    pub(crate) output_dir: PathBuf,
    /// Steps to draw, counted from 0 [default: five, spread over the run]
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', value_parser = parse::step, help_heading = "Output")]
    pub(crate) steps_shown: Vec<usize>,
    /// Also draw variance.svg: the variance of the attention maps at every step (takes another pass over each map)
    #[arg(long, help_heading = "Output")]
    pub(crate) variance: bool,
    /// Show no progress bar and no summary
    #[arg(long, short, help_heading = "Output")]
    pub(crate) quiet: bool,
}

/// Flags of `atedm init-tiny`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  atedm init-tiny tiny && atedm generate --model tiny --prompt \"a red fox\" --output fox.png"
)]
pub(crate) struct InitTinyArgs {
    /// Folder to write; must be new or empty
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Seed of the weights; the same seed gives the same bytes
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse::seed, allow_negative_numbers = true)]
    pub(crate) seed: u64,
}

/// Help of `--rng-dtype`.
const RNG_DTYPE_HELP: &str = "\
    Element type that torch's noise is drawn in; f32 gives one picture over types [default: that of --dtype, as diffusers draws]";

/// An example for the first picture.
#[cfg(feature = "embedded")]
const EXAMPLE: &str = "Example: atedm generate --prompt \"a large red star on the left\" --output star.png";
/// An example for the first picture, in a build without a model.
#[cfg(not(feature = "embedded"))]
const EXAMPLE: &str = "Example: atedm generate --model sdxl-base --prompt \"a red fox\" --output fox.png";

#[cfg(feature = "candle")]
const DEFAULT_BACKEND: &str = "candle";
#[cfg(all(not(feature = "candle"), feature = "tch"))]
const DEFAULT_BACKEND: &str = "tch";
#[cfg(not(any(feature = "candle", feature = "tch")))]
const DEFAULT_BACKEND: &str = "ndarray";

/// A backend by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendKind {
    /// Candle (CPU, CUDA, Metal)
    Candle,
    /// libtorch (CPU, CUDA)
    Tch,
    /// The plain reference in Rust: slow, exact
    Ndarray,
}

impl BackendKind {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::Tch => "tch",
            Self::Ndarray => "ndarray",
        }
    }
}

/// An element type by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DTypeKind {
    /// 32-bit float
    F32,
    /// 16-bit float
    F16,
    /// 16-bit brain float
    Bf16,
    /// 64-bit float
    F64,
}

impl From<DTypeKind> for DType {
    fn from(kind: DTypeKind) -> Self {
        match kind {
            DTypeKind::F32 => Self::F32,
            DTypeKind::F16 => Self::F16,
            DTypeKind::Bf16 => Self::BF16,
            DTypeKind::F64 => Self::F64,
        }
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn generate_has_the_documented_defaults() {
        let cli =
            Cli::try_parse_from("atedm generate --model m --prompt p --output o.png".split(' ')).unwrap();
        let Command::Generate(args) = cli.command else { panic!("expected generate") };
        assert_eq!((args.sample.steps, args.sample.guidance_scale, args.sample.seed), (50, 7.0, 0));
        assert_eq!((args.sample.width, args.prune.prune, args.sample.rng), (None, None, RngName::Torch));
    }

    #[test]
    fn a_missing_prompt_is_named_on_one_line() {
        let error = Cli::try_parse_from("atedm generate --model m --output o.png".split(' ')).unwrap_err();
        let line = crate::failure::from_clap(&error).to_string();
        assert!(line.contains("--prompt") && !line.contains('\n') && !line.contains("Usage"), "{line}");
    }
}
