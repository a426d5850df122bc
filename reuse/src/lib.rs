//! Training-free methods that reuse the results of earlier steps, as plugins of AT-EDM's framework. They run on any
//! backend, and on any model that reports its nests and sublayers. They were written from the facts of the papers and
//! reference programs.
//!
//! | name | reused results | when | source |
//! |---|---|---|---|
//! | `deepcache` | a nest of a U-Net | between full steps, even or uneven | DeepCache, arXiv 2312.00858 |
//! | `tgate` | outputs of cross- and self-attention; guidance ends | from the gate step on | T-GATE, arXiv 2404.02747 |
//! | `first-block-cache` | everything after the first block | while that block changes little | diffusers, after ParaAttention |
//! | `step-forecast` | whole evaluations, continued by a Taylor series of order 0 to 2 | between steps that run | TaylorSeer, arXiv 2503.06923 |
//!
//! # Structure
//! - [`deepcache`], [`tgate`], [`first_block_cache`], [`step_forecast`]: the methods. Each has options, a plan without
//!   tensors ([`MethodPlan`](atedm_core::plugin::MethodPlan)), and a
//!   [`TokenReducer`](atedm_core::plugin::TokenReducer).
//! - [`Memory`]: the stored results of earlier steps, by place, image and guidance half. It is empty at the start of
//!   every run.
//! - [`register`]: adds the methods to a registry.
//!
//! As in the authors' programs, steps are counted from the first step of a run. Plans are for runs of a full schedule.
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

// A library must not write to the standard streams. Events are logged or returned.
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
