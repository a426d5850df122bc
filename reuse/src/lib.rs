//! What earlier steps computed is used again: training-free methods as plugins of AT-EDM's framework, on any backend and any
//! model that tells of its nests and sublayers, written from the facts of their papers and reference programs.
//!
//! | name | what is used again | when | source |
//! |---|---|---|---|
//! | `deepcache` | a nest of a U-Net | between full steps, even or uneven | DeepCache, arXiv 2312.00858 |
//! | `tgate` | outputs of cross- and self-attention; guidance ends | from the gate step on | T-GATE, arXiv 2404.02747 |
//! | `first-block-cache` | all after the first block | while that block changes little | diffusers, after ParaAttention |
//! | `step-forecast` | whole evaluations, continued by a Taylor series of order 0 to 2 | between steps that run | TaylorSeer, arXiv 2503.06923 |
//!
//! # Structure
//! - [`deepcache`], [`tgate`], [`first_block_cache`], [`step_forecast`]: one file or folder a method. Each has options, a plan
//!   without a tensor ([`MethodPlan`](atedm_core::plugin::MethodPlan)), and a
//!   [`TokenReducer`](atedm_core::plugin::TokenReducer).
//! - [`Memory`]: what is kept of earlier steps, by place, image and guidance half; every run begins with none.
//! - [`register`]: the methods in a registry.
//!
//! Steps are counted from a run's first, as the authors' programs do; plans are those of runs of a full schedule.
//!
//! ```
//! use atedm_core::plugin::{BuildContext, Registry};
//! use atedm_core::reference::NdTensor;
//!
//! let mut registry = Registry::<NdTensor>::with_builtins();
//! atedm_reuse::register(&mut registry)?;
//! let options = serde_json::json!({"cache_interval": 5, "cache_branch_id": 2});
//! let _method = registry.build("deepcache", &options, &BuildContext::default())?;
//! # Ok::<(), atedm_core::Error>(())
//! ```

// A library has nothing to tell on streams: what happens is logged or returned.
#![deny(clippy::print_stderr, clippy::print_stdout)]

mod checks;
pub mod deepcache;
pub mod first_block_cache;
mod memory;
mod options;
mod registry;
pub mod step_forecast;
pub mod tgate;

pub use memory::Memory;
pub use registry::register;
