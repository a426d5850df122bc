//! How many tokens every layer runs on. The method, the FLOPs model and `inspect` share this arithmetic.

use super::config::AtEdmConfig;
use super::options::PrunePoint;
use crate::Result;
use crate::plugin::{BlockId, BlockShape, LayerTokens, PlacedSchedule, ScheduleRegistry, StepOf};

/// One layer of a block at one step. A [`PrunePlan`] decides how many of its tokens stay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerQuery {
    /// The attention block.
    pub block: BlockId,
    /// The layer within the block, counted from 0.
    pub layer: usize,
    /// Layers of the block.
    pub depth: usize,
    /// The step in the full schedule, counted from 0.
    pub step: usize,
    /// Steps of the full schedule.
    pub total: usize,
    /// Tokens in the residual stream when the layer begins.
    pub tokens: usize,
    /// How many of them must stay.
    pub protected: usize,
}

/// A layer that may prune.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prunable {
    /// The layer.
    pub(super) layer: usize,
    /// Tokens in the stream when it begins.
    pub(super) tokens: usize,
    /// Tokens that it would leave.
    pub(super) kept: usize,
}

/// The token counts of AT-EDM: which layers prune, and how many tokens stay. It holds no tensor.
#[derive(Debug, Clone)]
pub struct PrunePlan {
    schedule: PlacedSchedule,
    prune_layers: Vec<usize>,
    prune_point: PrunePoint,
    keep_multiple: usize,
}

impl PrunePlan {
    /// The plan of `config`, whose placement gives `schedule`.
    pub(super) fn new(config: &AtEdmConfig, schedule: PlacedSchedule) -> Self {
        Self {
            schedule,
            prune_layers: config.prune_layers.clone(),
            prune_point: config.prune_point,
            keep_multiple: config.keep_multiple.max(1),
        }
    }

    /// The same plan with another ratio. The ratio also takes the place of a budget.
    pub(super) fn with_ratio(&self, ratio: f64) -> Result<Self> {
        Ok(Self { schedule: self.schedule.with_ratio(ratio)?, ..self.clone() })
    }

    /// The same plan with another multiple to which kept counts are rounded up.
    pub(super) fn with_keep_multiple(self, keep_multiple: usize) -> Self {
        Self { keep_multiple, ..self }
    }

    /// The place in a pruning layer where tokens are removed.
    pub fn prune_point(&self) -> PrunePoint {
        self.prune_point
    }

    /// Whether a block can prune at more than one layer.
    pub fn prunes_repeatedly(&self) -> bool {
        self.prune_layers.len() > 1
    }

    /// Checks that the schedule fits a run of `steps` steps.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when τ exceeds them.
    pub fn begin(&self, steps: usize) -> Result<()> {
        self.schedule.begin(steps)
    }

    /// The number of tokens that stay in the layer of `query`; `None` if the layer does not prune. A layer does not prune if
    /// `prune_layers` lacks it or it is the block's last, if the schedule spares its step or level, or if the ratio is too
    /// small to remove a token.
    ///
    /// # Errors
    /// [`Error::Plugin`](crate::Error::Plugin) when the schedule answers with a ratio outside `[0, 1)`.
    pub fn kept(&self, query: &LayerQuery) -> Result<Option<usize>> {
        if query.layer + 1 >= query.depth || !self.prune_layers.contains(&query.layer) {
            return Ok(None);
        }
        let ratio = self.schedule.ratio(query.block, query.step, query.total)?;
        let removable = query.tokens.saturating_sub(query.protected);
        Ok(self.rounded(query.tokens - pruned_tokens(ratio, removable), query.tokens))
    }

    /// `kept` of `tokens`, raised to `least` and rounded up as the plan rounds; `None` if no token is left to prune.
    pub(super) fn raised(&self, kept: usize, least: usize, tokens: usize) -> Option<usize> {
        self.rounded(kept.max(least), tokens)
    }

    fn rounded(&self, kept: usize, tokens: usize) -> Option<usize> {
        let kept = kept.div_ceil(self.keep_multiple).saturating_mul(self.keep_multiple);
        (kept < tokens).then_some(kept)
    }

    /// The tokens that each layer of `block` runs on at `step`, one entry for each layer.
    ///
    /// # Errors
    /// The same as [`PrunePlan::kept`].
    pub fn tokens(&self, block: &BlockShape, step: StepOf) -> Result<Vec<LayerTokens>> {
        self.tokens_where(block, step, |_| Ok(true))
    }

