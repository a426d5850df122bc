//! The plugin seam: what a model reports, what a method answers, and how methods are found by name.

mod index_plan;
mod levels;
mod masks;
mod observe;
pub mod options;
mod pass;
mod placement;
mod plan;
mod reducer;
mod registry;
pub mod schedule;
mod scheduled;
mod sharing;
mod site;
mod tokens;

pub use index_plan::{IndexPlan, stream_order};
pub use levels::Levels;
pub(crate) use levels::index_list;
pub use masks::{MaskEntry, MaskKey, MaskSet};
pub use observe::{MaskRecorder, PruneObserver, PruneRecord, SharedObserver, lock};
pub use options::{Options, PartSpec};
pub use pass::{AttentionInput, AttentionOutput, BlockPass};
pub use placement::{Gate, Placement, check_ratio};
pub use plan::{Facts, MethodPlan, RunTells, Scoring, Whole, scoring_of};
pub use reducer::{Action, Event, Reduction, Run, Scope, TokenReducer, Unpruned, Wants, expect_tokens};
pub use registry::{BuildContext, MethodCatalogue, Registry};
pub use schedule::{PruningSchedule, ScheduleQuery, ScheduleRegistry, Tau};
pub use scheduled::{Scheduled, WithRatio};
pub use sharing::GuidanceMasks;
pub use site::{BlockId, BlockName, Branch, Grid, Row, Site, Stage, Step, Sublayer};
pub use tokens::{BlockShape, LayerTokens, ModelShape, StepOf};
