//! A pruning method made ready for one model, size and number of steps: its options checked, a budget solved for a
//! ratio, and its token counts and FLOPs known before anything runs.

use atedm_core::AttentionOps;
use atedm_core::at_edm::{AtEdmConfig, LayerTokens, PrunePlan};
use atedm_core::plugin::{BuildContext, Grid, Registry, ScheduleRegistry};
use atedm_core::reference::NdTensor;
use atedm_sdxl::config::{BlockInfo, UNetConfig};
use atedm_sdxl::flops;
use atedm_sdxl::schedulers::{SamplerChoice, SchedulerConfig};
use atedm_tomerge::{MergeConfig, TokenPlan};
use serde_json::{Map, Value};

use crate::failure::{Failure, Outcome};
use crate::prune::PruneSpec;

/// What counts and costs depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload<'a> {
    pub(crate) unet: &'a UNetConfig,
    /// The latents' grid.
    pub(crate) latents: Grid,
    /// Text tokens.
    pub(crate) text: usize,
    pub(crate) steps: usize,
    /// The checkpoint's scheduler, and the sampler that was asked for instead.
    pub(crate) scheduler: &'a SchedulerConfig,
    pub(crate) sampler: Option<SamplerChoice>,
}

impl Workload<'_> {
    /// The U-Net's attention blocks at this size.
    pub(crate) fn blocks(&self) -> Vec<BlockInfo> {
        self.unet.blocks(self.latents.height, self.latents.width)
    }

    /// The deepest level with attention, which `levels = "deepest"` stands for.
    pub(crate) fn deepest_level(&self) -> Option<usize> {
        self.blocks().iter().map(|block| block.id.level).max()
    }

    /// The time step of every step; `None` where the sampler cannot make so many.
    pub(crate) fn timesteps(&self) -> Option<Vec<f64>> {
        let sampler = self.scheduler.build::<NdTensor>(self.sampler, self.steps);
        sampler.ok().map(|sampler| sampler.timesteps().to_vec())
    }

    /// TFLOPs (2 × MAC, one sample) of one evaluation with nothing pruned.
    pub(crate) fn whole_tflop(&self) -> Outcome<f64> {
        Ok(flops::full(self.unet, self.latents, self.text)?.sum().tflop())
    }
}

/// What is known of a method's token counts.
#[derive(Debug, Clone)]
enum Counts {
    /// Nothing is pruned.
    Whole,
    /// AT-EDM's own arithmetic.
    Plan(PrunePlan),
    /// That of Token Merging and its relatives.
    Merging(TokenPlan),
    /// A plugin: only a run tells.
    Unknown,
}

/// A method by name with checked options.
#[derive(Debug, Clone)]
pub(crate) struct Method {
    pub(crate) name: String,
    /// Options as a registry takes them: a budget is replaced by the ratio that meets it.
    pub(crate) options: Map<String, Value>,
    /// Every option with its value, defaults too, where the method is one of ours.
    pub(crate) settings: Value,
    counts: Counts,
}

impl Method {
    /// `spec` with the program's random numbers, where the method draws some and none are asked for.
    pub(crate) fn with_rng(spec: &PruneSpec, rng: &str) -> PruneSpec {
        let mut spec = spec.clone();
        let known = MergeConfig::preset(&spec.method).and_then(|config| config.to_options().ok());
        if known.is_some_and(|known| known.contains_key("rng")) {
            spec.options.entry("rng").or_insert_with(|| rng.into());
        }
        spec
    }

