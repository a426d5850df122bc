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

// A library has nothing to tell on streams: what happens is returned, or told to a listener.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod ablation;
pub mod bench;
#[cfg(feature = "parquet")]
pub mod columns;
pub mod config;
mod distance;
pub mod draw;
pub mod engine;
pub mod extension;
pub mod failure;
pub mod files;
pub mod folder;
pub mod gathered;
pub mod grid;
pub mod init_image;
pub mod inputs;
pub mod listener;
pub mod members;
pub mod memory;
pub mod merge;
pub mod method;
pub mod model;
pub mod observe;
pub mod pictures;
pub mod plan;
pub mod platform;
pub mod prompt_table;
pub mod prompts;
pub mod reading;
pub mod record;
pub mod report;
pub mod shard;
pub mod spec;
mod stored;
pub mod subject;
mod table;
mod tally;

pub use extension::Extension;
pub use failure::{Failure, Outcome};
pub use listener::Listener;
