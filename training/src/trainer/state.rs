//! A course's state on disk: weights, moments, average and the number of steps done. A state is written completely or not
//! at all.
//!
//! Random numbers need no state: every image's draws are keyed by the seed and the image's number.

use std::collections::HashMap;
use std::path::Path;

use atedm_core::{Error, Result};
use atedm_tch::OrBackend;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use tch::{Kind, Tensor as Raw};

use super::course::Progress;
use atedm_sdxl::output::write_file;

/// Names of the flat tensors in the file.
const TENSORS: [&str; 4] = ["parameters", "first_moment", "second_moment", "average"];

fn tensors(progress: &Progress) -> [&Raw; 4] {
    let optimizer = &progress.optimizer;
    [progress.parameters.values(), &optimizer.first, &optimizer.second, &optimizer.average]
}

/// The values of a tensor, row-major.
pub(super) fn to_host(tensor: &Raw) -> Result<Vec<f32>> {
    let flat = tensor.f_detach().and_then(|x| x.f_reshape([-1])).or_backend("read back")?;
    let flat = flat.f_to_kind(Kind::Float).or_backend("read back")?;
    Vec::<f32>::try_from(&flat).or_backend("read back")
}

/// Identifies the training that a state belongs to.
#[derive(Debug, Clone)]
pub(super) struct Belonging {
    /// Settings that must be equal when a state is read again.
    pub(super) recipe: String,
    /// Steps of the course, and of its cooldown. A course of another length may read a state if the state is from before
    /// the cooldown of both. The steps up to there are the same in both.
    pub(super) length: [u64; 2],
}

/// Writes `progress` to `file`.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written. The old file then stays.
pub(super) fn save(progress: &Progress, belonging: &Belonging, file: &Path) -> Result<()> {
    let mut data = Vec::with_capacity(TENSORS.len());
    for tensor in tensors(progress) {
        let bytes: Vec<u8> = to_host(tensor)?.into_iter().flat_map(f32::to_le_bytes).collect();
        data.push(bytes);
    }
    let mut views = Vec::with_capacity(TENSORS.len());
    for (name, bytes) in TENSORS.iter().zip(&data) {
        let view = TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes);
        views.push((*name, view.map_err(|error| Error::weights(file, *name, error.to_string()))?));
    }
    let metadata = HashMap::from([
        ("steps".to_string(), progress.done.to_string()),
        ("recipe".to_string(), belonging.recipe.clone()),
        ("length".to_string(), format!("{:?}", belonging.length)),
    ]);
    let bytes = safetensors::serialize(views, Some(metadata));
    let bytes = bytes.map_err(|error| Error::weights(file, "", error.to_string()))?;
    write_file(file, &bytes)
}

/// Reads `file` into `progress`, if the file exists. Gives whether it exists.
///
/// # Errors
/// [`Error::Weights`] naming the file if it is broken, or was written with another recipe.
pub(super) fn restore(progress: &mut Progress, belonging: &Belonging, file: &Path) -> Result<bool> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(Error::io(file, source)),
    };
    let broken = |reason: String| Error::weights(file, "", reason);
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(error.to_string()))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    if metadata.get("recipe") != Some(&belonging.recipe) {
        return Err(broken("was written with another recipe: give another folder, or remove it".to_string()));
    }
    let done: Option<u64> = metadata.get("steps").and_then(|steps| steps.parse().ok());
    let length: Option<[u64; 2]> = metadata.get("length").and_then(|text| serde_json::from_str(text).ok());
    let (Some(done), Some(length)) = (done, length) else {
        return Err(broken("holds no number of steps".to_string()));
    };
    let flat = |[steps, cooldown]: [u64; 2]| done <= steps.saturating_sub(cooldown);
    if length != belonging.length && !(flat(length) && flat(belonging.length)) {
        let reason =
            format!("its cooldown has begun (step {done}): the number of steps cannot be changed any more");
        return Err(broken(reason));
    }
    let stored = SafeTensors::deserialize(&bytes).map_err(|error| broken(error.to_string()))?;
    let total = progress.parameters.values().numel();
    for (name, tensor) in TENSORS.iter().zip(tensors(progress)) {
        let view = stored.tensor(name).map_err(|error| broken(error.to_string()))?;
        let values: Vec<f32> =
            view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if view.dtype() != Dtype::F32 || values.len() != total {
            let reason = format!("expected {total} values, got {}", values.len());
            return Err(Error::weights(file, *name, reason));
        }
        let mut target = tensor.shallow_clone();
        let copied = tch::no_grad(|| target.f_copy_(&Raw::f_from_slice(&values)?));
        copied.or_backend("read a state")?;
    }
    progress.done = done;
    Ok(true)
}
