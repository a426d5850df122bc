//! Turns final latents into pixel values.

use atedm_core::{Backend, Result, Tensor};

use super::request::{Decoding, Images};
use crate::vae::Vae;

/// Decodes latents `[images, channels, h, w]`; `None` if `decoding` skips it. Images are decoded one at a time, which
/// limits the autoencoder's memory.
///
/// # Errors
/// [`atedm_core::Error::Weights`] about the autoencoder if pixels are not finite.
pub(crate) fn decode<B: Backend>(
    vae: &Vae<B>,
    dtype: atedm_core::DType,
    latents: &B::Tensor,
    decoding: Decoding,
) -> Result<Option<Images>> {
    if decoding == Decoding::Skip {
        return Ok(None);
    }
    let _span = tracing::info_span!("decode").entered();
    let latents = vae.unscale(&latents.cast(dtype)?)?;
    let count = latents.shape().first().copied().unwrap_or(0);
    let mut images = Images { count, height: 0, width: 0, values: Vec::new() };
    for i in 0..count {
        let one = latents.narrow(0, i, 1)?;
        let decoded = match decoding {
            Decoding::Tiled(tiles) => vae.decode_tiled(&one, &tiles.unwrap_or_else(|| vae.tiles()))?,
            _ => vae.decode(&one)?,
        };
        let [_, _, height, width] = atedm_core::backend::dims(&decoded, "VAE decode")?;
        (images.height, images.width) = (height, width);
        let values = vae.expect_finite(&decoded, "pixels")?;
        images.values.extend(values.into_iter().map(|value| (value / 2.0 + 0.5).clamp(0.0, 1.0)));
    }
    Ok(Some(images))
}
