//! Plausible random weights for any model. Benches, tests and `init-tiny` use them, so they need no checkpoint.

use std::path::PathBuf;

use atedm_core::{DType, Result, Tensor, WeightSource};

/// A source that gives every requested tensor. Its values depend only on the seed, the name and the shape.
///
/// Norm weights (one axis, named `weight`) are 1, and biases are 0. All others come from a distribution with mean 0 and
/// variance `1 / fan-in`, so activations neither vanish nor grow. The values are the same on every backend.
#[derive(Debug, Clone)]
pub struct RandomSource<D> {
    seed: u64,
    dtype: DType,
    device: D,
}

impl<D> RandomSource<D> {
    /// A source of weights in `dtype` on `device`.
    pub fn new(seed: u64, dtype: DType, device: D) -> Self {
        Self { seed, dtype, device }
    }
}

impl<T: Tensor> WeightSource<T> for RandomSource<T::Device> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<T> {
        if let Some(value) = constant(name, shape) {
            return T::full(value, shape, self.dtype, &self.device);
        }
        T::from_f32(&random_values(self.seed, name, shape), shape, self.dtype, &self.device)
    }

    fn contains(&self, _name: &str) -> bool {
        true
    }

    fn origin(&self) -> PathBuf {
        PathBuf::from("random weights")
    }
}

/// The constant value of the whole tensor, for norms and biases.
fn constant(name: &str, shape: &[usize]) -> Option<f64> {
    if shape.len() > 1 {
        None
    } else if name.ends_with("weight") {
        Some(1.0)
    } else {
        Some(0.0)
    }
}

/// The values of [`RandomSource`] for a tensor, row-major.
///
/// Each value is the sum of two uniform 16-bit numbers (a triangular distribution), scaled to variance `1 / fan-in`.
/// This is good enough for weights. One 64-bit draw gives two values, so SD-XL's 2.6 G parameters take seconds.
/// Embedding tables (`*embedding.weight`, two axes) get a standard deviation of 0.02.
pub fn random_values(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let count = shape.iter().product();
    if let Some(value) = constant(name, shape) {
        return vec![value as f32; count];
    }
    let fan_in: usize = shape.iter().skip(1).product();
    let table = shape.len() == 2 && name.ends_with("embedding.weight");
    let deviation = if table { 0.02 } else { 1.0 / (fan_in.max(1) as f64).sqrt() };
    // The sum of two uniform numbers of 0..2^16 has mean 2^16 − 1 and variance (2^32 − 1) / 6.
    let scale = (deviation / ((2f64.powi(32) - 1.0) / 6.0).sqrt()) as f32;
    let start = start(seed, name);
    let mut values = vec![0.0; count];
    let threads =
        if count < PARALLEL { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
    let share = count.div_ceil(threads.max(1)).next_multiple_of(2).max(2);
    std::thread::scope(|scope| {
        for (i, part) in values.chunks_mut(share).enumerate() {
            let first = (i * share / 2) as u64;
            let mut work = move || fill(part, start, first, scale);
            if threads == 1 { work() } else { drop(scope.spawn(work)) }
        }
    });
    values
}

/// Tensors with fewer values are filled by the calling thread.
const PARALLEL: usize = 1 << 20;

/// Fills `part` with the values of draws `first`, `first + 1`, …
fn fill(part: &mut [f32], start: u64, first: u64, scale: f32) {
    let value = |bits: u64| ((bits & 0xffff) + (bits >> 16 & 0xffff)) as f32;
    for (pair, index) in part.chunks_mut(2).zip(first..) {
        let bits = draw(start, index);
        for (out, half) in pair.iter_mut().zip([bits & 0xffff_ffff, bits >> 32]) {
            *out = (value(half) - 65_535.0) * scale;
        }
    }
}

/// FNV-1a of the name, mixed with the seed.
fn start(seed: u64, name: &str) -> u64 {
    let hash =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Number `index` of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn draw(start: u64, index: u64) -> u64 {
    let state = start.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::random_values;

    #[test]
    fn values_have_the_variance_of_their_fan_in() {
        let values = random_values(3, "a.weight", &[300, 400]);
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 5e-4, "mean {mean}");
        assert!((variance * 400.0 - 1.0).abs() < 0.02, "variance {variance}");
    }

    #[test]
    fn threads_do_not_matter() {
        let whole = random_values(3, "a.weight", &[1025, 1025]);
        let mut again = vec![0.0; whole.len()];
        super::fill(&mut again, super::start(3, "a.weight"), 0, 1.0);
        let scale = whole[0] / again[0];
        assert!(whole.iter().zip(&again).all(|(a, b)| (a - b * scale).abs() <= 1e-6 * a.abs()));
    }

    #[test]
    fn seed_and_name_decide() {
        let a = random_values(3, "a.weight", &[4, 5]);
        assert_eq!(a, random_values(3, "a.weight", &[4, 5]));
        assert_ne!(a, random_values(4, "a.weight", &[4, 5]));
        assert_ne!(a, random_values(3, "b.weight", &[4, 5]));
    }

    #[test]
    fn norms_and_biases_are_constant() {
        assert_eq!(random_values(0, "norm1.weight", &[3]), [1.0; 3]);
        assert_eq!(random_values(0, "norm1.bias", &[3]), [0.0; 3]);
    }
}
