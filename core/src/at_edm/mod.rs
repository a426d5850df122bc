//! AT-EDM: attention-driven, training-free token pruning (Wang et al., CVPR 2024), behind the plugin seam.
//!
//! # Structure
//! - [`AtEdmConfig`] is data; [`AtEdmConfig::build`] makes the method [`AtEdm`] of it, [`AtEdmConfig::plan`] the bare counts.
//! - [`scoring`]: which tokens matter ([`TokenScorer`]; G-WPR is [`scoring::PageRank`]).
//! - [`selection`]: which tokens stay ([`TokenSelector`]).
//! - [`recovery`]: what stands for the others before the next convolution ([`TokenRecovery`]).
//! - [`schedule`]: where and when (DSAP; [`PruningSchedule`]).
//! - [`presets`]: the paper's settings by name.

mod builtins;
mod config;
mod method;
mod options;
mod plan;
pub mod presets;
pub mod recovery;
pub mod schedule;
pub mod scoring;
pub mod selection;

pub(crate) use builtins::{
    builtin_methods, builtin_recoveries, builtin_schedules, builtin_scorers, builtin_selectors,
};
pub use config::AtEdmConfig;
pub use method::AtEdm;
pub use options::{Bicubic, CrossVote, Heads, Norm, PrunePoint, ScoreSource};
pub use plan::{LayerQuery, LayerTokens, PrunePlan, kept_tokens, pruned_tokens};
pub use recovery::{RecoveryInput, TokenRecovery};
pub use schedule::Tau;
pub use scoring::{Ballot, ScoreInput, ScoreNeeds, Scores, TokenScorer};
pub use selection::{TokenSelector, TopK};

pub use crate::plugin::{Levels, PruningSchedule};
