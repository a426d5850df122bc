//! The files of `--masks-out` and `--masks-in`: every kept set of a run as safetensors.
//!
//! Each pruning decision is a group of tensors below `step.{step}.{block}.layer.{layer}`, such as
//! `step.3.down.1.0.layer.0`. If a sampler evaluates the U-Net a second time in step 3, the names of that evaluation
//! begin with `step.3+1`. There are `b` batch rows (unconditional halves first, as in the run) and `n` tokens in
//! the stream:
//!
//! | tensor | dtype, shape | |
//! |---|---|---|
//! | `.kept` | I64 `[b, kept]` | positions in the stream before the decision, ascending |
//! | `.scores` | F32 `[b, n]` | absent when the kept sets were replayed |
//! | `.positions` | I64 `[b, n]` | the stream's tokens as positions in the block's grid; absent when it was whole |
//! | `.votes` | I64 `[1]` | votes cast |
//! | `.site` | I64 `[4]` | tokens in the stream, grid height, grid width, number of the U-Net evaluation |
//!
//! The file's metadata names the method and its options.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use atedm_core::plugin::{MaskEntry, MaskKey, MaskSet};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

use super::input::{DATA_MOST, read_bytes};
use crate::failure::{Failure, Outcome};

/// The largest number of tokens in a block's grid: one per latent of 32768 x 32768 pixels.
const MOST_TOKENS: usize = 1 << 24;

/// The metadata that names the method.
pub fn mask_metadata(method: &str, options: &Value) -> HashMap<String, String> {
    let metadata = [
        ("format", "atedm masks 1".to_string()),
        ("method", method.to_string()),
        ("options", options.to_string()),
        ("atedm", env!("CARGO_PKG_VERSION").to_string()),
    ];
    metadata.map(|(key, value)| (key.to_string(), value)).into()
}

/// The bytes of the file, with this metadata.
pub fn masks_bytes(masks: &MaskSet, metadata: HashMap<String, String>) -> Outcome<Vec<u8>> {
    let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (key, entry) in masks.iter() {
        let first = masks.of_step(key.step).next().map_or(key.evaluation, |(first, _)| first.evaluation);
        let again = key.evaluation.saturating_sub(first);
        let group = Group { step: key.step, again, block: key.block.clone(), layer: key.layer };
        let mut add = |field: &str, dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>| {
            tensors.insert(format!("{group}.{field}"), (dtype, shape, bytes));
        };
        let rows = |table: &[Vec<u32>]| {
            (shape_of(table), whole_bytes(table.iter().flatten().map(|&i| i64::from(i))))
        };
        let (shape, bytes) = rows(&entry.kept);
        add("kept", Dtype::I64, shape, bytes);
        if !entry.scores.is_empty() {
            let bytes = entry.scores.iter().flatten().flat_map(|score| score.to_le_bytes()).collect();
            add("scores", Dtype::F32, shape_of(&entry.scores), bytes);
        }
        if !entry.positions.is_empty() {
            let (shape, bytes) = rows(&entry.positions);
            add("positions", Dtype::I64, shape, bytes);
        }
        add("votes", Dtype::I64, vec![1], whole_bytes([entry.votes as i64].into_iter()));
        let site = [entry.tokens, entry.grid.0, entry.grid.1, key.evaluation];
        add("site", Dtype::I64, vec![4], whole_bytes(site.into_iter().map(|number| number as i64)));
    }
    let failed = |error: safetensors::SafeTensorError| Failure::run(format!("masks: {error}"));
    let mut views = Vec::with_capacity(tensors.len());
    for (name, (dtype, shape, bytes)) in &tensors {
        views.push((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).map_err(failed)?));
    }
    safetensors::serialize(views, Some(metadata)).map_err(failed)
}

/// The tensors of one decision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    step: usize,
    /// Evaluations of the step before this one.
    again: usize,
    block: String,
    layer: usize,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, again, block, layer } = self;
        match again {
            0 => write!(f, "step.{step}.{block}.layer.{layer}"),
            _ => write!(f, "step.{step}+{again}.{block}.layer.{layer}"),
        }
    }
}

fn shape_of<T>(rows: &[Vec<T>]) -> Vec<usize> {
    vec![rows.len(), rows.first().map_or(0, Vec::len)]
}

fn whole_bytes(numbers: impl Iterator<Item = i64>) -> Vec<u8> {
    numbers.flat_map(i64::to_le_bytes).collect()
}

