//! AT-EDM: attention-driven, training-free token pruning (Wang et al., CVPR 2024), behind the plugin seam.
//!
//! # Structure
//! Each file needs only those above it: options, configuration, plan, parts, method, entry.
//! - [`AtEdmConfig`] is data. [`AtEdmConfig::plan`] gives its token counts, [`AtEdmConfig::build`] the method [`AtEdm`].
//! - [`presets`]: the paper's settings by name.
//! - [`scoring`]: which tokens matter ([`TokenScorer`]; G-WPR is [`scoring::PageRank`]).
//! - [`selection`]: which tokens stay ([`TokenSelector`]).
//! - [`recovery`]: what takes the place of the others before the next convolution ([`TokenRecovery`]).
//! - [`Parts`]: scorers, selectors and recoveries by name. Every method has levels and a schedule, so those belong to
//!   [`Placement`](crate::plugin::Placement).
//! - [`AtEdmPlan`]: the method without a tensor. A registry describes it and builds the method of it.
//!
//! ```
//! # #[cfg(feature = "reference")]
//! # fn main() -> atedm_core::Result<()> {
//! use atedm_core::at_edm::{AtEdmConfig, Parts};
//! use atedm_core::plugin::{BlockId, BlockShape, BuildContext, Grid, Stage, StepOf};
//! use atedm_core::reference::NdTensor;
//!
//! let config = AtEdmConfig::default().with_ratio(0.5)?;
//! // Without a tensor: the tokens that each of a block's three layers runs on, at step 20 of 50.
//! let block = BlockId { stage: Stage::Mid, stage_index: 0, index: 0, count: 1, level: 2 };
//! let block = BlockShape::new(block, 3, Grid::new(32, 32));
//! let layers = config.plan()?.tokens(&block, StepOf { index: 20, total: 50 })?;
//! assert_eq!([0, 1, 2].map(|layer| layers[layer].self_attention), [1024, 512, 512]);
//! // The method itself, to be handed to `BlockPass::enter`.
//! let method = config.build::<NdTensor>(&BuildContext::default(), &Parts::with_builtins())?;
//! # drop(method);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "reference"))]
//! # fn main() {}
//! ```

mod config;
mod draws;
mod entry;
mod kept;
mod memory;
mod method;
mod options;
mod parts;
mod plan;
pub mod presets;
pub mod recovery;
pub mod scoring;
pub mod selection;
mod slots;

pub use config::AtEdmConfig;
pub use entry::AtEdmPlan;
pub use method::AtEdm;
pub use options::{Bicubic, CrossVote, Heads, Norm, Protect, PrunePoint, ScoreSource};
pub use parts::Parts;
pub use plan::{LayerQuery, PrunePlan, pruned_tokens};
pub use recovery::{RecoveryInput, TokenRecovery};
pub use scoring::{FirstVoteQuery, ScoreInput, ScoreNeeds, Scores, TokenScorer};
pub use selection::{TokenSelector, TopK};