    /// Checks the options of the built-in methods; a plugin's are checked when it is built.
    pub(crate) fn resolve(
        spec: &PruneSpec,
        work: &Workload<'_>,
        schedules: &ScheduleRegistry,
    ) -> Outcome<Self> {
        let PruneSpec { method, options } = spec.clone();
        if MergeConfig::preset(&method).is_some() {
            return Self::resolve_merging(method, options, work, schedules);
        }
        if AtEdmConfig::preset(&method).is_none() {
            let counts = if method == "none" { Counts::Whole } else { Counts::Unknown };
            let settings = Value::Object(options.clone());
            return Ok(Self { name: method, options, settings, counts });
        }
        let mut config =
            AtEdmConfig::from_options(&method, &options)?.resolve(work.deepest_level().unwrap_or(0));
        let mut options = options;
        if let Some(budget) = config.budget_tflops {
            let mean = |ratio: f64| {
                let plan = config.clone().with_ratio(ratio)?.plan_with(schedules)?;
                plan.begin(work.steps)?;
                let costs = (0..work.steps)
                    .map(|step| tflop(&plan, work, step))
                    .collect::<atedm_core::Result<Vec<_>>>()?;
                Ok(costs.iter().sum::<f64>() / work.steps as f64)
            };
            let ratio = solve(budget, mean)?;
            config = config.with_ratio(ratio)?;
            options.remove("budget_tflops");
            options.insert("ratio".into(), ratio.into());
        }
        let plan = config.plan_with(schedules)?;
        plan.begin(work.steps)?;
        let settings = serde_json::to_value(&config).map_err(Failure::run)?;
        Ok(Self { name: method, options, settings, counts: Counts::Plan(plan) })
    }

    /// [`Method::resolve`] for Token Merging and its relatives.
    fn resolve_merging(
        name: String,
        mut options: Map<String, Value>,
        work: &Workload<'_>,
        schedules: &ScheduleRegistry,
    ) -> Outcome<Self> {
        let mut config =
            MergeConfig::from_options(&name, &options)?.resolve(work.deepest_level().unwrap_or(0));
        if let Some(budget) = config.placement.budget_tflops {
            let mean = |ratio: f64| {
                let plan = config.clone().with_ratio(ratio)?.plan_with(schedules)?;
                plan.begin(work.steps)?;
                let costs = (0..work.steps).map(|step| merging_tflop(&plan, work, step));
                Ok(costs.sum::<atedm_core::Result<f64>>()? / work.steps as f64)
            };
            let ratio = solve(budget, mean)?;
            config = config.with_ratio(ratio)?;
            options.remove("budget_tflops");
            options.insert("ratio".into(), ratio.into());
        }
        let settings = Value::Object(config.to_options()?);
        let mut plan = config.plan_with(schedules)?;
        plan.begin(work.steps)?;
        if let (false, Some(timesteps)) = (plan.is_exact(), work.timesteps()) {
            plan = plan.timed(timesteps);
        }
        let blocks: Vec<_> = work.blocks().iter().map(|block| (block.id, block.grid)).collect();
        for remark in plan.remarks(&blocks, work.steps)? {
            eprintln!("warning: {name}: {remark}");
        }
        let counts = if plan.is_exact() { Counts::Merging(plan) } else { Counts::Unknown };
        Ok(Self { name, options, settings, counts })
    }

    /// Builds it once and lets it go, so that a bad option is found before weights are read.
    pub(crate) fn check<T: AttentionOps>(&self, registry: &Registry<T>, work: &Workload<'_>) -> Outcome {
        let context = BuildContext { deepest_level: work.deepest_level(), ..BuildContext::default() };
        registry.build(&self.name, &Value::Object(self.options.clone()), &context)?;
        Ok(())
    }

    /// Whether it is the identity.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self.counts, Counts::Whole)
    }

    /// The tokens that each layer of a block runs on at a step; `None` where only a run tells.
    pub(crate) fn tokens(
        &self,
        block: &BlockInfo,
        step: usize,
        steps: usize,
    ) -> Outcome<Option<Vec<LayerTokens>>> {
        Ok(match &self.counts {
            Counts::Whole => Some(vec![LayerTokens::whole(block.grid.tokens()); block.depth]),
            Counts::Plan(plan) => {
                Some(plan.tokens(block.id, block.depth, block.grid.tokens(), step, steps)?)
            }
            Counts::Merging(plan) => Some(plan.tokens(block.id, block.depth, block.grid, step, steps)?),
            Counts::Unknown => None,
        })
    }

    /// TFLOPs (2 × MAC, one sample) of the evaluation at each step; `None` where only a run tells.
    pub(crate) fn step_tflops(&self, work: &Workload<'_>) -> Outcome<Option<Vec<f64>>> {
        match &self.counts {
            Counts::Whole => Ok(Some(vec![work.whole_tflop()?; work.steps])),
            Counts::Plan(plan) => {
                let costs =
                    (0..work.steps).map(|step| tflop(plan, work, step)).collect::<atedm_core::Result<_>>();
                Ok(Some(costs?))
            }
            Counts::Merging(plan) => {
                let costs = (0..work.steps).map(|step| merging_tflop(plan, work, step));
                Ok(Some(costs.collect::<atedm_core::Result<_>>()?))
            }
            Counts::Unknown => Ok(None),
        }
    }
}

