//! Schedules over denoising steps and blocks (DSAP, paper section 3.3): [`PruneLess`], [`PruneMore`], [`Constant`],
//! [`Table`], and registered schedules by name.

mod dsap;
mod registry;
mod table;
mod tau;

pub use dsap::{Constant, PruneLess, PruneMore};
pub use registry::ScheduleRegistry;
pub use table::{ScheduleEntry, ScheduleTable, Table};
pub use tau::Tau;

use super::block::BlockId;
use super::tokens::BlockShape;
use crate::Result;

/// One question to a schedule: which fraction of this block is removed at this step?
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleQuery {
    /// The attention block.
    pub block: BlockId,
    /// 0-based step in the full schedule.
    pub step: usize,
    /// The number of steps in the full schedule.
    pub total: usize,
    /// The fraction that the configuration removes by default.
    pub ratio: f64,
}

/// Distributes pruning over blocks and denoising steps. It is object-safe, and a registry finds it by name.
pub trait PruningSchedule: Send + Sync + std::fmt::Debug {
    /// The fraction of tokens to remove, in `[0, 1)`. 0 leaves the block whole.
    fn ratio(&self, query: &ScheduleQuery) -> f64;

    /// A run of `steps` steps is about to begin.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when the schedule does not fit this number of steps.
    fn begin(&self, _steps: usize) -> Result<()> {
        Ok(())
    }

    /// Checks that the schedule fits a model with these blocks.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when it names a block that the model lacks.
    fn check_blocks(&self, _blocks: &[BlockShape]) -> Result<()> {
        Ok(())
    }

    /// A copy.
    fn clone_box(&self) -> Box<dyn PruningSchedule>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn _obj_safe(_: Box<dyn PruningSchedule>) {}
}
