//! Finds the weight files of a part, with their variants and shards.
//!
//! If a single file and an index of shards exist together, one of them is stale. The choice follows the libraries.
//! diffusers takes the index (`ModelMixin.from_pretrained`), transformers the single file
//! (`_get_resolved_checkpoint_files`).

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

use atedm_core::{Error, Result};
use serde_json::Value;

use super::part::Part;
use crate::config::Fields;
use crate::weights::WeightFile;

/// Variants that are tried after the plain files if the caller names none.
const VARIANTS: [&str; 2] = ["fp16", "bf16"];

/// The weight files of `part` in `folder`.
pub(super) fn find(folder: &Path, part: Part, variant: Option<&str>) -> Result<Vec<WeightFile>> {
    if let Some(name) =
        variant.filter(|v| v.is_empty() || !v.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    {
        return Err(Error::config("variant", format!("expected letters and digits, got {name:?}")));
    }
    let variants = match variant {
        Some(name) => vec![Some(name)],
        None => std::iter::once(None).chain(VARIANTS.map(Some)).collect(),
    };
    for variant in &variants {
        if let Some(files) = of_variant(folder, part, *variant)? {
            return Ok(files);
        }
    }
    let stem = part.stem();
    let others =
        ["bin", "ckpt", "pt", "pth", "msgpack", "onnx"].map(|extension| format!("{stem}.{extension}"));
    let other = others
        .iter()
        .map(String::as_str)
        .chain(["pytorch_model.bin"])
        .find(|name| folder.join(name).exists());
    let hint = other.map_or(String::new(), |name| format!(" (there is {name}: only safetensors are read)"));
    let more = if variant.is_none() { ", nor one of a variant" } else { "" };
    let single = folder.join(single_name(stem, variant));
    Err(Error::weights(single, "", format!("no such file, nor an index of shards{more}{hint}")))
}

fn single_name(stem: &str, variant: Option<&str>) -> String {
    match variant {
        None => format!("{stem}.safetensors"),
        Some(v) => format!("{stem}.{v}.safetensors"),
    }
}

/// The names that an index of shards has had over the libraries' versions, newest first.
fn index_names(stem: &str, variant: Option<&str>) -> Vec<String> {
    match variant {
        None => vec![format!("{stem}.safetensors.index.json")],
        Some(v) => vec![
            format!("{stem}.safetensors.index.{v}.json"),
            format!("{stem}.safetensors.{v}.index.json"),
            format!("{stem}.{v}.safetensors.index.json"),
        ],
    }
}

fn of_variant(folder: &Path, part: Part, variant: Option<&str>) -> Result<Option<Vec<WeightFile>>> {
    let single = folder.join(single_name(part.stem(), variant));
    let indices: Vec<PathBuf> =
        index_names(part.stem(), variant).into_iter().map(|name| folder.join(name)).collect();
    let index = indices.iter().find(|index| index.is_file());
    let index_goes_first = matches!(part, Part::UNet | Part::Vae);
    match index {
        Some(index) if index_goes_first || !single.exists() => shards(folder, index).map(Some),
        _ if single.exists() => Ok(Some(vec![single.into()])),
        // A dead link means that the file should be read. So another variant must not replace it.
        _ => std::iter::once(&single)
            .chain(&indices)
            .try_for_each(|path| refuse_dead_link(path))
            .map(|()| None),
    }
}

/// Returns an error if `path` is a link whose target is missing. An emptied cache leaves such links.
pub(super) fn refuse_dead_link(path: &Path) -> Result<()> {
    if path.is_symlink() && !path.exists() {
        return Err(Error::io(path, io::ErrorKind::NotFound.into()));
    }
    Ok(())
}

/// The bytes of a file; which files there are differs between checkpoints.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::io(path, source)),
    }
}

/// The shards that `index` names, without repetition.
fn shards(folder: &Path, index: &Path) -> Result<Vec<WeightFile>> {
    let fields = Fields::read(index)?;
    let Some(Value::Object(map)) = fields.get("weight_map") else {
        return Err(fields.error("weight_map", "expected an object from tensor to file"));
    };
    let mut shards = BTreeSet::new();
    for (tensor, file) in map {
        let name = file
            .as_str()
            .ok_or_else(|| fields.error("weight_map", format!("{tensor}: expected a file name")))?;
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            let reason = format!("{tensor}: expected a file in the same folder, got {name:?}");
            return Err(fields.error("weight_map", reason));
        }
        shards.insert(name.to_string());
    }
    if shards.is_empty() {
        return Err(fields.error("weight_map", "names no file"));
    }
    let paths = shards.into_iter().map(|name| folder.join(name));
    let check = |path: PathBuf| {
        refuse_dead_link(&path)?;
        if path.exists() {
            return Ok(path.into());
        }
        let index = index.file_name().unwrap_or_default().to_string_lossy();
        Err(Error::weights(path, "", format!("no such file, though {index} names it")))
    };
    paths.map(check).collect()
}
