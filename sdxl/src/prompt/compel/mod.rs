//! The syntax of the library compel (2.4), with its settings for SD-XL and for long prompts.
//!
//! ```text
//! word+   word++   weight × 1.1, × 1.1²       word-   word--   weight × 0.9, × 0.9²
//! (some words)1.2   (some words)++            "some words"1.2
//! (a (b)1.2)1.5     weights multiply          \( \) \"   the sign itself
//! ```
//! Words with a weight below 1 are also hidden: the states are mixed with those of a prompt in which no other token sees these
//! words. The smaller the weight, the larger the share of that version, `tan((1 − w) · π/2)`.
//!
//! A long prompt is split after a sentence, or else after a phrase, or else after a word. The pooled state is that of the whole text
//! with its signs, cut after one chunk.
//!
//! Source of the rules: compel's `PromptParser` and `EmbeddingsProvider`.

mod parse;

use std::f64::consts::FRAC_PI_2;
use std::ops::RangeInclusive;

use atedm_core::Result;

use crate::prompt::chunk::{Words, room};
use crate::prompt::reading::{Hidden, Reading, Weighting};
use crate::prompt::syntax::PromptSyntax;
use crate::tokenizer::ClipTokenizer;
use parse::fragments;

/// The signs that end a sentence, and those that end a phrase.
const ENDS: [&[&str]; 2] = [&[".</w>"], &[".</w>", ",</w>", ";</w>", ":</w>"]];
/// The least weight in the formula of a hidden version's share, which would be infinite at 0.
const LEAST: f64 = 1e-5;

/// The syntax `compel`.
#[derive(Debug)]
pub(super) struct Compel;

impl PromptSyntax for Compel {
    fn read(&self, prompt: &str, tokenizer: &ClipTokenizer) -> Result<Reading> {
        let mut words = Words::default();
        let mut lowered = Vec::new();
        for (text, weight) in fragments(prompt)? {
            let ids = tokenizer.ids(&text)?;
            if weight < 1.0 && !ids.is_empty() {
                lowered.push((weight, words.len()..=words.len() + ids.len() - 1));
            }
            words.extend(&ids, weight);
        }
        let mut chunks = Vec::new();
        // For each word, its place among the tokens of all chunks.
        let mut places = Vec::with_capacity(words.len());
        let length = tokenizer.length();
        loop {
            let rest = words.split_off(split_point(&words.ids, tokenizer));
            let (chunk, first) = words.chunk(tokenizer);
            let start = chunks.len() * length + first;
            places.extend(start..start + words.len());
            chunks.push(chunk);
            if rest.len() == 0 {
                break;
            }
            words = rest;
        }
        let version = |(weight, range): (f64, RangeInclusive<usize>)| Hidden {
            tokens: hidden(&places, range, chunks.len(), length),
            share: ((1.0 - weight.max(LEAST)) * FRAC_PI_2).tan(),
        };
        Ok(Reading {
            weighting: Weighting::FromEmpty,
            hidden: lowered.into_iter().map(version).collect(),
            pooled: Some(tokenizer.encode(prompt)?.ids),
            ..Reading::new(chunks)
        })
    }
}

/// The tokens from the first to the last word of `range`. The first and the last token of each chunk are never hidden.
fn hidden(places: &[usize], range: RangeInclusive<usize>, chunks: usize, length: usize) -> Vec<Vec<bool>> {
    let [first, last] = [range.start(), range.end()].map(|word| places.get(*word).copied().unwrap_or(0));
    let token = |chunk: usize, at: usize| {
        (first..=last).contains(&(chunk * length + at)) && at != 0 && at + 1 != length
    };
    (0..chunks).map(|chunk| (0..length).map(|at| token(chunk, at)).collect()).collect()
}

/// The number of words that go into the next chunk.
fn split_point(ids: &[u32], tokenizer: &ClipTokenizer) -> usize {
    let room = room(tokenizer);
    if ids.len() <= room {
        return ids.len();
    }
    let tokens: Vec<String> =
        ids.iter().take(room).map(|id| tokenizer.token(*id).unwrap_or_default()).collect();
    let of_ends =
        ENDS.iter().find_map(|ends| tokens.iter().rposition(|token| ends.contains(&token.as_str())));
    let of_word = || tokens.iter().rposition(|token| token.ends_with("</w>"));
    of_ends.or_else(of_word).map_or(room, |last| last + 1)
}
