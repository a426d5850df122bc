//! The command line. Flags are in groups that the commands share.

mod ablate;
mod bench;
mod compare;
mod convert;
mod engine;
mod eval;
mod flops;
mod generate;
mod init_tiny;
mod inspect;
mod masks;
mod model;
mod parse;
mod prune;
mod report;
mod sample;
mod scenes;
mod size;
#[cfg(feature = "train")]
mod train;

use clap::{Parser, Subcommand};

pub(crate) use ablate::{AblateAction, AblateArgs, MergeArgs, ShardArgs};
pub(crate) use bench::BenchArgs;
pub(crate) use compare::CompareArgs;
pub(crate) use convert::ConvertArgs;
pub(crate) use engine::{BackendKind, DTypeKind, EngineArgs};
pub(crate) use eval::{EvalAction, EvalArgs, ExportArgs};
pub(crate) use flops::FlopsArgs;
pub(crate) use generate::{GenerateArgs, OutputArgs};
pub(crate) use init_tiny::InitTinyArgs;
pub(crate) use inspect::InspectArgs;
pub(crate) use masks::MasksArgs;
pub(crate) use model::ModelArgs;
pub(crate) use parse::Device;
pub(crate) use prune::{PruneArgs, ReplayArgs};
pub(crate) use report::ReportArgs;
pub(crate) use sample::{ControlArgs, RngName, SampleArgs, TextArgs};
pub(crate) use scenes::ScenesArgs;
pub(crate) use size::SizeArgs;
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

/// An example for the first picture.
#[cfg(feature = "embedded")]
const EXAMPLE: &str = "Example: atedm generate --prompt \"a large red star on the left\" --output star.png";
/// An example for the first picture, in a build without a model.
#[cfg(not(feature = "embedded"))]
const EXAMPLE: &str = "Example: atedm generate --model sdxl-base --prompt \"a red fox\" --output fox.png";

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
        assert_eq!((args.sample.size.width, args.prune.prune, args.sample.rng), (None, None, RngName::Torch));
    }

    #[test]
    fn a_missing_prompt_is_named_on_one_line() {
        let error = Cli::try_parse_from("atedm generate --model m --output o.png".split(' ')).unwrap_err();
        let line = crate::failure::from_clap(&error).to_string();
        assert!(line.contains("--prompt") && !line.contains('\n') && !line.contains("Usage"), "{line}");
    }
}
