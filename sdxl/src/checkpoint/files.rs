//! Finding a part's weight files: variants and shards.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use atedm_core::{Error, Result};
use serde_json::Value;

use crate::config::Fields;
use crate::weights::WeightFile;

/// Variants tried, after the plain files, when none is asked for.
const VARIANTS: [&str; 2] = ["fp16", "bf16"];

/// The weight files in `folder` whose names begin with `stem`.
pub(super) fn find(folder: &Path, stem: &str, variant: Option<&str>) -> Result<Vec<WeightFile>> {
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
        if let Some(files) = of_variant(folder, stem, *variant)? {
            return Ok(files);
        }
    }
    let [single, ..] = names(stem, variants.first().copied().flatten());
    let hint = if folder.join(format!("{stem}.bin")).exists() || folder.join("pytorch_model.bin").exists() {
        " (there is a .bin file: only safetensors are read)"
    } else {
        ""
    };
    let more = if variant.is_none() { ", nor one of a variant" } else { "" };
    Err(Error::weights(folder.join(single), "", format!("no such file, nor an index of shards{more}{hint}")))
}

/// A single file's name, and the two ways to name an index of shards.
fn names(stem: &str, variant: Option<&str>) -> [String; 3] {
    match variant {
        None => [format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json"), String::new()],
        Some(v) => [
            format!("{stem}.{v}.safetensors"),
            format!("{stem}.safetensors.index.{v}.json"),
            format!("{stem}.{v}.safetensors.index.json"),
        ],
    }
}

fn of_variant(folder: &Path, stem: &str, variant: Option<&str>) -> Result<Option<Vec<WeightFile>>> {
    let [single, indices @ ..] = names(stem, variant);
    let single = folder.join(single);
    if single.exists() {
        return Ok(Some(vec![single.into()]));
    }
    let index =
        indices.iter().filter(|name| !name.is_empty()).map(|name| folder.join(name)).find(|p| p.exists());
    index.map(|index| shards(folder, &index)).transpose()
}

/// The shards that `index` names, each once.
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
    let check = |path: PathBuf| match std::fs::metadata(&path) {
        Ok(_) => Ok(path.into()),
        Err(source) => Err(Error::io(path, source)),
    };
    paths.map(check).collect()
}
