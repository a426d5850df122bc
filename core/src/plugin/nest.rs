//! Nests: what a model computes between two points that enclose each other, so that an earlier result can stand for it.
//!
//! A nest is a part of an evaluation with one tensor going in and one coming out, and nests lie in one another:
//!
//! | nest | in a U-Net | in a plain transformer |
//! |---|---|---|
//! | 0 | the whole evaluation: latents → prediction | the same |
//! | d + 1 | what lies between pushing skip connection d and popping it | all blocks from block d + 1 on |
//!
//! Nest b + 1 of a U-Net is what DeepCache leaves out for its `cache_branch_id = b` (`deepcache` 0.1.1, `extension`). The
//! paper's own code counts stages and layers: `cache_layer_id = s`, `cache_block_id = l` is the nest after skip
//! connection `s · (layers per stage + 1) + l + 1`. Nest 1 of a transformer is what a first-block cache leaves out.

use std::fmt;

use super::site::{Row, Step};

/// The number of a nest: how many others contain it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NestId(pub usize);

impl NestId {
    /// The whole evaluation.
    pub const EVALUATION: Self = Self(0);

    /// The nest of a U-Net between pushing this skip connection and popping it.
    pub fn after_skip(skip: usize) -> Self {
        Self(skip + 1)
    }

    /// Whether `other` lies in this nest or is this nest.
    pub fn contains(self, other: Self) -> bool {
        self <= other
    }
}

impl fmt::Display for NestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nest {}", self.0)
    }
}

/// Where a reducer is told of a nest.
#[derive(Debug, Clone, Copy)]
pub struct NestSite<'a> {
    /// Which nest.
    pub nest: NestId,
    /// The denoising step.
    pub step: Step,
    /// What each batch row is.
    pub rows: &'a [Row],
}
