//! AT-EDM's configuration: plain data, and the checks of its values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::options::{Bicubic, CrossVote, Heads, Norm, Protect, PrunePoint, ScoreSource};
use super::scoring::{check_cold_iterations, check_level_iterations};
use super::slots::{RECOVERY, SCORER, SELECTOR};
use crate::plugin::options::{from_table, to_table, unknown_option};
use crate::plugin::schedule::ScheduleTable;
use crate::plugin::{GuidanceMasks, Levels, Options, Placement, Tau, index_list, share};
use crate::{Error, Result};

/// All options of AT-EDM. The default is the preset `at-edm`: the paper's setting for 4.1 TFLOPs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AtEdmConfig {
    /// The fraction ρ of tokens that each pruning layer removes, in `[0, 1)`. Of N tokens it removes `floor(ratio · N)`,
    /// computed in f64. `"63%"` means 0.63. `token_merging_ratio` is another name of this option. Default 0.63.
    #[serde(alias = "token_merging_ratio", deserialize_with = "share")]
    pub ratio: f64,
    /// Takes the place of `ratio`: the mean TFLOPs of one U-Net evaluation over the schedule (2 × MAC, one sample).
    /// A solver that knows the model finds the ratio for it. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_tflops: Option<f64>,
    /// Rounds the number of kept tokens up to a multiple of this number, such as 8 or 64, but never above N. Default 1.
    pub keep_multiple: usize,
    /// The place in the pruning layer where tokens are removed: `after_ff` or `before_ff`. Default `after_ff`.
    pub prune_point: PrunePoint,
    /// The layers of each block that prune, counted from 0, as a list or as `"0+4"`. A block's last layer never prunes.
    /// Default `[0]`.
    #[serde(deserialize_with = "index_list")]
    pub prune_layers: Vec<usize>,
    /// With `mask`, tokens whose part of the picture is painted again are never pruned. The number of kept tokens stays as
    /// planned. Where more tokens than that are protected, just these are kept. Default `none`.
    #[serde(skip_serializing_if = "Protect::is_none")]
    pub protect: Protect,
    /// The resolution levels that are pruned: `"all"`, `"deepest"`, or a list such as `[1, 2]`. Default `"all"`.
    pub levels: Levels,
    /// The attention whose map casts the votes: `self` or `cross`. Default `self`.
    pub score: ScoreSource,
    /// The scorer's name: `page-rank` (G-WPR), `column-mean`, `value-norm`, `token-norm`, `random`, or a registered name.
    /// Default `page-rank`.
    pub scorer: String,
    /// Options of a registered scorer. Default: none.
    #[serde(skip_serializing_if = "Options::is_empty")]
    pub scorer_options: Options,
    /// G-WPR: the greatest number of votes. Default 5.
    pub max_iterations: usize,
    /// G-WPR: the greatest number of votes at single resolution levels, as a table with the level as key. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub level_iterations: BTreeMap<usize, usize>,
    /// G-WPR: starts from the scores of the previous evaluation at the same block, layer and batch row. One vote at each
    /// step then converges over the steps. Default false.
    pub warm_start: bool,
    /// G-WPR with `warm_start`: the greatest number of votes where there are no scores to start from. Every pruning layer
    /// meets this case once in a run. Default: as many as elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_iterations: Option<usize>,
    /// Recomputes scores every N evaluations. The evaluations between use the last kept set and its recovery again, and
    /// ask nothing of the attention. Default 1: every evaluation computes scores.
    pub rescore_every: usize,
    /// G-WPR: stops a head when its scores change by at most this in the L1 norm. With 0 every head casts exactly
    /// `max_iterations` votes, and the device is never read back. Default 1e-4.
    pub epsilon: f64,
    /// G-WPR: the norm by which the scores are divided after each vote: `l1` or `l2`. Default `l1`.
    pub norm: Norm,
    /// How the scores of several heads become one score: `rms`, `mean` or `max`. Default `rms`.
    pub heads: Heads,
    /// G-WPR: the share of each vote that goes to all tokens evenly, in `[0, 1)`. Default 0.
    pub damping: f64,
    /// G-WPR with `score = "cross"`: `entropy` (Eq. 1), `plain` or `hard`. Default `entropy`.
    pub cross_vote: CrossVote,
    /// The selector's name: `top-k`, `sample` or a registered name. Default `top-k`.
    pub selector: String,
    /// Options of `sample` ([`Sample`](super::selection::Sample)) or of a registered selector. Default: none.
    #[serde(skip_serializing_if = "Options::is_empty")]
    pub selector_options: Options,
    /// The recovery's name: `similarity`, `soft`, `update`, `direct`, `zero`, `bicubic`, or a registered name.
    /// Default `similarity`.
    pub recovery: String,
    /// Options of `soft` and `update` ([`SoftCopy`](super::recovery::SoftCopy)) or of a registered recovery. Default: none.
    #[serde(skip_serializing_if = "Options::is_empty")]
    pub recovery_options: Options,
    /// Bicubic recovery: `plain` (pruned neighbours are zeros) or `normalised`. Default `plain`.
    pub bicubic: Bicubic,
    /// The schedule's name: `prune-less`, `prune-more`, `constant`, `table`, or a registered name.
    /// Default `prune-less`.
    pub schedule: String,
    /// Options of a registered schedule. Default: none.
    #[serde(skip_serializing_if = "Options::is_empty")]
    pub schedule_options: Options,
    /// With `schedule = "table"`: the table itself. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<ScheduleTable>,
    /// The number τ of early steps, as a count or a share of the steps. Default `"30%"`.
    pub tau: Tau,
    /// Which scores decide in the two halves of guidance: `per_row`, `cond` or `mean`. With `first` the scores of the
    /// first row decide for the whole batch. Default `per_row`.
    pub guidance: GuidanceMasks,
}

