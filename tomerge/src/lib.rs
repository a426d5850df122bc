#![doc = include_str!("../README.md")]
//!
//! # Structure
//! - [`MergeConfig`]: a method with all its options. [`presets`]: named settings.
//! - [`TokenPlan`]: token counts without a tensor.
//! - [`MergeOutline`]: a method as a registry knows it. [`register`] adds every preset to a registry.
//! - [`around`]: what all methods share as [`TokenReducer`](atedm_core::plugin::TokenReducer)s; a [`Planner`] is the rest.
//! - [`tome`]: ToMe. [`grid`], [`matching`] and [`merge`] are its steps.
//! - [`mod@todo`]: ToDo; [`toma`]: ToMA; [`sito`]: SiTo; [`ibtm`]: IBTM; [`dito`]: DiTo. [`MethodOptions`] gives
//!   the consequences of their options.
//! - [`reuse`]: plans that serve several steps and layers.

// A library writes to no stream. It logs or returns what happens.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod around;
mod config;
mod counts;
pub mod dito;
mod draws;
mod entry;
pub mod grid;
pub mod ibtm;
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
pub use entry::{MergeOutline, register};
pub use method_options::{BlockAtStep, MethodOptions};