    /// The same where not every pruning layer prunes: `prunes` is asked about each, with how many tokens it would leave.
    pub(super) fn tokens_where(
        &self,
        block: &BlockShape,
        step: StepOf,
        mut prunes: impl FnMut(Prunable) -> Result<bool>,
    ) -> Result<Vec<LayerTokens>> {
        let mut stream = block.grid.tokens();
        let layer_tokens = |layer: usize| -> Result<LayerTokens> {
            let query = LayerQuery {
                block: block.id,
                layer,
                depth: block.depth,
                step: step.index,
                total: step.total,
                tokens: stream,
                protected: 0,
            };
            let mut tokens = block.layer(stream);
            if let Some(kept) = self.kept(&query)?
                && prunes(Prunable { layer, tokens: stream, kept })?
            {
                stream = kept;
                let point = block.sublayers.iter().position(|&sub| self.prune_point.is_after(sub));
                for &sub in
                    block.sublayers.iter().skip(point.map_or(block.sublayers.len(), |point| point + 1))
                {
                    tokens.set(sub, kept, kept);
                }
            }
            Ok(tokens)
        };
        (0..block.depth).map(layer_tokens).collect()
    }
}

impl AtEdmConfig {
    /// The token counts under this configuration, with the built-in schedules.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for an invalid configuration, an unsolved budget or an unresolved level,
    /// and for a schedule that is not built in (see [`AtEdmConfig::plan_with`]).
    pub fn plan(&self) -> Result<PrunePlan> {
        self.plan_with(&ScheduleRegistry::with_builtins())
    }

    /// The same as [`AtEdmConfig::plan`], with the schedules in `schedules`.
    ///
    /// # Errors
    /// The same as [`AtEdmConfig::plan`].
    pub fn plan_with(&self, schedules: &ScheduleRegistry) -> Result<PrunePlan> {
        self.validate()?;
        let placement = self.placement();
        placement.expect_solved()?;
        Ok(PrunePlan::new(self, placement.build(schedules)?))
    }
}

