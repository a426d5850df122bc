//! The contents of a run's folder, with the shards combined.

use std::collections::btree_map::{BTreeMap, Entry};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
use crate::layout::{INFO, masks_path};
use crate::members::{Members, file_inside};
use crate::merge::run_folders;
use crate::reading::{read_config, read_info, read_prompt_lines, read_results};
use crate::record::{PointInfo, PromptLine, Record, RunInfo};

/// A finished image and the folder of its files.
#[derive(Debug)]
pub struct StoredImage {
    /// The run's folder.
    pub folder: PathBuf,
    /// Its line of `results.jsonl`.
    pub record: Record,
}

impl StoredImage {
    /// The path of its masks, if the file exists.
    pub fn masks(&self) -> Outcome<Option<PathBuf>> {
        file_inside(&self.folder, &masks_path(&self.record.id))
    }
}

/// The finished part of a run.
#[derive(Debug)]
pub struct Gathered {
    /// `run.json`.
    pub info: RunInfo,
    /// All prompts of the run.
    pub prompts: Vec<PromptLine>,
    /// The text of the configuration.
    pub config: String,
    /// Number of folders that results were read from.
    pub folders: usize,
    /// The images by id. If several shards made an image, the first shard's.
    pub records: BTreeMap<String, StoredImage>,
    /// Number of images that occurred more than once.
    pub doubles: usize,
}

impl Gathered {
    /// Reads a run's folder and the shards in it.
    pub fn read(folder: &Path) -> Outcome<Self> {
        let folders = run_folders(folder)?;
        let first = folders.first().map_or(folder, PathBuf::as_path);
        let info = RunInfo { shard: None, ..read_info(first)? };
        let mut run = Self {
            prompts: read_prompt_lines(first)?,
            config: read_config(first)?,
            folders: folders.len(),
            info,
            records: BTreeMap::new(),
            doubles: 0,
        };
        let members = Members::of(&run.info, &run.prompts);
        for folder in &folders {
            if read_info(folder)?.run_hash != run.info.run_hash {
                let reason =
                    format!("is of another run than {}: their configurations differ", first.display());
                return Err(Failure::file(&folder.join(INFO), reason));
            }
            for (id, record) in read_results(folder, &members)? {
                match run.records.entry(id) {
                    Entry::Vacant(place) => {
                        place.insert(StoredImage { folder: folder.clone(), record });
                    }
                    Entry::Occupied(_) => run.doubles += 1,
                }
            }
        }
        Ok(run)
    }

    /// The point with this id or, if no point has it, with this label.
    ///
    /// # Errors
    /// [`Failure::Usage`] with the points that there are.
    pub fn point_named(&self, name: &str) -> Outcome<&PointInfo> {
        const MOST: usize = 8;
        let points = &self.info.points;
        let by_id = points.iter().find(|point| point.id == name);
        by_id.or_else(|| points.iter().find(|point| point.label == name)).ok_or_else(|| {
            let mut known: Vec<&str> = points.iter().take(MOST).map(|point| point.id.as_str()).collect();
            known.extend((points.len() > MOST).then_some("…"));
            let known = known.join(", ");
            Failure::usage(format!("expected a point of the run ({known}), got {name:?}"))
        })
    }

    /// Number of images in the whole run.
    pub fn total(&self) -> usize {
        self.info.points.len() * self.prompts.len()
    }

    /// The image of a point and a prompt.
    pub fn image(&self, point: &str, prompt: &str) -> Option<&StoredImage> {
        self.records.get(&format!("{point}/{prompt}"))
    }

    /// The finished images of a point, in the order of the prompts.
    pub fn of_point<'a>(&'a self, point: &'a PointInfo) -> impl Iterator<Item = &'a Record> {
        self.prompts.iter().filter_map(|prompt| Some(&self.image(&point.id, &prompt.id)?.record))
    }

    /// The first prompts that have images, at most `count`.
    pub fn first_prompts(&self, count: usize) -> Vec<&PromptLine> {
        let has_any = |prompt: &&PromptLine| {
            self.info.points.iter().any(|point| self.image(&point.id, &prompt.id).is_some())
        };
        self.prompts.iter().filter(has_any).take(count).collect()
    }

    /// The prompts with these ids.
    ///
    /// # Errors
    /// [`Failure::Usage`] with the id that no prompt has.
    pub fn prompts_of(&self, ids: &[String]) -> Outcome<Vec<&PromptLine>> {
        let find = |id: &String| {
            self.prompts
                .iter()
                .find(|prompt| prompt.id == *id)
                .ok_or_else(|| Failure::usage(format!("expected the id of a prompt of the run, got {id:?}")))
        };
        ids.iter().map(find).collect()
    }
}
