//! Named settings. The paper's settings never change. The `-fast` settings prune as many tokens at the same places,
//! but find them with fewer votes.
//!
//! | name | what | source |
//! |---|---|---|
//! | `at-edm` | ρ = 0.63 at all levels, prune-less for the first 30 % of the steps | section 4.1, "AT-EDM" |
//! | `at-edm-dagger` | the same at the deepest level only | section 4.3, "AT-EDM†" |
//! | `at-edm-fast`, `at-edm-dagger-fast` | these two with one or two votes that start from the previous step's scores | measured: the guide's "Fast presets" |
//! | `at-edm-best` | ours: random tokens, one mask for both halves of guidance, update copy over the grid, pruned before the feed-forward | tuned and judged: the guide's "The paper's claims" |
//! | `at-edm-a` … `at-edm-d` | budgets of 2.9, 3.6, 4.1 and 4.5 TFLOPs, pruned before the feed-forward | Table 1 |

use super::config::AtEdmConfig;
use super::options::PrunePoint;
use crate::plugin::{GuidanceMasks, Levels, Options};
use crate::{Error, Result};

/// The names of all presets.
pub fn names() -> [&'static str; 9] {
    [
        "at-edm",
        "at-edm-dagger",
        "at-edm-fast",
        "at-edm-dagger-fast",
        "at-edm-best",
        "at-edm-a",
        "at-edm-b",
        "at-edm-c",
        "at-edm-d",
    ]
}

/// The same configuration with fewer votes. From the second evaluation on, the fine levels cast one vote, which attention
/// computes on its way. The levels below them have few tokens
/// and cast two.
fn fast(config: AtEdmConfig) -> AtEdmConfig {
    AtEdmConfig {
        warm_start: true,
        cold_iterations: Some(5),
        max_iterations: 2,
        level_iterations: [(0, 1), (1, 1)].into(),
        epsilon: 0.0,
        ..config
    }
}

/// The setting whose pictures were nearest to the unpruned ones on training scenes. It needs no attention map.
fn best() -> AtEdmConfig {
    AtEdmConfig {
        scorer: "random".into(),
        recovery: "update".into(),
        recovery_options: [("changes".to_string(), "bicubic".into())].into_iter().collect(),
        guidance: GuidanceMasks::Cond,
        prune_point: PrunePoint::BeforeFf,
        ..AtEdmConfig::default()
    }
}

impl AtEdmConfig {
    /// The preset with this name; `None` for a name that is not one of [`names`].
    pub fn preset(name: &str) -> Option<Self> {
        // Only pruning before the feed-forward reaches the published budgets.
        let budget = |tflops: f64| Self {
            budget_tflops: Some(tflops),
            prune_point: PrunePoint::BeforeFf,
            ..Self::default()
        };
        let dagger = || Self { levels: Levels::Deepest, ..Self::default() };
        match name {
            "at-edm" => Some(Self::default()),
            "at-edm-dagger" => Some(dagger()),
            "at-edm-fast" => Some(fast(Self::default())),
            "at-edm-dagger-fast" => Some(fast(dagger())),
            "at-edm-best" => Some(best()),
            "at-edm-a" => Some(budget(2.9)),
            "at-edm-b" => Some(budget(3.6)),
            "at-edm-c" => Some(budget(4.1)),
            "at-edm-d" => Some(budget(4.5)),
            _ => None,
        }
    }

    /// A preset with `options` laid over it. The options come from a command line or a configuration file.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown preset or key, with the known ones; for a value of the wrong type or out of range;
    /// for an option without effect.
    pub fn from_options(preset: &str, options: &Options) -> Result<Self> {
        let base = Self::preset(preset).ok_or_else(|| {
            Error::config("preset", format!("expected one of {}, got {preset:?}", names().join(", ")))
        })?;
        base.overlaid(options)
    }
}
