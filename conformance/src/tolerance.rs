//! The allowed differences between results: one row per dtype, for all checks of this crate.

use approx::relative_eq;
use atedm_core::{DType, Result, Tensor};

use crate::host::Array;

/// The allowed difference between two results of the same computation: `|a − b| ≤ absolute` or `|a − b| ≤ relative ·
/// max(|a|, |b|)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// The allowed share of the larger magnitude.
    pub relative: f64,
    /// The difference that is always allowed, for values around 1 whose sum cancels.
    pub absolute: f64,
}

/// Tolerance for one operation or a short chain, on values around 1, against the oracle in f64.
pub fn operation(dtype: DType) -> Tolerance {
    match dtype {
        DType::F64 => Tolerance { relative: 1e-11, absolute: 1e-11 },
        DType::F32 => Tolerance { relative: 2e-5, absolute: 2e-5 },
        DType::F16 => Tolerance { relative: 4e-3, absolute: 4e-3 },
        DType::BF16 => Tolerance { relative: 3e-2, absolute: 3e-2 },
    }
}

/// Tolerance for a whole transformer block or more: relative L2 against the oracle in f64.
pub fn chain(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 1e-5,
        DType::F16 => 1e-2,
        DType::BF16 => 8e-2,
    }
}

/// Tolerance for scores of cross-attention: relative L2 against the oracle in f64. Eq. 1 divides by the entropy of a
/// row. The entropy is near zero if one text token has nearly all attention. An error of 1e-7 in the logits is then
/// 1e-4 in the score, and those scores are the largest.
pub fn entropy_scores(dtype: DType) -> f64 {
    10.0 * chain(dtype)
}

/// Tolerance for final latents against diffusers, unpruned, f32: relative L2.
pub const LATENTS: f64 = 2e-5;

/// Tolerance for final latents with AT-EDM against an independent implementation in f64: relative L2.
pub const PRUNED_LATENTS: f64 = 1e-4;

/// Tolerance for decoded pictures, in steps of an 8-bit channel.
pub const PIXEL_STEPS: u8 = 1;

/// Tolerance for published TFLOPs, which are printed to four digits.
pub const PUBLISHED_TFLOPS: f64 = 6e-4;

/// Asserts that two arrays agree within the tolerance of `dtype`. Otherwise the message names the worst element.
///
/// # Panics
/// If they do not agree.
#[track_caller]
pub fn assert_arrays_close(actual: &Array, expected: &Array, dtype: DType, what: &str) {
    assert_within(actual, expected, operation(dtype), what);
}

/// Like [`assert_arrays_close`], with a given tolerance.
///
/// # Panics
/// If they do not agree.
#[track_caller]
pub fn assert_within(actual: &Array, expected: &Array, tolerance: Tolerance, what: &str) {
    assert_eq!(actual.shape, expected.shape, "{what}: shape");
    let Tolerance { relative, absolute } = tolerance;
    let fits = |a: f64, e: f64| {
        (a.is_nan() && e.is_nan()) || relative_eq!(a, e, epsilon = absolute, max_relative = relative)
    };
    let off = |i: usize| {
        let distance = (actual.data[i] - expected.data[i]).abs();
        if distance.is_nan() { f64::INFINITY } else { distance }
    };
    let wrong: Vec<usize> =
        (0..actual.data.len()).filter(|&i| !fits(actual.data[i], expected.data[i])).collect();
    if let Some(&worst) = wrong.iter().max_by(|&&i, &&j| off(i).total_cmp(&off(j))) {
        panic!(
            "{what}: {} of {} elements are off; worst at {:?}: {} instead of {} (relative L2 {:.3e})",
            wrong.len(),
            actual.data.len(),
            multi_index(worst, &actual.shape),
            actual.data[worst],
            expected.data[worst],
            relative_l2(&actual.data, &expected.data),
        );
    }
}

/// Asserts that a tensor agrees with the oracle's array within the tolerance of its dtype.
///
/// # Panics
/// If they do not agree.
#[track_caller]
pub fn assert_close<T: Tensor>(actual: &T, expected: &Array, what: &str) {
    assert_close_as(actual, expected, actual.dtype(), what);
}

