//! The latents before the first evaluation.

use atedm_core::{Backend, Error, Result, Tensor};

use super::Pipeline;
use super::repaint::{Mask, Repainting};
use super::request::{InitialLatents, Request};
use super::size::given;
use crate::rng::{NoiseSource, RngKind};
use crate::schedulers::Sampler;
use crate::vae::LatentDistribution;

/// Where a run begins.
pub(super) struct Beginning<'a, T> {
    pub(super) sampler: &'a dyn Sampler<T>,
    /// The first evaluation to run.
    pub(super) first: usize,
    /// The latents' shape `[images, channels, height, width]`.
    pub(super) shape: [usize; 4],
}

/// What a run begins with.
pub(super) struct Start<T> {
    /// The latents before the first evaluation, in the sampler's dtype.
    pub(super) latents: T,
    /// What the evaluations need to keep a part of a picture.
    pub(super) repainting: Option<Repainting<T>>,
}

/// The first step to run.
pub(super) fn start_of<T>(request: &Request<T>, total: usize) -> Result<usize> {
    match &request.initial {
        InitialLatents::Drawn | InitialLatents::Noise(_) => Ok(0),
        InitialLatents::Repainted(repaint) if repaint.start.is_none() => Ok(0),
        InitialLatents::Clean { start, .. }
        | InitialLatents::Encoded { start, .. }
        | InitialLatents::Noisy { start, .. } => below(*start, total),
        InitialLatents::Repainted(repaint) => below(repaint.start.unwrap_or(0), total),
    }
}

fn below(start: usize, total: usize) -> Result<usize> {
    match start < total {
        true => Ok(start),
        false => Err(Error::config("start", format!("expected a step below {total}, got {start}"))),
    }
}

/// Draws what the request asks for, in diffusers' order.
pub(super) fn start<B: Backend>(
    pipeline: &Pipeline<B>,
    request: &Request<B::Tensor>,
    beginning: &Beginning<'_, B::Tensor>,
    noise: &mut dyn NoiseSource,
) -> Result<Start<B::Tensor>> {
    let Beginning { sampler, first, shape } = *beginning;
    let dtype = pipeline.dtype.accumulator();
    let device = &pipeline.device;
    let takes_mask = pipeline.unet.config().is_inpainting();
    if takes_mask && !matches!(request.initial, InitialLatents::Repainted(_)) {
        return Err(Error::config(
            "mask",
            "expected a picture and a mask, as the U-Net takes both (it inpaints)",
        ));
    }
    let drawn = |noise: &mut dyn NoiseSource| {
        B::Tensor::from_f32(&noise.standard_normal(&shape)?, &shape, dtype, device)
    };
    let noised = |clean: &B::Tensor, noise: &B::Tensor| sampler.add_noise(clean, noise, first);
    let pure = |noise: &B::Tensor| noise.affine(sampler.init_noise_sigma(), 0.0);
    let latents = match &request.initial {
        InitialLatents::Noisy { latents, .. } => given::<B>("latents", latents, shape, dtype, device)?,
        InitialLatents::Noise(latents) => pure(&given::<B>("latents", latents, shape, dtype, device)?)?,
        InitialLatents::Drawn => pure(&drawn(noise)?)?,
        InitialLatents::Clean { latents, .. } => {
            let noise = drawn(noise)?;
            noised(&given::<B>("latents", latents, shape, dtype, device)?, &noise)?
        }
        InitialLatents::Encoded { distribution, .. } => {
            let clean = drawn_from(pipeline, request, distribution, noise, shape[0])?;
            let noise = drawn(noise)?;
            noised(&given::<B>("latents", &clean, shape, dtype, device)?, &noise)?
        }
        InitialLatents::Repainted(repaint) => {
            // The draw of the picture comes first where it is used: as a start, or to be kept.
            let picture = match takes_mask && repaint.start.is_none() {
                true => None,
                false => Some(drawn_from(pipeline, request, &repaint.picture, noise, shape[0])?),
            };
            let clean =
                picture.map(|picture| given::<B>("latents", &picture, shape, dtype, device)).transpose()?;
            let noise_drawn = drawn(noise)?;
            let latents = match (&clean, repaint.start) {
                (Some(clean), Some(_)) => noised(clean, &noise_drawn)?,
                _ => pure(&noise_drawn)?,
            };
            let mask = Mask::of::<B>(&repaint.mask, shape, dtype, device)?;
            let repainting = match (takes_mask, &repaint.masked, clean) {
                (true, Some(masked), _) => {
                    let masked = drawn_from(pipeline, request, masked, noise, shape[0])?;
                    mask.into_input(&given::<B>("latents", &masked, shape, dtype, device)?)?
                }
                (false, _, Some(clean)) => {
                    // diffusers also draws latents of the masked picture here, and leaves them. Samplers draw after them.
                    if request.rng == RngKind::Torch && repaint.picture.deviation.is_some() {
                        let mean = &repaint.picture.mean;
                        noise.standard_normal_in(&mean.shape(), request.noise_dtype.beside(mean.dtype()))?;
                    }
                    mask.blending(clean, noise_drawn)
                }
                _ => {
                    let reason =
                        "expected the masked picture's distribution, as the U-Net takes it (it inpaints)";
                    return Err(Error::config("masked", reason));
                }
            };
            return Ok(Start { latents, repainting: Some(repainting) });
        }
    };
    Ok(Start { latents, repainting: None })
}

/// Scaled latents of `images` images, drawn from an encoder's distribution.
fn drawn_from<B: Backend>(
    pipeline: &Pipeline<B>,
    request: &Request<B::Tensor>,
    distribution: &LatentDistribution<B::Tensor>,
    noise: &mut dyn NoiseSource,
    images: usize,
) -> Result<B::Tensor> {
    let given = distribution.mean.shape().first().copied().unwrap_or(0);
    let spread = |tensor: &B::Tensor, rows: usize| match rows == given {
        true => Ok(tensor.clone()),
        false => B::Tensor::concat(&vec![tensor; rows], 0),
    };
    if given != 1 && given != images {
        let reason = format!("expected the distribution of 1 image, or of {images}, got {given}");
        return Err(Error::config("latents", reason));
    }
    // torch's generator draws once per encoded row, and the images share it; ChaCha draws once per image
    let rows = if request.rng == RngKind::Torch { given } else { images };
    let deviation = distribution.deviation.as_ref().map(|deviation| spread(deviation, rows)).transpose()?;
    let rowwise = LatentDistribution { mean: spread(&distribution.mean, rows)?, deviation };
    let sample = rowwise.sample(|| {
        let (shape, dtype) = (rowwise.mean.shape(), rowwise.mean.dtype());
        let values = noise.standard_normal_in(&shape, request.noise_dtype.beside(dtype))?;
        B::Tensor::from_f32(&values, &shape, dtype, &rowwise.mean.device())
    })?;
    let scaled = pipeline.vae.scale(&sample)?;
    if rows == images { Ok(scaled) } else { B::Tensor::concat(&vec![&scaled; images], 0) }
}
