//! A method in a registry: its plan, which needs no tensor, and how the method is built of it.

use atedm_core::plugin::{
    BlockShape, BuildContext, Facts, LayerTokens, MethodPlan, ModelShape, Options, PlacedSchedule, Registry,
    Scheduled, Scoring, StepOf, TokenReducer, scoring_of,
};
use atedm_core::{AttentionOps, Error, Result};

use crate::around::{AroundSublayers, Planner};
use crate::config::{MergeConfig, Method};
use crate::counts::TokenPlan;
use crate::dito::Dito;
use crate::ibtm::Ibtm;
use crate::presets;
use crate::sito::Sito;
use crate::todo::Todo;
use crate::toma::Toma;
use crate::tome::Tome;

/// A method's configuration with its token counts.
#[derive(Debug, Clone)]
pub struct MergeOutline {
    config: MergeConfig,
    settings: Options,
    counts: TokenPlan,
}

impl MergeOutline {
    /// The plan of a preset with `options` laid over it.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option that is wrong.
    pub fn from_options(preset: &str, options: &Options, facts: &Facts<'_>) -> Result<Self> {
        let draws = MergeConfig::preset(preset)
            .map(|config| config.to_options())
            .transpose()?
            .is_some_and(|known| known.contains_key("rng"));
        let mut options = options.clone();
        if let Some(rng) = facts.rng.filter(|_| draws) {
            options.entry("rng").or_insert_with(|| rng.into());
        }
        Self::new(MergeConfig::from_options(preset, &options)?, facts)
    }

    /// The plan of `config`. Its schedule comes from `facts`. If `facts` hold a model, the plan is checked against it.
    ///
    /// # Errors
    /// [`Error::Config`] naming the option that is wrong.
    pub fn new(config: MergeConfig, facts: &Facts<'_>) -> Result<Self> {
        config.validate()?;
        let config = MergeConfig { placement: config.placement.located(facts)?, ..config };
        let schedule = config.placement.build_for(facts)?;
        let counts = TokenPlan::new(schedule, config.method.clone(), config.placement.ratio);
        let counts = match facts.model.and_then(|model| model.timesteps.clone()) {
            Some(timesteps) => counts.timed(timesteps),
            None => counts,
        };
        Ok(Self { settings: config.to_options()?, counts, config })
    }

    /// The method itself.
    ///
    /// # Errors
    /// [`Error::Config`] if the context asks for a replay, since merging has no kept sets, or if a budget is not solved.
    pub fn build<T: AttentionOps>(&self, context: &BuildContext<T>) -> Result<Box<dyn TokenReducer<T>>> {
        if context.replay.is_some() {
            let reason = "kept sets can be replayed for AT-EDM only: merging has no single kept set";
            return Err(Error::config("masks", reason));
        }
        let placement = &self.config.placement;
        placement.expect_solved()?;
        let (guidance, schedule): (_, PlacedSchedule) = (placement.guidance, self.counts.schedule().clone());
        let reuse = self.config.method.options().reuse();
        let planner: Box<dyn Planner<T>> = match self.config.method.clone() {
            Method::Tome(options) => Box::new(Tome::new(options, guidance, context.seed)),
            Method::Todo(options) => Box::new(Todo::new(options, guidance, context.seed)),
            Method::Toma(options) => Box::new(Toma { options, guidance }),
            Method::Sito(options) => Box::new(Sito::new(options, guidance, context.seed)),
            Method::Ibtm(options) => Box::new(Ibtm::new(options, guidance, context.seed)),
            Method::Dito(options) => {
                let method = Dito::new(options, guidance, placement.ratio, context);
                return Ok(Box::new(Scheduled::new(method, schedule)));
            }
        };
        let method = AroundSublayers::new(planner, placement.ratio, reuse, context.observer.clone());
        Ok(Box::new(Scheduled::new(method, schedule)))
    }
}

impl MethodPlan for MergeOutline {
    fn settings(&self) -> Options {
        self.settings.clone()
    }

    fn family(&self) -> Option<&str> {
        Some(match self.config.method {
            Method::Tome(_) => "tome",
            Method::Todo(_) => "todo",
            Method::Toma(_) => "toma",
            Method::Sito(_) => "sito",
            Method::Ibtm(_) => "ibtm",
            Method::Dito(_) => "dito",
        })
    }

    fn tokens(&self, block: &BlockShape, step: StepOf) -> Result<Option<Vec<LayerTokens>>> {
        if !self.counts.is_exact() {
            return Ok(None);
        }
        self.counts.tokens(block, step).map(Some)
    }

    fn scoring(&self, block: &BlockShape, step: StepOf) -> Result<Scoring> {
        let options = self.config.method.options();
        let kept = |step: StepOf| {
            let effect = self.counts.effect(block, step)?;
            Ok(effect.applies().then_some(effect.kept))
        };
        scoring_of(step, kept, |at, now| options.serves(at, now), Scoring::Fresh)
    }

    fn budget_tflops(&self) -> Option<f64> {
        self.config.placement.budget_tflops
    }

    fn with_ratio(&self, ratio: f64) -> Option<Result<Box<dyn MethodPlan>>> {
        let options = self.config.method.options();
        if !options.has_ratio() || options.decides_by_data() {
            return None;
        }
        let solved = || {
            let config = self.config.clone().with_ratio(ratio)?;
            let plan =
                Self { settings: config.to_options()?, counts: self.counts.with_ratio(ratio)?, config };
            Ok(Box::new(plan) as Box<dyn MethodPlan>)
        };
        Some(solved())
    }

    /// False for ToMA: each of its tokens is a mixture of a whole tile.
    fn gives_positions(&self) -> bool {
        !matches!(self.config.method, Method::Toma(_))
    }

    /// True: an observer gets kept sets on the host, so every merge plan is read back from the device.
    fn is_slow_to_watch(&self) -> bool {
        true
    }

    fn remarks(&self, model: &ModelShape) -> Result<Vec<String>> {
        self.counts.remarks(model)
    }
}

/// Adds every preset to `registry`, as a method of the same name.
///
/// # Errors
/// [`Error::Config`] when a name is taken.
pub fn register<T: AttentionOps>(registry: &mut Registry<T>) -> Result<()> {
    presets::names().into_iter().try_for_each(|preset| {
        registry.register_method(
            preset,
            move |options, facts| MergeOutline::from_options(preset, options, facts),
            |plan: &MergeOutline, context| plan.build(context),
        )
    })
}
