//! Scenes composed from emoji: the data of the `emoji` tier (cargo feature `emoji`).
//!
//! A scene has one or two of some 850 drawings before a background. They are placed and described as the shapes of
//! [`super::scenes`] are. The mask is exact, because it comes from the drawings' own alpha. The drawings are Noto Emoji
//! (npm `@iconify-json/noto` 1.2.9, Apache-2.0). Their words are emojibase's labels (npm `emojibase-data` 17.0.0, MIT).
//! `recipes/training/fetch-emoji.sh DIR` fetches both into the layout that [`EmojiOptions::folder`] expects. This crate
//! contains no part of them.
//!
//! About a tenth of all (drawing, background style, background colour) triples never occur in [`Split::Train`]. The
//! same holds for a tenth of all pairs of drawings. Each scene of `Split::HeldOut` shows one of them.
//!
//! An index gives the same scene on every machine. `resvg` draws its pixels in single precision, so they may differ in
//! the last bit between processors.

mod held_out;
mod icons;
mod noun;
mod scene;
mod sprite;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use atedm_core::{Error, Result};

use self::icons::Icon;
use self::scene::EmojiScene;
use super::scenes::{Composed, Objects, Position, Relation, SceneSource, Size, Split, Style, Tone};

/// The folder of the packages, and the parts of them to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmojiOptions {
    /// Holds `noto/icons.json`, `emojibase/en/data.json` and `emojibase/meta/groups.json`.
    pub folder: PathBuf,
    /// Emojibase's groups whose drawings are used.
    pub groups: Vec<String>,
    /// Seed of the stream.
    pub seed: u64,
    /// Objects in a scene.
    pub objects: Objects,
}

impl EmojiOptions {
    /// Animals, food, places, activities and things. These drawings can stand in a scene. Faces, people, signs and
    /// flags are left out.
    pub(crate) const GROUPS: [&str; 5] =
        ["animals-nature", "food-drink", "travel-places", "activities", "objects"];

    /// Options for the stream of the first seed with one or two objects: animals, food, places, activities and things.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let groups = Self::GROUPS.map(str::to_owned).to_vec();
        Self { folder: folder.into(), groups, seed: 0, objects: Objects::default() }
    }
}

/// A stream of scenes composed from emoji.
///
/// A drawing is turned into pixels when a scene first shows it. The stream keeps the pixels: 256 KiB each.
pub struct Emoji {
    icons: Vec<Icon>,
    seed: u64,
    objects: Objects,
}

impl Emoji {
    /// Reads the packages.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read. [`Error::Config`] naming the file for a file of another form, for an
    /// unknown group, and for too few drawings.
    pub fn open(options: &EmojiOptions) -> Result<Self> {
        let icons = icons::read(&options.folder, &options.groups)?;
        if !scene::fill_both_splits(&icons) {
            let reason = "expected more drawings: these have no scenes for each split".to_owned();
            return Err(Error::config("groups", reason));
        }
        Ok(Self { icons, seed: options.seed, objects: options.objects })
    }

    /// The drawings' words, in the order of their names.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.icons.iter().map(|icon| &*icon.label)
    }
}

impl SceneSource for Emoji {
    fn scene<'a>(&'a self, split: Split, index: u64) -> Box<dyn Composed + 'a> {
        Box::new(EmojiScene::sample(&self.icons, (self.seed, self.objects), split, index))
    }

    fn vocabulary_captions<'a>(&'a self) -> Box<dyn Iterator<Item = String> + 'a> {
        // Each set is walked in its own order. The loop ends with the longest set.
        let steps = self.icons.len().max(Position::ALL.len());
        Box::new((0..steps).flat_map(|step| {
            let label = &self.icons[step % self.icons.len()].label;
            let sized = noun::noun(label, Some(Size::ALL[step % Size::ALL.len()]));
            let position = Position::ALL[step % Position::ALL.len()].phrase();
            let relation = Relation::ALL[step % Relation::ALL.len()].name();
            let (style, tone) = (Style::ALL[step % Style::ALL.len()], Tone::ALL[step % Tone::ALL.len()]);
            let background = format!("on a {} {} background", style.name(), tone.name());
            [format!("{sized} {position} {background}"), format!("{} {relation}", noun::noun(label, None))]
        }))
    }
}
