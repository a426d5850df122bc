//! Classifier-free guidance, and the guidance embedding for consistency-distilled U-Nets.

use atedm_core::plugin::{Branch, Row};
use atedm_core::{Error, Result, Tensor};

/// The guidance of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Guidance {
    /// One row per image, without guidance.
    Single,
    /// Two rows per image: `uncond + scale (cond − uncond)`.
    Classifier(f64),
    /// One row per image. The scale is an input of the U-Net with this many channels.
    Embedded(f64, usize),
}

impl Guidance {
    /// Chooses as diffusers does. A U-Net that takes the scale as an input has no other guidance. A scale of 1 or less
    /// means no guidance.
    ///
    /// # Errors
    /// [`Error::Config`] naming `guidance-scale` if it is not finite.
    pub(super) fn new(scale: f64, embedded: Option<usize>) -> Result<Self> {
        if !scale.is_finite() {
            return Err(Error::config("guidance-scale", format!("expected a finite number, got {scale}")));
        }
        Ok(match embedded {
            Some(channels) => Self::Embedded(scale, channels),
            None if scale > 1.0 => Self::Classifier(scale),
            None => Self::Single,
        })
    }

    /// The role of each batch row. With guidance, the negative rows of all images come first.
    pub(super) fn rows(self, images: usize) -> Vec<Row> {
        let rows = |branch| (0..images as u64).map(move |image| Row { image, branch });
        match self {
            Self::Classifier(_) => rows(Branch::Uncond).chain(rows(Branch::Cond)).collect(),
            _ => rows(Branch::Single).collect(),
        }
    }

    /// Whether there are negative rows.
    pub(super) fn is_paired(self) -> bool {
        matches!(self, Self::Classifier(_))
    }

    /// Repeats latents `[images, ..]` to the batch `[rows, ..]`.
    pub(super) fn widen<T: Tensor>(self, latents: T) -> Result<T> {
        if self.is_paired() { T::concat(&[&latents, &latents], 0) } else { Ok(latents) }
    }

    /// The guided prediction `[images, ..]` from the batch's prediction `[rows, ..]`.
    pub(super) fn combine<T: Tensor>(self, prediction: T, images: usize) -> Result<T> {
        let Self::Classifier(scale) = self else { return Ok(prediction) };
        let uncond = prediction.narrow(0, 0, images)?;
        let cond = prediction.narrow(0, images, images)?;
        uncond.add(&cond.sub(&uncond)?.affine(scale, 0.0)?)
    }

    /// The U-Net's guidance input `[images, channels]`, if it has one. It holds sines, then cosines, of `1000 (scale −
    /// 1)` at frequencies falling from 1 to 1/10000 (diffusers' `get_guidance_scale_embedding`).
    pub(super) fn embedding(self, images: usize) -> Option<(Vec<f32>, [usize; 2])> {
        let Self::Embedded(scale, channels) = self else { return None };
        let half = channels / 2;
        let decay = 10_000f32.ln() / (half.max(2) - 1) as f32;
        let strength = (scale - 1.0) as f32 * 1000.0;
        let angles = || (0..half).map(|i| strength * (i as f32 * -decay).exp());
        let mut row: Vec<f32> = angles().map(f32::sin).chain(angles().map(f32::cos)).collect();
        row.resize(channels, 0.0);
        Some((row.repeat(images), [images, channels]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        assert_eq!(Guidance::new(1.0, None).unwrap(), Guidance::Single);
        assert_eq!(Guidance::new(1.5, None).unwrap(), Guidance::Classifier(1.5));
        assert_eq!(Guidance::new(8.0, Some(6)).unwrap(), Guidance::Embedded(8.0, 6));
        assert!(Guidance::new(f64::NAN, None).unwrap_err().to_string().starts_with("guidance-scale"));
    }

    #[test]
    fn rows_are_negative_first() {
        let rows = Guidance::Classifier(2.0).rows(2);
        let expected = [(0, Branch::Uncond), (1, Branch::Uncond), (0, Branch::Cond), (1, Branch::Cond)];
        assert_eq!(rows, expected.map(|(image, branch)| Row { image, branch }));
    }

    /// Compares with the definition at scale 1.25 and 4 channels: the angles are 250 and 250 / 10000.
    #[test]
    fn embedding_is_sines_then_cosines() {
        let (values, shape) = Guidance::Embedded(1.25, 4).embedding(1).unwrap();
        assert_eq!(shape, [1, 4]);
        let expected = [250f64.sin(), 0.025f64.sin(), 250f64.cos(), 0.025f64.cos()];
        for (value, expected) in values.iter().zip(expected) {
            assert!((f64::from(*value) - expected).abs() < 1e-5, "{value} against {expected}");
        }
    }
}
