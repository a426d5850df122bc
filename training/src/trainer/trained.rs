//! The result of a training.

use std::path::Path;

use atedm_core::Result;

use super::course::Progress;
use super::losses::Losses;
use super::recipe::Recipe;
use super::state;
use atedm_sdxl::architecture::{Architecture, MeanLoss, ModelCard, NamedTensor, PartTensors, Vocabulary};
use atedm_sdxl::checkpoint::Part as Folder;

/// A model during or after its training: averaged weights of all parts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Trained {
    /// Its sizes, with the measured scaling factor.
    pub model: Architecture,
    /// Its tokens.
    pub vocabulary: Vocabulary,
    /// Each part's tensors.
    pub weights: Vec<PartTensors>,
    /// Steps of the diffusion part done.
    pub steps: u64,
    /// The mean losses of at most twelve parts of these steps.
    pub losses: Vec<MeanLoss>,
    /// Peak signal-to-noise ratio of held-out pictures through the autoencoder, in decibels.
    pub vae_psnr: f64,
}

impl Trained {
    /// The model's card. `evaluation` is measured quality as Markdown.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] if the recipe cannot be written.
    pub fn card(&self, recipe: &Recipe, evaluation: Option<&str>) -> Result<String> {
        let grown_from = recipe.init.as_deref().and_then(Path::file_name);
        let start = grown_from
            .map_or("random weights".into(), |name| format!("the weights of `{}`", name.to_string_lossy()));
        let card = ModelCard {
            name: &recipe.name,
            architecture: &self.model,
            vocabulary: &self.vocabulary,
            data: recipe.data.described(),
            start: &start,
            recipe_toml: &recipe.to_toml()?,
            steps: self.steps as usize,
            images: self.steps as usize * recipe.diffusion.training.batch,
            losses: &self.losses,
            vae_psnr: self.vae_psnr,
            evaluation,
        };
        Ok(card.to_markdown())
    }
}

/// The averaged weights of a course.
pub(super) fn averages(progress: &Progress) -> Result<Vec<NamedTensor>> {
    let values = state::to_host(&progress.optimizer.average)?;
    let slots = progress.parameters.slots().iter();
    Ok(slots
        .map(|slot| NamedTensor {
            name: slot.name.clone(),
            shape: slot.shape.clone(),
            values: values[slot.range.clone()].to_vec(),
        })
        .collect())
}

/// All parts of a model except the diffusion part's weights.
pub(super) struct Export {
    pub(super) model: Architecture,
    pub(super) vocabulary: Vocabulary,
    pub(super) autoencoder: Vec<NamedTensor>,
    pub(super) vae_psnr: f64,
}

impl Export {
    /// The model after the steps of `progress`.
    pub(super) fn of(&self, progress: &Progress, losses: &Losses) -> Result<Trained> {
        let mut all = self.autoencoder.clone();
        all.extend(averages(progress)?);
        let part = |part: &Folder| {
            let prefix = format!("{}.", part.folder());
            let below = all.iter().filter_map(|tensor| {
                let name = tensor.name.strip_prefix(&prefix)?.to_string();
                Some(NamedTensor { name, ..tensor.clone() })
            });
            PartTensors { part: *part, tensors: below.collect() }
        };
        Ok(Trained {
            model: self.model.clone(),
            vocabulary: self.vocabulary.clone(),
            weights: Folder::ALL.iter().map(part).collect(),
            steps: progress.done,
            losses: losses.curve(),
            vae_psnr: self.vae_psnr,
        })
    }
}
