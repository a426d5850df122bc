//! Index lists as a `u32` tensor.

use atedm_core::backend::{generic, shape};
use atedm_core::{Error, Indices, Result};
use candle_core::{DType, Device, Tensor};

use crate::error::OrBackend;

/// Index lists `[batch, count]` as a contiguous `u32` tensor. All entries are below a known bound.
///
/// The bound lets a gather on a GPU check its range without reading the list back.
#[derive(Debug, Clone)]
pub struct CandleIndices {
    tensor: Tensor,
    bound: usize,
}

impl CandleIndices {
    /// The lists as a `u32` tensor `[batch, count]`.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Wraps a device tensor whose entries are known to be below `bound`.
    pub(crate) fn with_bound(tensor: Tensor, bound: usize) -> Self {
        Self { tensor, bound }
    }

    /// Checks that every entry is below `len`. It reads the list back only if the known bound is not enough.
    pub(crate) fn check_below(&self, len: usize, op: &'static str) -> Result<()> {
        if self.bound <= len || self.tensor.elem_count() == 0 {
            return Ok(());
        }
        let highest = self.to_host()?.into_iter().flatten().max().unwrap_or(0);
        shape::index_below(op, highest, len)
    }
}

impl TryFrom<Tensor> for CandleIndices {
    type Error = Error;

    /// Takes a `u32` tensor `[batch, count]`.
    fn try_from(tensor: Tensor) -> Result<Self> {
        if tensor.rank() != 2 {
            return Err(Error::shape("indices", "[batch, count]", tensor.dims()));
        }
        if tensor.dtype() != DType::U32 {
            let got = tensor.dtype().as_str().to_string();
            return Err(Error::DType { op: "indices", expected: "u32".to_string(), got });
        }
        let tensor = tensor.detach().contiguous().or_backend("indices")?;
        Ok(Self { tensor, bound: usize::MAX })
    }
}

impl Indices for CandleIndices {
    type Device = Device;

    fn from_host(rows: &[Vec<u32>], device: &Device) -> Result<Self> {
        let count = shape::index_rows(rows)?;
        let flat: Vec<u32> = rows.iter().flatten().copied().collect();
        let bound = flat.iter().max().map_or(0, |&highest| highest as usize + 1);
        let tensor = Tensor::from_vec(flat, (rows.len(), count), device).or_backend("indices")?;
        Ok(Self { tensor, bound })
    }

    fn to_host(&self) -> Result<Vec<Vec<u32>>> {
        let (batch, count) = self.dims();
        if count == 0 {
            return Ok(vec![Vec::new(); batch]);
        }
        let flat = self.tensor.flatten_all().and_then(|t| t.to_vec1::<u32>()).or_backend("indices")?;
        Ok(flat.chunks(count).map(<[u32]>::to_vec).collect())
    }

    fn device(&self) -> Device {
        self.tensor.device().clone()
    }

    fn dims(&self) -> (usize, usize) {
        match self.tensor.dims() {
            &[batch, count] => (batch, count),
            _ => (0, 0),
        }
    }

    fn gather(&self, at: &Self) -> Result<Self> {
        let (batch, count) = self.dims();
        if at.dims().0 != batch || at.dims().1 == 0 {
            return generic::indices_gather(self, at);
        }
        at.check_below(count, "indices gather")?;
        let tensor = self.tensor.gather(&at.tensor, 1).or_backend("indices gather")?;
        Ok(Self { tensor, bound: self.bound })
    }

    fn concat(parts: &[&Self]) -> Result<Self> {
        let filled: Vec<&Tensor> = parts.iter().filter(|p| p.dims().1 > 0).map(|p| &p.tensor).collect();
        let same_batch = parts.windows(2).all(|pair| pair[0].dims().0 == pair[1].dims().0);
        if filled.is_empty() || !same_batch {
            return generic::indices_concat(parts);
        }
        let bound = parts.iter().map(|part| part.bound).max().unwrap_or(0);
        let tensor = Tensor::cat(&filled, 1).and_then(|t| t.contiguous()).or_backend("indices concat")?;
        Ok(Self { tensor, bound })
    }

    fn reshape(&self, batch: usize, count: usize) -> Result<Self> {
        if self.dims().0 * self.dims().1 != batch * count || count == 0 {
            return generic::indices_reshape(self, batch, count);
        }
        let tensor = self.tensor.reshape((batch, count)).or_backend("indices reshape")?;
        Ok(Self { tensor, bound: self.bound })
    }
}
