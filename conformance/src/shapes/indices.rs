//! Index lists that know only their lengths.

use atedm_core::backend::shape;
use atedm_core::{Error, Indices, Result};

use super::ShapeDevice;

/// `batch` lists of `count` indices. When they are read, they are 0, 1, 2, …
#[derive(Debug, Clone)]
pub struct ShapeIndices {
    batch: usize,
    count: usize,
    device: ShapeDevice,
}

impl ShapeIndices {
    /// Lists of this number and length.
    pub fn new(batch: usize, count: usize, device: &ShapeDevice) -> Self {
        Self { batch, count, device: device.clone() }
    }
}

impl Indices for ShapeIndices {
    type Device = ShapeDevice;

    fn from_host(rows: &[Vec<u32>], device: &ShapeDevice) -> Result<Self> {
        Ok(Self::new(rows.len(), shape::index_rows(rows)?, device))
    }

    fn to_host(&self) -> Result<Vec<Vec<u32>>> {
        Ok(vec![(0..self.count as u32).collect(); self.batch])
    }

    fn device(&self) -> ShapeDevice {
        self.device.clone()
    }

    fn dims(&self) -> (usize, usize) {
        (self.batch, self.count)
    }

    fn gather(&self, at: &Self) -> Result<Self> {
        same_batch(self, at)?;
        Ok(at.clone())
    }

    fn concat(parts: &[&Self]) -> Result<Self> {
        let first = parts.first().ok_or_else(|| shape::no_parts("indices concat"))?;
        for part in parts {
            same_batch(first, part)?;
        }
        Ok(Self::new(first.batch, parts.iter().map(|part| part.count).sum(), &first.device))
    }

    fn complement(&self, n: usize) -> Result<Self> {
        let rest = n.checked_sub(self.count);
        let rest = rest.ok_or_else(|| Error::shape("complement", format!("at most {n}"), [self.count]))?;
        Ok(Self::new(self.batch, rest, &self.device))
    }

    fn inverse(&self) -> Result<Self> {
        Ok(self.clone())
    }

    fn reshape(&self, batch: usize, count: usize) -> Result<Self> {
        match self.batch * self.count == batch * count {
            true => Ok(Self::new(batch, count, &self.device)),
            false => Err(Error::shape(
                "indices reshape",
                format!("{} entries", self.batch * self.count),
                [batch, count],
            )),
        }
    }
}

fn same_batch(a: &ShapeIndices, b: &ShapeIndices) -> Result<()> {
    if a.batch == b.batch {
        Ok(())
    } else {
        Err(Error::shape("indices", format!("{} rows", a.batch), [b.batch]))
    }
}
