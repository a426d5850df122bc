//! Classifier-free guidance, and the guidance embedding for consistency-distilled U-Nets.

use atedm_core::plugin::{Branch, Row};
use atedm_core::{Error, Result, Tensor};

/// The guidance of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Guidance {
    /// One row per image, without guidance.
    Single,
    /// Two rows per image: `uncond + scale (cond − uncond)`. `rescale` says how far the result gets the standard deviation
    /// of `cond`.
    Classifier { scale: f64, rescale: f64 },
    /// One row per image. The scale is an input of the U-Net with this many channels.
    Embedded(f64, usize),
}

impl Guidance {
    /// Chooses as diffusers does. A U-Net that takes the scale as an input has no other guidance. A scale of 1 or less
    /// means no guidance.
    ///
    /// # Errors
    /// [`Error::Config`] naming `guidance-scale` if it is not finite, `guidance-rescale` if it is not from 0 to 1.
    pub(super) fn new(scale: f64, rescale: f64, embedded: Option<usize>) -> Result<Self> {
        if !scale.is_finite() {
            return Err(Error::config("guidance-scale", format!("expected a finite number, got {scale}")));
        }
        if !(0.0..=1.0).contains(&rescale) {
            let reason = format!("expected a number from 0 to 1, got {rescale}");
            return Err(Error::config("guidance-rescale", reason));
        }
        Ok(match embedded {
            Some(channels) => Self::Embedded(scale, channels),
            None if scale > 1.0 => Self::Classifier { scale, rescale },
            None => Self::Single,
        })
    }

    /// The role of each batch row. With guidance, the negative rows of all images come first.
    pub(super) fn rows(self, images: usize) -> Vec<Row> {
        let rows = |branch| (0..images as u64).map(move |image| Row { image, branch });
        match self {
            Self::Classifier { .. } => rows(Branch::Uncond).chain(rows(Branch::Cond)).collect(),
            _ => rows(Branch::Single).collect(),
        }
    }

    /// Whether there are negative rows.
    pub(super) fn is_paired(self) -> bool {
        matches!(self, Self::Classifier { .. })
    }

    /// Repeats latents `[images, ..]` to the batch `[rows, ..]`.
    pub(super) fn widen<T: Tensor>(self, latents: T) -> Result<T> {
        if self.is_paired() { T::concat(&[&latents, &latents], 0) } else { Ok(latents) }
    }

    /// The guided prediction `[images, ..]` from the batch's prediction `[rows, ..]`.
    pub(super) fn combine<T: Tensor>(self, prediction: T, images: usize) -> Result<T> {
        let Self::Classifier { scale, rescale } = self else { return Ok(prediction) };
        let uncond = prediction.narrow(0, 0, images)?;
        let cond = prediction.narrow(0, images, images)?;
        let guided = uncond.add(&cond.sub(&uncond)?.affine(scale, 0.0)?)?;
        match rescale > 0.0 {
            true => rescaled(&guided, &cond, rescale),
            false => Ok(guided),
        }
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

/// `guided` with each image's standard deviation brought towards that of `cond`: wholly with `rescale` 1, not with 0. High
/// guidance scales overexpose less (Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", section
/// 3.4; diffusers' `rescale_noise_cfg`).
fn rescaled<T: Tensor>(guided: &T, cond: &T, rescale: f64) -> Result<T> {
    let (wanted, got) = (deviations(cond)?, deviations(guided)?);
    let factor = |(wanted, got): (&f64, &f64)| (rescale * wanted / got + (1.0 - rescale)) as f32;
    let factors: Vec<f32> = wanted.iter().zip(&got).map(factor).collect();
    let mut shape = vec![1; guided.shape().len()];
    shape[0] = factors.len();
    guided.mul(&T::from_f32(&factors, &shape, guided.dtype(), &guided.device())?)
}

/// The standard deviation of each image's values, with `n − 1` in the denominator as torch has it.
fn deviations<T: Tensor>(tensor: &T) -> Result<Vec<f64>> {
    let values = tensor.to_f32()?;
    let images = tensor.shape().first().copied().unwrap_or(0);
    let each = values.len() / images.max(1);
    let deviation = |image: &[f32]| {
        let count = image.len() as f64;
        let mean = image.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let squares: f64 = image.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
        (squares / (count - 1.0)).sqrt()
    };
    Ok(values.chunks(each.max(1)).map(deviation).collect())
}

#[cfg(test)]
mod tests {
    use atedm_core::DType;
    use atedm_core::reference::{NdDevice, NdTensor};

    use super::*;

    /// Values of diffusers' `rescale_noise_cfg` with guidance 4 and rescale 0.7.
    #[test]
    fn rescaling_is_diffusers() {
        let values: Vec<f32> = (0..16).map(|i| (i as f32 * 0.9).sin()).collect();
        let prediction = NdTensor::from_f32(&values, &[4, 2, 2, 1], DType::F32, &NdDevice).unwrap();
        let guided = |rescale| {
            let guidance = Guidance::new(4.0, rescale, None).unwrap();
            guidance.combine(prediction.clone(), 2).unwrap().to_f32().unwrap()
        };
        let rescaled = [1.454901, 0.700982, -0.583427, -1.426309, -1.341988, -0.059622, 1.267864, 1.635857];
        let plain = [3.174671, 1.529579, -1.273069, -3.112282, -2.596184, -0.115344, 2.452784, 3.164697];
        for (got, expected) in guided(0.7).iter().zip(rescaled) {
            assert!((got - expected).abs() < 2e-6, "{got}, expected {expected}");
        }
        for (got, expected) in guided(0.0).iter().zip(plain) {
            assert!((got - expected).abs() < 2e-6, "{got}, expected {expected}");
        }
    }

    #[test]
    fn rules() {
        assert_eq!(Guidance::new(1.0, 0.0, None).unwrap(), Guidance::Single);
        assert_eq!(Guidance::new(1.5, 0.7, None).unwrap(), Guidance::Classifier { scale: 1.5, rescale: 0.7 });
        assert_eq!(Guidance::new(8.0, 0.0, Some(6)).unwrap(), Guidance::Embedded(8.0, 6));
        assert!(Guidance::new(f64::NAN, 0.0, None).unwrap_err().to_string().starts_with("guidance-scale"));
        for rescale in [-0.1, 1.5, f64::NAN] {
            let error = Guidance::new(2.0, rescale, None).unwrap_err().to_string();
            assert!(error.starts_with("guidance-rescale: expected a number from 0 to 1"), "{error}");
        }
    }

    #[test]
    fn rows_are_negative_first() {
        let rows = Guidance::Classifier { scale: 2.0, rescale: 0.0 }.rows(2);
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
