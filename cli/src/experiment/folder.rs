//! A run's folder: started, taken up again after a kill at any moment, and written to image by image.
//!
//! Only an appended line makes an image count. Before it, the image has its name; so a kill loses the image at work and
//! nothing else. What a kill leaves behind (files under temporary names, a line without its end, an image without a line)
//! is removed or made again.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use atedm_sdxl::output::{self, UNFINISHED};

use super::record::{FORMAT, PromptLine, Record, RunInfo};
use crate::failure::{Failure, Outcome};
use crate::files::OutputFile;

pub(crate) const CONFIG: &str = "config.toml";
pub(crate) const INFO: &str = "run.json";
pub(crate) const PROMPTS: &str = "prompts.jsonl";
pub(crate) const RESULTS: &str = "results.jsonl";
pub(crate) const IMAGES: &str = "images";
pub(crate) const LATENTS: &str = "latents";
/// What was kept, of the prompts that the configuration names: `masks/POINT/PROMPT.safetensors`, as `--masks-out` writes it.
pub(crate) const MASKS: &str = "masks";

/// What a run begins with: written once, the same whenever it is taken up again.
pub(crate) struct Beginning<'a> {
    pub(crate) config: &'a str,
    pub(crate) info: RunInfo,
    pub(crate) prompts: &'a [PromptLine],
}

/// A folder that this process alone writes to.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    results: File,
    done: BTreeMap<String, Record>,
}

impl RunFolder {
    /// Starts a run in a new or empty folder or, if `resume` says so, goes on with what is there.
    pub(crate) fn open(path: &Path, beginning: &Beginning<'_>, resume: bool) -> Outcome<Self> {
        let failed = |error: std::io::Error| Failure::file(path, error);
        let found = entries(path)?;
        if !found.is_empty() && !resume {
            let reason = "expected a new or an empty folder; --resume goes on with what is in it";
            return Err(Failure::file(path, reason));
        }
        let begun = found.iter().any(|name| name == INFO);
        let ours = |name: &String| {
            [CONFIG, INFO, PROMPTS, RESULTS, IMAGES, LATENTS, MASKS].contains(&name.as_str())
                || name.starts_with(UNFINISHED)
        };
        // shards lie in folders of their own beside the files of an unsharded run
        if let Some(foreign) = found.iter().find(|name| !begun && !ours(name) && !name.starts_with("shard-"))
        {
            return Err(Failure::file(
                path,
                format!("expected the folder of a run, got one with {foreign:?}"),
            ));
        }
        for folder in [path.to_path_buf(), path.join(IMAGES), path.join(LATENTS)] {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let lines = path.join(RESULTS);
        let results = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(&lines)
            .map_err(|error| Failure::file(&lines, error))?;
        if let Err(TryLockError::WouldBlock) = results.try_lock() {
            return Err(Failure::file(&lines, "another process is writing to it"));
        }
        remove_unfinished(path)?;
        if begun {
            same_run(path, &beginning.info)?;
        } else {
            begin(path, beginning)?;
        }
        let mut folder = Self { path: path.to_path_buf(), results, done: BTreeMap::new() };
        folder.read_done()?;
        Ok(folder)
    }

    /// The records that are there, by id.
    pub(crate) fn done(&self) -> &BTreeMap<String, Record> {
        &self.done
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file below the folder, whole or not at all.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Outcome {
        let path = self.path.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| Failure::file(folder, error))?;
        }
        OutputFile::prepare(&path)?.write(bytes)
    }

    /// Appends a line; the files that it names must be there.
    pub(crate) fn append(&mut self, record: Record) -> Outcome {
        let lines = self.path.join(RESULTS);
        let mut line = serde_json::to_vec(&record).map_err(Failure::run)?;
        line.push(b'\n');
        let written = self.results.write_all(&line).and_then(|()| self.results.sync_data());
        written.map_err(|error| Failure::file(&lines, error))?;
        self.done.insert(record.id.clone(), record);
        Ok(())
    }

    /// Reads the lines, and cuts off what a kill left of the last one.
    fn read_done(&mut self) -> Outcome {
        let lines = self.path.join(RESULTS);
        let failed = |error: std::io::Error| Failure::file(&lines, error);
        let mut bytes = Vec::new();
        self.results
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.results.read_to_end(&mut bytes))
            .map_err(failed)?;
        let (records, whole) = parse_lines(&lines, &bytes)?;
        if whole < bytes.len() {
            self.results.set_len(whole as u64).map_err(failed)?;
        }
        for record in records {
            check_files(&self.path, &record)?;
            self.done.insert(record.id.clone(), record);
        }
        Ok(())
    }
}

/// The lines of a folder that another process may be writing to, by id.
pub(crate) fn read_results(folder: &Path) -> Outcome<BTreeMap<String, Record>> {
    let lines = folder.join(RESULTS);
    let bytes = fs::read(&lines).map_err(|error| Failure::file(&lines, error))?;
    let (records, _) = parse_lines(&lines, &bytes)?;
    records.iter().try_for_each(|record| check_files(folder, record))?;
    Ok(records.into_iter().map(|record| (record.id.clone(), record)).collect())
}