/// Reads a file of masks.
pub fn read_masks(path: &Path) -> Outcome<MaskSet> {
    let bytes = read_bytes(path, DATA_MOST)?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| Failure::file(path, format!("expected a safetensors file: {error}")))?;
    let mut groups: BTreeMap<Group, MaskEntry> = BTreeMap::new();
    let mut evaluations: BTreeMap<Group, usize> = BTreeMap::new();
    for (name, view) in file.iter() {
        let at = |reason: String| Failure::file(path, format!("{name}: {reason}"));
        let (group, field) =
            parse_name(name).ok_or_else(|| at("expected a name like step.0.mid.0.layer.0.kept".into()))?;
        let entry = groups.entry(group.clone()).or_default();
        match field {
            "kept" => entry.kept = index_rows(&view).map_err(at)?,
            "positions" => entry.positions = index_rows(&view).map_err(at)?,
            "scores" => entry.scores = score_rows(&view).map_err(at)?,
            "votes" => {
                let [votes] = numbers(&view).map_err(at)?;
                entry.votes = votes;
            }
            "site" => {
                let [tokens, height, width, evaluation] = numbers(&view).map_err(at)?;
                check_grid(tokens, height, width).map_err(at)?;
                entry.tokens = tokens;
                entry.grid = (height, width);
                evaluations.insert(group, evaluation);
            }
            _ => {
                return Err(at(
                    "expected one of kept, scores, positions, votes, site at the end of the name".into(),
                ));
            }
        }
    }
    if groups.is_empty() {
        return Err(Failure::file(path, "expected tensors such as step.0.mid.0.layer.0.kept, got none"));
    }
    let mut masks = MaskSet::default();
    for (group, entry) in groups {
        let Some(&evaluation) = evaluations.get(&group) else {
            return Err(Failure::file(
                path,
                format!("{group}.site: expected this tensor, but it is missing"),
            ));
        };
        if entry.kept.is_empty() {
            return Err(Failure::file(
                path,
                format!("{group}.kept: expected this tensor, but it is missing"),
            ));
        }
        let Group { step, block, layer, .. } = group;
        masks.insert(MaskKey { step, evaluation, block, layer }, entry);
    }
    Ok(masks)
}

/// Parses `step.{step}.{block}.layer.{layer}.{field}`. The step may also be `{step}+{again}`.
fn parse_name(name: &str) -> Option<(Group, &str)> {
    let (step, rest) = name.strip_prefix("step.")?.split_once('.')?;
    let (rest, field) = rest.rsplit_once('.')?;
    let (rest, layer) = rest.rsplit_once('.')?;
    let block = rest.strip_suffix(".layer")?;
    let (step, again) = step.split_once('+').unwrap_or((step, "0"));
    let (step, again) = (step.parse().ok()?, again.parse().ok()?);
    Some((Group { step, again, block: block.to_string(), layer: layer.parse().ok()? }, field))
}

fn whole_numbers(view: &TensorView<'_>) -> Result<Vec<i64>, String> {
    if view.dtype() != Dtype::I64 {
        return Err(format!("expected dtype I64, got {:?}", view.dtype()));
    }
    Ok(view.data().chunks_exact(8).filter_map(|b| b.try_into().ok()).map(i64::from_le_bytes).collect())
}

fn numbers<const N: usize>(view: &TensorView<'_>) -> Result<[usize; N], String> {
    let wrong = || format!("expected {N} numbers of at least 0");
    let values = whole_numbers(view)?.into_iter().map(usize::try_from).collect::<Result<Vec<usize>, _>>();
    values.map_err(|_| wrong())?.try_into().map_err(|_| wrong())
}

/// Checks that tokens fit their grid and that the grid is not too large. Code that draws a mask allocates the whole
/// grid.
fn check_grid(tokens: usize, height: usize, width: usize) -> Result<(), String> {
    match height.checked_mul(width) {
        Some(all) if all <= MOST_TOKENS && tokens <= all => Ok(()),
        Some(all) if all <= MOST_TOKENS => {
            Err(format!("expected at most {all} tokens on {height} x {width}, got {tokens}"))
        }
        _ => Err(format!("expected a grid of at most {MOST_TOKENS} tokens, got {height} x {width}")),
    }
}

fn width_of(view: &TensorView<'_>) -> Result<usize, String> {
    match view.shape() {
        [rows, width] if *rows > 0 && *width > 0 => Ok(*width),
        other => Err(format!("expected shape [batch, count], got {other:?}")),
    }
}

