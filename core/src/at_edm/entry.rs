//! AT-EDM in a registry: its plan, which needs no tensor, how the method is built of it, and its presets by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::config::AtEdmConfig;
use super::method::AtEdm;
use super::parts::Parts;
use super::plan::{LayerQuery, Prunable, PrunePlan};
use super::presets;
use crate::Result;
use crate::backend::AttentionOps;
use crate::plugin::{
    BlockShape, BuildContext, Facts, LayerTokens, MethodPlan, ModelShape, Options, Others, Registry,
    ScheduleRegistry, Scoring, StepOf, Sublayer, scoring_of,
};

/// After this number of votes scores count as converged.
const CONVERGED: usize = 50;

/// AT-EDM's configuration with its token counts.
#[derive(Debug, Clone)]
pub struct AtEdmPlan {
    config: AtEdmConfig,
    counts: PrunePlan,
    /// The other members of a stack.
    others: Others,
}

impl AtEdmPlan {
    /// The plan of `config`. Its schedule comes from `facts`. If `facts` hold a model, the plan is checked against it.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the option that is wrong.
    pub fn new(config: AtEdmConfig, facts: &Facts<'_>) -> Result<Self> {
        let placement = config.placement().located(facts)?;
        let schedule = placement.build_for(facts)?;
        let config = config.placed(placement);
        config.validate()?;
        Ok(Self { counts: PrunePlan::new(&config, schedule), config, others: Others::default() })
    }

    /// The configuration. Its levels are resolved if the plan was made for a model.
    pub fn config(&self) -> &AtEdmConfig {
        &self.config
    }

    /// The token counts.
    pub fn counts(&self) -> &PrunePlan {
        &self.counts
    }

