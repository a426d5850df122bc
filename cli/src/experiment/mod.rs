//! A run of many images: prompts by methods, as `compare` and `ablate` make them.
//!
//! # A run's folder
//! ```text
//! config.toml            the configuration as it was written
//! run.json               RunInfo: the points with all their settings, hashes and planned FLOPs
//! prompts.jsonl          PromptLine: every prompt of the run with its id and seed
//! results.jsonl          Record: a line for each finished image, in the order in which they were finished
//! images/POINT/PROMPT.png
//! latents/POINT/PROMPT.safetensors     final latents of the unpruned images that others are compared with
//! shard-M-of-N/          with --shard: such a folder for each shard, instead of the files above
//! ```
//! Where a file of an image is follows from the plan (`members`); what a folder's files say is checked against it (`reading`).
//! A picture is written under a temporary name and renamed before its line is appended, so a line's files are always there.
//! A line without its end is dropped when a run is resumed. `atedm ablate merge` makes one folder of many, its lines
//! sorted by id.

#[cfg(feature = "parquet")]
pub(crate) mod columns;
pub(crate) mod config;
pub(crate) mod distance;
pub(crate) mod engine;
pub(crate) mod folder;
pub(crate) mod grid;
pub(crate) mod inputs;
pub(crate) mod machine;
pub(crate) mod members;
pub(crate) mod merge;
pub(crate) mod pictures;
pub(crate) mod plan;
pub(crate) mod prompt_table;
pub(crate) mod prompts;
pub(crate) mod reading;
pub(crate) mod record;
pub(crate) mod shard;
pub(crate) mod stored;
pub(crate) mod tally;