/// Like [`assert_close`], with the tolerance of another dtype. It is for results in the accumulator dtype of coarser
/// inputs.
///
/// # Panics
/// If they do not agree.
#[track_caller]
pub fn assert_close_as<T: Tensor>(actual: &T, expected: &Array, row: DType, what: &str) {
    assert_arrays_close(&read(actual, what), expected, row, what);
}

/// Asserts that a tensor has exactly these elements.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn assert_exact<T: Tensor>(actual: &T, expected: &Array, what: &str) {
    assert_within(&read(actual, what), expected, Tolerance { relative: 0.0, absolute: 0.0 }, what);
}

/// Asserts that scores `[.., n]` of about `1/n` each agree within the tolerance of `dtype`. They are multiplied by `n`,
/// so that the absolute tolerance cannot hide errors.
///
/// # Panics
/// If they do not agree.
#[track_caller]
pub fn assert_mass_close<T: Tensor>(actual: &T, expected: &Array, dtype: DType, what: &str) {
    let n = expected.shape.last().copied().unwrap_or(1) as f64;
    let wide = |scores: &Array| scores.map(|score| score * n);
    assert_arrays_close(&wide(&read(actual, what)), &wide(expected), dtype, what);
}

/// Asserts that the result of a chain of operations is close in relative L2.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn assert_chain_close<T: Tensor>(actual: &T, expected: &Array, dtype: DType, what: &str) {
    assert_chain_arrays(&read(actual, what), expected, dtype, what);
}

/// Like [`assert_chain_close`], for arrays.
///
/// # Panics
/// If they are not close.
#[track_caller]
pub fn assert_chain_arrays(actual: &Array, expected: &Array, dtype: DType, what: &str) {
    assert_relative_l2(actual, expected, chain(dtype), what);
}

/// Asserts that the relative L2 distance of two arrays is at most `allowed`.
///
/// # Panics
/// If it is larger.
#[track_caller]
pub fn assert_relative_l2(actual: &Array, expected: &Array, allowed: f64, what: &str) {
    assert_eq!(actual.shape, expected.shape, "{what}: shape");
    let off = relative_l2(&actual.data, &expected.data);
    assert!(off <= allowed, "{what}: relative L2 {off:.3e}, allowed {allowed:.0e}");
}

#[track_caller]
fn read<T: Tensor>(tensor: &T, what: &str) -> Array {
    let read: Result<Array> = Array::read(tensor);
    read.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// `‖a − b‖₂ / ‖b‖₂` in f64. If `b` is zero, it is the norm of `a`.
///
/// # Panics
/// If the lengths differ.
#[track_caller]
pub fn relative_l2<X: Copy + Into<f64>>(actual: &[X], expected: &[X]) -> f64 {
    assert_eq!(actual.len(), expected.len(), "relative L2 of two lengths");
    let square = |x: f64| x * x;
    let off: f64 = actual.iter().zip(expected).map(|(&a, &e)| square(a.into() - e.into())).sum();
    let size: f64 = expected.iter().map(|&e| square(e.into())).sum();
    if size == 0.0 { off.sqrt() } else { (off / size).sqrt() }
}

fn multi_index(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (place, &len) in index.iter_mut().zip(shape).rev() {
        *place = flat % len;
        flat /= len;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "worst at [1, 2]: 7 instead of 6")]
    fn the_worst_element_is_named() {
        let expected = Array::from_fn(&[2, 3], |i| (i[0] * 3 + i[1] + 1) as f64);
        let mut actual = expected.clone();
        actual.data[5] = 7.0;
        actual.data[0] += 1e-2;
        assert_arrays_close(&actual, &expected, DType::F32, "example");
    }

    #[test]
    #[should_panic(expected = "NaN instead of")]
    fn nan_is_never_close() {
        let expected = Array::full(&[2], 1.0);
        assert_arrays_close(&Array::new(&[2], vec![1.0, f64::NAN]), &expected, DType::BF16, "example");
    }

    #[test]
    fn relative_l2_is_a_share() {
        assert_eq!(relative_l2(&[3.0, 4.5], &[3.0, 4.0]), 0.1);
        assert_eq!(relative_l2(&[3.0f32, 4.0], &[0.0, 0.0]), 5.0);
    }
}
