//! The choices that the paper leaves open. Each is an enumeration, and its default is this project's decision.

use serde::{Deserialize, Serialize};

use crate::plugin::Sublayer;

/// The point in the pruning layer where the tokens are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrunePoint {
    /// After the layer's feed-forward (paper, section 3.1, step 4).
    #[default]
    AfterFf,
    /// Before the feed-forward, after cross-attention or joint attention ("prune early"). The published FLOPs fit
    /// this choice.
    BeforeFf,
}

impl PrunePoint {
    /// Whether this point comes right after `sub`. Where attention and feed-forward are one sublayer, both points
    /// are its end.
    pub fn is_after(self, sub: Sublayer) -> bool {
        match self {
            Self::AfterFf => sub.has_feed_forward(),
            Self::BeforeFf => {
                matches!(sub, Sublayer::CrossAttention | Sublayer::JointAttention | Sublayer::Parallel)
            }
        }
    }
}

/// The attention map that casts the votes.
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

/// The tokens that are never pruned, besides those that the model protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protect {
    /// None.
    #[default]
    None,
    /// Those that a run paints again in a given picture ([`Run::painted`](crate::plugin::Run::painted)).
    Mask,
}

impl Protect {
    pub(super) fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// The norm `|s|` that Algorithm 1 divides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// Scores sum to one in each head. The root mean square over heads then rewards heads that single tokens out.
    #[default]
    L1,
    /// Scores have length one in each head. Every head then has the same weight.
    L2,
}

/// How to combine the scores of several heads into one.
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

/// The function `f(A, s_K)` of cross-attention. It maps the text tokens' scores back to the image tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CrossVote {
    /// Eq. 1: `A s_K` divided by the row's entropy.
    #[default]
    Entropy,
    /// Only `A s_K`, as if every row had unit entropy.
    #[serde(alias = "unit-entropy")]
    Plain,
    /// Each image token takes the score of the text token that it attends to most.
    Hard,
}

/// How bicubic recovery treats pruned neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bicubic {
    /// They count as zeros. This is the failure that the paper describes (section 4.4).
    #[default]
    Plain,
    /// The weights of the kept neighbours are scaled to sum to one.
    #[serde(alias = "normalized")]
    Normalised,
}
