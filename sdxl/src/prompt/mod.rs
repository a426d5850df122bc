//! How a prompt's text is read: weights of words, and prompts of any length.
//!
//! ```text
//! text ─ PromptSyntax ─► Reading: chunks of token ids, a weight for each token, versions with hidden tokens
//!      ─ text encoder ─► one row of states for each chunk and version
//!      ─ weights ──────► rows joined along the tokens: [1, chunks · length, channels]
//! ```
//! A syntax is an object behind a trait, and a [`SyntaxRegistry`] finds it by its name. A syntax of another crate stands
//! beside ours.

mod a1111;
mod chunk;
mod compel;
mod options;
mod plain;
mod reading;
mod registry;
mod syntax;
mod weights;

pub use a1111::looks_weighted;
pub use options::{PLAIN, TextOptions};
pub(crate) use plain::Plain;
pub use reading::{Chunk, Hidden, Reading, Weighting};
pub use registry::SyntaxRegistry;
pub use syntax::PromptSyntax;

pub(crate) use weights::weigh;
