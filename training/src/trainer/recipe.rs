//! The TOML file of `atedm train`: everything that a training depends on.

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
#[non_exhaustive]
pub struct Recipe {
    /// The name of the model in its card.
    pub name: String,
    /// Seed of the data, the initial weights and every draw.
    pub seed: u64,
    /// The training data.
    #[serde(default, skip_serializing_if = "Data::is_default")]
    pub data: Data,
    /// A diffusers folder whose weights the training starts from. A relative path starts from the working directory.
    /// Tensors of the same name must have the same shape. The U-Net's blocks may have more transformer layers than that
    /// model; the new layers begin as the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Sizes of the model. The training measures the autoencoder's `scaling_factor` and ignores the recipe's value.
    pub model: Architecture,
    /// The autoencoder's training.
    pub autoencoder: AutoencoderRecipe,
    /// The training of the U-Net and the text encoders.
    pub diffusion: DiffusionRecipe,
}

/// The table `data`. Its default is scenes of shapes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Data {
    /// Scenes of coloured shapes ([`Shapes`]).
    #[default]
    Shapes,
    /// Scenes of emoji (cargo feature `emoji`).
    Emoji {
        /// The folder that `recipes/training/fetch-emoji.sh` wrote. A relative path starts from the working directory.
        folder: PathBuf,
    },
}

impl Data {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The stream of scenes with this seed.
    ///
    /// # Errors
    /// [`Error::Config`] for emoji in a build without the feature, and the errors of reading the drawings.
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

    /// The description of the data in the model's card.
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
#[non_exhaustive]
pub struct AutoencoderRecipe {
    /// Weight of the divergence of the latents from a normal distribution.
    pub pull: f64,
    /// Standard deviation that latents are scaled to. Below 1, every noise level of the schedule hides more of the
    /// picture. Small and redundant latents would otherwise remain visible at the highest noise level, and the model
    /// would not learn captions (Chen 2023, "On the importance of noise scheduling for diffusion models").
    pub latent_deviation: f64,
    /// Its course.
    pub training: Course,
}

/// The table `diffusion`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
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
    /// [`Error::Io`] if the file cannot be read. [`Error::Config`] naming file and field for a wrong value.
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
    pub(crate) fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|error| Error::config("recipe", error.to_string()))
    }

    /// The settings that a state of the autoencoder depends on; with `diffusion`, those of both parts. The length of
    /// the part's own course is not included, because a course may be made longer before its cooldown.
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
    /// The name of the part and of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Autoencoder => "autoencoder",
            Self::Diffusion => "diffusion",
        }
    }
}
