//! The choices that the paper leaves open, each an enumeration whose default is the project's decision.

use serde::{Deserialize, Serialize};

use crate::plugin::Sublayer;

/// Where in the pruning layer the tokens are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrunePoint {
    /// After the layer's feed-forward (paper, section 3.1, step 4).
    #[default]
    AfterFf,
    /// Before it, after cross-attention or joint attention ("prune early"; the published FLOPs fit this one).
    BeforeFf,
}

impl PrunePoint {
    /// Whether it comes once `sub` has run. Where attention and feed-forward are one sublayer, both points are its end.
    pub fn is_after(self, sub: Sublayer) -> bool {
        match self {
            Self::AfterFf => sub.has_feed_forward(),
            Self::BeforeFf => {
                matches!(sub, Sublayer::CrossAttention | Sublayer::JointAttention | Sublayer::Parallel)
            }
        }
    }
}

/// Which attention map the votes are cast with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum ScoreSource {
    /// The pruning layer's self-attention.
    #[default]
    #[serde(rename = "self")]
    SelfAttention,
    /// The pruning layer's cross-attention with Eq. 1 (the paper's "CA-based WPR").
    #[serde(rename = "cross")]
    CrossAttention,
}

/// The norm `|s|` that Algorithm 1 divides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// Scores sum to one in each head, so that the root mean square over heads rewards heads that single tokens out.
    #[default]
    L1,
    /// Scores have length one in each head: every head weighs the same.
    L2,
}

/// How the scores of several heads become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Heads {
    /// Root mean square (paper, section 3.2).
    #[default]
    Rms,
    /// Mean.
    Mean,
    /// Maximum.
    Max,
}

/// The function `f(A, s_K)` that takes the text tokens' scores back to the image tokens in cross-attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CrossVote {
    /// Eq. 1: `A s_K` over the row's entropy.
    #[default]
    Entropy,
    /// `A s_K` alone, as if every row had unit entropy.
    #[serde(alias = "unit-entropy")]
    Plain,
    /// Each image token takes the score of the one text token it attends to most.
    Hard,
}

/// What bicubic recovery does about pruned neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bicubic {
    /// They count as zeros: the failure that the paper describes (section 4.4).
    #[default]
    Plain,
    /// The weights of the kept neighbours are scaled to sum to one.
    #[serde(alias = "normalized")]
    Normalised,
}
