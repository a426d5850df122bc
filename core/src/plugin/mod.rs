//! The plugin seam: what a model reports, what a method answers, and how a configuration names methods.
//!
//! # The conversation
//! A model reports what happens in an attention block through a [`BlockPass`]. A [`TokenReducer`] answers. The order is:
//!
//! | the model reports | the method may answer | what the pass then does |
//! |---|---|---|
//! | [`Event::LayerEnter`], as a layer begins | `Continue`, `UntilExit` | shrinks the stream until the block's exit |
//! | [`Event::Before`], before a sublayer runs | `Continue`, `Around`, `Replace` | shrinks the sublayer's input; with `Replace` skips to [`Event::After`] |
//! | attention only: [`TokenReducer::wants`] | [`GraphRequest`](crate::GraphRequest) | asks attention for its graph, or for a first vote too |
//! | attention only: [`Event::Attended`], with that graph and the restored output | `Continue` | adds the output to the stream |
//! | [`Event::After`], when the sum is made | `Continue`, `UntilExit` | shrinks the stream until the block's exit |
//! | [`Event::BlockExit`], with every token restored | `Continue` | hands the stream back |
//!
//! Any other answer is an error.
//!
//! Around and between its blocks a model names [nests](nest()). A nest is a part of an evaluation. Nests lie in one
//! another, and the outermost nest is the whole evaluation. Before a nest runs, [`TokenReducer::enter_nest`] may
//! give its output instead. After it has run, [`TokenReducer::leave_nest`] sees the output. Methods that reuse
//! results of an earlier step work through these two and `Replace`.
//!
//! This method only listens. It hears the following of one layer with one attention:
//!
//! ```
//! # #[cfg(feature = "reference")]
//! # fn main() -> atedm_core::Result<()> {
//! use atedm_core::backend::{Attended, AttentionOptions};
//! use atedm_core::plugin::*;
//! use atedm_core::reference::{NdDevice, NdTensor};
//! use atedm_core::{AttentionOps, DType, GraphRequest, Result, Tensor};
//!
//! struct Listener(Vec<&'static str>);
//!
//! impl TokenReducer<NdTensor> for Listener {
//!     fn wants(&mut self, _: &Site<'_>, _: Sublayer) -> Result<GraphRequest<NdTensor>> {
//!         self.0.push("wants");
//!         Ok(GraphRequest::Lazy)
//!     }
//!     fn on_event(&mut self, _: &Site<'_>, event: Event<'_, NdTensor>) -> Result<Action<NdTensor>> {
//!         self.0.push(match event {
//!             Event::LayerEnter { .. } => "enter",
//!             Event::Before { .. } => "before",
//!             Event::Attended { graph: Some(_), .. } => "attended",
//!             Event::After { .. } => "after",
//!             Event::BlockExit { .. } => "exit",
//!             _ => "something else",
//!         });
//!         Ok(Action::Continue)
//!     }
//! }
//!
//! let x = NdTensor::full(1.0, &[1, 4, 2], DType::F32, &NdDevice)?;
//! let (mut listener, rows) = (Listener(Vec::new()), Row::singles(1));
//! let step = Step { index: 0, total: 1, evaluation: 0, sigma: 1.0, timestep: 999.0 };
//! let grid = Grid::new(2, 2);
//! let mut pass = BlockPass::enter(&mut listener, &step, &rows, BlockId::whole(), 1, grid);
//! let x = pass.layer(0, x)?;
//! let x = pass.attention(Sublayer::SelfAttention, x, |x| Ok(x.clone()), |input| {
//!     let heads = |x: &NdTensor| x.reshape(&[1, 1, 4, 2]);
//!     let (q, kv) = (heads(input.queries)?, heads(input.keys_values)?);
//!     let options = AttentionOptions { graph: input.graph, ..AttentionOptions::for_dim(2) };
//!     let Attended { hidden, graph, first_vote } = NdTensor::attention(&q, &kv, &kv, options)?;
//!     Ok(AttentionOutput { hidden: hidden.reshape(&[1, 4, 2])?, graph, first_vote, values: kv })
//! })?;
//! pass.exit(x)?;
//! assert_eq!(listener.0, ["enter", "before", "wants", "attended", "after", "exit"]);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "reference"))]
//! # fn main() {}
//! ```
//!
//! # Places
//! When tokens are removed, everything that belongs to a place must follow the remaining tokens: rotary tables,
//! masks, modulations. The inputs of sublayers give the rows of such a table ([`AttentionInput::query_rows`],
//! [`AttentionInput::key_rows`], [`FeedForwardInput::rows`]). A model that asks for rows sets
//! [`ModelShape::needs_positions`]. The registry then refuses a method whose tokens have no single places
//! ([`MethodPlan::gives_positions`]), before the first step.
//!
//! # A method before any tensor exists
//! A [`MethodCatalogue`] describes a method by its name and options as a [`MethodPlan`]. The plan holds settings
//! and token counts for the model and steps of a run ([`Facts`]). A [`Registry`] builds the [`TokenReducer`] of
//! that plan. [`Placement`] holds the options that every method shares: how much it reduces, where and when.

mod block;
mod fraction;
mod index_plan;
mod levels;
mod masks;
mod nest;
mod observe;
pub mod options;
mod pass;
mod placed;
mod placement;
mod plan;
mod positions;
mod reducer;
mod registry;
pub mod schedule;
mod scheduled;
mod sharing;
mod site;
mod spots;
pub mod stack;
mod tokens;

pub use block::{BlockId, BlockName, Stage, StageName};
pub(crate) use fraction::share;
pub use fraction::{check_ratio, percentage};
pub use index_plan::{IndexPlan, stream_order};
pub use levels::Levels;
pub(crate) use levels::index_list;
pub use masks::{MaskEntry, MaskKey, MaskSet};
pub use nest::{NestId, NestSite};
pub use observe::{MaskRecorder, PruneObserver, PruneRecord, SharedObserver, lock};
pub use options::{Options, PartSpec};
pub use pass::{AttentionInput, AttentionOutput, BlockPass, FeedForwardInput, nest};
pub use placed::PlacedSchedule;
pub use placement::Placement;
pub use plan::{Facts, MethodPlan, Others, RunTells, Scoring, Whole, scoring_of};
pub use positions::Positions;
pub use reducer::{Action, Event, Reduction, Reductions, Run, Scope, TokenReducer, Unpruned, expect_tokens};
pub use registry::{BuildContext, MethodCatalogue, Registry};
pub use schedule::{PruningSchedule, ScheduleQuery, ScheduleRegistry, Tau};
pub use scheduled::{Scheduled, WithRatio};
pub use sharing::GuidanceMasks;
pub use site::{Branch, Grid, Row, Site, Step, Sublayer};
pub use spots::Spots;
pub use tokens::{BlockShape, LayerTokens, ModelShape, NestShape, StepOf};
