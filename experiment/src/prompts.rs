//! Prompts with ids. An id decides a prompt's seed and its shard, so that neither depends on what else is in the run.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::prompt_table::{Separator, read_table};
use crate::failure::{Failure, Outcome};
use crate::files::{PROMPTS_MOST, read_text};

/// Prompts of a run at most.
const MOST_PROMPTS: usize = 1_000_000;
/// Bytes of a prompt at most: text encoders read some 77 words, tokenizers all of it.
const LONGEST_PROMPT: usize = 1 << 16;

/// A prompt as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptText {
    /// Unique; it names files.
    pub id: String,
    /// The text.
    pub text: String,
    /// A seed of its own.
    pub seed: Option<u64>,
}

/// A line of a `.jsonl` file, or a table in a configuration (whose key is the id).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    id: String,
    prompt: String,
    seed: Option<u64>,
}

/// `[prompts]`: `id = "text"`, or `id = { prompt = "text", seed = 3 }`.
pub fn inline_prompts(table: &BTreeMap<String, toml::Value>) -> Outcome<Vec<PromptText>> {
    let mut prompts = Vec::with_capacity(table.len());
    for (id, value) in table {
        let at = |reason: &str| Failure::usage(format!("prompts.{id}: {reason}"));
        let (text, seed) = match value {
            toml::Value::String(text) => (text.clone(), None),
            toml::Value::Table(entries) => {
                let line: Line =
                    entries.clone().try_into().map_err(|error: toml::de::Error| at(error.message()))?;
                (line.prompt, line.seed)
            }
            _ => return Err(at("expected a text, or a table with prompt and seed")),
        };
        prompts.push(PromptText { id: id.clone(), text, seed });
    }
    checked(prompts)
}

/// A file of prompts by the end of its name: `.jsonl` with `{"id": …, "prompt": …, "seed": …}` on each line (the seed may be
/// left out), else a table as [`read_table`] reads it. The first `limit` of them.
pub fn read_prompts(path: &Path, limit: Option<usize>) -> Outcome<Vec<PromptText>> {
    let text = read_text(path, PROMPTS_MOST)?;
    let read = match ending(path).as_deref() {
        Some("jsonl") => json_lines(&text),
        Some("csv") => read_table(&text, Separator::Comma),
        _ => read_table(&text, Separator::Tab),
    };
    let first = |mut prompts: Vec<PromptText>| {
        prompts.truncate(limit.unwrap_or(usize::MAX));
        checked(prompts)
    };
    read.and_then(first).map_err(|failure| failure.within(path.display()))
}

/// What a file's name ends in, in small letters.
pub fn ending(path: &Path) -> Option<String> {
    path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase())
}

fn json_lines(text: &str) -> Outcome<Vec<PromptText>> {
    let filled = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let prompt = |(number, line): (usize, &str)| {
        let line: Line = serde_json::from_str(line)
            .map_err(|error| Failure::usage(format!("line {}: {error}", number + 1)))?;
        Ok(PromptText { id: line.id, text: line.prompt, seed: line.seed })
    };
    filled.map(prompt).collect()
}

/// Ids that name files on any system, each once; sorted by id, so that order in a file means nothing.
pub fn checked(mut prompts: Vec<PromptText>) -> Outcome<Vec<PromptText>> {
    if prompts.len() > MOST_PROMPTS {
        return Err(Failure::usage(format!(
            "prompts: expected at most {MOST_PROMPTS}, got {}",
            prompts.len()
        )));
    }
    let mut seen = HashSet::new();
    for PromptText { id, text, .. } in &prompts {
        check_id(id).map_err(|reason| Failure::usage(format!("prompts: {reason}")))?;
        check_length(text).map_err(|reason| Failure::usage(format!("prompts: {id}: {reason}")))?;
        // Some file systems do not tell a from A.
        if !seen.insert(id.to_ascii_lowercase()) {
            return Err(Failure::usage(format!("prompts: expected each id once, got {id:?} twice")));
        }
    }
    prompts.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(prompts)
}

/// That an id can name files on any system; else what was expected.
pub fn check_id(id: &str) -> Result<(), String> {
    const LONGEST: usize = 100;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if id.is_empty() || id.len() > LONGEST || id.starts_with('.') || !id.chars().all(fits) {
        return Err(format!(
            "expected ids of letters, digits and ._- (at most {LONGEST}, no dot first), got {id:?}"
        ));
    }
    Ok(())
}

/// That a prompt is no more than a tokenizer should be given; else what was expected.
pub fn check_length(text: &str) -> Result<(), String> {
    match text.len() {
        long if long > LONGEST_PROMPT => {
            Err(format!("expected a prompt of at most {LONGEST_PROMPT} bytes, got {long}"))
        }
        _ => Ok(()),
    }
}

/// The seed of a prompt without one of its own: 32 bits of a hash of the run's seed and the id.
pub fn seed_of(run: u64, id: &str) -> u64 {
    let hash = Sha256::digest(format!("seed\n{run}\n{id}").as_bytes());
    u64::from(u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]))
}

/// The shard of `count` that a prompt belongs to.
pub fn shard_of(id: &str, count: usize) -> usize {
    let hash = Sha256::digest(format!("shard\n{id}").as_bytes());
    let number = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]) as usize;
    number % count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_order_means_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (json, tabs) = (dir.path().join("p.jsonl"), dir.path().join("p.tsv"));
        std::fs::write(
            &json,
            "\u{feff}{\"id\": \"b\", \"prompt\": \"two\", \"seed\": 5}\r\n\n{\"id\": \"a\", \"prompt\": \"one\"}\n",
        )
        .unwrap();
        std::fs::write(&tabs, "b\ttwo\na\tone\n").unwrap();
        let read = read_prompts(&json, None).unwrap();
        assert_eq!(read[0], PromptText { id: "a".into(), text: "one".into(), seed: None });
        assert_eq!(read[1].seed, Some(5));
        assert_eq!(read_prompts(&tabs, None).unwrap()[1].text, "two");
        // the first of the file, not of the ids
        assert_eq!(read_prompts(&tabs, Some(1)).unwrap()[0].text, "two");
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

    #[test]
    fn seeds_and_shards_follow_ids() {
        // fixed for ever: results of a longer run contain those of a shorter one
        assert_eq!(seed_of(0, "fox"), seed_of(0, "fox"));
        assert_ne!(seed_of(0, "fox"), seed_of(1, "fox"));
        assert_ne!(seed_of(0, "fox"), seed_of(0, "raccoon"));
        let counts = (0..3000).fold([0; 3], |mut counts, number| {
            counts[shard_of(&format!("p{number}"), 3)] += 1;
            counts
        });
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }
}
