//! Opens the checkpoint of `--model`, or the built-in one.

use std::path::{Path, PathBuf};

use atedm_core::DType;
use atedm_experiment::model::Model;
use atedm_experiment::subject::Subject;
use atedm_sdxl::checkpoint::OpenOptions;

use crate::args::{EngineArgs, ModelArgs};
use crate::builtin;
use crate::failure::{Failure, Outcome};

/// Opens a folder or a single file, or fetches a hub id (cargo feature `hub`). Opens the built-in model if none is named.
/// Of a hub id's files, those of `--variant` are fetched, else those of `fetched` if they exist.
pub(crate) fn open(args: &ModelArgs, fetched: Option<&str>) -> Outcome<Model> {
    let options = args.options();
    match args.model.as_deref().filter(|typed| !builtin::is_meant(typed)) {
        Some(typed) => {
            let folder = folder_of(typed, args.variant.as_deref().or(fetched))?;
            Model::named(&folder, named(typed), options)
        }
        None => {
            let unpacked = builtin::unpack()?;
            let model = Model::named(&unpacked.folder(), unpacked.name(), options)?;
            Ok(model.holding(unpacked))
        }
    }
}

/// Like [`open`], for a run. If the run uses half precision, a hub id's half-precision files are fetched.
pub(crate) fn open_for(engine: &EngineArgs, args: &ModelArgs) -> Outcome<Model> {
    let half = DType::from(engine.dtype).size_in_bytes() == 2;
    open(args, half.then_some("fp16"))
}

/// SD-XL base 1.0, or the chosen checkpoint. For a plain folder, the configurations suffice; weights may be missing.
pub(crate) fn subject(args: &ModelArgs) -> Outcome<Subject> {
    let plain = args.options() == OpenOptions::default();
    match args.model.as_deref() {
        None if plain => Ok(Subject::sdxl_base()),
        None => {
            Err(Failure::usage("--model: expected a checkpoint, because other flags replace parts of it"))
        }
        Some(typed) if plain && Path::new(typed).join("unet").is_dir() => {
            Subject::of_folder(Path::new(typed))
        }
        Some(_) => Ok(Subject::of_model(open(args, None)?)),
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
