//! Images that other runs have made already. A run takes them over where every setting is equal.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::engine::Batch;
use crate::failure::{Failure, Outcome};
use crate::files::{DATA_MOST, read_bytes};
use crate::folder::RunFolder;
use crate::hashes::run_hash;
use crate::layout::{image_path, latents_path, masks_path};
use crate::members::{Members, file_inside};
use crate::merge::run_folders;
use crate::plan::{Plan, PlannedPoint};
use crate::reading::{read_info, read_prompt_lines, read_results};
use crate::record::{Distances, PromptLine, Record};

/// What decides an image: the hash of its settings, its prompt and its seed.
type Key = (String, String, u64);

/// A finished image of another run.
struct Stocked {
    folder: PathBuf,
    record: Record,
    /// The hash of the settings of the image with which it was compared.
    reference: Option<String>,
}

/// The finished images of other runs.
pub(super) struct Stock(HashMap<Key, Stocked>);

impl Stock {
    /// Reads the folders of runs, also those with shards.
    ///
    /// # Errors
    /// [`Failure::Run`] naming a folder that holds no run, or one whose images were decoded in other tiles.
    pub(super) fn read(folders: &[PathBuf], plan: &Plan) -> Outcome<Self> {
        let mut stock = HashMap::new();
        for folder in folders {
            for folder in run_folders(folder)? {
                stock.extend(stocked(&folder, plan)?);
            }
        }
        Ok(Self(stock))
    }

    /// Copies images to `folder`, and removes them from `batches`. Gives their number.
    pub(super) fn fill(
        &self,
        folder: &mut RunFolder<'_>,
        plan: &Plan,
        batches: &mut Vec<Batch>,
    ) -> Outcome<usize> {
        let mut taken = 0;
        for batch in batches.iter_mut() {
            let Some(prompt) = batch.prompts.first().cloned() else { continue };
            let mut left = Vec::with_capacity(batch.points.len());
            for &place in &batch.points {
                match self.copy(&plan.points[place], &prompt, plan, folder)? {
                    true => taken += 1,
                    false => left.push(place),
                }
            }
            batch.points = left;
        }
        batches.retain(|batch| !batch.points.is_empty());
        Ok(taken)
    }

    /// Copies the image of a point and a prompt, if another run has it with everything that this run wants to know.
    fn copy(
        &self,
        point: &PlannedPoint,
        prompt: &PromptLine,
        plan: &Plan,
        folder: &mut RunFolder<'_>,
    ) -> Outcome<bool> {
        let info = &point.info;
        let key = (info.config_hash.clone(), prompt.prompt.clone(), prompt.seed);
        let Some(Stocked { folder: from, record, reference }) = self.0.get(&key) else { return Ok(false) };
        let id = format!("{}/{}", info.id, prompt.id);
        let wanted = point.reference.map(|place| &plan.points[place].info);
        let distances = match (wanted, &record.distances) {
            (None, _) => None,
            (Some(wanted), Some(found)) if reference.as_ref() == Some(&wanted.config_hash) => {
                Some(Distances { to: format!("{}/{}", wanted.id, prompt.id), ..found.clone() })
            }
            _ => return Ok(false),
        };
        let mut files = vec![(record.image.clone(), image_path(&id))];
        if point.is_reference {
            let Some(latents) = record.latents.clone() else { return Ok(false) };
            files.push((latents, latents_path(&id)));
        }
        if plan.masks.contains(&prompt.id) {
            files.push((masks_path(&record.id), masks_path(&id)));
        }
        let mut contents = Vec::with_capacity(files.len());
        for (name, own) in files {
            let Some(file) = file_inside(from, &name)? else { return Ok(false) };
            contents.push((own, read_bytes(&file, DATA_MOST)?));
        }
        contents.iter().try_for_each(|(name, bytes)| folder.write(name, bytes))?;
        folder.append(Record {
            point: info.id.clone(),
            label: info.label.clone(),
            prompt_id: prompt.id.clone(),
            distances,
            image: image_path(&id),
            latents: point.is_reference.then(|| latents_path(&id)),
            id,
            ..record.clone()
        })?;
        Ok(true)
    }
}

/// The finished images of one folder.
fn stocked(folder: &Path, plan: &Plan) -> Outcome<Vec<(Key, Stocked)>> {
    let (info, prompts) = (read_info(folder)?, read_prompt_lines(folder)?);
    // The tiles are the only setting that the points do not tell.
    if run_hash(info.points.iter(), &prompts, plan.vae_tiling)? != info.run_hash {
        return Err(Failure::file(folder, "vae_tiling: expected that of this run, got another"));
    }
    let hashes: HashMap<&str, &str> =
        info.points.iter().map(|point| (point.id.as_str(), point.config_hash.as_str())).collect();
    let reference_of = |id: &str| {
        let point = info.points.iter().find(|point| point.id == id)?;
        hashes.get(point.reference.as_deref()?).map(|hash| hash.to_string())
    };
    let records = read_results(folder, &Members::of(&info, &prompts))?;
    let entry = |record: Record| {
        let key = (record.config_hash.clone(), record.prompt.clone(), record.seed);
        (key, Stocked { folder: folder.to_path_buf(), reference: reference_of(&record.point), record })
    };
    Ok(records.into_values().map(entry).collect())
}
