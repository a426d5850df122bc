//! Token Merging for Stable Diffusion (ToMe, Bolya and Hoffman, arXiv 2303.17604) as tomesd 0.1.3 computes it.
//!
//! ```text
//! layer enters     one destination a cell; every source to its most similar destination; the floor(r·N) most similar
//!                  pairs are merged, at most N − destinations
//! each sublayer    x + unmerge(f(merge(norm(x))))        merge: a destination and its sources become their mean
//! ```
//!
//! One plan for each layer serves all sublayers that merge. We differ from tomesd in three points. A zero token has
//! similarity 0 (tomesd: NaN). On equal similarities the lower index wins (tomesd: no order). The model states its
//! token grid (tomesd computes it from the latents' size, and fails where the result is wrong).

mod options;
mod planner;

pub use options::{MergeCounts, TomeOptions, Variant};
pub(crate) use options::{check_sublayers, check_threshold, merges};
pub(crate) use planner::Tome;
