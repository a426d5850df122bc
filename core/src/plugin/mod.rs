//! The plugin seam: what a model reports, what a method answers, and how methods are found by name.

mod pass;
mod reducer;
mod site;

pub use pass::{AttentionInput, AttentionOutput, BlockPass};
pub use reducer::{Action, Event, Reduction, Run, Scope, TokenReducer, Unpruned, Wants, expect_tokens};
pub use site::{BlockId, BlockName, Branch, Grid, Row, Site, Stage, Step, Sublayer};
