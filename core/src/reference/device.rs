//! The host as a device, and index lists on it.

use std::sync::Arc;

use crate::backend::shape;
use crate::{Indices, Result};

/// The host, which holds all reference tensors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct NdDevice;

/// Index lists `[batch, count]` in host memory; `clone` copies a handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NdIndices {
    batch: usize,
    count: usize,
    values: Arc<[u32]>,
}

impl NdIndices {
    /// Makes lists of `rows`, which must have equal lengths.
    pub(super) fn new(rows: &[Vec<u32>]) -> Result<Self> {
        let count = shape::index_rows(rows)?;
        Ok(Self { batch: rows.len(), count, values: rows.concat().into() })
    }

    /// The `batch` rows. They may be empty.
    pub(super) fn rows(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.batch).map(|b| &self.values[b * self.count..(b + 1) * self.count])
    }

    /// Checks that every index is below `len`.
    pub(super) fn check_below(&self, len: usize, op: &'static str) -> Result<()> {
        self.values.iter().try_for_each(|&index| shape::index_below(op, index, len))
    }
}

impl Indices for NdIndices {
    type Device = NdDevice;

    fn from_host(rows: &[Vec<u32>], _device: &NdDevice) -> Result<Self> {
        Self::new(rows)
    }

    fn to_host(&self) -> Result<Vec<Vec<u32>>> {
        Ok(self.rows().map(<[u32]>::to_vec).collect())
    }

    fn device(&self) -> NdDevice {
        NdDevice
    }

    fn dims(&self) -> (usize, usize) {
        (self.batch, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn host_round_trip_keeps_empty_rows() {
        for rows in [vec![vec![3, 1], vec![0, 2]], vec![vec![], vec![]], vec![]] {
            let indices = NdIndices::from_host(&rows, &NdDevice).unwrap();
            assert_eq!(indices.dims(), (rows.len(), rows.first().map_or(0, Vec::len)));
            assert_eq!(indices.to_host().unwrap(), rows);
        }
    }

    #[test]
    fn ragged_rows_are_an_error() {
        let error = NdIndices::from_host(&[vec![1], vec![1, 2]], &NdDevice).unwrap_err();
        assert!(matches!(error, Error::Shape { op: "indices", .. }), "{error}");
    }
}