/// The ratio that meets a budget, or an error that names what can be reached.
fn solve(budget: f64, mean: impl Fn(f64) -> atedm_core::Result<f64>) -> Outcome<f64> {
    /// Close to removing every token that can be removed.
    const HIGHEST: f64 = 0.9999;
    let (most, least) = (mean(0.0)?, mean(HIGHEST)?);
    if budget < least || budget > most {
        return Err(Failure::usage(format!(
            "budget_tflops: expected at least {least:.4e} ({}) and at most {most:.4e} ({}) for this model, size and \
             schedule, got {budget}",
            readable(least),
            readable(most)
        )));
    }
    Ok(flops::solve_ratio(budget, mean)?)
}

fn tflop(plan: &PrunePlan, work: &Workload<'_>, step: usize) -> atedm_core::Result<f64> {
    let layers =
        |block: &BlockInfo| plan.tokens(block.id, block.depth, block.grid.tokens(), step, work.steps);
    Ok(flops::pruned(work.unet, work.latents, work.text, layers)?.sum().tflop())
}

fn merging_tflop(plan: &TokenPlan, work: &Workload<'_>, step: usize) -> atedm_core::Result<f64> {
    let layers = |block: &BlockInfo| plan.tokens(block.id, block.depth, block.grid, step, work.steps);
    Ok(flops::pruned(work.unet, work.latents, work.text, layers)?.sum().tflop())
}