/// AT-EDM's own keys. The keys of a [`Placement`] are not among them.
const KEYS: [&str; 22] = [
    "keep_multiple",
    "prune_point",
    "prune_layers",
    "protect",
    "score",
    "scorer",
    "scorer_options",
    "max_iterations",
    "level_iterations",
    "warm_start",
    "cold_iterations",
    "rescore_every",
    "epsilon",
    "norm",
    "heads",
    "damping",
    "cross_vote",
    "selector",
    "selector_options",
    "recovery",
    "recovery_options",
    "bicubic",
];

impl Default for AtEdmConfig {
    fn default() -> Self {
        Self {
            ratio: 0.63,
            budget_tflops: None,
            keep_multiple: 1,
            prune_point: PrunePoint::default(),
            prune_layers: vec![0],
            protect: Protect::default(),
            levels: Levels::All,
            score: ScoreSource::default(),
            scorer: "page-rank".into(),
            scorer_options: Options::new(),
            max_iterations: 5,
            level_iterations: BTreeMap::new(),
            warm_start: false,
            cold_iterations: None,
            rescore_every: 1,
            epsilon: 1e-4,
            norm: Norm::default(),
            heads: Heads::default(),
            damping: 0.0,
            cross_vote: CrossVote::default(),
            selector: "top-k".into(),
            selector_options: Options::new(),
            recovery: "similarity".into(),
            recovery_options: Options::new(),
            bicubic: Bicubic::default(),
            schedule: "prune-less".into(),
            schedule_options: Options::new(),
            table: None,
            tau: Tau::default(),
            guidance: GuidanceMasks::default(),
        }
    }
}

impl AtEdmConfig {
    /// This configuration with `options` laid over it.
    pub(super) fn overlaid(&self, options: &Options) -> Result<Self> {
        let mut given = options.clone();
        SCORER.flatten(&mut given, &self.scorer)?;
        SELECTOR.flatten(&mut given, &self.selector)?;
        RECOVERY.flatten(&mut given, &self.recovery)?;
        let (placement, own) = self.placement().read(&given)?;
        let mut merged = to_table(self)?;
        for (key, value) in &own {
            Self::check_option(key, value)?;
            merged.insert(key.clone(), value.clone());
        }
        // A new `max_iterations` also replaces the preset's numbers at single levels.
        if own.contains_key("max_iterations") && !own.contains_key("level_iterations") {
            merged.remove("level_iterations");
        }
        // A part that is named again starts from its defaults.
        for slot in [SCORER, SELECTOR, RECOVERY] {
            if own.contains_key(slot.name) && !own.contains_key(slot.options) {
                merged.remove(slot.options);
            }
        }
        let config: Self = from_table(merged).map_err(|reason| Error::config("options", reason))?;
        let config = config.placed(placement);
        config.validate()?;
        config.check_idle(&own)?;
        Ok(config)
    }

    /// Checks that `key` is known and that its value has the right type.
    fn check_option(key: &str, value: &Value) -> Result<()> {
        if !KEYS.contains(&key) {
            return Err(unknown_option(key, KEYS.into_iter().chain(Placement::KEYS)));
        }
        let alone = Options::from_iter([(key.to_string(), value.clone())]);
        from_table::<Self>(alone).map_err(|reason| Error::config(key, reason))?;
        Ok(())
    }

