//! Experiments with token-reducing methods on SD-XL, as a library. The program `atedm` is its command line; this crate writes to
//! no stream, reads no command line and ends no process.
//!
//! # A grid in Rust
//! ```no_run
//! use atedm_core::reference::{NdDevice, Reference32};
//! use atedm_core::{DType, Tensor};
//! use atedm_experiment::{Config, Experiment, GridEntry, Model, Platform};
//!
//! # fn main() -> atedm_experiment::Outcome {
//! let grid = GridEntry::new("at-edm").each("ratio", [0.3, 0.5]).each("scorer", ["page-rank", "norm"]);
//! let config = Config::new("norms", [("star", "a large red star")], [grid])?;
//! let model = Model::open("atedm-shapes".as_ref())?;
//! let platform = Platform::cpu::<Reference32>(DType::F32);
//! let experiment = Experiment::<Reference32>::new(model, NdDevice, platform).scorer("norm", |input| {
//!     let hidden = input.hidden;
//!     hidden.mul(hidden)?.sum(2)?.reshape(&hidden.shape()[..2])
//! })?;
//! for row in experiment.rows(&config, &())? {
//!     println!("{}: {:.3} TFLOP, {:?}", row.label, row.flops.mean_tflop, row.distances);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Structure
//! - [`config`] (a run's TOML file, or a program's), [`grid`] (entries become points), [`prompts`], [`spec`] and [`method`] (a
//!   method, its budget solved, its costs known) → [`plan`]: every point checked before any weight is read.
//! - [`engine`]: a [`PlannedRun`](engine::PlannedRun) on a backend; whoever is a [`Sink`](engine::Sink) takes its images.
//!   `generate` and `masks` are a plan of one point and one batch.
//! - [`ablation`]: a plan's images in a folder, resumable and in [`shard`]s; [`merge`] makes one folder of many; [`gathered`] reads
//!   them again; [`record`]: what its files say.
//! - [`Experiment`]: a plan's images as typed rows.
//! - [`pictures`]: distances to the unpruned images. [`report`]: one HTML page of a folder. [`bench`](mod@bench): the U-Net timed.
//! - [`files`]: latents, masks, PNG and its metadata, written whole or not at all; [`draw`]: overlays, contact sheet, charts.
//! - [`model`], [`subject`]: a checkpoint opened, or known by its configurations alone. [`platform`], [`memory`]: what computes.
//! - [`failure`]: what goes wrong, and whose fault it is; [`listener`]: who hears how it goes on.
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
//! The module `layout` has these names. A run's plan decides which files belong to it (`members`), and what the files say is
//! checked against the plan (`reading`).
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
mod experiment;
pub mod extension;
pub mod failure;
pub mod files;
mod folder;
pub mod gathered;
pub mod grid;
pub mod init_image;
pub mod inputs;
mod layout;
pub mod listener;
mod members;
pub mod memory;
pub mod merge;
pub mod method;
pub mod model;
pub mod observe;
pub mod pictures;
pub mod plan;
pub mod platform;
pub mod prompts;
mod reading;
pub mod record;
pub mod report;
mod sampling;
pub mod shard;
pub mod spec;
mod stored;
pub mod subject;
mod table;
mod tally;

pub use config::{Config, GridEntry, Sampling};
pub use experiment::{Experiment, Row};
pub use extension::Extension;
pub use failure::{Failure, Outcome};
pub use listener::Listener;
pub use model::Model;
pub use platform::Platform;
