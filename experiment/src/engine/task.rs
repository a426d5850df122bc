//! The batches of a run.

use std::path::PathBuf;
use std::sync::Arc;

use atedm_core::plugin::MaskSet;

use crate::files::LatentsFile;
use crate::plan::PlannedPoint;
use crate::record::PromptLine;

/// Prompts that are made in one batch, and the points under which they are made.
#[derive(Debug, Clone)]
pub struct Batch {
    /// At least one prompt. The seed of the first prompt draws the noise of all images.
    pub prompts: Vec<PromptLine>,
    /// Places of the points in [`Plan::points`](crate::plan::Plan::points).
    pub points: Vec<usize>,
    /// Standard normal noise that takes the place of the seed's noise, with one image for each prompt.
    pub noise: Option<LatentsFile>,
}

/// Kept sets of an earlier run. They take the place of scoring.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The file that held them, for messages.
    pub path: PathBuf,
    /// The kept sets.
    pub masks: Arc<MaskSet>,
}

/// A batch under one point.
#[derive(Debug, Clone, Copy)]
pub struct ImageTask<'a> {
    /// The point.
    pub point: &'a PlannedPoint,
    /// The point's place in the plan.
    pub place: usize,
    /// The prompts of the batch.
    pub prompts: &'a [PromptLine],
}
