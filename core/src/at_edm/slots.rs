//! Which option names a part of AT-EDM, and which options each built-in part reads.

use crate::plugin::options::PartSlot;

/// The options of the scorer.
pub(super) const SCORER: PartSlot = PartSlot {
    name: "scorer",
    options: "scorer_options",
    builtin: &[
        (
            "page-rank",
            &[
                "score",
                "max_iterations",
                "level_iterations",
                "warm_start",
                "cold_iterations",
                "epsilon",
                "norm",
                "heads",
                "damping",
                "cross_vote",
            ],
        ),
        ("column-mean", &["score", "norm", "heads", "cross_vote"]),
        ("value-norm", &["heads"]),
        ("token-norm", &[]),
        ("random", &[]),
    ],
};

/// The options of the selector.
pub(super) const SELECTOR: PartSlot =
    PartSlot { name: "selector", options: "selector_options", builtin: &[("top-k", &[])] };

/// The options of the recovery.
pub(super) const RECOVERY: PartSlot = PartSlot {
    name: "recovery",
    options: "recovery_options",
    builtin: &[("similarity", &[]), ("direct", &[]), ("zero", &[]), ("bicubic", &["bicubic"])],
};
