//! A prompt with its id: which ids and texts are allowed, and the seed and shard that follow from an id.

use std::collections::{BTreeMap, HashSet};

use sha2::{Digest, Sha256};

use crate::failure::{Failure, Outcome};

/// The greatest number of prompts in a run.
const MOST_PROMPTS: usize = 1_000_000;
/// The greatest number of bytes in a prompt. Text encoders read 77 tokens, but a tokenizer reads the whole prompt.
pub(super) const LONGEST_PROMPT: usize = 1 << 16;

/// A prompt as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptText {
    /// Unique in a run. It names files.
    pub id: String,
    /// The text.
    pub text: String,
    /// The prompt's own seed, if it has one.
    pub seed: Option<u64>,
    /// Properties that tables can group prompts by, such as a category.
    pub groups: BTreeMap<String, String>,
}

impl PromptText {
    /// A prompt without a seed of its own and without properties.
    pub fn new(id: impl Into<String>, text: impl Into<String>) -> Self {
        Self { id: id.into(), text: text.into(), seed: None, groups: BTreeMap::new() }
    }
}

/// Prompts of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prompts {
    /// The prompts.
    pub texts: Vec<PromptText>,
    /// A warning: the file is not the published one of the set that its path names.
    pub remark: Option<String>,
}

/// Checks the number of prompts, their ids and their texts. Returns them sorted by id, so the order in a file has no effect.
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

/// Checks that an id can name files on any system. The error says what was expected.
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

/// Checks that a prompt is not too long for a tokenizer. The error says what was expected.
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

/// The shard of a prompt, from 0, where there are `count` shards.
pub fn shard_of(id: &str, count: usize) -> usize {
    let hash = Sha256::digest(format!("shard\n{id}").as_bytes());
    let number = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]) as usize;
    number % count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

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
