//! The trait of a prompt syntax.

use std::fmt;

use atedm_core::Result;

use super::reading::Reading;
use crate::tokenizer::ClipTokenizer;

/// A way to write prompts.
///
/// ```
/// use atedm_core::Result;
/// use atedm_sdxl::prompt::{Chunk, PromptSyntax, Reading, SyntaxRegistry};
/// use atedm_sdxl::tokenizer::ClipTokenizer;
///
/// /// Reads the words before the first `#`.
/// #[derive(Debug)]
/// struct Commented;
///
/// impl PromptSyntax for Commented {
///     fn read(&self, prompt: &str, tokenizer: &ClipTokenizer) -> Result<Reading> {
///         let text = prompt.split('#').next().unwrap_or_default();
///         Ok(Reading::new(vec![Chunk::plain(tokenizer.encode(text)?.ids)]))
///     }
/// }
///
/// let mut syntaxes = SyntaxRegistry::with_builtins();
/// syntaxes.register("commented", Commented)?;
/// assert!(syntaxes.get("commented").is_ok());
/// # Ok::<(), atedm_core::Error>(())
/// ```
pub trait PromptSyntax: fmt::Debug + Send + Sync {
    /// Reads a prompt for the text encoder of this tokenizer.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] with the field `prompt`, for a text that the syntax cannot read.
    fn read(&self, prompt: &str, tokenizer: &ClipTokenizer) -> Result<Reading>;
}
