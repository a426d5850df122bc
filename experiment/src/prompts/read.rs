//! Prompts from a configuration and from files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::sets::PromptSet;
use super::table::read_table;
use super::text::{PromptText, Prompts, checked};
use crate::delimited::Separator;
use crate::failure::{Failure, Outcome};
use crate::files::{PROMPTS_MOST, read_text};

/// A line of a `.jsonl` file, or a table in a configuration (whose key is the id).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    id: String,
    prompt: String,
    seed: Option<u64>,
    #[serde(default)]
    groups: BTreeMap<String, String>,
}

/// Reads the table `[prompts]` of a configuration: `id = "text"`, or `id = { prompt = "text", seed = 3 }`.
pub fn inline_prompts(table: &BTreeMap<String, toml::Value>) -> Outcome<Vec<PromptText>> {
    let mut prompts = Vec::with_capacity(table.len());
    for (id, value) in table {
        let at = |reason: &str| Failure::usage(format!("prompts.{id}: {reason}"));
        let prompt = match value {
            toml::Value::String(text) => PromptText::new(id, text),
            toml::Value::Table(entries) => {
                let line: Line =
                    entries.clone().try_into().map_err(|error: toml::de::Error| at(error.message()))?;
                PromptText { id: id.clone(), text: line.prompt, seed: line.seed, groups: line.groups }
            }
            _ => return Err(at("expected a text, or a table with prompt and seed")),
        };
        prompts.push(prompt);
    }
    checked(prompts)
}

/// Reads a file of prompts, and returns the first `limit` of them.
///
/// A `.jsonl` file has `{"id": …, "prompt": …, "seed": …}` on each line; the seed may be left out. Any other file is a table.
/// Its first row names columns (`caption` or `prompt`, `id`, `seed`), or each line is an id, a tab and a prompt. A path may
/// begin with the name of a published set: `drawbench:`, `parti:` or `mlperf-coco:`. Such a file must have the set's columns
/// and its number of prompts.
pub fn read_prompts(path: &Path, limit: Option<usize>) -> Outcome<Prompts> {
    let (path, read) = match PromptSet::named(path) {
        Some((set, path)) => (path, set.read(path)?),
        None => (path, Prompts { texts: unnamed(path)?, remark: None }),
    };
    let Prompts { mut texts, remark } = read;
    texts.truncate(limit.unwrap_or(usize::MAX));
    Ok(Prompts { texts: checked(texts).map_err(|failure| failure.within(path.display()))?, remark })
}

/// Whether a path begins with the name of a published set.
pub fn is_set(path: &Path) -> bool {
    PromptSet::named(path).is_some()
}

/// A path of [`read_prompts`] that starts from a folder. The name of a set stays in front.
pub fn prompts_path(folder: &Path, path: &Path) -> PathBuf {
    match PromptSet::named(path) {
        Some((set, path)) => {
            let mut named = std::ffi::OsString::from(set.prefix());
            named.push(folder.join(path));
            named.into()
        }
        None => folder.join(path),
    }
}

/// The prompts of a file that is no published set.
fn unnamed(path: &Path) -> Outcome<Vec<PromptText>> {
    let text = read_text(path, PROMPTS_MOST)?;
    let read = match ending(path).as_deref() {
        Some("jsonl") => json_lines(&text),
        Some("csv") => read_table(&text, Separator::Comma),
        _ => read_table(&text, Separator::Tab),
    };
    read.map_err(|failure| failure.within(path.display()))
}

/// The extension of a file's name in lower case.
pub fn ending(path: &Path) -> Option<String> {
    path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase())
}

fn json_lines(text: &str) -> Outcome<Vec<PromptText>> {
    let filled = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let prompt = |(number, line): (usize, &str)| {
        let line: Line = serde_json::from_str(line)
            .map_err(|error| Failure::usage(format!("line {}: {error}", number + 1)))?;
        Ok(PromptText { id: line.id, text: line.prompt, seed: line.seed, groups: line.groups })
    };
    filled.map(prompt).collect()
}

#[cfg(test)]
mod tests {
    use super::super::text::LONGEST_PROMPT;
    use super::*;

    #[test]
    fn files_are_read_and_order_means_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (json, tabs) = (dir.path().join("p.jsonl"), dir.path().join("p.tsv"));
        std::fs::write(
            &json,
            "\u{feff}{\"id\": \"b\", \"prompt\": \"two\", \"seed\": 5, \"groups\": {\"category\": \"numbers\"}}\r\n\n{\"id\": \"a\", \"prompt\": \"one\"}\n",
        )
        .unwrap();
        std::fs::write(&tabs, "b\ttwo\na\tone\n").unwrap();
        let read = |path: &Path, limit| read_prompts(path, limit).unwrap().texts;
        let found = read(&json, None);
        assert_eq!(found[0], PromptText::new("a", "one"));
        assert_eq!((found[1].seed, found[1].groups["category"].as_str()), (Some(5), "numbers"));
        assert_eq!(read(&tabs, None)[1].text, "two");
        // the first of the file, not of the ids
        assert_eq!(read(&tabs, Some(1))[0].text, "two");
        let long = format!("a\t{}\n", "x".repeat(LONGEST_PROMPT + 1));
        for (text, named) in [
            ("a one\n", "line 1: expected an id"),
            ("a\tone\nA\ttwo\n", "twice"),
            ("../x\tone\n", "../x"),
            (".x\tone\n", ".x"),
            (long.as_str(), "a: expected a prompt of at most 65536 bytes, got 65537"),
        ] {
            std::fs::write(&tabs, text).unwrap();
            let message = read_prompts(&tabs, None).unwrap_err().to_string();
            assert!(message.contains(named) && message.contains("p.tsv"), "{message}");
        }
        std::fs::write(&json, "{\"id\": \"b\", \"text\": \"two\"}\n").unwrap();
        assert!(read_prompts(&json, None).unwrap_err().to_string().contains("unknown field `text`"));
    }
}
