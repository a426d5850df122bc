//! Token Merging for Stable Diffusion (ToMe, Bolya and Hoffman, arXiv 2303.17604) as tomesd 0.1.3 computes it.
//!
//! ```text
//! layer enters     one destination a cell; every source to its most similar destination; the floor(r·N) most similar
//!                  pairs are merged, at most N − destinations
//! each sublayer    x + unmerge(f(merge(norm(x))))        merge: a destination and its sources become their mean
//! ```
//!
//! The plan is made once a layer and serves all sublayers that merge. Where we differ: a zero token has similarity 0
//! (tomesd: NaN), equal similarities keep the lower index (tomesd: no order), and a token grid is what the model says
//! it is (tomesd computes it from the latents' size, and fails where that comes out wrong).

mod options;
mod planner;

pub use options::{MergeCounts, TomeOptions, Variant};
pub(crate) use options::{check_sublayers, check_threshold, merges};
pub(crate) use planner::Tome;
