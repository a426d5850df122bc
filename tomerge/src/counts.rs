//! How many tokens every layer runs on: pure arithmetic, the same for the methods themselves, the FLOPs model and what
//! a user is told.

use atedm_core::Result;
use atedm_core::plugin::{BlockShape, LayerTokens, ModelShape, PlacedSchedule, Scope, StepOf, Sublayer};

use crate::config::Method;
use crate::method_options::BlockAtStep;

/// A method's decisions about counts, without a tensor.
#[derive(Debug, Clone)]
pub struct TokenPlan {
    schedule: PlacedSchedule,
    method: Method,
    ratio: f64,
    /// The time step of every step of the run.
    timesteps: Option<Vec<f64>>,
}

/// What a method comes to in one block at one step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Effect {
    /// Tokens of the block.
    pub tokens: usize,
    /// Tokens that reduced sublayers run on.
    pub kept: usize,
    /// The fraction that was asked for here; 0 where levels or schedule spare the block.
    pub asked: f64,
}

impl Effect {
    /// The fraction of tokens that is really removed.
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

    /// The plan of a run whose steps have these time steps, as its sampler gives them. Methods that go by them (ToDo) are
    /// else counted as if a thousand were evenly spaced.
    #[must_use]
    pub fn timed(mut self, timesteps: Vec<f64>) -> Self {
        self.timesteps = Some(timesteps);
        self
    }

    /// The same for another ratio, in place of a budget if there is one.
    pub(crate) fn with_ratio(&self, ratio: f64) -> Result<Self> {
        Ok(Self { schedule: self.schedule.with_ratio(ratio)?, ratio, ..self.clone() })
    }

    /// Where and how much is reduced.
    pub(crate) fn schedule(&self) -> &PlacedSchedule {
        &self.schedule
    }

    /// Whether [`TokenPlan::tokens`] are what really runs. Not so with a `threshold`, where the tokens themselves decide
    /// (the ratio then says where, not how much); nor where a method goes by time steps that are not
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

    /// What the method comes to in `block` at `step`.
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

    /// The tokens that each layer of `block` runs on at `step`.
    ///
    /// # Errors
    /// As [`TokenPlan::effect`].
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

    /// What a user should know who reads only the options: that the ratio is capped, or that nothing is reduced at
    /// all. One sentence each.
    ///
    /// # Errors
    /// As [`TokenPlan::effect`].
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
                // One token's worth is rounding, not a cap.
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
