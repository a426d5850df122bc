//! Index lists as an `i64` tensor.

use atedm_core::backend::{generic, shape};
use atedm_core::{Error, Indices, Result};
use tch::{Device, Kind, Tensor};

use crate::error::OrBackend;

/// Index lists `[batch, count]` as a contiguous `i64` tensor. All entries are below a known bound.
///
/// The bound lets a gather on a GPU check its range without reading the list back.
#[derive(Debug)]
pub struct TchIndices {
    tensor: Tensor,
    dims: (usize, usize),
    bound: usize,
}

impl Clone for TchIndices {
    fn clone(&self) -> Self {
        Self { tensor: self.tensor.shallow_clone(), ..*self }
    }
}

impl TchIndices {
    /// The lists as an `i64` tensor `[batch, count]`.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Wraps a contiguous `i64` tensor `[batch, count]` whose entries are known to lie in `0..bound`.
    pub(crate) fn with_bound(tensor: Tensor, dims: (usize, usize), bound: usize) -> Self {
        Self { tensor, dims, bound }
    }

    /// Checks that every entry is below `len`. It reads the list back only if the known bound is not enough.
    pub(crate) fn check_below(&self, len: usize, op: &'static str) -> Result<()> {
        if self.bound <= len || self.dims.0 * self.dims.1 == 0 {
            return Ok(());
        }
        let highest = self.to_host()?.into_iter().flatten().max().unwrap_or(0);
        shape::index_below(op, highest, len)
    }
}

impl TryFrom<Tensor> for TchIndices {
    type Error = Error;

    /// Takes an integer tensor `[batch, count]`. Entries below 0 give an [`Error::Shape`].
    fn try_from(tensor: Tensor) -> Result<Self> {
        let kind = tensor.f_kind().or_backend("indices")?;
        if !matches!(kind, Kind::Uint8 | Kind::Int8 | Kind::Int16 | Kind::Int | Kind::Int64) {
            return Err(Error::DType {
                op: "indices",
                expected: "integers".to_string(),
                got: format!("{kind:?}"),
            });
        }
        let shape: Vec<usize> = tensor.size().into_iter().map(|len| len as usize).collect();
        let &[batch, count] = shape.as_slice() else {
            return Err(Error::shape("indices", "[batch, count]", shape));
        };
        let tensor = tensor.f_to_kind(Kind::Int64).and_then(|x| x.f_contiguous()).or_backend("indices")?;
        let ends = if batch * count == 0 {
            Some((0, -1))
        } else {
            let read = tensor
                .f_min()
                .and_then(|least| Ok((least.f_int64_value(&[])?, tensor.f_max()?.f_int64_value(&[])?)));
            let (least, highest) = read.or_backend("indices")?;
            (least >= 0).then_some((least, highest))
        };
        let Some((_, highest)) = ends else {
            return Err(Error::shape("indices", "entries of 0 and above", [batch, count]));
        };
        Ok(Self { tensor, dims: (batch, count), bound: (highest + 1) as usize })
    }
}

impl Indices for TchIndices {
    type Device = Device;

    fn from_host(rows: &[Vec<u32>], device: &Device) -> Result<Self> {
        let count = shape::index_rows(rows)?;
        let flat: Vec<i64> = rows.iter().flatten().copied().map(i64::from).collect();
        let bound = flat.iter().max().map_or(0, |&highest| highest as usize + 1);
        let tensor = Tensor::f_from_slice(&flat)
            .and_then(|x| x.f_reshape([rows.len() as i64, count as i64]))
            .and_then(|x| x.f_to_device(*device))
            .or_backend("indices")?;
        Ok(Self { tensor, dims: (rows.len(), count), bound })
    }

    fn to_host(&self) -> Result<Vec<Vec<u32>>> {
        let (batch, count) = self.dims;
        if count == 0 {
            return Ok(vec![Vec::new(); batch]);
        }
        let mut flat = vec![0i64; batch * count];
        self.tensor.f_copy_data(&mut flat, batch * count).or_backend("indices")?;
        Ok(flat.chunks(count).map(|row| row.iter().map(|&at| at as u32).collect()).collect())
    }

    fn device(&self) -> Device {
        self.tensor.device()
    }

    fn dims(&self) -> (usize, usize) {
        self.dims
    }

    fn gather(&self, at: &Self) -> Result<Self> {
        let (batch, count) = self.dims;
        if at.dims.0 != batch || at.dims.1 == 0 {
            return generic::indices_gather(self, at);
        }
        at.check_below(count, "indices gather")?;
        let tensor = self.tensor.f_gather(1, &at.tensor, false).or_backend("indices gather")?;
        Ok(Self { tensor, dims: at.dims, bound: self.bound })
    }

    fn concat(parts: &[&Self]) -> Result<Self> {
        let same_batch = parts.windows(2).all(|pair| pair[0].dims.0 == pair[1].dims.0);
        if parts.is_empty() || !same_batch {
            return generic::indices_concat(parts);
        }
        let tensors: Vec<&Tensor> = parts.iter().map(|part| &part.tensor).collect();
        let tensor = Tensor::f_cat(&tensors, 1).or_backend("indices concat")?;
        let count = parts.iter().map(|part| part.dims.1).sum();
        let bound = parts.iter().map(|part| part.bound).max().unwrap_or(0);
        Ok(Self { tensor, dims: (parts[0].dims.0, count), bound })
    }

    fn reshape(&self, batch: usize, count: usize) -> Result<Self> {
        if self.dims.0 * self.dims.1 != batch * count {
            return generic::indices_reshape(self, batch, count);
        }
        let tensor = self.tensor.f_reshape([batch as i64, count as i64]).or_backend("indices reshape")?;
        Ok(Self { tensor, dims: (batch, count), bound: self.bound })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_tensor_of_indices_is_checked() {
        let lists = Tensor::from_slice(&[3i32, 0, 1, 2]).reshape([2, 2]);
        let indices = TchIndices::try_from(lists).unwrap();
        assert_eq!(indices.to_host().unwrap(), [[3, 0], [1, 2]]);
        assert!(indices.check_below(4, "test").is_ok() && indices.check_below(3, "test").is_err());
        for bad in [Tensor::from_slice(&[-1i64, 0]).reshape([1, 2]), Tensor::from_slice(&[0i64, 1])] {
            assert!(matches!(TchIndices::try_from(bad), Err(Error::Shape { .. })));
        }
        let floats = Tensor::from_slice(&[0.5f32]).reshape([1, 1]);
        assert!(matches!(TchIndices::try_from(floats), Err(Error::DType { .. })));
    }
}
