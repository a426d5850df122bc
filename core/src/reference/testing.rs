//! Helpers for the unit tests of this module.

use super::{NdDevice, NdTensor};
use crate::{DType, Tensor};

/// The two dtypes.
pub(super) const BOTH: [DType; 2] = [DType::F32, DType::F64];

/// `count` numbers in -2 .. 2 that depend only on the seed. All are exact in f32.
pub(super) fn noise(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 48) as f64 / f64::from(1 << 14) - 2.0 + 1.0 / f64::from(1 << 16)
    };
    (0..count).map(|_| next()).collect()
}

/// A tensor of these values.
pub(super) fn tensor(dtype: DType, values: &[f64], shape: &[usize]) -> NdTensor {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    NdTensor::from_bytes(&bytes, DType::F64, shape, &NdDevice).unwrap().cast(dtype).unwrap()
}

/// The values, row-major.
pub(super) fn values(tensor: &NdTensor) -> Vec<f64> {
    let bytes = tensor.cast(DType::F64).unwrap().to_bytes().unwrap();
    bytes.as_chunks::<8>().0.iter().map(|&raw| f64::from_le_bytes(raw)).collect()
}

/// Asserts that two lists agree within the rounding of `dtype`, relative to the largest expected value.
pub(super) fn near(got: &[f64], expected: &[f64], dtype: DType) {
    assert_eq!(got.len(), expected.len());
    let most = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let bound = if dtype == DType::F64 { 1e-14 } else { 1e-6 } * most;
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= bound, "{i}: {g} is not {e} within {bound}");
    }
}
