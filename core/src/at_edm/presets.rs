//! Named settings. The paper's own are frozen: they never follow what we find faster. The `-fast` ones do: they prune
//! as many tokens at the same places, and find them with fewer votes.
//!
//! | name | what | source |
//! |---|---|---|
//! | `at-edm` | ρ = 0.63 at all levels, prune-less for the first 30 % of the steps | section 4.1, "AT-EDM" |
//! | `at-edm-dagger` | the same at the deepest level only | section 4.3, "AT-EDM†" |
//! | `at-edm-fast`, `at-edm-dagger-fast` | these two with one or two votes from the previous step's scores | measured: the guide's "Fast presets" |
//! | `at-edm-a` … `at-edm-d` | budgets of 2.9, 3.6, 4.1 and 4.5 TFLOPs, pruned before the feed-forward | Table 1 |

use super::config::AtEdmConfig;
use super::options::PrunePoint;
use crate::plugin::Levels;

/// The names of all presets.
pub fn names() -> [&'static str; 8] {
    [
        "at-edm",
        "at-edm-dagger",
        "at-edm-fast",
        "at-edm-dagger-fast",
        "at-edm-a",
        "at-edm-b",
        "at-edm-c",
        "at-edm-d",
    ]
}

/// The same tokens to prune at the same places, found with fewer votes: from the second evaluation on one, which the
/// attention casts on its way, and one more where tokens are few.
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

/// The preset of this name.
pub fn find(name: &str) -> Option<AtEdmConfig> {
    // The published budgets are reached only when tokens are removed before the feed-forward.
    let budget = |tflops: f64| AtEdmConfig {
        budget_tflops: Some(tflops),
        prune_point: PrunePoint::BeforeFf,
        ..AtEdmConfig::default()
    };
    let dagger = || AtEdmConfig { levels: Levels::Deepest, ..AtEdmConfig::default() };
    match name {
        "at-edm" => Some(AtEdmConfig::default()),
        "at-edm-dagger" => Some(dagger()),
        "at-edm-fast" => Some(fast(AtEdmConfig::default())),
        "at-edm-dagger-fast" => Some(fast(dagger())),
        "at-edm-a" => Some(budget(2.9)),
        "at-edm-b" => Some(budget(3.6)),
        "at-edm-c" => Some(budget(4.1)),
        "at-edm-d" => Some(budget(4.5)),
        _ => None,
    }
}
