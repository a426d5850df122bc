//! `--init-image`: image to image. The picture's latents are brought to the noise of a step in the middle of the schedule.

use std::path::PathBuf;

use atedm_core::{Backend, DType, Tensor};
use atedm_sdxl::config::VaeConfig;
use atedm_sdxl::pipeline::{InitialLatents, Pipeline};
use atedm_sdxl::vae::Vae;

use crate::args::SampleArgs;
use crate::failure::{Failure, Outcome};
use crate::files::{Picture, read_png};

/// Part of the schedule that runs on a picture when nobody says how much: diffusers' for SD-XL.
const STRENGTH: f64 = 0.3;

/// A picture to start from.
#[derive(Debug, Clone)]
pub(crate) struct InitImage {
    path: PathBuf,
    picture: Picture,
    /// The share of the schedule that runs.
    pub(crate) strength: f64,
    /// The first step to run, in the full schedule.
    start: usize,
}

impl InitImage {
    /// Reads the picture, if one is given, which must have the output's `size` (width and height).
    pub(crate) fn from_args(sample: &SampleArgs, size: (usize, usize)) -> Outcome<Option<Self>> {
        let Some(path) = &sample.init_image else { return Ok(None) };
        let strength = sample.strength.unwrap_or(STRENGTH);
        // diffusers': the last ⌊strength · steps⌋ steps run
        let steps = (sample.steps as f64 * strength) as usize;
        if !(0.0..=1.0).contains(&strength) || steps == 0 {
            return Err(Failure::usage(format!(
                "--strength: expected a share of {} steps that leaves at least one, at most 1, got {strength}",
                sample.steps
            )));
        }
        let picture = read_png(path, size)?;
        Ok(Some(Self { path: path.clone(), picture, strength, start: sample.steps - steps }))
    }

    /// What `images` images start from: the mean of the autoencoder's distribution.
    pub(crate) fn initial<B: Backend>(
        &self,
        pipeline: &Pipeline<B>,
        config: &VaeConfig,
        images: usize,
    ) -> Outcome<InitialLatents<B::Tensor>> {
        let Picture { width, height, rgb } = &self.picture;
        let channel = |channel: usize| rgb.iter().skip(channel).step_by(3);
        let values: Vec<f32> =
            (0..3).flat_map(channel).map(|&value| f32::from(value) / 127.5 - 1.0).collect();
        let dtype = pipeline.dtype();
        let latents = B::inference(|| {
            let vae_dtype: DType = Vae::<B>::dtype_beside(config, dtype);
            let pixels =
                B::Tensor::from_f32(&values, &[1, 3, *height, *width], vae_dtype, pipeline.device())?;
            let one = pipeline.vae().scale(&pipeline.vae().encode(&pixels)?)?.cast(dtype.accumulator())?;
            B::Tensor::concat(&vec![&one; images], 0)
        });
        let latents = latents.map_err(|error| Failure::from(error).within(self.path.display()))?;
        Ok(InitialLatents::Clean { latents, start: self.start })
    }
}
