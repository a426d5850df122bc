//! One folder of many: what shards made, checked to be complete and without doubles, its lines sorted by id.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use atedm_sdxl::output::UNFINISHED;

use super::folder::{
    CONFIG, INFO, MASKS, PROMPTS, RESULTS, info_bytes, read_info, read_prompt_lines, read_results,
};
use super::record::{Record, RunInfo};
use crate::failure::{Failure, Outcome};
use crate::files::{NamedFile, OutputDir};

/// What was merged.
pub(crate) struct Merged {
    pub(crate) folders: usize,
    pub(crate) images: usize,
}

/// A file that goes beside the lines, and how it is made of the sorted records.
pub(crate) type ExtraFile = (&'static str, fn(&[&Record]) -> Outcome<Vec<u8>>);

/// Merges runs' folders into a new one, with `extra` files. A folder that holds `shard-…` folders stands for these.
pub(crate) fn merge(inputs: &[PathBuf], output: &Path, extra: &[ExtraFile]) -> Outcome<Merged> {
    let mut folders = Vec::new();
    for input in inputs {
        folders.extend(run_folders(input)?);
    }
    let place = OutputDir::prepare(output)?.require_empty()?;
    let (info, mut records) = (common_info(&folders)?, BTreeMap::<String, (&Path, Record)>::new());
    for folder in &folders {
        for (id, record) in read_results(folder)? {
            if let Some((other, _)) = records.get(&id) {
                let reason = format!("has {id}, and so has {}: expected each id once", other.display());
                return Err(Failure::file(folder, reason));
            }
            records.insert(id, (folder, record));
        }
    }
    let first = folders.first().map_or(Path::new("."), PathBuf::as_path);
    complete(&info, first, &records)?;
    let sorted: Vec<&Record> = records.values().map(|(_, record)| record).collect();
    let made = extra.iter().map(|(name, make)| Ok((name.to_string(), make(&sorted)?)));
    let made: Vec<NamedFile> = made.collect::<Outcome<_>>()?;
    write(place.path(), (first, &info), &records, &made)?;
    Ok(Merged { folders: folders.len(), images: records.len() })
}

/// The folder itself and the shards in it, whichever hold results.
pub(crate) fn run_folders(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    if folder.join(INFO).is_file() {
        found.push(folder.to_path_buf());
    }
    let mut shards = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| Failure::file(folder, error))? {
        let path = entry.map_err(|error| Failure::file(folder, error))?.path();
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("shard-"));
        if named && path.join(INFO).is_file() {
            shards.push(path);
        }
    }
    shards.sort();
    found.extend(shards);
    if found.is_empty() {
        return Err(Failure::file(
            folder,
            format!("expected the folder of a run, with {INFO} or shard-… in it"),
        ));
    }
    Ok(found)
}

/// The run that all folders are of.
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

/// That there is a line for every point and prompt, made under the point's settings, and no other.
fn complete(info: &RunInfo, folder: &Path, records: &BTreeMap<String, (&Path, Record)>) -> Outcome {
    let prompts = read_prompt_lines(folder)?;
    let mut missing = Vec::new();
    let mut known = 0;
    for point in &info.points {
        for prompt in &prompts {
            let id = format!("{}/{}", point.id, prompt.id);
            match records.get(&id) {
                None => missing.push(id),
                Some((place, record)) if record.config_hash != point.config_hash => {
                    let reason = format!("{id} was made under other settings than {INFO} has");
                    return Err(Failure::file(&place.join(RESULTS), reason));
                }
                Some(_) => known += 1,
            }
        }
    }
    if !missing.is_empty() {
        let shown = missing.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let more = if missing.len() > 3 { ", …" } else { "" };
        let (total, count) = (info.points.len() * prompts.len(), missing.len());
        return Err(Failure::run(format!("merge: {count} of {total} images are missing: {shown}{more}")));
    }
    if known < records.len() {
        let reason = format!("expected {known} images, got {}", records.len());
        return Err(Failure::file(folder, reason));
    }
    Ok(())
}

/// The new folder, which appears with everything in it. Images are linked where the file system can, else copied.
fn write(
    output: &Path,
    (first, info): (&Path, &RunInfo),
    records: &BTreeMap<String, (&Path, Record)>,
    extra: &[NamedFile],
) -> Outcome {
    let failed = |error: std::io::Error| Failure::file(output, error);
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed)?;
    let staging = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(parent).map_err(failed)?;
    let mut lines = Vec::new();
    for (folder, record) in records.values() {
        for name in [Some(&record.image), record.latents.as_ref()].into_iter().flatten() {
            link(&folder.join(name), &staging.path().join(name))?;
        }
        let masks = format!("{MASKS}/{}.safetensors", record.id);
        if folder.join(&masks).is_file() {
            link(&folder.join(&masks), &staging.path().join(&masks))?;
        }
        serde_json::to_writer(&mut lines, record).map_err(Failure::run)?;
        lines.push(b'\n');
    }
    fs::write(staging.path().join(RESULTS), lines).map_err(failed)?;
    fs::write(staging.path().join(INFO), info_bytes(info)?).map_err(failed)?;
    for (name, bytes) in extra {
        fs::write(staging.path().join(name), bytes).map_err(failed)?;
    }
    for name in [CONFIG, PROMPTS] {
        fs::copy(first.join(name), staging.path().join(name))
            .map_err(|error| Failure::file(&first.join(name), error))?;
    }
    open_up(staging.path()).map_err(failed)?;
    if output.exists() {
        // it is empty
        fs::remove_dir(output).map_err(failed)?;
    }
    fs::rename(staging.path(), output).map_err(failed)?;
    // The folder has moved: there is nothing left for the guard to remove.
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

/// A temporary folder is its owner's alone; a result is as open as any other new folder.
#[cfg(unix)]
fn open_up(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let like = path.join(super::folder::IMAGES);
    let mode = fs::metadata(like)?.permissions().mode();
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn open_up(_path: &Path) -> std::io::Result<()> {
    Ok(())
}
