//! Reads a run's folder again. The files' content is checked against the plan, since a folder may come from anywhere.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::grid::slug;
use super::layout::{CONFIG, INFO, PROMPTS, RESULTS};
use super::members::{LONGEST_ID, Members, file_inside, inside};
use super::prompts::check_id;
use super::record::{FORMAT, PointInfo, PromptLine, Record, RunInfo, Settings};
use crate::failure::{Failure, Outcome};
use crate::files::{CONFIG_MOST, DATA_MOST, read_bytes, read_text};
use crate::model::LONGEST_SIDE;

/// The records of a folder, by id. Another process may be writing to it.
pub(crate) fn read_results(folder: &Path, members: &Members) -> Outcome<BTreeMap<String, Record>> {
    let lines = inside(folder, RESULTS)?;
    let bytes = read_bytes(&lines, DATA_MOST)?;
    let (records, _) = parse_lines(&lines, &bytes, members)?;
    records.iter().try_for_each(|record| check_files(folder, record))?;
    Ok(records.into_iter().map(|record| (record.id.clone(), record)).collect())
}

/// `run.json` of a folder.
pub(crate) fn read_info(folder: &Path) -> Outcome<RunInfo> {
    let path = inside(folder, INFO)?;
    let text = read_text(&path, DATA_MOST)?;
    let info: RunInfo = serde_json::from_str(&text).map_err(|error| Failure::file(&path, error))?;
    if info.format != FORMAT {
        return Err(Failure::file(&path, format!("expected format {FORMAT}, got {}", info.format)));
    }
    let mut seen = HashSet::new();
    for PointInfo { id, settings, .. } in &info.points {
        if id.is_empty() || id.len() > LONGEST_ID || slug(id) != *id || !seen.insert(id.to_ascii_lowercase())
        {
            let reason = format!("points: expected ids of letters, digits and ._=+-, each once, got {id:?}");
            return Err(Failure::file(&path, reason));
        }
        if settings.width.max(settings.height) > LONGEST_SIDE {
            let Settings { width, height, .. } = settings;
            let reason =
                format!("points: {id}: expected at most {LONGEST_SIDE} pixels, got {width} x {height}");
            return Err(Failure::file(&path, reason));
        }
    }
    Ok(info)
}

/// `prompts.jsonl` of a folder.
pub(crate) fn read_prompt_lines(folder: &Path) -> Outcome<Vec<PromptLine>> {
    let path = inside(folder, PROMPTS)?;
    let text = read_text(&path, DATA_MOST)?;
    let parse = |(number, line): (usize, &str)| {
        let at = |reason: String| Failure::file(&path, format!("line {}: {reason}", number + 1));
        let prompt: PromptLine = serde_json::from_str(line).map_err(|error| at(error.to_string()))?;
        check_id(&prompt.id).map_err(at)?;
        Ok(prompt)
    };
    text.lines().enumerate().map(parse).collect()
}

/// The configuration of a folder as it was written.
pub(crate) fn read_config(folder: &Path) -> Outcome<String> {
    read_text(&inside(folder, CONFIG)?, CONFIG_MOST)
}

/// The records of the whole lines, and the number of bytes of these lines. A last line that is cut off or unreadable is ignored.
pub(super) fn parse_lines(path: &Path, bytes: &[u8], members: &Members) -> Outcome<(Vec<Record>, usize)> {
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
        members.check(&record).map_err(|reason| Failure::file(path, format!("line {number}: {reason}")))?;
        if let Some(first) = numbers.insert(record.id.clone(), number) {
            let reason = format!("line {number}: expected each id once, got {:?} of line {first}", record.id);
            return Err(Failure::file(path, reason));
        }
        whole += line.len();
        records.push(record);
    }
    Ok((records, whole))
}

/// Checks that the files of a record exist.
pub(super) fn check_files(folder: &Path, record: &Record) -> Outcome {
    for name in [Some(&record.image), record.latents.as_ref()].into_iter().flatten() {
        if file_inside(folder, name)?.is_none() {
            let reason = format!("expected this file, which {RESULTS} names");
            return Err(Failure::file(&folder.join(name), reason));
        }
    }
    Ok(())
}

/// Checks that a folder holds the run `wanted`. The failure says what differs.
pub(crate) fn same_run(path: &Path, wanted: &RunInfo) -> Outcome {
    let found = read_info(path)?;
    let differs = |reason: String| Failure::file(&path.join(INFO), format!("is of another run: {reason}"));
    if found.run_hash != wanted.run_hash {
        return Err(differs(what_differs(&found, wanted)?));
    }
    if found.shard != wanted.shard {
        return Err(differs(format!("expected shard {:?}, got {:?}", wanted.shard, found.shard)));
    }
    Ok(())
}

/// A sentence on the first point that differs, with the first of its settings that differs.
fn what_differs(found: &RunInfo, wanted: &RunInfo) -> Outcome<String> {
    let point = |info: &'_ RunInfo, id: &str| info.points.iter().find(|point| point.id == id).cloned();
    for id in found.points.iter().chain(&wanted.points).map(|point| point.id.as_str()) {
        let (there, here) = match (point(found, id), point(wanted, id)) {
            (Some(there), Some(here)) if there.config_hash == here.config_hash => continue,
            (Some(there), Some(here)) => (there.settings, here.settings),
            (Some(_), None) => return Ok(format!("it has the point {id}")),
            (None, _) => return Ok(format!("it lacks the point {id}")),
        };
        let json = |settings: Settings| serde_json::to_value(settings).map_err(Failure::run);
        return Ok(match first_difference("", &json(there)?, &json(here)?) {
            Some(difference) => {
                format!("point {id} has other settings there, or another backend or dtype: {difference}")
            }
            None => format!("point {id} has another backend or dtype there"),
        });
    }
    Ok("its prompts, their seeds or the VAE's tiles differ".into())
}

/// A text such as `options.ratio is 0.5, not 0.6` on the first value that differs.
fn first_difference(key: &str, there: &Value, here: &Value) -> Option<String> {
    let (Value::Object(there), Value::Object(here)) = (there, here) else {
        return (there != here).then(|| format!("{key} is {there}, not {here}"));
    };
    let mut keys: Vec<&String> = there.keys().chain(here.keys()).collect();
    keys.sort();
    keys.into_iter().find_map(|name| {
        let of = |table: &Map<String, Value>| table.get(name).cloned().unwrap_or_default();
        let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        first_difference(&key, &of(there), &of(here))
    })
}
