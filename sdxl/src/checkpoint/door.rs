//! Checks that a path is a folder of an SD-XL pipeline. If it is not, the error says what it is instead.

use std::io::{ErrorKind, Read};
use std::path::Path;

use atedm_core::{Error, Result};

use crate::config::Fields;
use crate::weights::what_it_is;

const INDEX: &str = "model_index.json";
const EXPECTED: &str =
    "expected a diffusers folder (model_index.json, unet/, vae/, …) or one safetensors file";

/// Pipelines that have the parts of the first one, so a text gives the same image.
const PIPELINES: [&str; 3] =
    ["StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"];

/// Other SD-XL pipelines, each with the extra step that this crate does not do. Running them without it would be
/// silently wrong.
const OTHERS: [(&str, &str); 5] = [
    (
        "ControlNet",
        "it runs a control network beside the U-Net: open an ordinary pipeline, and the control network apart",
    ),
    ("PAG", "it guides by perturbed attention"),
    ("Adapter", "it runs an adapter beside the U-Net"),
    ("InstructPix2Pix", "it edits an image as a text says"),
    ("KDiffusion", "it samples by k-diffusion"),
];

/// Reads `model_index.json` of a checkpoint whose pipeline runs here.
///
/// # Errors
/// The errors of [`super::Checkpoint::open`].
pub(super) fn model_index(root: &Path) -> Result<Fields> {
    if root.exists() && !root.is_dir() {
        return Err(Error::config(root.display().to_string(), not_a_folder(root)));
    }
    let index = Fields::read(&root.join(INDEX)).map_err(|error| with_hint(root, error))?;
    match index.text("_class_name")? {
        Some(class) if PIPELINES.contains(&class) => {}
        Some(class) => return Err(index.error("_class_name", unlike(class))),
        None => return Err(index.error("_class_name", "missing")),
    }
    Ok(index)
}

/// The reason why a pipeline of this class cannot run.
fn unlike(class: &str) -> String {
    if !class.starts_with("StableDiffusionXL") {
        return format!("{class:?} is no SD-XL pipeline");
    }
    let known = OTHERS.iter().find(|(part, _)| class.contains(part));
    let why = known.map_or("it is not known here", |(_, why)| why);
    format!("{class:?} is not supported: {why}; expected {}", PIPELINES.join(", "))
}

/// Describes a file that was given in place of a folder.
fn not_a_folder(file: &Path) -> String {
    if file.extension().is_some_and(|extension| extension == "json") {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return format!("is a file of a checkpoint, expected its folder: {}", folder.display());
    }
    if !file.is_file() {
        return format!("is neither a folder nor a file: {EXPECTED}");
    }
    let mut beginning = Vec::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(1 << 10).read_to_end(&mut beginning));
    match read.ok().and_then(|_| what_it_is(&beginning)) {
        Some(what) => format!("{what}; {EXPECTED}"),
        None => format!("is a file: {EXPECTED}"),
    }
}

/// Adds a hint where the checkpoint may be, for a folder without an index.
fn with_hint(root: &Path, error: Error) -> Error {
    let Error::Io { path, source } = error else { return error };
    let above = root.parent().filter(|above| above.join(INDEX).is_file());
    let hint = if source.kind() != ErrorKind::NotFound || path.is_symlink() || !root.is_dir() {
        None
    } else if root.join("snapshots").is_dir() {
        Some("this is a repository in the hub's cache: expected a folder below its snapshots/".to_string())
    } else {
        above.map(|above| format!("this is one part of a checkpoint: expected {}", above.display()))
    };
    match hint {
        Some(hint) => Error::Io {
            path,
            source: std::io::Error::new(ErrorKind::NotFound, format!("no such file: {hint}")),
        },
        None => Error::Io { path, source },
    }
}
