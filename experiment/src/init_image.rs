//! Image to image: a picture's latents get the noise of a step in the middle of the schedule. With a mask, only a part of the
//! picture is painted again.

use std::path::{Path, PathBuf};

use atedm_core::plugin::Grid;
use atedm_core::{Backend, DType, Error, Result, Tensor};
use atedm_sdxl::checkpoint::{Checkpoint, Part};
use atedm_sdxl::pipeline::{InitialLatents, Pipeline, Repaint};
use atedm_sdxl::vae::{LatentDistribution, Vae};

use crate::failure::{Failure, Outcome};
use crate::files::{Backdrop, DATA_MOST, Fitted, read_bytes, read_picture};
use crate::inputs::{Inputs, digest};
use crate::model::Size;

/// The latents of a picture that a run starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFrom {
    /// Latents that the run's generator draws, before its noise.
    Drawn,
    /// The mean of the distribution.
    Mean,
}

/// The part of the schedule that runs on a picture, from 0 to 1. Of `steps` steps, the last `⌊share · steps⌋` run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strength(f64);

impl Strength {
    /// The default for a whole picture: diffusers' for SD-XL.
    pub const PICTURE: Self = Self(0.3);
    /// The default for a part of a picture: diffusers' for SD-XL.
    pub const MASKED: Self = Self(0.9999);

    /// The share of the schedule.
    pub fn share(self) -> f64 {
        self.0
    }

    /// The first of `steps` steps to run.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the share is not from 0 to 1, or if no step is left.
    pub fn start(self, steps: usize) -> Outcome<usize> {
        let run = (steps as f64 * self.0) as usize;
        if !(0.0..=1.0).contains(&self.0) || run == 0 {
            return Err(Failure::usage(format!(
                "expected a share of {steps} steps that leaves at least one, at most 1, got {}",
                self.0
            )));
        }
        Ok(steps - run)
    }
}

/// The choice of a picture to start from.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// The picture: a PNG, JPEG or WebP.
    pub image: PathBuf,
    /// A mask of the same size, for a part of the picture. The picture is painted again where the mask is white: where its
    /// grey is at least 128.
    pub mask: Option<PathBuf>,
    /// The part of the schedule that runs. `None` means diffusers' default for SD-XL: 0.3, or 0.9999 with a mask.
    pub strength: Option<f64>,
    /// What each image starts from.
    pub from: StartFrom,
}

impl Start {
    /// Reads the picture and the mask, and fits both to the run's `size` ([`read_picture`]).
    ///
    /// # Errors
    /// [`Failure::Run`] naming the file.
    pub fn read(self, size: Size) -> Outcome<InitImage> {
        let picture = read_picture(&self.image, size, Backdrop::White)?;
        let mask = self.mask.as_deref().map(|path| read_mask(path, &picture)).transpose()?;
        Ok(InitImage { start: self, picture, mask })
    }

    /// The part of the schedule that runs.
    pub fn strength(&self) -> Strength {
        match (self.strength, &self.mask) {
            (Some(share), _) => Strength(share),
            (None, Some(_)) => Strength::MASKED,
            (None, None) => Strength::PICTURE,
        }
    }

    /// Adds hashes of the contents: `init_image`, with the strength, and `mask_image`.
    ///
    /// # Errors
    /// [`Failure::Run`] naming the file.
    pub fn add_to(&self, inputs: &mut Inputs) -> Outcome {
        let content = digest(&read_bytes(&self.image, DATA_MOST)?);
        let mean = if self.from == StartFrom::Mean { " mean" } else { "" };
        let start = format!("{content} {}{mean}", self.strength().share());
        inputs.insert("init_image".into(), digest(start.as_bytes()));
        if let Some(mask) = &self.mask {
            inputs.insert("mask_image".into(), digest(&read_bytes(mask, DATA_MOST)?));
        }
        Ok(())
    }
}

/// Whether each pixel of a picture is painted again, row-major.
fn read_mask(path: &Path, picture: &Fitted) -> Outcome<Vec<bool>> {
    let mask = read_picture(path, picture.picture.size(), Backdrop::Black)?;
    if mask.own != picture.own {
        let reason = format!("expected a mask of the picture's {} pixels, got {}", picture.own, mask.own);
        return Err(Failure::file(path, reason));
    }
    Ok(mask.picture.rgb.as_chunks::<3>().0.iter().map(|pixel| grey(*pixel) >= 128).collect())
}

/// A picture to start from, in the size of the run.
#[derive(Debug, Clone)]
pub struct InitImage {
    start: Start,
    picture: Fitted,
    /// Whether each pixel is painted again, if only a part is.
    mask: Option<Vec<bool>>,
}

impl InitImage {
    /// The choice that it was read by.
    pub fn chosen(&self) -> &Start {
        &self.start
    }

    /// What was done to fit the picture to the run, in one line. `None` if it had the run's size.
    pub fn note(&self) -> Option<String> {
        self.picture.note().map(|note| format!("{}: {note}", self.start.image.display()))
    }

    /// Encodes the picture, and if the U-Net takes it, the picture without what is repainted.
    pub(crate) fn encoded<B: Backend>(
        &self,
        pipeline: &Pipeline<B>,
        checkpoint: &Checkpoint,
    ) -> Outcome<EncodedImage<B::Tensor>> {
        let encoded = B::inference(|| self.encode(pipeline, checkpoint));
        encoded.map_err(|error| Failure::from(error).within(self.start.image.display()))
    }

