//! Seeded numbers for one image of the training. They come from a ChaCha stream whose key is seed, image number and
//! use.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use atedm_sdxl::rng::{ChaChaNoise, NoiseSource};

/// The use of the numbers. Each use has its own streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Timestep and caption dropout.
    Conditioning,
    /// The noise of the diffusion, or of the autoencoder's latents.
    Noise,
}

/// Uniform numbers in `[0, 1)` of image `image`.
pub(super) fn uniforms(seed: u64, purpose: Use, image: u64) -> impl FnMut() -> f64 {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&image.to_le_bytes());
    key[16..32].copy_from_slice(b"atedm training\0\0");
    key[31] = purpose as u8;
    let mut stream = ChaCha20Rng::from_seed(key);
    move || (stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Standard normal noise for images `images`, `[images, ..shape]`, row-major.
pub(super) fn noise(
    seed: u64,
    images: std::ops::Range<u64>,
    shape: &[usize],
) -> atedm_core::Result<Vec<f32>> {
    let rows = (images.end - images.start) as usize;
    // This must not be the noise that a user gets for the same seed.
    let seed = seed ^ u64::from_le_bytes(*b"training") ^ Use::Noise as u64;
    ChaChaNoise::new(seed, images).standard_normal(&[&[rows], shape].concat())
}
