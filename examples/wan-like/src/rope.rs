//! Rotary positions on a grid of frames × height × width.
//!
//! ```text
//! channels of a head:  [ frame | row | column ]      row and column: 2 ⌊dim / 6⌋ each, the frame: the others
//! angle of pair i of a run of n channels at place p:  p / 10000^(2i / n)
//! (a, b) → (a cos − b sin, a sin + b cos)            for channels 2i and 2i + 1
//! ```

use atedm_core::backend::dims;
use atedm_core::{DType, Result, Tensor};

/// For every token of a grid, row-major, the cosines of its `dim / 2` angles, then their sines: `[tokens, dim]`.
///
/// # Errors
/// As the backend's operations.
pub fn table<T: Tensor>(grid: [usize; 3], dim: usize, dtype: DType, device: &T::Device) -> Result<T> {
    let side = dim / 6 * 2;
    let runs = [dim - 2 * side, side, side];
    let [frames, height, width] = grid;
    let mut values: Vec<f32> = Vec::with_capacity(frames * height * width * dim);
    for token in 0..frames * height * width {
        let places = [token / (height * width), token / width % height, token % width];
        let angle =
            |place: usize, i: usize, run: usize| place as f64 / 10_000f64.powf(2.0 * i as f64 / run as f64);
        let angles: Vec<f64> = places
            .into_iter()
            .zip(runs)
            .flat_map(|(place, run)| (0..run / 2).map(move |i| angle(place, i, run)))
            .collect();
        values.extend(angles.iter().map(|angle| angle.cos() as f32));
        values.extend(angles.iter().map(|angle| angle.sin() as f32));
    }
    T::from_f32(&values, &[frames * height * width, dim], dtype, device)
}

/// Rotates `x` `[b, heads, n, dim]` by rows of a [`table`]: `[n, dim]`, or `[b, n, dim]` where batch rows differ.
///
/// # Errors
/// [`atedm_core::Error::Shape`] if they do not fit.
pub fn rotate<T: Tensor>(x: &T, rows: &T) -> Result<T> {
    let [batch, heads, n, dim] = dims(x, "rotary positions")?;
    let of = if rows.shape().len() == 3 { batch } else { 1 };
    let half = |start: usize| {
        rows.reshape(&[of, n, dim])?.narrow(2, start, dim / 2)?.reshape(&[of, 1, n, dim / 2, 1])
    };
    let (cos, sin) = (half(0)?, half(dim / 2)?);
    let pairs = x.reshape(&[batch, heads, n, dim / 2, 2])?;
    let (a, b) = (pairs.narrow(4, 0, 1)?, pairs.narrow(4, 1, 1)?);
    let first = a.mul(&cos)?.sub(&b.mul(&sin)?)?;
    let second = a.mul(&sin)?.add(&b.mul(&cos)?)?;
    T::concat(&[&first, &second], 4)?.reshape(&[batch, heads, n, dim])
}
