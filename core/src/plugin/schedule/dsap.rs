//! The paper's schedules: prune-less in early steps, its mirror, and the constant schedule.

use super::{PruningSchedule, ScheduleQuery, Tau};
use crate::Result;

/// In the first τ steps the first attention block of each down stage and the last of each up stage stay whole
/// (paper, section 3.3). All other blocks, including the middle one, are pruned in every step.
#[derive(Debug, Clone, Copy, Default)]
pub struct PruneLess {
    /// The number of early steps.
    pub tau: Tau,
}

impl PruningSchedule for PruneLess {
    fn ratio(&self, query: &ScheduleQuery) -> f64 {
        let early = query.step < self.tau.steps(query.total);
        if early && query.block.is_stage_edge() { 0.0 } else { query.ratio }
    }
    fn begin(&self, steps: usize) -> Result<()> {
        self.tau.fits("tau", steps)
    }
    fn clone_box(&self) -> Box<dyn PruningSchedule> {
        Box::new(*self)
    }
}

/// The mirror of [`PruneLess`]: those blocks stay whole *except* in the first τ steps. The paper found it inferior.
#[derive(Debug, Clone, Copy, Default)]
pub struct PruneMore {
    /// The number of early steps.
    pub tau: Tau,
}

impl PruningSchedule for PruneMore {
    fn ratio(&self, query: &ScheduleQuery) -> f64 {
        let early = query.step < self.tau.steps(query.total);
        if !early && query.block.is_stage_edge() { 0.0 } else { query.ratio }
    }
    fn begin(&self, steps: usize) -> Result<()> {
        self.tau.fits("tau", steps)
    }
    fn clone_box(&self) -> Box<dyn PruningSchedule> {
        Box::new(*self)
    }
}

/// Treats every block alike in every step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Constant;

impl PruningSchedule for Constant {
    fn ratio(&self, query: &ScheduleQuery) -> f64 {
        query.ratio
    }
    fn clone_box(&self) -> Box<dyn PruningSchedule> {
        Box::new(*self)
    }
}
