//! Flags of `atedm train`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Device, parse};

/// Flags of `atedm train`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  atedm train recipes/training/shapes.toml --out trained\n  \
    atedm generate --model trained/model --prompt \"a large red star on the left\" --output star.png\n\n\
    Interrupted, it goes on where the last state was written: give the same command again.")]
pub(crate) struct TrainArgs {
    /// The recipe: sizes, data, courses, seed
    #[arg(value_name = "RECIPE.toml")]
    pub(crate) recipe: PathBuf,
    /// Folder of the training. It gets the states, loss.csv of both courses, samples/, and model/: a diffusers folder
    /// (f16) of the averaged weights at every state
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Device: cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: Device,
    /// Type of the activations; weights and moments are f32
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub(crate) dtype: Activations,
    /// Minutes between two states; 0 writes one after every step
    #[arg(long, value_name = "MINUTES", default_value = "10", value_parser = parse::finite, allow_negative_numbers = true)]
    pub(crate) save_every: f64,
    /// Markdown with measured quality, for the model's card; if the training is finished, only the card changes
    #[arg(long, value_name = "FILE.md")]
    pub(crate) quality: Option<PathBuf>,
    /// Stop after this many minutes; the training can be resumed
    #[arg(long, value_name = "MINUTES", value_parser = parse::finite, allow_negative_numbers = true)]
    pub(crate) stop_after: Option<f64>,
    /// Allow only devices that give the same bytes again (the CPU)
    #[arg(long)]
    pub(crate) deterministic: bool,
    /// Show no progress and no messages on the way
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Types of the activations in a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Activations {
    /// For all devices
    F32,
    /// For GPUs
    Bf16,
}
