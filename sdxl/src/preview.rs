//! Pictures of unfinished latents, for a callback of [`Pipeline::generate`].
//!
//! ```
//! # use atedm_core::{Backend, Result};
//! # use atedm_sdxl::pipeline::{Images, Pipeline, StepReport};
//! # use atedm_sdxl::preview::Previewer;
//! /// What the image will look like, in a callback.
//! fn seen<B: Backend>(previewer: &Previewer<B>, report: &StepReport<'_, B::Tensor>) -> Result<Images> {
//!     previewer.images(&report.denoised()?)
//! }
//! ```
//!
//! There are two ways. A small autoencoder such as TAESDXL decodes the latents. Without one, each latent becomes one pixel by a
//! linear projection, which is fitted to the pipeline's own autoencoder:
//!
//! ```text
//! latents of PATCHES² patches of one colour each → autoencoder → the colour z̄ᵢ in the middle of each patch
//! W, b = argmin Σᵢ ‖W xᵢ + b − z̄ᵢ‖²
//! ```
//! A projection shows shapes and rough colours, no detail.

use std::path::Path;

use atedm_core::backend::dims;
use atedm_core::{Backend, DType, Error, Result, Tensor};

use crate::checkpoint::open_vae;
use crate::pipeline::{Decoding, Images, Pipeline, decode};
use crate::rng::RngKind;
use crate::vae::Vae;

/// Patches in each direction of the grid that the projection is fitted to.
const PATCHES: usize = 6;
/// Latents in each direction of a patch. Those at its edge mix with their neighbours.
const PATCH: usize = 4;
/// Seed of the patches.
const SEED: u64 = 0;
/// Is added to the diagonal of the normal equations, so that they always have a solution.
const RIDGE: f64 = 1e-6;

/// Turns latents into pictures.
pub struct Previewer<B: Backend>(How<B>);

enum How<B: Backend> {
    Decoded { vae: Box<Vae<B>>, dtype: DType },
    Projected(Projection),
}

impl<B: Backend> Previewer<B> {
    /// Fits a linear projection to the pipeline's autoencoder. Pictures have one pixel for each latent.
    ///
    /// # Errors
    /// The errors of decoding.
    pub fn fitted(pipeline: &Pipeline<B>) -> Result<Self> {
        B::inference(|| Projection::fit(pipeline)).map(|projection| Self(How::Projected(projection)))
    }

    /// Opens an autoencoder for previews: a folder or a file, as [`crate::checkpoint::OpenOptions::vae`] takes it.
    ///
    /// # Errors
    /// The errors of opening it. [`Error::Config`] if its latents do not fit the U-Net's.
    pub fn opened(path: &Path, pipeline: &Pipeline<B>) -> Result<Self> {
        let (vae, dtype) = open_vae::<B>(path, pipeline.dtype(), pipeline.device())?;
        let (got, wanted) = (vae.latent_channels(), pipeline.unet().config().out_channels);
        if got != wanted {
            let reason = format!(
                "is an autoencoder of {got} latent channels: expected {wanted}, as the U-Net's latents have"
            );
            return Err(Error::config(path.display().to_string(), reason));
        }
        Ok(Self(How::Decoded { vae: Box::new(vae), dtype }))
    }

    /// Pictures of latents `[images, channels, height, width]`, scaled as the U-Net has them.
    ///
    /// # Errors
    /// The errors of the backend. [`Error::Weights`] if the autoencoder gives pixels that are not finite.
    pub fn images(&self, latents: &B::Tensor) -> Result<Images> {
        match &self.0 {
            How::Projected(projection) => projection.images(latents),
            How::Decoded { vae, dtype } => {
                let images = B::inference(|| decode(vae, *dtype, latents, Decoding::Whole))?;
                images.ok_or_else(|| Error::config("latents", "expected latents that decode to an image"))
            }
        }
    }
}

/// A linear map from the channels of a latent to red, green and blue from −1 to 1. The last row is added.
struct Projection(Vec<[f64; 3]>);

