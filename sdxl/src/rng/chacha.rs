//! Portable noise: a ChaCha20 stream per image.

use atedm_core::{Error, Result};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::NoiseSource;
use super::normal::box_muller;

/// The name of this use of the cipher. It is part of the key, so no other use of the same seed shares the stream.
const DOMAIN: &[u8; 16] = b"atedm noise v1\0\0";

/// Normal noise from one ChaCha20 stream per image, keyed by `(seed, image number)`.
///
/// Image `i` of a batch gets the same noise as alone, on every machine. The key is `seed ‖ image ‖ domain`
/// (little-endian). Uniforms are the top 24 bits of consecutive words. Box–Muller uses fixed polynomials.
#[derive(Debug, Clone)]
pub struct ChaChaNoise {
    streams: Vec<ChaCha20Rng>,
}

impl ChaChaNoise {
    /// The streams of these image numbers, one per batch row.
    pub fn new(seed: u64, images: impl IntoIterator<Item = u64>) -> Self {
        let stream = |image: u64| {
            let mut key = [0u8; 32];
            key[..8].copy_from_slice(&seed.to_le_bytes());
            key[8..16].copy_from_slice(&image.to_le_bytes());
            key[16..].copy_from_slice(DOMAIN);
            ChaCha20Rng::from_seed(key)
        };
        Self { streams: images.into_iter().map(stream).collect() }
    }
}

impl NoiseSource for ChaChaNoise {
    fn standard_normal(&mut self, shape: &[usize]) -> Result<Vec<f32>> {
        let (&rows, rest) = shape.split_first().unwrap_or((&0, &[]));
        if rows != self.streams.len() {
            let reason =
                format!("expected noise for {} images, got a tensor with {rows}", self.streams.len());
            return Err(Error::config("rng", reason));
        }
        let count: usize = rest.iter().product();
        let mut values = Vec::with_capacity(rows * count);
        for stream in &mut self.streams {
            let mut uniform = || (stream.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0);
            let row = values.len() + count;
            while values.len() < row {
                let (first, second) = box_muller(uniform(), uniform());
                values.push(first);
                if values.len() < row {
                    values.push(second);
                }
            }
        }
        Ok(values)
    }
}