/// `run.json` of a folder.
pub(crate) fn read_info(folder: &Path) -> Outcome<RunInfo> {
    let path = folder.join(INFO);
    let text = fs::read_to_string(&path).map_err(|error| Failure::file(&path, error))?;
    let info: RunInfo = serde_json::from_str(&text).map_err(|error| Failure::file(&path, error))?;
    if info.format != FORMAT {
        return Err(Failure::file(&path, format!("expected format {FORMAT}, got {}", info.format)));
    }
    Ok(info)
}

/// `prompts.jsonl` of a folder.
pub(crate) fn read_prompt_lines(folder: &Path) -> Outcome<Vec<PromptLine>> {
    let path = folder.join(PROMPTS);
    let text = fs::read_to_string(&path).map_err(|error| Failure::file(&path, error))?;
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|error| Failure::file(&path, format!("line {}: {error}", number + 1)))
    };
    text.lines().enumerate().map(parse).collect()
}

/// The prompts as such a file.
pub(crate) fn prompt_bytes(prompts: &[PromptLine]) -> Outcome<Vec<u8>> {
    let mut text = Vec::new();
    for prompt in prompts {
        serde_json::to_writer(&mut text, prompt).map_err(Failure::run)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// `run.json` as a person can read it.
pub(crate) fn info_bytes(info: &RunInfo) -> Outcome<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(info).map_err(Failure::run)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The records of whole lines, and how many bytes those are. A last line that is cut off or cannot be read does not count.
fn parse_lines(path: &Path, bytes: &[u8]) -> Outcome<(Vec<Record>, usize)> {
    let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    let mut records: Vec<Record> = Vec::new();
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut whole = 0;
    let lines: Vec<&[u8]> = bytes[..end].split_inclusive(|&byte| byte == b'\n').collect();
    for (index, line) in lines.iter().enumerate() {
        let number = index + 1;
        let record: Record = match serde_json::from_slice(line) {
            Ok(record) => record,
            Err(_) if number == lines.len() => break,
            Err(error) => return Err(Failure::file(path, format!("line {number}: {error}"))),
        };
        if let Some(first) = numbers.insert(record.id.clone(), number) {
            let reason = format!("line {number}: expected each id once, got {:?} of line {first}", record.id);
            return Err(Failure::file(path, reason));
        }
        whole += line.len();
        records.push(record);
    }
    Ok((records, whole))
}

/// That the files of a line are there.
fn check_files(folder: &Path, record: &Record) -> Outcome {
    let missing = [Some(&record.image), record.latents.as_ref()]
        .into_iter()
        .flatten()
        .find(|name| !folder.join(name).is_file());
    match missing {
        None => Ok(()),
        Some(name) => {
            Err(Failure::file(&folder.join(name), format!("expected this file, which {RESULTS} names")))
        }
    }
}

/// Names in a folder; none if there is no such folder.
fn entries(path: &Path) -> Outcome<Vec<String>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::file(path, error)),
        Ok(found) if !found.is_dir() => return Err(Failure::file(path, "expected a folder, got a file")),
        Ok(_) => {}
    }
    let failed = |error: std::io::Error| Failure::file(path, error);
    let entries = fs::read_dir(path).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
}

/// Removes what was being written when the process was killed.
fn remove_unfinished(path: &Path) -> Outcome {
    output::remove_unfinished(path)?;
    for name in entries(path)? {
        let place = path.join(&name);
        if place.is_dir() && !name.starts_with("shard-") {
            remove_unfinished(&place)?;
        }
    }
    Ok(())
}

/// The files that say what the run is; `run.json` last.
fn begin(path: &Path, beginning: &Beginning<'_>) -> Outcome {
    let files = [
        (CONFIG, beginning.config.as_bytes().to_vec()),
        (PROMPTS, prompt_bytes(beginning.prompts)?),
        (INFO, info_bytes(&beginning.info)?),
    ];
    files.iter().try_for_each(|(name, bytes)| OutputFile::prepare(&path.join(name))?.write(bytes))
}

/// That a folder is of the run that is asked for; else what differs.
pub(crate) fn same_run(path: &Path, wanted: &RunInfo) -> Outcome {
    let found = read_info(path)?;
    let differs = |reason: String| Failure::file(&path.join(INFO), format!("is of another run: {reason}"));
    if found.run_hash != wanted.run_hash {
        let has = |info: &RunInfo, id: &str| {
            info.points.iter().find(|point| point.id == id).map(|point| point.config_hash.clone())
        };
        let mut ids = found.points.iter().chain(&wanted.points).map(|point| point.id.as_str());
        let reason = match ids.find(|id| has(&found, id) != has(wanted, id)) {
            Some(id) => match (has(&found, id), has(wanted, id)) {
                (Some(_), Some(_)) => {
                    format!("point {id} has other settings there (or another backend or dtype)")
                }
                (Some(_), None) => format!("it has the point {id}"),
                _ => format!("it lacks the point {id}"),
            },
            None => "its prompts, their seeds or the VAE's tiles differ".into(),
        };
        return Err(differs(reason));
    }
    if found.shard != wanted.shard {
        return Err(differs(format!("expected shard {:?}, got {:?}", wanted.shard, found.shard)));
    }
    Ok(())
}