    /// Whether the attentions of a layer run that its tokens are chosen by: self-attention, and cross-attention where that
    /// one votes. What a registered scorer asks for is not known here.
    fn has_maps(&self, block: &BlockShape, layer: usize, step: StepOf) -> Result<bool> {
        let decides = |sub: &&Sublayer| {
            sub.has_self_graph() || (**sub == Sublayer::CrossAttention && self.config.votes_across())
        };
        for &sub in block.sublayers.iter().filter(decides) {
            if !self.others.run(sub, block, layer, step)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The tokens that each layer of `block` runs on at `step`. A layer without a map prunes only as long as a kept set of an
    /// earlier step serves, which is why earlier steps are walked through. When guidance ends, the batch has other rows
    /// and no set serves any longer.
    fn layers(&self, block: &BlockShape, step: StepOf) -> Result<Vec<LayerTokens>> {
        if self.others.is_empty() {
            return self.counts.tokens(block, step);
        }
        let every = self.config.rescore_every;
        let first = if every == 1 { step.index } else { 0 };
        // by layer: the step that scored, and the counts then
        let mut sets: BTreeMap<usize, (usize, usize, usize)> = BTreeMap::new();
        let mut layers = Vec::new();
        let mut guided = true;
        for index in first..=step.index {
            let step = StepOf { index, ..step };
            if self.others.want_guidance(step) != guided {
                guided = !guided;
                sets.clear();
            }
            let mut chosen_anew = false;
            layers = self.counts.tokens_where(block, step, |Prunable { layer, tokens, kept }| {
                let serves = |&(at, of, left): &(usize, usize, usize)| {
                    (of, left) == (tokens, kept) && index - at < every
                };
                if !chosen_anew && sets.get(&layer).is_some_and(serves) {
                    return Ok(true);
                }
                let scores = self.has_maps(block, layer, step)?;
                if scores {
                    chosen_anew = true;
                    sets.insert(layer, (index, tokens, kept));
                }
                Ok(scores)
            })?;
        }
        Ok(layers)
    }

    /// The method itself, with the scorer, selector and recovery from `parts`.
    fn build<T: AttentionOps>(&self, context: &BuildContext<T>, parts: &Parts<T>) -> Result<AtEdm<T>> {
        AtEdm::new(&self.config, self.counts.clone(), context, parts)
    }

    /// The fewest tokens that a sublayer of `block` runs on at `step`; `None` if the block is not pruned.
    fn kept(&self, block: &BlockShape, step: StepOf) -> Result<Option<usize>> {
        Ok(fewest(block, &self.layers(block, step)?))
    }

    /// Whether `block` is left whole at `step` because it has no map there.
    fn lacks_map(&self, block: &BlockShape, step: StepOf) -> Result<bool> {
        let would_prune = fewest(block, &self.counts.tokens(block, step)?).is_some();
        Ok(would_prune && self.kept(block, step)?.is_none())
    }

    /// Whether `keep_multiple` is the only reason why `block` is not pruned at `step`.
    fn is_rounded_up(&self, block: &BlockShape, step: StepOf) -> Result<bool> {
        let query = |layer: &usize| LayerQuery {
            block: block.id,
            layer: *layer,
            depth: block.depth,
            step: step.index,
            total: step.total,
            tokens: block.grid.tokens(),
            protected: 0,
        };
        let exact = self.counts.clone().with_keep_multiple(1);
        for layer in &self.config.prune_layers {
            if exact.kept(&query(layer))?.is_some() && self.counts.kept(&query(layer))?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The fewest tokens of any layer, if they are fewer than there are.
fn fewest(block: &BlockShape, layers: &[LayerTokens]) -> Option<usize> {
    layers.iter().map(LayerTokens::least).min().filter(|&kept| kept < block.grid.tokens())
}

impl MethodPlan for AtEdmPlan {
    fn settings(&self) -> Options {
        self.config.to_options()
    }

    fn family(&self) -> Option<&str> {
        Some("at-edm")
    }

    fn tokens(&self, block: &BlockShape, step: StepOf) -> Result<Option<Vec<LayerTokens>>> {
        self.layers(block, step).map(Some)
    }

    fn scoring(&self, block: &BlockShape, step: StepOf) -> Result<Scoring> {
        let cold = self.config.warm_start && self.config.cold_iterations.is_some();
        let first = if cold { Scoring::First } else { Scoring::Fresh };
        let every = self.config.rescore_every;
        let guided = |index| self.others.want_guidance(StepOf { index, ..step });
        let serves = |found, now| now - found < every && guided(found) == guided(now);
        scoring_of(step, |step| self.kept(block, step), serves, first)
    }

    fn budget_tflops(&self) -> Option<f64> {
        self.config.budget_tflops
    }

    fn with_ratio(&self, ratio: f64) -> Option<Result<Box<dyn MethodPlan>>> {
        let solved = || {
            let config = self.config.clone().with_ratio(ratio)?;
            let plan: Box<dyn MethodPlan> = Box::new(Self {
                config,
                counts: self.counts.with_ratio(ratio)?,
                others: self.others.clone(),
            });
            Ok(plan)
        };
        Some(solved())
    }

    fn without_early_stop(&self) -> Option<Box<dyn MethodPlan>> {
        let mut plan = self.clone();
        plan.config.epsilon = 0.0;
        Some(Box::new(plan))
    }

    /// Page rank with 50 votes from equal scores at every evaluation. The configured scorer does not matter.
    fn converged(&self) -> Option<Box<dyn MethodPlan>> {
        let config = AtEdmConfig {
            scorer: "page-rank".into(),
            scorer_options: Options::new(),
            max_iterations: CONVERGED,
            level_iterations: BTreeMap::new(),
            cold_iterations: None,
            warm_start: false,
            epsilon: 0.0,
            rescore_every: 1,
            selector: "top-k".into(),
            selector_options: Options::new(),
            ..self.config.clone()
        };
        Some(Box::new(Self { config, ..self.clone() }))
    }

    fn beside(&self, others: &Others) -> Option<Box<dyn MethodPlan>> {
        Some(Box::new(Self { others: others.clone(), ..self.clone() }))
    }

    fn remarks(&self, model: &ModelShape) -> Result<Vec<String>> {
        let AtEdmConfig { ratio, keep_multiple, .. } = self.config;
        if ratio == 0.0 {
            return Ok(Vec::new());
        }
        let (mut pruned, mut rounded, mut without_map) = (false, Vec::new(), BTreeSet::new());
        for block in &model.blocks {
            for step in model.each_step() {
                if self.kept(block, step)?.is_some() {
                    pruned = true;
                } else if self.lacks_map(block, step)? {
                    without_map.insert(step.index);
                } else if self.is_rounded_up(block, step)? && !rounded.contains(&block.id.level) {
                    rounded.push(block.id.level);
                }
            }
        }
        let multiple = |what: &str| {
            format!("{what}: keep_multiple = {keep_multiple} rounds what is kept up to all tokens")
        };
        rounded.sort_unstable();
        let mut remarks = match (pruned || !without_map.is_empty(), rounded.as_slice()) {
            (true, []) => Vec::new(),
            (true, levels) => {
                let levels: Vec<String> = levels.iter().map(usize::to_string).collect();
                vec![multiple(&format!("not everything is pruned at level {}", levels.join(" and ")))]
            }
            (false, []) => vec![
                "nothing is pruned: levels, schedule and prune_layers spare every block, or the ratio is less than one token"
                    .into(),
            ],
            (false, _) => vec![multiple("nothing is pruned")],
        };
        if !without_map.is_empty() {
            remarks.push(format!(
                "blocks are left whole at {} of {} steps, where another method gives the attention that scores them",
                without_map.len(),
                model.steps
            ));
        }
        Ok(remarks)
    }
}

impl AtEdmConfig {
    /// The method itself, with the built-in schedules. It takes its scorer, selector and recovery from `parts`.
    ///
    /// # Errors
    /// The same as [`AtEdmConfig::plan`]; [`Error::Config`](crate::Error::Config) for an unknown part, with the known names.
    pub fn build<T: AttentionOps>(&self, context: &BuildContext<T>, parts: &Parts<T>) -> Result<AtEdm<T>> {
        let schedules = ScheduleRegistry::with_builtins();
        AtEdmPlan::new(self.clone(), &Facts::new(&schedules))?.build(context, parts)
    }
}

impl<T: AttentionOps> Registry<T> {
    /// A registry with the methods `none` and AT-EDM's presets, and with the built-in parts and schedules.
    pub fn with_builtins() -> Self {
        Self::with_parts(Parts::with_builtins())
    }

    /// The same as [`Registry::with_builtins`], with these parts in place of the built-in ones.
    pub fn with_parts(parts: Parts<T>) -> Self {
        let mut registry = Self::of_identity();
        let parts = Arc::new(parts);
        for preset in presets::names() {
            let parts = parts.clone();
            registry.set_method(
                preset,
                move |options, facts| AtEdmPlan::new(AtEdmConfig::from_options(preset, options)?, facts),
                move |plan: &AtEdmPlan, context| Ok(Box::new(plan.build(context, &parts)?)),
            );
        }
        registry
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugin::{BlockId, Grid, ScheduleRegistry, Stage};

    fn shape(level: usize, side: usize) -> BlockShape {
        let id = BlockId { stage: Stage::Mid, stage_index: 0, index: 0, count: 1, level };
        BlockShape::new(id, 3, Grid::new(side, side))
    }

    fn model() -> ModelShape {
        ModelShape::new(vec![shape(1, 64), shape(2, 32)], 4)
    }

    fn remarks(options: Value) -> String {
        let (schedules, model) = (ScheduleRegistry::with_builtins(), model());
        let config = AtEdmConfig::from_options("at-edm", options.as_object().unwrap()).unwrap();
        let plan = AtEdmPlan::new(config, &Facts::new(&schedules).of_model(&model)).unwrap();
        plan.remarks(&model).unwrap().join("; ")
    }

    #[test]
    fn a_configuration_that_prunes_less_than_it_says_is_told_of() {
        assert_eq!(remarks(json!({})), "");
        assert_eq!(remarks(json!({"keep_multiple": 64})), "");
        assert_eq!(remarks(json!({"ratio": 0})), "");
        assert_eq!(
            remarks(json!({"keep_multiple": 5000})),
            "nothing is pruned: keep_multiple = 5000 rounds what is kept up to all tokens"
        );
        assert_eq!(
            remarks(json!({"keep_multiple": 1000, "ratio": 0.01})),
            "nothing is pruned: keep_multiple = 1000 rounds what is kept up to all tokens"
        );
        assert_eq!(
            remarks(json!({"keep_multiple": 2000})),
            "not everything is pruned at level 2: keep_multiple = 2000 rounds what is kept up to all tokens"
        );
        for options in [json!({"prune_layers": [7]}), json!({"levels": [0]}), json!({"ratio": 0.0001})] {
            assert!(remarks(options).starts_with("nothing is pruned: levels"));
        }
    }

    #[test]
    fn settings_describe_the_same_method_again() {
        let (schedules, model) = (ScheduleRegistry::with_builtins(), model());
        let facts = Facts::new(&schedules).of_model(&model);
        for options in [
            json!({}),
            json!({"scorer": "random", "recovery": "bicubic", "schedule": "constant"}),
            json!({"scorer": "page-rank", "score": "cross", "cross_vote": "hard"}),
        ] {
            for preset in presets::names() {
                let options = options.as_object().unwrap();
                let Ok(config) = AtEdmConfig::from_options(preset, options) else { panic!("{preset}") };
                let plan = AtEdmPlan::new(config, &facts).unwrap();
                let again = AtEdmConfig::from_options(preset, &plan.settings()).unwrap();
                let again = AtEdmPlan::new(again, &facts).unwrap();
                assert_eq!(again.settings(), plan.settings(), "{preset} {options:?}");
            }
        }
    }
}
