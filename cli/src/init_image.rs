//! `--init-image`: image to image. The picture's latents are brought to the noise of a step in the middle of the schedule.

use std::path::PathBuf;

use atedm_core::{Backend, Result, Tensor};
use atedm_sdxl::checkpoint::{Checkpoint, Part};
use atedm_sdxl::pipeline::{InitialLatents, Pipeline};
use atedm_sdxl::vae::{LatentDistribution, Vae};

use crate::args::SampleArgs;
use crate::failure::{Failure, Outcome};
use crate::files::{Picture, read_png};

/// Part of the schedule that runs on a picture when nobody says how much: diffusers' for SD-XL.
const STRENGTH: f64 = 0.3;

/// Which latents of a picture a run starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StartFrom {
    /// Drawn by the run's generator, before its noise.
    Drawn,
    /// The mean.
    Mean,
}

/// A picture to start from.
#[derive(Debug, Clone)]
pub(crate) struct InitImage {
    path: PathBuf,
    picture: Picture,
    /// The share of the schedule that runs.
    pub(crate) strength: f64,
    /// The first step to run, in the full schedule.
    start: usize,
    start_from: StartFrom,
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
        let start_from = if sample.init_mean { StartFrom::Mean } else { StartFrom::Drawn };
        Ok(Some(Self { path: path.clone(), picture, strength, start: sample.steps - steps, start_from }))
    }

    /// What every image starts from: latents that each run draws from the autoencoder's distribution, or their mean.
    pub(crate) fn initial<B: Backend>(
        &self,
        pipeline: &Pipeline<B>,
        checkpoint: &Checkpoint,
    ) -> Outcome<InitialLatents<B::Tensor>> {
        let distribution = B::inference(|| self.encode(pipeline, checkpoint));
        let distribution = distribution.map_err(|error| Failure::from(error).within(self.path.display()))?;
        let deviation = distribution.deviation.filter(|_| self.start_from == StartFrom::Drawn);
        let distribution = LatentDistribution { deviation, ..distribution };
        Ok(InitialLatents::Encoded { distribution, start: self.start })
    }

    /// In the dtype that diffusers encodes in, which may be another than that of decoding.
    fn encode<B: Backend>(
        &self,
        pipeline: &Pipeline<B>,
        checkpoint: &Checkpoint,
    ) -> Result<LatentDistribution<B::Tensor>> {
        let Picture { width, height, rgb } = &self.picture;
        let channel = |channel: usize| rgb.iter().skip(channel).step_by(3);
        let values: Vec<f32> =
            (0..3).flat_map(channel).map(|&value| f32::from(value) / 127.5 - 1.0).collect();
        let (config, dtype, device) = (checkpoint.vae(), pipeline.dtype(), pipeline.device());
        let encoding = Vae::<B>::encoding_dtype(config, dtype);
        let pixels = B::Tensor::from_f32(&values, &[1, 3, *height, *width], dtype, device)?.cast(encoding)?;
        if encoding == Vae::<B>::dtype_beside(config, dtype) {
            return pipeline.vae().distribution(&pixels);
        }
        Vae::<B>::load(&checkpoint.weights(Part::Vae, encoding, device)?, config)?.distribution(&pixels)
    }
}
