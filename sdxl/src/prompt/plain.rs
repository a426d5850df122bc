//! Plain text in one chunk. What does not fit is cut off, as in diffusers.

use atedm_core::Result;

use super::reading::{Chunk, Reading};
use super::syntax::PromptSyntax;
use crate::tokenizer::ClipTokenizer;

/// The syntax `none`.
#[derive(Debug)]
pub(crate) struct Plain;

impl PromptSyntax for Plain {
    fn read(&self, prompt: &str, tokenizer: &ClipTokenizer) -> Result<Reading> {
        let tokens = tokenizer.encode(prompt)?;
        Ok(Reading { cut: tokens.cut, ..Reading::new(vec![Chunk::plain(tokens.ids)]) })
    }
}
