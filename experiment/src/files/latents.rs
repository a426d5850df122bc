//! The files of `--latents` and `--save-latents`: safetensors with one f32 tensor `latents` `[batch, 4, height,
//! width]`.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::input::{DATA_MOST, read_bytes};
use crate::failure::{Failure, Outcome};

/// Latents on the host, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentsFile {
    /// `[batch, channels, height, width]`.
    pub shape: [usize; 4],
    /// The values, row-major.
    pub values: Vec<f32>,
}

/// Reads a file, and checks its name, dtype, shape and values.
pub fn read_latents(path: &Path, expected: [usize; 4]) -> Outcome<LatentsFile> {
    let at = |reason: String| Failure::file(path, reason);
    let bytes = read_bytes(path, DATA_MOST)?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| at(format!("expected a safetensors file: {error}")))?;
    let names = file.names();
    let view =
        file.tensor("latents").map_err(|_| at(format!("expected a tensor named latents, got {names:?}")))?;
    if view.dtype() != Dtype::F32 {
        return Err(at(format!("latents: expected dtype F32, got {:?}", view.dtype())));
    }
    if view.shape() != expected {
        return Err(at(format!("latents: expected shape {expected:?}, got {:?}", view.shape())));
    }
    let values: Vec<f32> =
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    if values.iter().any(|value| !value.is_finite()) {
        return Err(at("latents: expected finite values".into()));
    }
    Ok(LatentsFile { shape: expected, values })
}

/// The bytes of the file.
pub fn latents_bytes(latents: &LatentsFile) -> Outcome<Vec<u8>> {
    let failed = |error: safetensors::SafeTensorError| Failure::run(format!("latents: {error}"));
    let bytes: Vec<u8> = latents.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, latents.shape.to_vec(), &bytes).map_err(failed)?;
    safetensors::serialize([("latents", view)], None).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_read_back_and_wrong_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.safetensors");
        let latents = LatentsFile { shape: [1, 4, 2, 3], values: (0..24).map(|i| i as f32 / 7.0).collect() };
        std::fs::write(&path, latents_bytes(&latents).unwrap()).unwrap();
        assert_eq!(read_latents(&path, [1, 4, 2, 3]).unwrap(), latents);
        let message = read_latents(&path, [1, 4, 3, 2]).unwrap_err().to_string();
        assert!(message.contains("[1, 4, 3, 2]") && message.contains("[1, 4, 2, 3]"), "{message}");
        std::fs::write(&path, b"\xff\xff\xff\xff\xff\xff\xff\x7f{}").unwrap();
        assert!(read_latents(&path, [1, 4, 2, 3]).is_err());
        let nan = LatentsFile { shape: [1, 1, 1, 1], values: vec![f32::NAN] };
        std::fs::write(&path, latents_bytes(&nan).unwrap()).unwrap();
        assert!(read_latents(&path, [1, 1, 1, 1]).unwrap_err().to_string().contains("finite"));
    }
}