fn index_rows(view: &TensorView<'_>) -> Result<Vec<Vec<u32>>, String> {
    let width = width_of(view)?;
    let indices = whole_numbers(view)?.into_iter().map(u32::try_from).collect::<Result<Vec<u32>, _>>();
    Ok(indices
        .map_err(|_| "expected token positions".to_string())?
        .chunks(width)
        .map(<[u32]>::to_vec)
        .collect())
}

fn score_rows(view: &TensorView<'_>) -> Result<Vec<Vec<f32>>, String> {
    let width = width_of(view)?;
    if view.dtype() != Dtype::F32 {
        return Err(format!("expected dtype F32, got {:?}", view.dtype()));
    }
    let scores: Vec<f32> =
        view.data().chunks_exact(4).filter_map(|b| b.try_into().ok()).map(f32::from_le_bytes).collect();
    Ok(scores.chunks(width).map(<[f32]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks() -> MaskSet {
        let key = |step, block: &str, layer| MaskKey { step, evaluation: step, block: block.into(), layer };
        let whole = MaskEntry {
            tokens: 4,
            kept: vec![vec![0, 2], vec![1, 3]],
            scores: vec![vec![0.4, 0.1, 0.3, 0.2]; 2],
            positions: Vec::new(),
            votes: 5,
            grid: (2, 2),
        };
        let again = MaskEntry {
            tokens: 2,
            kept: vec![vec![1]; 2],
            scores: Vec::new(),
            positions: vec![vec![0, 2], vec![1, 3]],
            ..whole.clone()
        };
        [(key(0, "mid.0", 0), whole), (key(7, "down.1.0", 1), again)].into_iter().collect()
    }

    #[test]
    fn masks_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        std::fs::write(&path, masks_bytes(&masks(), HashMap::new()).unwrap()).unwrap();
        assert_eq!(read_masks(&path).unwrap(), masks());
    }

    /// Heun's two evaluations of a step choose kept sets of their own.
    #[test]
    fn evaluations_of_one_step_stay_apart() {
        let key = |step, evaluation| MaskKey { step, evaluation, block: "mid.0".into(), layer: 0 };
        let entry =
            |kept: u32| MaskEntry { tokens: 4, kept: vec![vec![kept]], grid: (2, 2), ..MaskEntry::default() };
        let masks: MaskSet =
            [(key(3, 0), entry(0)), (key(3, 1), entry(1)), (key(4, 2), entry(2))].into_iter().collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        std::fs::write(&path, masks_bytes(&masks, HashMap::new()).unwrap()).unwrap();
        assert_eq!(read_masks(&path).unwrap(), masks);
        let shown: Vec<usize> = masks.of_step(3).map(|(key, _)| key.evaluation).collect();
        assert_eq!(shown, [0]);
    }

    #[test]
    fn strange_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let bytes = 3f32.to_le_bytes();
        for (name, named) in [
            ("kept", "kept: expected a name"),
            ("step.0.mid.0.layer.0.kept", "expected shape"),
            ("step.0.mid.0.layer.0.votes", "I64"),
        ] {
            let view = TensorView::new(Dtype::F32, vec![1], &bytes).unwrap();
            std::fs::write(&path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
            let message = read_masks(&path).unwrap_err().to_string();
            assert!(message.contains("m.safetensors") && message.contains(named), "{message}");
        }
        let name = "step.0.mid.0.layer.0.site";
        for (site, named) in [
            (
                [4i64, 1 << 20, 1 << 20, 0],
                "site: expected a grid of at most 16777216 tokens, got 1048576 x 1048576",
            ),
            ([4, i64::MAX, i64::MAX, 0], "site: expected a grid of at most"),
            ([5, 2, 2, 0], "site: expected at most 4 tokens on 2 x 2, got 5"),
            ([4, -2, 2, 0], "site: expected 4 numbers of at least 0"),
        ] {
            let bytes = whole_bytes(site.into_iter());
            let view = TensorView::new(Dtype::I64, vec![4], &bytes).unwrap();
            std::fs::write(&path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
            let message = read_masks(&path).unwrap_err().to_string();
            assert!(message.contains(named), "{message}");
        }
        let empty: [(&str, TensorView<'_>); 0] = [];
        std::fs::write(&path, safetensors::serialize(empty, None).unwrap()).unwrap();
        assert!(read_masks(&path).is_err());
    }
}
