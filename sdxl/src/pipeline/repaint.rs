//! Keeps a part of a picture while the rest is painted again.
//!
//! ```text
//! ordinary U-Net     after evaluation i:  x ← (1 − m) (picture + noise of evaluation i + 1) + m x
//! inpainting U-Net   its input:           x | m | the masked picture
//! ```
//! m is 1 where the picture is repainted. After the last evaluation, the picture gets no noise. Source: diffusers'
//! `StableDiffusionXLInpaintPipeline`.

use atedm_core::plugin::{Grid, Spots};
use atedm_core::{Backend, DType, DeviceOf, Result, Tensor};

use super::size::given;
use crate::schedulers::Sampler;

/// What the evaluations need to keep a part of a picture.
pub(super) struct Repainting<T> {
    /// Where the picture is repainted, for methods.
    pub(super) painted: Spots,
    way: Way<T>,
}

/// How a part of the picture is kept.
enum Way<T> {
    /// By an ordinary U-Net: the latents are replaced after each evaluation.
    Blending {
        /// Where the picture is repainted: `[images, 1, height, width]`.
        mask: T,
        /// The picture's latents, scaled.
        clean: T,
        /// The noise that the run began with.
        noise: T,
    },
    /// By an inpainting U-Net: the channels that follow the latents in its input.
    Input(T),
}

/// Where a picture is repainted: 1 there and 0 elsewhere.
pub(super) struct Mask<T> {
    /// `[images, 1, height, width]`, in the sampler's dtype.
    tensor: T,
    painted: Spots,
}

impl<T: Tensor> Mask<T> {
    /// Checks the mask of a request whose latents have this `shape`, and repeats it for each image.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] for another shape, [`atedm_core::Error::NotFinite`] for NaN.
    pub(super) fn of<B: Backend<Tensor = T>>(
        mask: &T,
        [images, _, height, width]: [usize; 4],
        dtype: DType,
        device: &DeviceOf<B>,
    ) -> Result<Self> {
        let mask = given::<B>("mask", mask, [1, 1, height, width], dtype, device)?;
        let painted = mask.to_f32()?.into_iter().map(|value| value >= 0.5).collect();
        Ok(Self {
            painted: Spots::new(Grid::new(height, width), painted)?,
            tensor: T::concat(&vec![&mask; images], 0)?,
        })
    }

    /// The mask and the latents of the masked picture, as an inpainting U-Net takes them.
    pub(super) fn into_input(self, masked: &T) -> Result<Repainting<T>> {
        let way = Way::Input(T::concat(&[&self.tensor, masked], 1)?);
        Ok(Repainting { painted: self.painted, way })
    }

    /// Keeps the picture `clean`. `noise` is the run's.
    pub(super) fn blending(self, clean: T, noise: T) -> Repainting<T> {
        Repainting { painted: self.painted, way: Way::Blending { mask: self.tensor, clean, noise } }
    }
}

impl<T: Tensor> Repainting<T> {
    /// The U-Net's input from scaled latents.
    pub(super) fn input(&self, scaled: &T) -> Result<T> {
        match &self.way {
            Way::Blending { .. } => Ok(scaled.clone()),
            Way::Input(channels) => T::concat(&[scaled, channels], 1),
        }
    }

    /// The latents after an evaluation. `next` is the next evaluation, if there is one.
    pub(super) fn blended(&self, latents: T, sampler: &dyn Sampler<T>, next: Option<usize>) -> Result<T> {
        let Way::Blending { mask, clean, noise } = &self.way else { return Ok(latents) };
        let kept = match next {
            Some(next) => sampler.add_noise(clean, noise, next)?,
            None => clean.clone(),
        };
        kept.mul(&mask.affine(-1.0, 1.0)?)?.add(&latents.mul(mask)?)
    }
}
