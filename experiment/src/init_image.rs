//! Image to image: a picture's latents get the noise of a step in the middle of the schedule.

use std::path::{Path, PathBuf};

use atedm_core::{Backend, Result, Tensor};
use atedm_sdxl::checkpoint::{Checkpoint, Part};
use atedm_sdxl::pipeline::{InitialLatents, Pipeline};
use atedm_sdxl::vae::{LatentDistribution, Vae};

use crate::failure::{Failure, Outcome};
use crate::files::{DATA_MOST, Picture, read_bytes, read_png};
use crate::inputs::digest;
use crate::model::Size;

/// The default part of the schedule that runs on a picture: diffusers' for SD-XL.
const STRENGTH: f64 = 0.3;

/// The latents of a picture that a run starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFrom {
    /// Latents that the run's generator draws, before its noise.
    Drawn,
    /// The mean of the distribution.
    Mean,
}

/// The part of the schedule that runs on a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strength {
    share: f64,
    /// The first step to run, as an index in the full schedule.
    start: usize,
}

impl Strength {
    /// `share` is the part of `steps` that runs, from 0 to 1; `None` means diffusers' default for SD-XL. The last
    /// `⌊share · steps⌋` steps run.
    ///
    /// # Errors
    /// [`Failure::Usage`] if no step is left.
    pub fn new(share: Option<f64>, steps: usize) -> Outcome<Self> {
        let share = share.unwrap_or(STRENGTH);
        let run = (steps as f64 * share) as usize;
        if !(0.0..=1.0).contains(&share) || run == 0 {
            return Err(Failure::usage(format!(
                "expected a share of {steps} steps that leaves at least one, at most 1, got {share}"
            )));
        }
        Ok(Self { share, start: steps - run })
    }
}

/// A picture to start from.
#[derive(Debug, Clone)]
pub struct InitImage {
    path: PathBuf,
    picture: Picture,
    strength: Strength,
    start_from: StartFrom,
}

impl InitImage {
    /// Reads the picture. It must have the output's `size`.
    ///
    /// # Errors
    /// [`Failure::Run`] naming the file.
    pub fn read(path: &Path, size: Size, strength: Strength, start_from: StartFrom) -> Outcome<Self> {
        let picture = read_png(path, size)?;
        Ok(Self { path: path.to_path_buf(), picture, strength, start_from })
    }

    /// The part of the schedule that runs, from 0 to 1.
    pub fn strength(&self) -> f64 {
        self.strength.share
    }

    /// A hash of its content and strength.
    ///
    /// # Errors
    /// [`Failure::Run`] naming the file.
    pub fn digest(&self) -> Outcome<String> {
        let content = digest(&read_bytes(&self.path, DATA_MOST)?);
        Ok(digest(format!("{content} {}", self.strength()).as_bytes()))
    }

    /// The start of every image: the autoencoder's distribution, from which each run draws, or its mean.
    pub(crate) fn initial<B: Backend>(
        &self,
        pipeline: &Pipeline<B>,
        checkpoint: &Checkpoint,
    ) -> Outcome<InitialLatents<B::Tensor>> {
        let distribution = B::inference(|| self.encode(pipeline, checkpoint));
        let distribution = distribution.map_err(|error| Failure::from(error).within(self.path.display()))?;
        let deviation = distribution.deviation.filter(|_| self.start_from == StartFrom::Drawn);
        let distribution = LatentDistribution { deviation, ..distribution };
        Ok(InitialLatents::Encoded { distribution, start: self.strength.start })
    }

    /// Encodes the picture in the dtype that diffusers encodes in. Decoding may use another dtype.
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