impl Projection {
    fn fit<B: Backend>(pipeline: &Pipeline<B>) -> Result<Self> {
        let vae = pipeline.vae();
        let (channels, side) = (vae.latent_channels(), PATCHES * PATCH);
        let shape = [1, channels, PATCHES, PATCHES];
        let colours = RngKind::ChaCha.source(SEED, 1, DType::F32).standard_normal(&shape)?;
        let colour = |channel: usize, patch: usize| colours.get(channel * PATCHES * PATCHES + patch).copied();
        let place = |index: usize| {
            let (channel, row, column) = (index / (side * side), index / side % side, index % side);
            colour(channel, row / PATCH * PATCHES + column / PATCH).unwrap_or_default()
        };
        let latents: Vec<f32> = (0..channels * side * side).map(place).collect();
        let latents =
            B::Tensor::from_f32(&latents, &[1, channels, side, side], pipeline.dtype(), pipeline.device())?;
        let Some(images) = decode(vae, pipeline.vae_dtype(), &latents, Decoding::Whole)? else {
            return Err(Error::config("latents", "expected latents that decode to an image"));
        };
        let mut equations = Equations::new(channels + 1);
        for patch in 0..PATCHES * PATCHES {
            let inputs = (0..channels).map(|channel| f64::from(colour(channel, patch).unwrap_or_default()));
            let inputs: Vec<f64> = inputs.chain([1.0]).collect();
            equations.add(&inputs, middle(&images, patch / PATCHES, patch % PATCHES));
        }
        Ok(Self(equations.solved()))
    }

    fn images<T: Tensor>(&self, latents: &T) -> Result<Images> {
        let [count, channels, height, width] = dims(latents, "preview")?;
        let (values, plane) = (latents.to_f32()?, height * width);
        let mut images = Images { count, height, width, values: Vec::with_capacity(3 * count * plane) };
        for image in values.chunks_exact((channels * plane).max(1)) {
            for colour in 0..3 {
                let pixel = |place: usize| {
                    let inputs = image.iter().skip(place).step_by(plane).map(|&value| f64::from(value));
                    let sum: f64 =
                        self.0.iter().zip(inputs.chain([1.0])).map(|(row, x)| row[colour] * x).sum();
                    (sum / 2.0 + 0.5).clamp(0.0, 1.0) as f32
                };
                images.values.extend((0..plane).map(pixel));
            }
        }
        Ok(images)
    }
}

/// The mean colour from −1 to 1 of the middle half of a patch.
fn middle(images: &Images, row: usize, column: usize) -> [f64; 3] {
    let Images { height, width, values, .. } = images;
    let (high, wide) = (height / PATCHES, width / PATCHES);
    let rows = row * high + high / 4..row * high + high - high / 4;
    let columns = column * wide + wide / 4..column * wide + wide - wide / 4;
    let count = (rows.len() * columns.len()).max(1) as f64;
    [0, 1, 2].map(|colour| {
        let line = |y: usize| columns.clone().map(move |x| (colour * height + y) * width + x);
        let sum: f64 =
            rows.clone().flat_map(line).filter_map(|at| values.get(at)).map(|&v| f64::from(v)).sum();
        2.0 * sum / count - 1.0
    })
}

/// The normal equations of a least-squares fit of three outputs.
struct Equations {
    /// `Σ x xᵀ`, and beside it `Σ x yᵀ`: rows of `size + 3` numbers.
    rows: Vec<Vec<f64>>,
}

impl Equations {
    fn new(size: usize) -> Self {
        let row = |index: usize| {
            let mut row = vec![0.0; size + 3];
            row[index] = RIDGE;
            row
        };
        Self { rows: (0..size).map(row).collect() }
    }

    fn add(&mut self, inputs: &[f64], outputs: [f64; 3]) {
        for (row, x) in self.rows.iter_mut().zip(inputs) {
            let others = inputs.iter().chain(&outputs);
            row.iter_mut().zip(others).for_each(|(sum, other)| *sum += x * other);
        }
    }

    /// The solution, by elimination. The matrix is positive definite, so it needs no pivoting.
    fn solved(mut self) -> Vec<[f64; 3]> {
        let size = self.rows.len();
        for pivot in 0..size {
            let factor = self.rows[pivot][pivot];
            self.rows[pivot].iter_mut().for_each(|value| *value /= factor);
            let row = self.rows[pivot].clone();
            for (_, other) in self.rows.iter_mut().enumerate().filter(|(index, _)| *index != pivot) {
                let factor = other[pivot];
                other.iter_mut().zip(&row).for_each(|(value, pivot)| *value -= factor * pivot);
            }
        }
        self.rows.iter().map(|row| [row[size], row[size + 1], row[size + 2]]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_map_is_found_again() {
        let map = [[0.5, -1.0, 2.0], [0.25, 0.0, -0.5], [0.1, 0.2, 0.3]];
        let mut equations = Equations::new(3);
        for index in 0..12 {
            let inputs = [f64::from(index).sin(), (1.7 * f64::from(index)).cos(), 1.0];
            let output = |colour: usize| (0..3).map(|row| inputs[row] * map[row][colour]).sum::<f64>();
            equations.add(&inputs, [0, 1, 2].map(output));
        }
        for (got, expected) in equations.solved().iter().flatten().zip(map.iter().flatten()) {
            assert!((got - expected).abs() < 1e-5, "{got}, expected {expected}");
        }
    }
}
