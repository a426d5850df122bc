//! The results of a run.

use atedm_core::plugin::MaskSet;

use super::task::ImageTask;
use crate::failure::{Failure, Outcome};
use crate::files::{LatentsFile, Picture};
use crate::observe::Watched;
use crate::plan::PlannedPoint;
use crate::record::{Flops, LevelTokens, PromptLine, Times};

/// A finished batch of images.
#[derive(Debug)]
pub struct FinishedBatch<'a> {
    /// The point and the prompts.
    pub task: ImageTask<'a>,
    /// One picture for each prompt.
    pub pictures: Vec<Picture>,
    /// The final latents `[prompts, channels, height, width]`.
    pub latents: LatentsFile,
    /// The cost of the U-Net.
    pub flops: Flops,
    /// The tokens that were left at each level, if the run counts them.
    pub tokens: Vec<LevelTokens>,
    /// How long it took.
    pub times: Times,
    /// What else the run noted.
    pub watched: Watched,
}

/// A finished image, alone in its batch.
#[derive(Debug)]
pub struct FinishedImage<'a> {
    /// The point.
    pub point: &'a PlannedPoint,
    /// The point's place in the plan.
    pub place: usize,
    /// The prompt.
    pub prompt: &'a PromptLine,
    /// The picture.
    pub picture: Picture,
    /// The final latents `[1, channels, height, width]`.
    pub latents: LatentsFile,
    /// The cost of the U-Net.
    pub flops: Flops,
    /// The tokens that were left at each level where the method reduced them.
    pub tokens: Vec<LevelTokens>,
    /// How long it took.
    pub times: Times,
    /// The kept sets, if the plan asks for them and the method reduced tokens.
    pub masks: Option<MaskSet>,
}

impl FinishedImage<'_> {
    /// The id of the image, `POINT/PROMPT`. It is unique in a run.
    pub fn id(&self) -> String {
        format!("{}/{}", self.point.info.id, self.prompt.id)
    }
}

impl<'a> FinishedBatch<'a> {
    /// The image of a batch of one.
    ///
    /// # Errors
    /// [`Failure::Run`] if there are more.
    pub fn into_image(self) -> Outcome<FinishedImage<'a>> {
        let Self { task, mut pictures, latents, flops, tokens, times, watched } = self;
        let ImageTask { point, place, prompts } = task;
        let ([prompt], Some(picture)) = (prompts, pictures.pop()) else {
            return Err(Failure::run(format!("expected a batch of one image, got {}", prompts.len())));
        };
        let masks = watched.masks.filter(|masks| !masks.is_empty());
        Ok(FinishedImage { point, place, prompt, picture, latents, flops, tokens, times, masks })
    }
}
