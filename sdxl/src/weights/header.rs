//! The header of a safetensors file, without its data.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use atedm_core::{Error, Result};
use serde_json::{Map, Value};

use super::file::WeightFile;
use super::foreign::what_it_is;

/// The longest header that is read. The format's own library has the same limit.
const LONGEST: u64 = 100_000_000;
/// Bytes at the start of a file that are read to identify it.
pub(super) const BEGINNING: usize = 1 << 10;

/// The contents of weight files, according to their headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contents {
    /// Number of values in all tensors.
    pub parameters: u64,
    /// The tensors' dtypes, with the format's names (`F16`).
    pub dtypes: BTreeSet<String>,
}

impl Contents {
    /// Adds the tensors of `file` that its naming shows. Only the file's header must be there.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Weights`] that says what the file is instead.
    pub(crate) fn add(&mut self, file: &WeightFile) -> Result<()> {
        for (name, info) in read(&file.path)? {
            let shape = info.get("shape").and_then(Value::as_array).filter(|_| name != "__metadata__");
            let Some(shape) = shape else { continue };
            let length = |length: &Value| length.as_u64().and_then(|length| usize::try_from(length).ok());
            let shape: Vec<usize> = shape.iter().map(|axis| length(axis).unwrap_or(0)).collect();
            for view in file.naming.views(&name, &shape) {
                let count = view.shape.iter().map(|axis| *axis as u64).fold(1, u64::saturating_mul);
                self.parameters = self.parameters.saturating_add(count);
                self.dtypes.extend(info.get("dtype").and_then(Value::as_str).map(str::to_string));
            }
        }
        Ok(())
    }
}

/// Whether the file at `path` begins as a safetensors file does.
pub(crate) fn is_safetensors(path: &Path) -> bool {
    read(path).is_ok()
}

/// Reads 8 bytes of length, then JSON.
fn read(path: &Path) -> Result<Map<String, Value>> {
    let failed = |source| Error::io(path, source);
    let mut file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.by_ref().take(BEGINNING as u64).read_to_end(&mut bytes).map_err(failed)?;
    let (header, error) = match bytes.split_first_chunk() {
        None => (None, "is truncated: no safetensors header".to_string()),
        Some((length, _)) => {
            let length = u64::from_le_bytes(*length);
            if length > LONGEST {
                (None, format!("is no safetensors file: a header of {length} bytes"))
            } else {
                let more = (length + 8).saturating_sub(bytes.len() as u64);
                file.take(more).read_to_end(&mut bytes).map_err(failed)?;
                let json = bytes.get(8..bytes.len().min(8 + length as usize)).unwrap_or_default();
                match serde_json::from_slice(json) {
                    Ok(header) => (Some(header), String::new()),
                    Err(error) => (None, format!("expected a safetensors header: {error}")),
                }
            }
        }
    };
    header.ok_or_else(|| {
        let beginning = bytes.get(..BEGINNING).unwrap_or(&bytes);
        Error::weights(path, "", what_it_is(beginning).unwrap_or(error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_without_the_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let contents = || {
            let mut contents = Contents::default();
            contents.add(&path.clone().into()).map(|()| contents)
        };
        let json = br#"{"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[]},"__metadata__":{"shape":"x"}}"#;
        std::fs::write(&path, [&(json.len() as u64).to_le_bytes()[..], json].concat()).unwrap();
        let expected = Contents { parameters: 7, dtypes: ["F16", "F32"].map(String::from).into() };
        assert_eq!(contents().unwrap(), expected);
        // a header longer than the bytes that are read first
        let long = [&json[..], &b" ".repeat(3 * BEGINNING)].concat();
        std::fs::write(&path, [&(long.len() as u64).to_le_bytes()[..], &long, b"data"].concat()).unwrap();
        assert_eq!(contents().unwrap(), expected);
        for (bytes, what) in [
            (u64::MAX.to_le_bytes().to_vec(), "a header of"),
            (b"abc".to_vec(), "text"),
            (vec![1, 2], "truncated"),
            (Vec::new(), "truncated"),
            ([&9u64.to_le_bytes()[..], b"{"].concat(), "header"),
            (b"<!DOCTYPE html><html>".to_vec(), "web page"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = contents().unwrap_err().to_string();
            assert!(error.contains("w.safetensors: ") && error.contains(what), "{error}");
        }
    }
}