/// TFLOPs as a person reads them.
pub(crate) fn readable(tflop: f64) -> String {
    match tflop {
        large if large >= 1.0 => format!("{large:.3} TFLOP"),
        middle if middle >= 1e-3 => format!("{:.3} GFLOP", middle * 1e3),
        small => format!("{:.3} MFLOP", small * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resolve(method: &str, options: Value) -> Outcome<(Method, Vec<f64>)> {
        let unet = UNetConfig::sdxl_base();
        let (latents, scheduler) = (Grid { height: 128, width: 128 }, SchedulerConfig::sdxl());
        let work =
            Workload { unet: &unet, latents, text: 77, steps: 50, scheduler: &scheduler, sampler: None };
        let Value::Object(options) = options else { panic!("expected a table") };
        let spec = PruneSpec { method: method.into(), options };
        let method = Method::resolve(&spec, &work, &ScheduleRegistry::with_builtins())?;
        let steps = method.step_tflops(&work)?.unwrap_or_default();
        Ok((method, steps))
    }

    fn mean(steps: &[f64]) -> f64 {
        steps.iter().sum::<f64>() / steps.len() as f64
    }

    #[test]
    fn costs_follow_the_schedule() {
        let (_, steps) = resolve("at-edm", json!({})).unwrap();
        assert_eq!(format!("{:.3} {:.3} {:.3}", steps[14], steps[15], mean(&steps)), "4.989 4.065 4.342");
        let (_, steps) = resolve("none", json!({})).unwrap();
        assert_eq!(readable(steps[0]), "6.761 TFLOP");
        let (_, steps) = resolve("at-edm-dagger", json!({"prune_point": "before_ff"})).unwrap();
        assert_eq!(format!("{:.3}", mean(&steps)), "4.538");
    }

    #[test]
    fn methods_that_draw_take_the_programs_generator() {
        let with = |method: &str, options: Value| {
            let Value::Object(options) = options else { panic!("expected a table") };
            Value::Object(Method::with_rng(&PruneSpec { method: method.into(), options }, "chacha").options)
        };
        assert_eq!(with("tome", json!({})), json!({"rng": "chacha"}));
        assert_eq!(with("tome", json!({"rng": "torch"})), json!({"rng": "torch"}));
        assert_eq!(with("todo", json!({})), json!({"rng": "chacha"}));
        assert_eq!(with("toma", json!({})), json!({}));
        assert_eq!(with("at-edm", json!({})), json!({}));
    }

    #[test]
    fn token_merging_costs_what_the_paper_says() {
        for (preset, published) in
            [("tome-a", "2.9"), ("tome-b", "3.6"), ("tome-c", "4.1"), ("tome-d", "4.6")]
        {
            let (_, steps) = resolve(preset, json!({})).unwrap();
            assert_eq!(format!("{:.1}", mean(&steps)), published, "{preset}");
            let budget: f64 = published.parse().unwrap();
            let (method, steps) = resolve("tome-c", json!({"budget_tflops": budget})).unwrap();
            assert!((mean(&steps) - budget).abs() < 0.005, "{}", mean(&steps));
            assert!(method.options.contains_key("ratio"));
        }
        // keys and values alone: of the 10 layers with 4096 tokens a quarter of them stays, and with it of the products;
        // half in the ten steps from time step 181 on
        let (_, steps) = resolve("todo-sdxl", json!({})).unwrap();
        let saved = |share: f64| {
            let (tokens, channels) = (4096.0 * share, 640.0);
            2e-12 * 10.0 * (2.0 * tokens * channels * channels + 2.0 * 4096.0 * tokens * channels)
        };
        for (step, share) in [(0, 0.75), (39, 0.75), (40, 0.5), (49, 0.5)] {
            let expected = 6.761215 - saved(share);
            assert!((steps[step] - expected).abs() < 1e-3, "step {step}: {} {expected}", steps[step]);
        }
        // where only a run tells
        assert!(resolve("tome", json!({"threshold": 0.9})).unwrap().1.is_empty());
        for (preset, options) in [("todo-sdxl", json!({})), ("tome", json!({"threshold": 0.9}))] {
            let mut options = options;
            options["budget_tflops"] = 4.0.into();
            let message = resolve(preset, options).unwrap_err().to_string();
            assert!(message.contains("budget_tflops: no ratio decides"), "{message}");
        }
        // tomesd's default reaches no block of SD-XL
        let (method, steps) = resolve("tome", json!({})).unwrap();
        assert_eq!(readable(steps[0]), "6.761 TFLOP");
        assert_eq!(method.settings["max_downsample"], 1);
        let message = resolve("tome-c", json!({"budget_tflops": 2.0})).unwrap_err().to_string();
        assert!(message.contains("budget_tflops: expected at least 2.86"), "{message}");
    }

    #[test]
    fn budgets_become_ratios() {
        let (method, steps) =
            resolve("at-edm", json!({"budget_tflops": 4.1, "prune_point": "before_ff"})).unwrap();
        assert!((mean(&steps) - 4.1).abs() < 0.005, "{}", mean(&steps));
        assert!(!method.options.contains_key("budget_tflops") && method.options.contains_key("ratio"));
        let (_, steps) = resolve("at-edm-b", json!({})).unwrap();
        assert!((mean(&steps) - 3.6).abs() < 0.005, "{}", mean(&steps));
        let message = resolve("at-edm", json!({"budget_tflops": 2.0})).unwrap_err().to_string();
        assert!(message.contains("budget_tflops: expected at least 3.09"), "{message}");
    }

    #[test]
    fn a_plugin_is_left_to_its_builder() {
        let (method, steps) = resolve("mine", json!({"anything": 1})).unwrap();
        assert!(steps.is_empty() && !method.is_none());
        assert_eq!(method.settings, json!({"anything": 1}));
    }

    #[test]
    fn figures_have_a_fitting_unit() {
        assert_eq!([6.761, 0.0123, 0.0000456].map(readable), ["6.761 TFLOP", "12.300 GFLOP", "45.600 MFLOP"]);
    }
}
