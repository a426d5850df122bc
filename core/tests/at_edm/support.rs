//! Random numbers, tensors from and to host values, and sites.

use atedm_core::plugin::{BlockId, Branch, Grid, Row, Site, Stage, Step};
use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{DType, Tensor};

/// A matrix as rows.
pub(crate) type Matrix = Vec<Vec<f64>>;

/// A small generator (SplitMix64). Tests must not share a generator with the code under test.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[-1, 1)`.
    pub(crate) fn number(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    pub(crate) fn matrix(&mut self, rows: usize, columns: usize, scale: f64) -> Matrix {
        (0..rows).map(|_| (0..columns).map(|_| self.number() * scale).collect()).collect()
    }

    pub(crate) fn numbers(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.number()).collect()
    }

    pub(crate) fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// An f64 tensor.
pub(crate) fn tensor(values: &[f64], shape: &[usize]) -> NdTensor {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    NdTensor::from_bytes(&bytes, DType::F64, shape, &NdDevice).unwrap()
}

/// `[rows.len(), tokens, channels]` from one matrix for each row.
pub(crate) fn batch(rows: &[Matrix]) -> NdTensor {
    let values: Vec<f64> = rows.iter().flatten().flatten().copied().collect();
    tensor(&values, &[rows.len(), rows[0].len(), rows[0][0].len()])
}

/// The elements of an f64 tensor.
pub(crate) fn values(tensor: &NdTensor) -> Vec<f64> {
    assert_eq!(tensor.dtype(), DType::F64);
    tensor.to_bytes().unwrap().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
}

/// `[b, n, c]` as one matrix for each row.
pub(crate) fn matrices(tensor: &NdTensor) -> Vec<Matrix> {
    let shape = tensor.shape();
    let all = values(tensor);
    all.chunks(shape[1] * shape[2]).map(|m| m.chunks(shape[2]).map(<[f64]>::to_vec).collect()).collect()
}

/// The largest difference, relative to the largest expected magnitude.
#[track_caller]
pub(crate) fn assert_close(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= tolerance * scale, "element {i}: got {g}, expected {e}");
    }
}

pub(crate) fn block(stage: Stage, stage_index: usize, index: usize, count: usize, level: usize) -> BlockId {
    BlockId { stage, stage_index, index, count, level }
}

pub(crate) fn mid() -> BlockId {
    block(Stage::Mid, 0, 0, 1, 0)
}

pub(crate) fn step(index: usize, total: usize) -> Step {
    Step { index, total, evaluation: index, sigma: 1.0, timestep: 999.0 }
}

/// One row for each image, without guidance.
pub(crate) fn single(images: u64) -> Vec<Row> {
    (0..images).map(|image| Row { image, branch: Branch::Single }).collect()
}

/// A site in the middle block's first layer.
pub(crate) fn site(grid: Grid, rows: &[Row]) -> Site<'_> {
    Site {
        block: mid(),
        layer: 0,
        depth: 2,
        step: step(0, 1),
        grid,
        tokens: grid.tokens(),
        protected: (0, 0),
        rows,
    }
}
