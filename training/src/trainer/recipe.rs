//! What a training depends on: the TOML file of `atedm train`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use atedm_core::{Error, Result, one_line};
use serde::{Deserialize, Serialize};

use super::optimizer::Course;
use crate::scenes::{Objects, SceneSource, Shapes};
use atedm_sdxl::architecture::{Architecture, ModelCard};
use atedm_sdxl::text_file;

/// A recipe. Two runs of one recipe on one machine and device give the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the model is called in its card.
    pub name: String,
    /// Seed of the data, the initial weights and every draw.
    pub seed: u64,
    /// What it learns from.
    #[serde(default, skip_serializing_if = "Data::is_default")]
    pub data: Data,
    /// Sizes of the model. The autoencoder's `scaling_factor` is measured once it is trained; what is written here is not used.
    pub model: Architecture,
    /// The autoencoder's training.
    pub autoencoder: AutoencoderRecipe,
    /// The training of the U-Net and the text encoders.
    pub diffusion: DiffusionRecipe,
}

/// The table `data`; without it, scenes of shapes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Data {
    /// Scenes of coloured shapes ([`Shapes`]).
    #[default]
    Shapes,
    /// Scenes of emoji (cargo feature `emoji`).
    Emoji {
        /// Where `recipes/training/fetch-emoji.sh` has put the drawings; relative to where the program runs.
        folder: PathBuf,
    },
}

impl Data {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The stream of this seed.
    ///
    /// # Errors
    /// [`Error::Config`] for emoji in a build without the feature; what reading the drawings fails with.
    pub fn source(&self, seed: u64) -> Result<Arc<dyn SceneSource>> {
        match self {
            Self::Shapes => Ok(Arc::new(Shapes { seed, objects: Objects::default() })),
            #[cfg(feature = "emoji")]
            Self::Emoji { folder } => {
                use crate::emoji::{Emoji, EmojiOptions};
                Ok(Arc::new(Emoji::open(&EmojiOptions { seed, ..EmojiOptions::new(folder) })?))
            }
            #[cfg(not(feature = "emoji"))]
            Self::Emoji { .. } => Err(Error::config(
                "data.kind",
                "emoji need the cargo feature `emoji`, which this build lacks",
            )),
        }
    }

    /// What a model's card says of it.
    pub(super) fn described(&self) -> &'static str {
        match self {
            Self::Shapes => ModelCard::SHAPES,
            Self::Emoji { .. } => ModelCard::EMOJI,
        }
    }
}

/// The table `autoencoder`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderRecipe {
    /// Weight of the divergence of the latents from a normal distribution.
    pub pull: f64,
    /// Standard deviation that latents are scaled to. Below 1 every noise level of the schedule hides more of the picture: small
    /// and redundant latents would otherwise shine through the highest one, and captions would not be learnt (Chen 2023,
    /// "On the importance of noise scheduling for diffusion models").
    pub latent_deviation: f64,
    /// Its course.
    pub training: Course,
}

/// The table `diffusion`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionRecipe {
    /// γ of min-SNR-γ.
    pub min_snr_gamma: f64,
    /// Share of images whose caption is dropped, for guidance.
    pub caption_dropout: f64,
    /// Its course.
    pub training: Course,
}

impl Recipe {
    /// Reads and checks a TOML file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Config`] naming file and field for what is wrong in it.
    pub fn read(file: &Path) -> Result<Self> {
        let text = text_file::read(file)?;
        let named = |field: &str, reason: String| Error::config(format!("{}{field}", file.display()), reason);
        let recipe: Self = toml::from_str(&text).map_err(|error| named("", one_line(&error)))?;
        match recipe.check() {
            Ok(()) => Ok(recipe),
            Err(Error::Config { field, reason }) => Err(named(&format!(": {field}"), reason)),
            Err(other) => Err(other),
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn check(&self) -> Result<()> {
        self.model.check()?;
        self.autoencoder.training.check("autoencoder.training")?;
        self.diffusion.training.check("diffusion.training")?;
        let ranges = [
            ("autoencoder.pull", self.autoencoder.pull, 0.0..=1.0),
            ("autoencoder.latent_deviation", self.autoencoder.latent_deviation, 0.01..=10.0),
            ("diffusion.min_snr_gamma", self.diffusion.min_snr_gamma, 0.01..=1e6),
            ("diffusion.caption_dropout", self.diffusion.caption_dropout, 0.0..=1.0),
        ];
        for (field, value, range) in ranges {
            if !range.contains(&value) {
                let reason = format!("expected {} to {}, got {value}", range.start(), range.end());
                return Err(Error::config(field, reason));
            }
        }
        Ok(())
    }

    /// The recipe as TOML text.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::config("recipe", error.to_string()))
    }

    /// What a state of the autoencoder (or of all, with `diffusion`) depends on, but for the length of its own course: a course
    /// may be lengthened before its cooldown.
    pub(super) fn identity(&self, part: Part) -> Result<String> {
        let mut recipe = self.clone();
        recipe.name.clear();
        let course = match part {
            Part::Autoencoder => {
                recipe.diffusion = DiffusionRecipe {
                    min_snr_gamma: 0.0,
                    caption_dropout: 0.0,
                    training: recipe.autoencoder.training.clone(),
                };
                recipe.diffusion.training.steps = 0;
                &mut recipe.autoencoder.training
            }
            Part::Diffusion => &mut recipe.diffusion.training,
        };
        (course.steps, course.cooldown) = (0, 0);
        recipe.to_toml()
    }
}

/// The two courses of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The autoencoder.
    Autoencoder,
    /// U-Net and text encoders.
    Diffusion,
}

impl Part {
    /// The name, also of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Autoencoder => "autoencoder",
            Self::Diffusion => "diffusion",
        }
    }
}