    fn encode<B: Backend>(
        &self,
        pipeline: &Pipeline<B>,
        checkpoint: &Checkpoint,
    ) -> Result<EncodedImage<B::Tensor>> {
        let encoder = Encoder::new(pipeline, checkpoint)?;
        let (picture, size) = (&self.picture.picture, self.picture.picture.size());
        let values: Vec<f32> = picture.planes().map(|value| f32::from(value) / 127.5 - 1.0).collect();
        let distribution = |values: &[f32]| {
            let encoded = encoder.distribution(values, size)?;
            let deviation = encoded.deviation.filter(|_| self.start.from == StartFrom::Drawn);
            Ok::<_, Error>(LatentDistribution { deviation, ..encoded })
        };
        let mask = match &self.mask {
            None => None,
            Some(spots) => {
                let grid = size.latents(pipeline.vae().factor());
                let shape = [1, 1, grid.height, grid.width];
                let dtype = pipeline.dtype().accumulator();
                let latents =
                    B::Tensor::from_f32(&sampled(spots, size, grid), &shape, dtype, pipeline.device())?;
                let masked = pipeline.unet().config().is_inpainting().then(|| {
                    let kept = values.iter().zip(spots.iter().cycle());
                    let kept: Vec<f32> = kept.map(|(&value, &spot)| if spot { 0.0 } else { value }).collect();
                    distribution(&kept)
                });
                Some((latents, masked.transpose()?))
            }
        };
        Ok(EncodedImage { picture: distribution(&values)?, mask, strength: self.start.strength() })
    }
}

/// The grey of a colour: ITU-R 601, as Pillow computes it.
fn grey([red, green, blue]: [u8; 3]) -> u8 {
    ((19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue) + 0x8000) >> 16) as u8
}

/// 1 for each latent whose upper left pixel is repainted, else 0. diffusers samples its masks in this way.
fn sampled(spots: &[bool], size: Size, grid: Grid) -> Vec<f32> {
    let spot = |place: usize| {
        let (row, column) = (place / grid.width, place % grid.width);
        let at = row * size.height / grid.height * size.width + column * size.width / grid.width;
        f32::from(u8::from(spots.get(at).copied().unwrap_or(false)))
    };
    (0..grid.tokens()).map(spot).collect()
}

/// The autoencoder in the dtype that diffusers encodes in. Decoding may use another dtype.
struct Encoder<'a, B: Backend> {
    pipeline: &'a Pipeline<B>,
    /// The autoencoder in that dtype, if the pipeline's runs in another.
    other: Option<Vae<B>>,
    dtype: DType,
}

impl<'a, B: Backend> Encoder<'a, B> {
    fn new(pipeline: &'a Pipeline<B>, checkpoint: &Checkpoint) -> Result<Self> {
        let (config, device) = (checkpoint.vae(), pipeline.device());
        let dtype = Vae::<B>::encoding_dtype(config, pipeline.dtype());
        let other = (dtype != pipeline.vae_dtype())
            .then(|| Vae::<B>::load(&checkpoint.weights(Part::Vae, dtype, device)?, config));
        Ok(Self { pipeline, other: other.transpose()?, dtype })
    }

    /// The distribution of a picture `[1, 3, height, width]` with values from −1 to 1.
    fn distribution(&self, values: &[f32], size: Size) -> Result<LatentDistribution<B::Tensor>> {
        let shape = [1, 3, size.height, size.width];
        let pixels = B::Tensor::from_f32(values, &shape, self.pipeline.dtype(), self.pipeline.device())?;
        self.other.as_ref().unwrap_or(self.pipeline.vae()).distribution(&pixels.cast(self.dtype)?)
    }
}

/// An encoded picture.
pub(crate) struct EncodedImage<T> {
    picture: LatentDistribution<T>,
    /// Where it is repainted, in latents, and the masked picture for a U-Net that takes it.
    mask: Option<(T, Option<LatentDistribution<T>>)>,
    strength: Strength,
}

impl<T: Tensor> EncodedImage<T> {
    /// The start of every image in a run of `steps` steps: the autoencoder's distribution, from which each run draws, or its
    /// mean.
    pub(crate) fn initial(&self, steps: usize) -> Outcome<InitialLatents<T>> {
        let (picture, start) = (self.picture.clone(), self.strength.start(steps)?);
        Ok(match self.mask.clone() {
            None => InitialLatents::Encoded { distribution: picture, start },
            Some((mask, masked)) => {
                // As in diffusers, the whole strength starts from noise alone.
                let start = (self.strength.0 < 1.0).then_some(start);
                InitialLatents::Repainted(Repaint { mask, picture, masked, start })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strength_leaves_the_last_steps() {
        assert_eq!(Strength::PICTURE.start(50).unwrap(), 35);
        assert_eq!(Strength::MASKED.start(50).unwrap(), 1);
        assert_eq!(Strength(1.0).start(50).unwrap(), 0);
        assert!(Strength::PICTURE.start(3).unwrap_err().to_string().contains("a share of 3 steps"));
        for share in [-0.1, 1.1, f64::NAN] {
            assert!(Strength(share).start(50).is_err(), "{share}");
        }
    }

    #[test]
    fn latents_take_the_mask_of_their_upper_left_pixel() {
        let size = Size { width: 6, height: 4 };
        let spots: Vec<bool> = (0..24).map(|at| [0, 10, 14, 22].contains(&at)).collect();
        // pixels (0, 0), (0, 2), (0, 4), (2, 0), (2, 2) and (2, 4)
        assert_eq!(sampled(&spots, size, Grid::new(2, 3)), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!([[0; 3], [255; 3], [127; 3]].map(grey), [0, 255, 127]);
        assert_eq!(grey([255, 0, 0]), 76);
    }
}
