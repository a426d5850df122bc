//! How many tokens every layer runs on. The methods, the FLOPs model and the program's remarks share this arithmetic.

use atedm_core::Result;
use atedm_core::plugin::{
    BlockShape, LayerTokens, ModelShape, PlacedSchedule, ScheduleRegistry, Scope, StepOf, Sublayer,
};

use crate::config::{MergeConfig, Method};
use crate::method_options::BlockAtStep;

/// The token counts of a method. It holds no tensor.
#[derive(Debug, Clone)]
pub struct TokenPlan {
    schedule: PlacedSchedule,
    method: Method,
    ratio: f64,
    /// The time step of each step of the run.
    timesteps: Option<Vec<f64>>,
}

/// The token count of one block at one step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Effect {
    /// Tokens of the block.
    pub tokens: usize,
    /// Tokens that reduced sublayers run on.
    pub kept: usize,
    /// The fraction that the schedule asked for; 0 if levels or schedule spare the block.
    pub asked: f64,
}

impl Effect {
    /// The fraction of tokens that are really removed.
    pub fn ratio(&self) -> f64 {
        1.0 - self.kept as f64 / self.tokens.max(1) as f64
    }

    /// Whether the block is reduced.
    pub fn applies(&self) -> bool {
        self.kept < self.tokens
    }
}

impl TokenPlan {
    pub(crate) fn new(schedule: PlacedSchedule, method: Method, ratio: f64) -> Self {
        Self { schedule, method, ratio, timesteps: None }
    }

    /// The plan of a run whose steps have these time steps. A sampler gives them. Without them, methods that depend on time
    /// steps (ToDo) are counted as if the steps divided the range from 1000 to 0 evenly.
    #[must_use]
    pub fn timed(mut self, timesteps: Vec<f64>) -> Self {
        self.timesteps = Some(timesteps);
        self
    }

    /// The same plan with another ratio. The ratio also takes the place of a budget.
    pub(crate) fn with_ratio(&self, ratio: f64) -> Result<Self> {
        Ok(Self { schedule: self.schedule.with_ratio(ratio)?, ratio, ..self.clone() })
    }

    /// The schedule: where tokens are reduced, and how much.
    pub(crate) fn schedule(&self) -> &PlacedSchedule {
        &self.schedule
    }

    /// Whether a run has exactly the counts of [`TokenPlan::tokens`]. It may not with a `threshold`, since the tokens then
    /// decide how many are removed. It may not either if the method depends on time steps that are not
    /// [known](TokenPlan::timed).
    pub fn is_exact(&self) -> bool {
        let options = self.method.options();
        !options.decides_by_data() && (self.timesteps.is_some() || !options.follows_timesteps())
    }

    fn timestep(&self, StepOf { index, total }: StepOf) -> f64 {
        let known = self.timesteps.as_ref().and_then(|timesteps| timesteps.get(index));
        known.copied().unwrap_or(1000.0 * (1.0 - index as f64 / total.max(1) as f64))
    }

    /// Checks that the schedule fits a run of `steps` steps.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] when τ exceeds them.
    pub fn begin(&self, steps: usize) -> Result<()> {
        self.schedule.begin(steps)
    }

    /// The token count of `block` at `step`.
    ///
    /// # Errors
    /// [`atedm_core::Error::Plugin`] when the schedule answers with a ratio outside `[0, 1)`.
    pub fn effect(&self, &BlockShape { id, grid, .. }: &BlockShape, step: StepOf) -> Result<Effect> {
        let asked = self.schedule.ratio(id, step.index, step.total)?;
        let tokens = grid.tokens();
        let timestep = self.timestep(step);
        let place = BlockAtStep { level: id.level, grid, step: step.index, timestep };
        let kept = if asked == 0.0 { tokens } else { self.method.options().kept(asked, &place) };
        Ok(Effect { tokens, kept, asked })
    }

    /// The tokens that each layer of `block` runs on at `step`, one entry for each layer.
    ///
    /// # Errors
    /// The same as [`TokenPlan::effect`].
    pub fn tokens(&self, block: &BlockShape, step: StepOf) -> Result<Vec<LayerTokens>> {
        let Effect { tokens, kept, .. } = self.effect(block, step)?;
        let on = |sub: Sublayer| match self.method.options().scope(sub) {
            Some(Scope::Both) => (kept, kept),
            Some(Scope::Queries) => (kept, tokens),
            Some(Scope::KeysValues) => (tokens, kept),
            None => (tokens, tokens),
        };
        let mut layer = block.layer(tokens);
        for &sub in block.sublayers {
            let (queries, keys) = on(sub);
            layer.set(sub, queries, keys);
        }
        Ok(vec![layer; block.depth])
    }

    /// What the options alone do not show: that the ratio is capped, or that nothing is reduced. One sentence for each.
    ///
    /// # Errors
    /// The same as [`TokenPlan::effect`].
    pub fn remarks(&self, model: &ModelShape) -> Result<Vec<String>> {
        let options = self.method.options();
        let mut remarks = Vec::new();
        if self.ratio == 0.0 {
            return Ok(remarks);
        }
        let (mut applied, mut asked, mut least) = (false, false, f64::INFINITY);
        for block in &model.blocks {
            for step in model.each_step() {
                let effect = self.effect(block, step)?;
                asked |= effect.asked > 0.0;
                applied |= effect.applies();
                // A difference of one token comes from rounding and is no cap.
                let rounding = 1.0 / effect.tokens.max(1) as f64;
                let asked_for = options.has_ratio() && !options.decides_by_data();
                if asked_for && effect.applies() && effect.ratio() + rounding < effect.asked {
                    least = least.min(effect.ratio());
                }
            }
        }
        if !applied {
            let finest = model.blocks.iter().map(|block| block.id.level).min().unwrap_or(0);
            let why = if asked {
                options.why_nothing(finest)
            } else {
                "levels and schedule spare every block".into()
            };
            remarks.push(format!("nothing is reduced: {why}"));
        } else if least.is_finite() {
            let ratio = self.ratio;
            remarks.push(format!("ratio {ratio} acts as {least:.4}: {}", options.why_capped()));
        }
        Ok(remarks)
    }
}

impl MergeConfig {
    /// The token counts under this configuration, with the schedules in `schedules`. [`TokenPlan::is_exact`] says whether a
    /// run may differ from them.
    ///
    /// # Errors
    /// [`Error::Config`](atedm_core::Error::Config) for an invalid configuration, an unsolved budget or an unresolved level,
    /// and for a schedule that is not registered.
    pub fn plan_with(&self, schedules: &ScheduleRegistry) -> Result<TokenPlan> {
        self.validate()?;
        self.placement.expect_solved()?;
        let schedule = self.placement.build(schedules)?;
        Ok(TokenPlan::new(schedule, self.method.clone(), self.placement.ratio))
    }
}