/// `floor(ratio · tokens)` in f64, but at most all tokens but one.
///
/// The product is an f64: 0.63 · 100 gives 63, and 0.29 · 100 gives 28, since the product is 28.999999999999996.
pub fn pruned_tokens(ratio: f64, tokens: usize) -> usize {
    ((ratio * tokens as f64).floor() as usize).min(tokens.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{Grid, Levels, Stage, Sublayer};

    fn block(stage: Stage, stage_index: usize, index: usize, count: usize, level: usize) -> BlockId {
        BlockId { stage, stage_index, index, count, level }
    }

    /// What every layer of a block runs on at a step.
    fn tokens(
        plan: &PrunePlan,
        (id, depth, tokens): (BlockId, usize, usize),
        (index, total): (usize, usize),
    ) -> Vec<LayerTokens> {
        plan.tokens(&BlockShape::new(id, depth, Grid::new(1, tokens)), StepOf { index, total }).unwrap()
    }

    /// SD-XL's eleven attention blocks with depth and tokens at 1024 px.
    fn sdxl() -> Vec<(BlockId, usize, usize)> {
        let mut blocks = Vec::new();
        for i in 0..2 {
            blocks.push((block(Stage::Down, 1, i, 2, 1), 2, 4096));
        }
        for i in 0..2 {
            blocks.push((block(Stage::Down, 2, i, 2, 2), 10, 1024));
        }
        blocks.push((block(Stage::Mid, 0, 0, 1, 2), 10, 1024));
        for i in 0..3 {
            blocks.push((block(Stage::Up, 0, i, 3, 2), 10, 1024));
        }
        for i in 0..3 {
            blocks.push((block(Stage::Up, 1, i, 3, 1), 2, 4096));
        }
        blocks
    }

    #[test]
    fn pruned_counts_are_the_floor_in_f64() {
        assert_eq!(pruned_tokens(0.63, 100), 63);
        assert_eq!(pruned_tokens(0.29, 100), 28);
        assert_eq!(pruned_tokens(0.63, 4096), 2580);
        assert_eq!(pruned_tokens(0.63, 1024), 645);
        assert_eq!(pruned_tokens(0.0, 7), 0);
        assert_eq!(pruned_tokens(1.0 - f64::EPSILON, 3), 2);
        assert_eq!(pruned_tokens(0.5, 0), 0);
    }

    #[test]
    fn prune_less_spares_the_papers_four_blocks_early() {
        let plan = AtEdmConfig::default().plan().unwrap();
        for step in [0, 14, 15, 49] {
            let pruned: Vec<String> = sdxl()
                .into_iter()
                .filter(|&block| tokens(&plan, block, (step, 50))[block.1 - 1].self_attention < block.2)
                .map(|(id, ..)| id.name())
                .collect();
            let late = step >= 15;
            assert_eq!(pruned.len(), if late { 11 } else { 7 }, "step {step}");
            for spared in ["down.1.0", "down.2.0", "up.0.2", "up.1.2"] {
                assert_eq!(pruned.contains(&spared.to_string()), late, "{spared} at step {step}");
            }
        }
    }

    #[test]
    fn prune_point_decides_the_first_feed_forward() {
        let mid = block(Stage::Mid, 0, 0, 1, 2);
        let after = tokens(&AtEdmConfig::default().plan().unwrap(), (mid, 3, 1024), (0, 50));
        assert_eq!(after, [LayerTokens::whole(1024), LayerTokens::whole(379), LayerTokens::whole(379)]);
        let before = AtEdmConfig::default().with_prune_point(PrunePoint::BeforeFf);
        let before = tokens(&before.plan().unwrap(), (mid, 3, 1024), (0, 50));
        assert_eq!(before[0], LayerTokens { feed_forward: 379, ..LayerTokens::whole(1024) });
        assert_eq!(before[1..], after[1..]);
    }

    #[test]
    fn where_attention_and_feed_forward_are_one_both_points_are_its_end() {
        use Sublayer::{FeedForward, JointAttention, Parallel};
        let step = StepOf { index: 0, total: 1 };
        let mid = BlockShape::new(block(Stage::Mid, 0, 0, 1, 0), 2, Grid::new(10, 10));
        for point in [PrunePoint::AfterFf, PrunePoint::BeforeFf] {
            let plan =
                AtEdmConfig { schedule: "constant".into(), ..AtEdmConfig::default() }.with_prune_point(point);
            let plan = plan.plan().unwrap();
            let layer = |tokens| LayerTokens { cross_attention: 0, ..LayerTokens::whole(tokens) };
            assert_eq!(plan.tokens(&mid.made_of(&[Parallel]), step).unwrap(), [layer(100), layer(37)]);
            let first = match point {
                PrunePoint::AfterFf => layer(100),
                PrunePoint::BeforeFf => LayerTokens { feed_forward: 37, ..layer(100) },
            };
            let joint = mid.made_of(&[JointAttention, FeedForward]);
            assert_eq!(plan.tokens(&joint, step).unwrap(), [first, layer(37)]);
        }
    }

    #[test]
    fn several_layers_compound_and_the_last_never_prunes() {
        let mid = block(Stage::Mid, 0, 0, 1, 0);
        let config = AtEdmConfig { ratio: 0.5, prune_layers: vec![0, 1, 2], ..AtEdmConfig::default() };
        let plan = config.plan().unwrap();
        let three = tokens(&plan, (mid, 3, 100), (0, 1));
        assert_eq!(three.iter().map(|l| l.self_attention).collect::<Vec<_>>(), [100, 50, 25]);
        let single = tokens(&plan, (mid, 1, 100), (0, 1));
        assert_eq!(single, [LayerTokens::whole(100)]);
    }

    #[test]
    fn kept_counts_round_up_to_a_multiple_but_never_above_all() {
        let mid = block(Stage::Mid, 0, 0, 1, 0);
        let kept = |multiple: usize, whole: usize| {
            let config = AtEdmConfig { keep_multiple: multiple, ..AtEdmConfig::default() };
            tokens(&config.plan().unwrap(), (mid, 2, whole), (0, 1))[1].self_attention
        };
        assert_eq!(kept(1, 1024), 379);
        assert_eq!(kept(8, 1024), 384);
        assert_eq!(kept(64, 1024), 384);
        assert_eq!(kept(64, 50), 50);
    }

    #[test]
    fn dagger_prunes_the_deepest_level_only() {
        let dagger = AtEdmConfig::preset("at-edm-dagger").unwrap();
        assert!(dagger.plan().unwrap_err().to_string().starts_with("levels: "));
        let dagger = AtEdmConfig { levels: dagger.levels.resolved(2), ..dagger };
        assert_eq!(dagger.levels, Levels::List(vec![2]));
        let plan = dagger.plan().unwrap();
        for block @ (id, depth, whole) in sdxl() {
            let last = tokens(&plan, block, (20, 50))[depth - 1].self_attention;
            assert_eq!(last < whole, id.level == 2, "{id}");
        }
    }

    #[test]
    fn protected_tokens_are_not_counted_as_removable() {
        let query = LayerQuery {
            block: block(Stage::Mid, 0, 0, 1, 0),
            layer: 0,
            depth: 2,
            step: 0,
            total: 1,
            tokens: 100,
            protected: 90,
        };
        assert_eq!(AtEdmConfig::default().plan().unwrap().kept(&query).unwrap(), Some(94));
    }

    #[test]
    fn an_unsolved_budget_is_an_error() {
        let error = AtEdmConfig::preset("at-edm-b").unwrap().plan().unwrap_err().to_string();
        assert!(error.starts_with("budget_tflops: ") && error.contains("model"), "{error}");
    }
}
