//! Experiments with token-reducing methods on SD-XL, as a library. The program `atedm` is its command line. This crate
//! writes to no standard stream, reads no command line and ends no process.
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
//! - [`config`]: the TOML file of a run, or its equivalent in a program. [`grid`] turns its entries into points.
//!   [`prompts`], [`spec`] and [`method`] prepare prompts and methods: options checked, budget solved, costs known.
//! - [`plan`]: a checked run. Every point is checked before any weight is read.
//! - [`engine`]: a [`PlannedRun`](engine::PlannedRun) on a backend. A [`Sink`](engine::Sink) receives its images.
//!   `generate` and `masks` are plans of one point and one batch.
//! - [`ablation`]: writes a plan's images to a folder. It can resume, and it can work in [`shard`]s. [`merge`] makes
//!   one folder of many. [`gathered`] reads them again. [`record`] defines the contents of the files.
//! - [`Experiment`]: a plan's images as typed rows.
//! - [`pictures`]: distances to the unpruned images. [`measures`]: their means with intervals, differences to a baseline,
//!   Pareto fronts and tables. [`report`]: one HTML page per folder. [`bench`](mod@bench): times
//!   the U-Net.
//! - [`files`]: latents, masks, PNG and its metadata, written completely or not at all. [`draw`]: overlays, contact
//!   sheets, charts.
//! - [`control`]: the picture that a ControlNet follows.
//! - [`init_image`]: pictures to start from, and masks of what is painted again. [`preview`]: pictures of unfinished images.
//! - [`model`], [`parts`], [`subject`]: an opened checkpoint, or one of which only the configurations are known.
//! - [`platform`], [`memory`]: the backend and device, and a check of the memory.
//! - [`failure`]: errors, and who is at fault. [`listener`]: receives progress and warnings.
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
//! The module `layout` holds these names. The plan decides where the files of an image are (`members`). The contents of a
//! folder are checked against it (`reading`). A picture is written under a temporary name and renamed before its line is
//! appended. So the files of a line always exist. When a run is resumed, an incomplete last line is dropped. `atedm ablate
//! merge` makes one folder of many, with the lines sorted by id.

// A library must not write to the standard streams. Events are returned, or passed to a listener.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod ablation;
pub mod bench;
pub mod budget;
#[cfg(feature = "parquet")]
pub mod columns;
pub mod config;
pub mod control;
mod delimited;
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
mod hashes;
pub mod init_image;
pub mod inputs;
mod layout;
pub mod listener;
mod loras;
pub mod measures;
mod members;
pub mod memory;
pub mod merge;
pub mod method;
pub mod model;
pub mod observe;
pub mod parts;
pub mod pictures;
pub mod plan;
pub mod platform;
pub mod preview;
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
pub mod texts;
mod workload;

pub use budget::Budget;
pub use config::{Config, GridEntry, Sampling};
pub use experiment::{Experiment, Row};
pub use extension::Extension;
pub use failure::{Failure, Outcome};
pub use listener::Listener;
pub use model::Model;
pub use platform::Platform;
