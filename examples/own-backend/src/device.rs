//! The only device, and index lists on it.

use std::sync::Arc;

use atedm_core::{Error, Indices, Result};

/// The host's memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

/// Index lists of the same length, one for each batch row.
#[derive(Debug, Clone)]
pub struct Lists(pub(crate) Arc<Vec<Vec<u32>>>);

impl Lists {
    /// Checks that there is one list for each of `batch` rows, and that every entry is below `len`.
    pub(crate) fn expect(&self, op: &'static str, batch: usize, len: usize) -> Result<()> {
        let beyond = self.0.iter().flatten().find(|&&entry| entry as usize >= len);
        match beyond {
            _ if self.0.len() != batch => {
                Err(Error::shape(op, format!("lists for {batch} rows"), [self.0.len()]))
            }
            Some(&entry) => Err(Error::shape(op, format!("entries below {len}"), [entry as usize])),
            None => Ok(()),
        }
    }
}

impl Indices for Lists {
    type Device = Host;

    fn from_host(rows: &[Vec<u32>], _device: &Host) -> Result<Self> {
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        if lengths.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(Error::shape("indices", "rows of one length", lengths));
        }
        Ok(Self(Arc::new(rows.to_vec())))
    }

    fn to_host(&self) -> Result<Vec<Vec<u32>>> {
        Ok(self.0.to_vec())
    }

    fn device(&self) -> Host {
        Host
    }

    fn dims(&self) -> (usize, usize) {
        (self.0.len(), self.0.first().map_or(0, Vec::len))
    }
}
