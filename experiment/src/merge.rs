//! Makes one folder of many. The images of the shards must be complete and without duplicates. Lines are sorted by id.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use atedm_sdxl::output::UNFINISHED;

use super::folder::{info_bytes, prompt_bytes};
use super::layout::{CONFIG, INFO, PROMPTS, RESULTS, masks_path};
use super::members::{Members, file_inside, inside};
use super::reading::{read_config, read_info, read_prompt_lines, read_results};
use super::record::{PromptLine, Record, RunInfo};
use crate::failure::{Failure, Outcome};
use crate::files::{NamedFile, OutputDir};

/// The result of a merge.
pub struct Merged {
    /// Number of folders that were read.
    pub folders: usize,
    /// Number of images in the new folder.
    pub images: usize,
}

/// The name of an additional file, and a function that makes it from the sorted records.
pub type ExtraFile = (&'static str, fn(&[&Record]) -> Outcome<Vec<u8>>);

/// Merges runs' folders into a new one, with `extra` files. A folder with `shard-…` folders is replaced by these.
pub fn merge(inputs: &[PathBuf], output: &Path, extra: &[ExtraFile]) -> Outcome<Merged> {
    let mut folders = Vec::new();
    for input in inputs {
        folders.extend(run_folders(input)?);
    }
    let place = OutputDir::prepare(output)?.require_empty()?;
    let first = folders.first().map_or(Path::new("."), PathBuf::as_path);
    let (info, prompts) = (common_info(&folders)?, read_prompt_lines(first)?);
    let members = Members::of(&info, &prompts);
    let mut records = BTreeMap::<String, (&Path, Record)>::new();
    for folder in &folders {
        for (id, record) in read_results(folder, &members)? {
            if let Some((other, _)) = records.get(&id) {
                let reason = format!("has {id}, and so has {}: expected each id once", other.display());
                return Err(Failure::file(folder, reason));
            }
            records.insert(id, (folder, record));
        }
    }
    complete(&info, &prompts, &records)?;
    let sorted: Vec<&Record> = records.values().map(|(_, record)| record).collect();
    let made = extra.iter().map(|(name, make)| Ok((name.to_string(), make(&sorted)?)));
    let made: Vec<NamedFile> = made.collect::<Outcome<_>>()?;
    let of_run = [
        (CONFIG.to_string(), read_config(first)?.into_bytes()),
        (PROMPTS.to_string(), prompt_bytes(&prompts)?),
        (INFO.to_string(), info_bytes(&info)?),
    ];
    write(place.path(), &records, &[&of_run[..], &made].concat())?;
    Ok(Merged { folders: folders.len(), images: records.len() })
}

/// The folder and its shards, if they hold results. A link among them is an error, because it leads out of the run.
pub fn run_folders(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let found = begun_folders(folder)?;
    if found.is_empty() {
        return Err(Failure::file(
            folder,
            format!("expected the folder of a run, with {INFO} or shard-… in it"),
        ));
    }
    Ok(found)
}

/// Like [`run_folders`], but returns an empty list if no run has begun in the folder.
pub fn begun_folders(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    let holds_results = |folder: &Path| Ok::<bool, Failure>(file_inside(folder, INFO)?.is_some());
    // the named folder may be a link, but its contents may not
    if folder.is_dir() && holds_results(folder)? {
        found.push(folder.to_path_buf());
    }
    let mut shards = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| Failure::file(folder, error))? {
        let name = entry.map_err(|error| Failure::file(folder, error))?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("shard-") {
            let shard = inside(folder, &name)?;
            if shard.is_dir() && holds_results(&shard)? {
                shards.push(shard);
            }
        }
    }
    shards.sort();
    found.extend(shards);
    Ok(found)
}

/// The run that all folders belong to.
fn common_info(folders: &[PathBuf]) -> Outcome<RunInfo> {
    let Some((first, rest)) = folders.split_first() else {
        return Err(Failure::usage("merge: expected at least one folder"));
    };
    let info = read_info(first)?;
    for folder in rest {
        if read_info(folder)?.run_hash != info.run_hash {
            let reason = format!("is of another run than {}: their configurations differ", first.display());
            return Err(Failure::file(&folder.join(INFO), reason));
        }
    }
    Ok(RunInfo { shard: None, ..info })
}

/// Checks that there is a line for every point and prompt.
fn complete(info: &RunInfo, prompts: &[PromptLine], records: &BTreeMap<String, (&Path, Record)>) -> Outcome {
    let ids = info.points.iter().flat_map(|point| prompts.iter().map(move |prompt| (&point.id, &prompt.id)));
    let ids = ids.map(|(point, prompt)| format!("{point}/{prompt}"));
    let missing: Vec<String> = ids.filter(|id| !records.contains_key(id)).collect();
    if !missing.is_empty() {
        let shown = missing.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let more = if missing.len() > 3 { ", …" } else { "" };
        let (total, count) = (info.points.len() * prompts.len(), missing.len());
        return Err(Failure::run(format!("merge: {count} of {total} images are missing: {shown}{more}")));
    }
    Ok(())
}

/// Writes the new folder, which appears with everything in it. Images are linked if the file system can, else copied.
fn write(output: &Path, records: &BTreeMap<String, (&Path, Record)>, files: &[NamedFile]) -> Outcome {
    let failed = |error: std::io::Error| Failure::file(output, error);
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed)?;
    let staging = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(parent).map_err(failed)?;
    let mut lines = Vec::new();
    for (folder, record) in records.values() {
        let masks = masks_path(&record.id);
        for name in [Some(&record.image), record.latents.as_ref(), Some(&masks)].into_iter().flatten() {
            // the lines were checked, so their files exist; masks are optional
            if let Some(file) = file_inside(folder, name)? {
                link(&file, &staging.path().join(name))?;
            }
        }
        serde_json::to_writer(&mut lines, record).map_err(Failure::run)?;
        lines.push(b'\n');
    }
    fs::write(staging.path().join(RESULTS), lines).map_err(failed)?;
    for (name, bytes) in files {
        fs::write(staging.path().join(name), bytes).map_err(failed)?;
    }
    open_up(staging.path()).map_err(failed)?;
    if output.exists() {
        // the folder is empty
        fs::remove_dir(output).map_err(failed)?;
    }
    fs::rename(staging.path(), output).map_err(failed)?;
    // The folder has moved, so the guard has nothing left to remove.
    let _moved = staging.keep();
    Ok(())
}

fn link(from: &Path, to: &Path) -> Outcome {
    let failed = |error: std::io::Error| Failure::file(from, error);
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop)).map_err(failed)
}

/// A temporary folder is private to its owner. This gives a result the permissions of any other new folder.
#[cfg(unix)]
fn open_up(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let like = path.join(super::layout::IMAGES);
    let mode = fs::metadata(like)?.permissions().mode();
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn open_up(_path: &Path) -> std::io::Result<()> {
    Ok(())
}
