//! The syntax of AUTOMATIC1111's web UI.
//!
//! ```text
//! (word)      weight × 1.1          [word]      weight / 1.1
//! (word:1.5)  weight × 1.5          \( \) \[ \] \\   the sign itself
//! BREAK       ends a chunk          brackets without a partner hold until the end
//! ```
//! A chunk holds 75 tokens. If a word does not fit and a comma is at most 20 tokens back, the words after the comma move to the
//! next chunk with it. The pooled state is that of the first chunk.
//!
//! Source of the rules: `parse_prompt_attention`, `tokenize_line` and the emphasis "Original" of the web UI (1.10).

mod parse;

use atedm_core::Result;

pub use parse::looks_weighted;

use crate::prompt::chunk::{Words, room};
use crate::prompt::reading::{Chunk, Reading};
use crate::prompt::syntax::PromptSyntax;
use crate::tokenizer::ClipTokenizer;
use parse::fragments;

/// How far back a comma may be at which a chunk is ended.
const BACKTRACK: usize = 20;

/// The syntax `a1111`.
#[derive(Debug)]
pub(super) struct A1111;

impl PromptSyntax for A1111 {
    fn read(&self, prompt: &str, tokenizer: &ClipTokenizer) -> Result<Reading> {
        let mut chunks = Chunks::new(tokenizer);
        for fragment in fragments(prompt)? {
            if fragment.is_break() {
                chunks.end();
                continue;
            }
            chunks.add(&tokenizer.ids(&fragment.text)?, fragment.weight);
        }
        Ok(Reading::new(chunks.finish()))
    }
}

/// Chunks that are being filled.
struct Chunks<'a> {
    tokenizer: &'a ClipTokenizer,
    comma: Option<u32>,
    /// The words that a chunk holds.
    room: usize,
    done: Vec<Chunk>,
    words: Words,
    /// The place of the last comma in `words`.
    last_comma: Option<usize>,
}

impl<'a> Chunks<'a> {
    fn new(tokenizer: &'a ClipTokenizer) -> Self {
        Self {
            tokenizer,
            comma: tokenizer.id_of(",</w>"),
            room: room(tokenizer),
            done: Vec::new(),
            words: Words::default(),
            last_comma: None,
        }
    }

    /// Ends the chunk, whether it is full or not.
    fn end(&mut self) {
        let (mut chunk, _) = std::mem::take(&mut self.words).chunk(self.tokenizer);
        // Where padding differs from the end token, nothing but padding follows the first end token.
        let (end, pad) = (self.tokenizer.end(), self.tokenizer.pad());
        let first_end = chunk.ids.iter().position(|id| *id == end);
        if let (true, Some(at)) = (end != pad, first_end) {
            chunk.ids.iter_mut().skip(at + 1).for_each(|id| *id = pad);
        }
        self.done.push(chunk);
        self.last_comma = None;
    }

    fn add(&mut self, ids: &[u32], weight: f64) {
        let mut rest = ids;
        while let [id, ..] = rest {
            // The vectors of one embedding stay together.
            let (unit, after) = rest.split_at(self.tokenizer.vectors_at(rest));
            let full = self.words.len() == self.room;
            match self.last_comma {
                _ if Some(*id) == self.comma => self.last_comma = Some(self.words.len()),
                Some(comma) if full && self.words.len() - comma <= BACKTRACK => {
                    let moved = self.words.split_off(comma + 1);
                    self.end();
                    self.words = moved;
                }
                _ => {}
            }
            if self.words.len() + unit.len() > self.room {
                self.end();
            }
            self.words.extend(unit, weight);
            rest = after;
        }
    }

    fn finish(mut self) -> Vec<Chunk> {
        if self.words.len() > 0 || self.done.is_empty() {
            self.end();
        }
        self.done
    }
}
