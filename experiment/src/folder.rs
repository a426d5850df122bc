//! A run's folder: started, taken up again after a kill at any moment, and written to image by image.
//!
//! Only an appended line makes an image count. Before it, the image has its name; so a kill loses the image at work and
//! nothing else. What a kill leaves behind (files under temporary names, a line without its end, an image without a line)
//! is removed or made again.

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

/// What a run begins with: written once, the same whenever it is taken up again.
#[derive(Debug)]
pub(crate) struct Beginning<'a> {
    pub(crate) config: &'a str,
    pub(crate) info: RunInfo,
    pub(crate) prompts: &'a [PromptLine],
}

/// A folder that this process alone writes to.
#[derive(Debug)]
pub(crate) struct RunFolder<'a> {
    path: PathBuf,
    beginning: Beginning<'a>,
    /// Open and locked; `None` as long as nothing of the run is there.
    results: Option<File>,
    done: BTreeMap<String, Record>,
}

impl<'a> RunFolder<'a> {
    /// Looks at a new or empty folder, in which nothing is written before [`RunFolder::begin`], or, if `resume` says so, goes
    /// on with what is there.
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

    /// Writes what the run begins with, if it has not begun.
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

    /// Makes the folders, takes the lock, and removes what was unfinished when a process was killed.
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

    /// The records that are there, by id.
    pub(crate) fn done(&self) -> &BTreeMap<String, Record> {
        &self.done
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The run that it is of.
    pub(crate) fn info(&self) -> &RunInfo {
        &self.beginning.info
    }

    /// Writes a file below the folder, whole or not at all.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Outcome {
        let path = inside(&self.path, name)?;
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
        let Some(results) = &mut self.results else {
            return Err(Failure::file(&lines, "expected a run that has begun"));
        };
        let written = results.write_all(&line).and_then(|()| results.sync_data());
        written.map_err(|error| Failure::file(&lines, error))?;
        self.done.insert(record.id.clone(), record);
        Ok(())
    }

    /// Reads the lines, and cuts off what a kill left of the last one.
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

/// Removes what was being written when the process was killed: in the folder, and where images, latents and masks lie.
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

/// The files that say what the run is; `run.json` last.
fn begin(path: &Path, beginning: &Beginning<'_>) -> Outcome {
    let files = [
        (CONFIG, beginning.config.as_bytes().to_vec()),
        (PROMPTS, prompt_bytes(beginning.prompts)?),
        (INFO, info_bytes(&beginning.info)?),
    ];
    files.iter().try_for_each(|(name, bytes)| OutputFile::prepare(&inside(path, name)?)?.write(bytes))
}
