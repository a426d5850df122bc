//! The size rules and the initial latents of diffusers' SD-XL pipeline.

use atedm_core::{Backend, DType, DeviceOf, Error, Result, Tensor};

use super::request::{MicroConditioning, PixelSize, Request};

/// The longest side accepted. The latents of a longer side would not fit any machine.
const LONGEST: usize = 1 << 15;

/// The sizes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// The requested size in pixels.
    pub(super) pixels: PixelSize,
    /// The size in latents.
    pub(super) latents: PixelSize,
}

impl Sizes {
    /// The sizes of a request. As in diffusers, both sides must be divisible by 8, whatever the VAE's `factor` is. The
    /// latents' size is then rounded down.
    ///
    /// # Errors
    /// [`Error::Config`] naming `width` or `height`.
    pub(super) fn new<T>(request: &Request<T>, default: Option<usize>, factor: usize) -> Result<Self> {
        let side = |name: &str, asked: Option<usize>| {
            let fallback = default.map(|latents| latents * factor);
            let pixels = asked.or(fallback).ok_or_else(|| {
                Error::config(name, "expected a number of pixels: the checkpoint names no size of its own")
            })?;
            if pixels == 0 || pixels % 8 != 0 || pixels < factor || pixels > LONGEST {
                let reason =
                    format!("expected a multiple of 8 from {} to {LONGEST}, got {pixels}", factor.max(8));
                return Err(Error::config(name, reason));
            }
            Ok((pixels, pixels / factor))
        };
        let (width, across) = side("width", request.width)?;
        let (height, down) = side("height", request.height)?;
        Ok(Self { pixels: PixelSize { height, width }, latents: PixelSize { height: down, width: across } })
    }

    /// SD-XL's size inputs: original height and width, crop top and left, target height and width.
    pub(super) fn time_ids(&self, micro: &MicroConditioning) -> [f32; 6] {
        let original = micro.original_size.unwrap_or(self.pixels);
        let target = micro.target_size.unwrap_or(self.pixels);
        let corner = micro.crop;
        [original.height, original.width, corner.top, corner.left, target.height, target.width]
            .map(|n| n as f32)
    }
}

/// Checks a tensor from the caller, and converts it to the sampler's dtype.
///
/// # Errors
/// [`Error::Config`] naming `field` for a wrong shape; [`Error::NotFinite`] for NaN or infinity.
pub(super) fn given<B: Backend>(
    field: &str,
    latents: &B::Tensor,
    shape: [usize; 4],
    dtype: DType,
    device: &DeviceOf<B>,
) -> Result<B::Tensor> {
    if latents.shape() != shape {
        let reason = format!("expected shape {shape:?}, got {:?}", latents.shape());
        return Err(Error::config(field, reason));
    }
    expect_finite(latents, field)?;
    // The copy goes through bytes, so the tensor may be on another device.
    let stored = latents.dtype();
    B::Tensor::from_bytes(&latents.to_bytes()?, stored, &shape, device)?.cast(dtype)
}

/// Returns [`Error::NotFinite`] about `what` if a value of `tensor` is NaN or infinite.
pub(super) fn expect_finite<T: Tensor>(tensor: &T, what: &str) -> Result<()> {
    match tensor.to_f32()?.iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(Error::NotFinite { what: what.to_string() }),
    }
}
