//! Prompts with ids. A prompt's seed and shard follow from its id, so neither depends on the other prompts of a run.

mod read;
mod table;
mod text;

pub use read::{ending, inline_prompts, read_prompts};
pub use table::names_columns;
pub use text::{PromptText, check_id, check_length, checked, seed_of, shard_of};
