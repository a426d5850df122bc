//! Prompts with ids. A prompt's seed and shard follow from its id, so neither depends on the other prompts of a run.

mod read;
mod sets;
mod table;
mod text;

pub use read::{ending, inline_prompts, is_set, prompts_path, read_prompts};
pub use table::names_columns;
pub use text::{PromptText, Prompts, check_id, check_length, checked, seed_of, shard_of};
