//! Opens the checkpoint of `--model`, or the built-in one.

use std::path::{Path, PathBuf};

use atedm_core::DType;
use atedm_experiment::model::{AskedPixels, AskedSize, Model};
use atedm_experiment::subject::Subject;

use crate::args::EngineArgs;
use crate::builtin;
use crate::failure::{Failure, Outcome};

/// Opens a folder or a single file, or fetches a hub id (cargo feature `hub`). Opens the built-in model if none is named.
/// Of a hub id's files, those of `variant` are fetched if they exist.
pub(crate) fn open(typed: Option<&str>, variant: Option<&str>) -> Outcome<Model> {
    match typed.filter(|typed| !builtin::is_meant(typed)) {
        Some(typed) => Model::named(&folder_of(typed, variant)?, named(typed)),
        None => {
            let unpacked = builtin::unpack()?;
            let model = Model::named(&unpacked.folder(), unpacked.name())?;
            Ok(model.holding(unpacked))
        }
    }
}

/// Like [`open`], for a run. If the run uses half precision, a hub id's half-precision files are fetched.
pub(crate) fn open_for(engine: &EngineArgs, typed: Option<&str>) -> Outcome<Model> {
    let half = DType::from(engine.dtype).size_in_bytes() == 2;
    open(typed, half.then_some("fp16"))
}

/// SD-XL base 1.0, or the checkpoint `typed`. For a folder, the configurations suffice; weights may be missing.
pub(crate) fn subject(typed: Option<&str>) -> Outcome<Subject> {
    match typed {
        None => Ok(Subject::sdxl_base()),
        Some(typed) if Path::new(typed).join("unet").is_dir() => Subject::of_folder(Path::new(typed)),
        Some(typed) => Ok(Subject::of_model(open(Some(typed), None)?)),
    }
}

/// `--width` and `--height`.
pub(crate) fn asked(width: Option<usize>, height: Option<usize>) -> AskedSize<'static> {
    AskedSize {
        width: AskedPixels { key: "--width", pixels: width },
        height: AskedPixels { key: "--height", pixels: height },
    }
}

/// The name of a folder or file without its parents, or a hub id unchanged.
fn named(typed: &str) -> String {
    let path = Path::new(typed);
    let name = path.file_name().and_then(|name| name.to_str()).filter(|_| path.exists());
    name.unwrap_or(typed).to_string()
}

#[cfg(feature = "hub")]
fn folder_of(typed: &str, variant: Option<&str>) -> Outcome<PathBuf> {
    use atedm_sdxl::hub::{HubSettings, is_hub_id, snapshot};
    if is_hub_id(typed) {
        return Ok(snapshot(typed, variant, &HubSettings::from_environment())?);
    }
    Ok(PathBuf::from(typed))
}

#[cfg(not(feature = "hub"))]
fn folder_of(typed: &str, _variant: Option<&str>) -> Outcome<PathBuf> {
    let path = Path::new(typed);
    let like_a_hub_id = typed.split('/').count() == 2
        && typed.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    if !path.exists() && like_a_hub_id {
        let reason = "no such folder or file, and for a hub id this build lacks the cargo feature `hub`";
        return Err(Failure::file(path, reason));
    }
    Ok(path.to_path_buf())
}
