//! Schedules over denoising steps and blocks (DSAP, paper section 3.3): [`PruneLess`], [`PruneMore`], [`Constant`], [`Table`].

mod dsap;
mod share;
mod table;
mod tau;

pub(super) use share::share;

pub use dsap::{Constant, PruneLess, PruneMore};
pub use table::{ScheduleEntry, ScheduleTable, Table};
pub use tau::Tau;
