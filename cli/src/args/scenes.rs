//! Flags of `atedm scenes`.

use std::path::PathBuf;

use atedm_training::scenes::{Objects, Split};
use clap::{Args, ValueEnum};

use super::parse;

/// Flags of `atedm scenes`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  atedm scenes --out held-out --split held-out --objects one --count 256\n  \
    atedm ablate grid.toml --prompts held-out/prompts.tsv --output run   (the pictures' names are the prompts' ids)"
)]
pub(crate) struct ScenesArgs {
    /// Folder to write; must be new or empty. It gets NNNNN.png, masks/NNNNN.png (white where an object is),
    /// captions.txt, prompts.tsv (ids and captions) and labels.jsonl
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Scenes for training, or scenes that each show a combination that training never shows
    #[arg(long, value_name = "NAME", default_value = "train")]
    pub(crate) split: SplitName,
    /// Objects in a scene
    #[arg(long, value_name = "NUMBER", default_value = "one-or-two")]
    pub(crate) objects: ObjectsName,
    /// Number of scenes, starting with the first of the seed's stream
    #[arg(long, value_name = "N", default_value = "64", value_parser = count, allow_negative_numbers = true)]
    pub(crate) count: usize,
    /// Seed of the stream; the same seed gives the same bytes on every machine
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse::seed, allow_negative_numbers = true)]
    pub(crate) seed: u64,
    /// Scenes of emoji, not of shapes, from the packages that `recipes/training/fetch-emoji.sh` puts in this folder
    #[cfg(feature = "emoji")]
    #[arg(long, value_name = "DIR")]
    pub(crate) emoji: Option<PathBuf>,
    /// Width and height in pixels
    #[arg(long, value_name = "PIXELS", default_value = "64", value_parser = side, allow_negative_numbers = true)]
    pub(crate) size: usize,
}

/// A split by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SplitName {
    /// Without held-out combinations
    Train,
    /// Each with a held-out combination
    HeldOut,
}

impl From<SplitName> for Split {
    fn from(name: SplitName) -> Self {
        match name {
            SplitName::Train => Self::Train,
            SplitName::HeldOut => Self::HeldOut,
        }
    }
}

/// A number of objects by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ObjectsName {
    /// One object in 60 of 100 scenes, two in the others
    OneOrTwo,
    /// One object
    One,
    /// Two objects, in opposite halves of the picture
    Two,
}

impl From<ObjectsName> for Objects {
    fn from(name: ObjectsName) -> Self {
        match name {
            ObjectsName::OneOrTwo => Self::OneOrTwo,
            ObjectsName::One => Self::One,
            ObjectsName::Two => Self::Two,
        }
    }
}

/// File names have five digits, which limits the count.
fn count(text: &str) -> Result<usize, String> {
    within(text, 1, 100_000)
}

/// Below 16 pixels, no shape can be recognized.
fn side(text: &str) -> Result<usize, String> {
    within(text, 16, 2048)
}

fn within(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("expected a whole number from {least} to {most}"))
}
