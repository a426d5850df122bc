//! Token Merging (ToMe) and its relatives as plugins of AT-EDM's framework: training-free methods that reduce sublayers
//! one by one, on any backend, written from the facts of their papers and reference programs.
//!
//! # Structure
//! - [`MergeConfig`]: a method with all its options; [`presets`]: named settings, and [`register`] for a registry.
//! - [`MergeOutline`]: a method as a registry knows it; [`TokenPlan`]: token counts without a tensor.
//! - [`around`]: what all methods share as [`TokenReducer`](atedm_core::plugin::TokenReducer)s; a [`Planner`] is the rest.
//! - [`tome`]: ToMe. [`grid`], [`matching`] and [`merge`] are its steps.
//! - [`mod@todo`]: ToDo; [`toma`]: ToMA; [`sito`]: SiTo. What their options come to are [`MethodOptions`].
//! - [`reuse`]: plans that are used again over steps and layers.
//!
//! ```
//! use atedm_core::plugin::{BuildContext, Registry};
//! use atedm_core::reference::NdTensor;
//!
//! let mut registry = Registry::<NdTensor>::with_builtins();
//! atedm_tomerge::register(&mut registry)?;
//! let options = serde_json::json!({"ratio": 0.4, "max_downsample": 4, "schedule": "prune-less"});
//! let _method = registry.build("tome", &options, &BuildContext::default())?;
//! # Ok::<(), atedm_core::Error>(())
//! ```

// A library has nothing to tell on streams: what happens is logged or returned.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod around;
mod config;
mod counts;
mod draws;
mod entry;
pub mod grid;
pub mod matching;
pub mod merge;
mod method_options;
pub mod presets;
pub mod reuse;
pub mod sito;
pub mod todo;
pub mod toma;
pub mod tome;

pub use around::Planner;
pub use config::{MergeConfig, Method};
pub use counts::{Effect, TokenPlan};
pub use draws::Generator;
pub use entry::MergeOutline;
pub use method_options::{BlockAtStep, MethodOptions};
pub use presets::register;
