//! The plugin seam: what a model reports, what a method answers, and how methods are found by name.

mod index_plan;
mod masks;
mod observe;
mod pass;
mod reducer;
mod registry;
mod scheduled;
mod sharing;
mod site;

pub use index_plan::{IndexPlan, stream_order};
pub use masks::{MaskEntry, MaskKey, MaskSet};
pub use observe::{MaskRecorder, PruneObserver, PruneRecord, SharedObserver, lock};
pub use pass::{AttentionInput, AttentionOutput, BlockPass};
pub use reducer::{Action, Event, Reduction, Run, Scope, TokenReducer, Unpruned, Wants, expect_tokens};
pub use registry::{BuildContext, MethodBuilder, Options, PartBuilder, PartSpec, Registry, ScheduleRegistry};
pub(crate) use scheduled::index_list;
pub use scheduled::{Gate, Levels, PruningSchedule, ScheduleQuery, Scheduled, WithRatio, check_ratio};
pub use sharing::GuidanceMasks;
pub use site::{BlockId, BlockName, Branch, Grid, Row, Site, Stage, Step, Sublayer};
