//! A run's folder, which gets its images one by one. A run can be resumed after a kill at any moment.
//!
//! An image counts once its line is appended, and its files have their names before that. So a kill loses only the image at work.
//! A resumed run removes or replaces what a kill left: temporary files, a line without its end, an image without a line.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use atedm_sdxl::output::{self, UNFINISHED};

use super::layout::{CONFIG, IMAGES, INFO, LATENTS, MASKS, PROMPTS, RESULTS};
use super::members::{Members, inside};
use super::reading::{check_files, parse_lines, same_run};
use super::record::{PromptLine, Record, RunInfo};
use crate::failure::{Failure, Outcome};
use crate::files::{DATA_MOST, OutputDir, OutputFile, read_from};

/// What a run writes first. It is the same whenever the run is resumed.
#[derive(Debug)]
pub(crate) struct Beginning<'a> {
    pub(crate) config: &'a str,
    pub(crate) info: RunInfo,
    pub(crate) prompts: &'a [PromptLine],
}

/// A run's folder to which only this process writes.
#[derive(Debug)]
pub(crate) struct RunFolder<'a> {
    path: PathBuf,
    beginning: Beginning<'a>,
    /// The open and locked file of lines; `None` until the run has begun.
    results: Option<File>,
    done: BTreeMap<String, Record>,
}

impl<'a> RunFolder<'a> {
    /// Opens a new or empty folder, or, with `resume`, the folder of a run. In a new folder, [`RunFolder::begin`] writes the first
    /// file.
    pub(crate) fn open(path: &Path, beginning: Beginning<'a>, resume: bool) -> Outcome<Self> {
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
        OutputDir::prepare(path)?;
        let mut folder = Self { path: path.to_path_buf(), beginning, results: None, done: BTreeMap::new() };
        if begun {
            folder.lock()?;
            same_run(path, &folder.beginning.info)?;
            folder.read_done()?;
        } else if found.iter().any(|name| name == RESULTS) {
            folder.begin()?;
        }
        Ok(folder)
    }

    /// Writes the first files if the run has not begun.
    pub(crate) fn begin(&mut self) -> Outcome {
        if self.results.is_some() {
            return Ok(());
        }
        self.lock()?;
        if inside(&self.path, INFO)?.exists() {
            return Err(Failure::file(&self.path, "another process has begun a run here meanwhile"));
        }
        begin(&self.path, &self.beginning)?;
        self.read_done()
    }

    /// Makes the folders, takes the lock, and removes unfinished files of a killed process.
    fn lock(&mut self) -> Outcome {
        for name in [IMAGES, LATENTS] {
            let folder = inside(&self.path, name)?;
            fs::create_dir_all(&folder).map_err(|error| Failure::file(&folder, error))?;
        }
        let lines = inside(&self.path, RESULTS)?;
        let results = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(&lines)
            .map_err(|error| Failure::file(&lines, error))?;
        if let Err(TryLockError::WouldBlock) = results.try_lock() {
            return Err(Failure::file(&lines, "another process is writing to it"));
        }
        self.results = Some(results);
        remove_unfinished(&self.path)
    }

    /// The records of the finished images, by id.
    pub(crate) fn done(&self) -> &BTreeMap<String, Record> {
        &self.done
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The run's plan.
    pub(crate) fn info(&self) -> &RunInfo {
        &self.beginning.info
    }

    /// Writes a file below the folder. A failed write leaves no file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Outcome {
        let path = inside(&self.path, name)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| Failure::file(folder, error))?;
        }
        OutputFile::prepare(&path)?.write(bytes)
    }

    /// Appends a line. The files that it names must exist.
    pub(crate) fn append(&mut self, record: Record) -> Outcome {
        let lines = self.path.join(RESULTS);
        let mut line = serde_json::to_vec(&record).map_err(Failure::run)?;
        line.push(b'\n');
        let Some(results) = &mut self.results else {
            return Err(Failure::file(&lines, "expected a run that has begun"));
        };
        let written = results.write_all(&line).and_then(|()| results.sync_data());
        written.map_err(|error| Failure::file(&lines, error))?;
        self.done.insert(record.id.clone(), record);
        Ok(())
    }

    /// Reads the lines, and removes a last line that a kill cut off.
    fn read_done(&mut self) -> Outcome {
        let lines = self.path.join(RESULTS);
        let failed = |error: std::io::Error| Failure::file(&lines, error);
        let Some(results) = &mut self.results else { return Ok(()) };
        results.seek(SeekFrom::Start(0)).map_err(failed)?;
        let bytes = read_from(results, &lines, DATA_MOST)?;
        let members = Members::of(&self.beginning.info, self.beginning.prompts);
        let (records, whole) = parse_lines(&lines, &bytes, &members)?;
        if whole < bytes.len() {
            results.set_len(whole as u64).map_err(failed)?;
        }
        for record in records {
            check_files(&self.path, &record)?;
            self.done.insert(record.id.clone(), record);
        }
        Ok(())
    }
}

/// The content of `prompts.jsonl`.
pub(crate) fn prompt_bytes(prompts: &[PromptLine]) -> Outcome<Vec<u8>> {
    let mut text = Vec::new();
    for prompt in prompts {
        serde_json::to_writer(&mut text, prompt).map_err(Failure::run)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// The content of `run.json`, indented.
pub(crate) fn info_bytes(info: &RunInfo) -> Outcome<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(info).map_err(Failure::run)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The names in a folder; none if the folder does not exist.
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

/// Removes unfinished files of a killed process from the folder and from the folders of images, latents and masks.
fn remove_unfinished(path: &Path) -> Outcome {
    output::remove_unfinished(path)?;
    for kind in [IMAGES, LATENTS, MASKS] {
        let folder = inside(path, kind)?;
        output::remove_unfinished(&folder)?;
        for name in entries(&folder)? {
            let place = inside(path, &format!("{kind}/{name}"))?;
            if place.is_dir() {
                output::remove_unfinished(&place)?;
            }
        }
    }
    Ok(())
}

/// Writes the files that describe the run, `run.json` last.
fn begin(path: &Path, beginning: &Beginning<'_>) -> Outcome {
    let files = [
        (CONFIG, beginning.config.as_bytes().to_vec()),
        (PROMPTS, prompt_bytes(beginning.prompts)?),
        (INFO, info_bytes(&beginning.info)?),
    ];
    files.iter().try_for_each(|(name, bytes)| OutputFile::prepare(&inside(path, name)?)?.write(bytes))
}
