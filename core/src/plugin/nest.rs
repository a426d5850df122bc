//! Nests: the parts of an evaluation whose output an earlier result can replace.
//!
//! A nest has one input tensor and one output tensor. Nests lie in one another:
//!
//! | nest | in a U-Net | in a plain transformer |
//! |---|---|---|
//! | 0 | the whole evaluation: latents → prediction | the same |
//! | d + 1 | the part between pushing skip connection d and popping it | all blocks from block d + 1 on |
//!
//! DeepCache skips nest b + 1 of a U-Net for `cache_branch_id = b` (`deepcache` 0.1.1, `extension`). The code of
//! its paper counts stages and layers. There `cache_layer_id = s` and `cache_block_id = l` mean the nest after skip
//! connection `s · (layers per stage + 1) + l + 1`. A first-block cache skips nest 1 of a transformer.

use std::fmt;

use super::site::{Row, Step};

/// The number of a nest: how many other nests contain it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NestId(pub usize);

impl NestId {
    /// The whole evaluation.
    pub const EVALUATION: Self = Self(0);

    /// The nest of a U-Net between pushing and popping this skip connection.
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

/// The place and time at which a reducer hears of a nest.
#[derive(Debug, Clone, Copy)]
pub struct NestSite<'a> {
    /// The nest.
    pub nest: NestId,
    /// The denoising step.
    pub step: Step,
    /// A description of each batch row.
    pub rows: &'a [Row],
}