    /// Checks that every option in `given` has an effect under this configuration.
    fn check_idle(&self, given: &Options) -> Result<()> {
        SCORER.check_idle(given, &self.scorer)?;
        SELECTOR.check_idle(given, &self.selector)?;
        RECOVERY.check_idle(given, &self.recovery)?;
        let is_given = |key: &str| given.get(key).is_some_and(|value| !value.is_null());
        if is_given("cross_vote") && !self.votes_across() {
            let reason = "does nothing here: it is an option of score = \"cross\", which is \"self\"";
            return Err(Error::config("cross_vote", reason));
        }
        if is_given("cold_iterations") && !self.warm_start {
            let reason = "does nothing here: it is an option of warm_start = true, which is false";
            return Err(Error::config("cold_iterations", reason));
        }
        Ok(())
    }

    /// Whether cross-attention votes. (The option is one of some scorers; others take no notice of it.)
    pub(super) fn votes_across(&self) -> bool {
        self.score == ScoreSource::CrossAttention
    }

    /// Every option with its value. Options that are not set or have no effect are left out. Laid over the same preset,
    /// the options give the same method.
    pub fn to_options(&self) -> Options {
        let mut all = to_table(self).unwrap_or_default();
        for (slot, part) in [(SCORER, &self.scorer), (SELECTOR, &self.selector), (RECOVERY, &self.recovery)] {
            slot.remove_idle(&mut all, part);
        }
        if !self.votes_across() {
            all.remove("cross_vote");
        }
        if !self.warm_start {
            all.remove("cold_iterations");
        }
        all.retain(|key, _| !Placement::KEYS.contains(&key.as_str()));
        all.extend(self.placement().to_options().unwrap_or_default());
        all
    }

    /// The options that every method has: how much is pruned, where and when.
    pub fn placement(&self) -> Placement {
        Placement {
            ratio: self.ratio,
            budget_tflops: self.budget_tflops,
            levels: self.levels.clone(),
            schedule: self.schedule.clone(),
            schedule_options: self.schedule_options.clone(),
            table: self.table.clone(),
            tau: self.tau,
            guidance: self.guidance,
        }
    }

    /// The same configuration with another placement.
    pub fn placed(self, placement: Placement) -> Self {
        let Placement { ratio, budget_tflops, levels, schedule, schedule_options, table, tau, guidance } =
            placement;
        Self { ratio, budget_tflops, levels, schedule, schedule_options, table, tau, guidance, ..self }
    }

    /// Checks that every value is in range and that no two values contradict each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field and what was expected.
    pub fn validate(&self) -> Result<()> {
        self.placement().validate()?;
        if self.keep_multiple == 0 {
            return Err(Error::config("keep_multiple", "expected at least 1, got 0"));
        }
        if self.max_iterations == 0 {
            return Err(Error::config("max_iterations", "expected at least 1, got 0"));
        }
        check_level_iterations(&self.level_iterations)?;
        check_cold_iterations(self.cold_iterations)?;
        if self.rescore_every == 0 {
            return Err(Error::config("rescore_every", "expected at least 1, got 0"));
        }
        if !(self.epsilon >= 0.0 && self.epsilon.is_finite()) {
            return Err(Error::config(
                "epsilon",
                format!("expected a finite number, at least 0, got {}", self.epsilon),
            ));
        }
        if !(0.0..1.0).contains(&self.damping) {
            return Err(Error::config(
                "damping",
                format!("expected at least 0 and below 1, got {}", self.damping),
            ));
        }
        if self.prune_layers.is_empty() {
            return Err(Error::config("prune_layers", "expected at least one layer, got an empty list"));
        }
        Ok(())
    }

    /// The same configuration for a model with this deepest attention level: `levels = "deepest"` becomes a list.
    pub fn resolve(mut self, deepest_level: usize) -> Self {
        self.levels = self.levels.resolved(deepest_level);
        self
    }

    /// The same configuration with a solved `ratio` in place of a budget.
    ///
    /// # Errors
    /// [`Error::Config`] when `ratio` is not in `[0, 1)`.
    pub fn with_ratio(self, ratio: f64) -> Result<Self> {
        let placement = self.placement().with_ratio(ratio)?;
        Ok(self.placed(placement))
    }

    /// The same configuration with another cap and threshold of G-WPR.
    ///
    /// # Errors
    /// [`Error::Config`] when `max_iterations` is 0 or `epsilon` is negative or not finite.
    pub fn with_votes(mut self, max_iterations: usize, epsilon: f64) -> Result<Self> {
        self.max_iterations = max_iterations;
        self.epsilon = epsilon;
        self.validate()?;
        Ok(self)
    }

    /// The same configuration with another prune point.
    pub fn with_prune_point(mut self, prune_point: PrunePoint) -> Self {
        self.prune_point = prune_point;
        self
    }

    /// The same configuration with another number of early steps.
    ///
    /// # Errors
    /// [`Error::Config`] when a share is not between 0 and 100 %.
    pub fn with_tau(mut self, tau: Tau) -> Result<Self> {
        tau.validate("tau")?;
        self.tau = tau;
        Ok(self)
    }
}
