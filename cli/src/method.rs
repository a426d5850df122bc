//! A pruning method made ready for one model, size and number of steps: its options checked, a budget solved for a
//! ratio, and its token counts and FLOPs known before anything runs. Which method it is, nobody asks here.

use std::sync::Arc;

use atedm_core::AttentionOps;
use atedm_core::plugin::{
    BlockShape, BuildContext, Grid, LayerTokens, MethodCatalogue, MethodPlan, ModelShape, Registry, StepOf,
    TokenReducer,
};
use atedm_core::reference::NdTensor;
use atedm_sdxl::config::{BlockInfo, UNetConfig};
use atedm_sdxl::flops;
use atedm_sdxl::schedulers::{SamplerChoice, SchedulerConfig};
use serde_json::Value;

use crate::args::RngName;
use crate::failure::Outcome;
use crate::prune::PruneSpec;
use crate::table::inline_table;
use crate::tell;

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

    /// The time step of every step; `None` where the sampler cannot make so many.
    pub(crate) fn timesteps(&self) -> Option<Vec<f64>> {
        let sampler = self.scheduler.build::<NdTensor>(self.sampler, self.steps);
        sampler.ok().map(|sampler| sampler.timesteps().to_vec())
    }

    /// What a method is described for.
    fn shape(&self) -> ModelShape {
        let blocks = self.blocks().iter().map(shape).collect();
        ModelShape { timesteps: self.timesteps(), ..ModelShape::new(blocks, self.steps) }
    }

    /// TFLOPs (2 × MAC, one sample) of one evaluation with nothing pruned.
    pub(crate) fn whole_tflop(&self) -> Outcome<f64> {
        Ok(flops::full(self.unet, self.latents, self.text)?.sum().tflop())
    }
}

/// A block without the facts that counts do not depend on.
pub(crate) fn shape(block: &BlockInfo) -> BlockShape {
    BlockShape::new(block.id, block.depth, block.grid)
}

/// A method by name with checked options.
#[derive(Debug, Clone)]
pub(crate) struct Method {
    pub(crate) name: String,
    /// Every option with its value, a budget replaced by the ratio that meets it.
    pub(crate) settings: Value,
    plan: Arc<dyn MethodPlan>,
}

impl Method {
    /// Describes `spec` for the workload and solves its budget. Methods that draw random numbers draw them from `rng`
    /// unless their options name a generator.
    pub(crate) fn resolve(
        spec: &PruneSpec,
        work: &Workload<'_>,
        catalogue: &MethodCatalogue,
        rng: Option<RngName>,
    ) -> Outcome<Self> {
        let model = work.shape();
        let facts = catalogue.facts().of_model(&model);
        let facts = rng.map_or(facts, |rng| facts.with_rng(rng.name()));
        let given = inline_table(&spec.options)?;
        let described = catalogue.describe(&spec.method, &given.options, &facts);
        let plan = described.map_err(|error| given.named(error))?;
        let asked = given.options.get("budget_tflops").is_some_and(|budget| !budget.is_null());
        let plan = match plan.budget_tflops() {
            Some(budget) => solve(budget, plan.as_ref(), work)?,
            None if asked => return Err(no_ratio().into()),
            None => plan,
        };
        for remark in plan.remarks(&model)? {
            tell::warning(format_args!("{}: {remark}", spec.method));
        }
        Ok(Self::of_plan(&spec.method, plan))
    }

    fn of_plan(name: &str, plan: Box<dyn MethodPlan>) -> Self {
        Self { name: name.into(), settings: Value::Object(plan.settings()), plan: plan.into() }
    }

    /// What it is, without a tensor.
    pub(crate) fn plan(&self) -> &dyn MethodPlan {
        self.plan.as_ref()
    }

    /// The same without rules that stop its work early, where it has some.
    pub(crate) fn without_early_stop(&self) -> Self {
        match self.plan.without_early_stop() {
            Some(plan) => Self::of_plan(&self.name, plan),
            None => self.clone(),
        }
    }

    /// The same with scores that are iterated until they no longer change, where it iterates scores.
    pub(crate) fn converged(&self) -> Option<Self> {
        self.plan.converged().map(|plan| Self::of_plan(&self.name, plan))
    }

    /// Builds it.
    pub(crate) fn build<T: AttentionOps>(
        &self,
        registry: &Registry<T>,
        context: &BuildContext<T>,
    ) -> atedm_core::Result<Box<dyn TokenReducer<T>>> {
        registry.build_plan(&self.name, self.plan(), context)
    }

    /// Builds it once and lets it go, so that a bad option of a part is found before weights are read.
    pub(crate) fn check<T: AttentionOps>(&self, registry: &Registry<T>) -> Outcome {
        self.build(registry, &BuildContext::default())?;
        Ok(())
    }

    /// Whether it is the identity.
    pub(crate) fn is_none(&self) -> bool {
        self.name == "none"
    }

    /// The tokens that each layer of a block runs on at a step; `None` where only a run tells.
    pub(crate) fn tokens(
        &self,
        block: &BlockInfo,
        index: usize,
        total: usize,
    ) -> Outcome<Option<Vec<LayerTokens>>> {
        Ok(self.plan.tokens(&shape(block), StepOf { index, total })?)
    }

    /// TFLOPs (2 × MAC, one sample) of the evaluation at each step; `None` where only a run tells.
    pub(crate) fn step_tflops(&self, work: &Workload<'_>) -> Outcome<Option<Vec<f64>>> {
        Ok(step_tflops(self.plan(), work)?)
    }
}

/// TFLOPs of the evaluation at each step under a plan; `None` where only a run tells.
fn step_tflops(plan: &dyn MethodPlan, work: &Workload<'_>) -> atedm_core::Result<Option<Vec<f64>>> {
    let mut steps = Vec::with_capacity(work.steps);
    let blocks = work.blocks();
    for index in 0..work.steps {
        let step = StepOf { index, total: work.steps };
        let mut layers = Vec::with_capacity(blocks.len());
        for block in &blocks {
            let Some(tokens) = plan.tokens(&shape(block), step)? else { return Ok(None) };
            layers.push((block.id, tokens));
        }
        let cost = flops::pruned(work.unet, work.latents, work.text, |block| {
            let tokens = layers.iter().find(|(id, _)| *id == block.id).map(|(_, tokens)| tokens.clone());
            Ok(tokens.unwrap_or_default())
        })?;
        steps.push(cost.sum().tflop());
    }
    Ok(Some(steps))
}

/// The error for a budget of a method whose cost no ratio decides.
fn no_ratio() -> atedm_core::Error {
    let reason =
        "no ratio decides what this method costs, or only a run shows it: give it options of its own";
    atedm_core::Error::config("budget_tflops", reason)
}

/// `plan` with the ratio that meets a budget, or an error that names what can be reached.
fn solve(budget: f64, plan: &dyn MethodPlan, work: &Workload<'_>) -> atedm_core::Result<Box<dyn MethodPlan>> {
    let with = |ratio: f64| plan.with_ratio(ratio).unwrap_or_else(|| Err(no_ratio()));
    let mean = |ratio: f64| {
        let steps = step_tflops(with(ratio)?.as_ref(), work)?.ok_or_else(no_ratio)?;
        Ok(steps.iter().sum::<f64>() / work.steps.max(1) as f64)
    };
    with(flops::solve_ratio(budget, mean)?)
}

#[cfg(test)]
mod tests {
    use atedm_core::plugin::RunTells;
    use atedm_sdxl::flops::readable;
    use serde_json::json;

    use super::*;
    use crate::Extension;
    use crate::extension::registry;

    fn resolve(method: &str, options: Value) -> Outcome<(Method, Vec<f64>)> {
        resolve_with(method, options, (), None)
    }

    fn resolve_with(
        method: &str,
        options: Value,
        extension: impl Extension,
        rng: Option<RngName>,
    ) -> Outcome<(Method, Vec<f64>)> {
        let unet = UNetConfig::sdxl_base();
        let (latents, scheduler) = (Grid::new(128, 128), SchedulerConfig::sdxl());
        let work =
            Workload { unet: &unet, latents, text: 77, steps: 50, scheduler: &scheduler, sampler: None };
        let Value::Object(options) = options else { panic!("expected a table") };
        let spec = PruneSpec { method: method.into(), options };
        let method = Method::resolve(&spec, &work, registry::<NdTensor>(&extension)?.catalogue(), rng)?;
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
        let rng = |method: &str, options: Value| {
            let method = resolve_with(method, options, (), Some(RngName::Chacha)).unwrap().0;
            method.settings.get("rng").cloned()
        };
        assert_eq!(rng("tome-a", json!({})), Some(json!("chacha")));
        assert_eq!(rng("tome-a", json!({"rng": "torch"})), Some(json!("torch")));
        assert_eq!(rng("todo-sdxl", json!({})), Some(json!("chacha")));
        assert_eq!(rng("toma", json!({})), None);
        assert_eq!(rng("at-edm", json!({})), None);
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
            assert!(method.settings.get("ratio").is_some());
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
        assert_eq!(method.settings.get("budget_tflops"), None);
        assert!(method.settings["ratio"].as_f64().is_some_and(|ratio| ratio > 0.5));
        let (_, steps) = resolve("at-edm-b", json!({})).unwrap();
        assert!((mean(&steps) - 3.6).abs() < 0.005, "{}", mean(&steps));
        let message = resolve("at-edm", json!({"budget_tflops": 2.0})).unwrap_err().to_string();
        assert!(message.contains("budget_tflops: expected at least 3.09"), "{message}");
    }

    /// A method of which only a run can tell what it removes.
    struct Opaque;

    impl Extension for Opaque {
        fn register<T: AttentionOps>(&self, registry: &mut Registry<T>) -> atedm_core::Result<()> {
            registry.register_method(
                "mine",
                |options, _| Ok(RunTells { options: options.clone() }),
                |_, _| Ok(Box::new(atedm_core::plugin::Unpruned)),
            )
        }
    }

    #[test]
    fn a_method_that_only_a_run_shows_has_no_costs_and_no_budget() {
        let (method, steps) = resolve_with("mine", json!({"anything": 1}), Opaque, None).unwrap();
        assert!(steps.is_empty() && !method.is_none());
        assert_eq!(method.settings, json!({"anything": 1}));
        let error =
            resolve_with("mine", json!({"budget_tflops": 4.0}), Opaque, None).unwrap_err().to_string();
        assert!(error.starts_with("budget_tflops: no ratio decides"), "{error}");
    }

    #[test]
    fn an_idle_option_is_refused_whatever_the_method() {
        for (method, options, named) in [
            ("at-edm", json!({"scorer": "random", "damping": 0.5}), "damping: does nothing here"),
            ("tome-a", json!({"schedule": "constant", "tau": "10%"}), "tau: does nothing here"),
        ] {
            let error = resolve(method, options).unwrap_err().to_string();
            assert!(error.starts_with(named), "{error}");
        }
    }

    /// What a run is depends on the table, not on the name of its file.
    #[test]
    fn settings_hold_the_table_that_a_file_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        let settings = |method: &str, schedule: &str, ratio: f64| {
            std::fs::write(&path, format!("[[entries]]\nratio = {ratio}\n")).unwrap();
            let options = json!({"schedule": schedule, "schedule_file": path});
            resolve(method, options).map(|(method, _)| method.settings)
        };
        for method in ["at-edm", "tome-a"] {
            let (one, other) =
                (settings(method, "table", 0.25).unwrap(), settings(method, "table", 0.5).unwrap());
            assert_eq!(one["table"]["entries"][0]["ratio"], 0.25);
            assert_ne!(one, other, "{method}");
            assert!(!one.to_string().contains("t.toml"));
            let idle = settings(method, "constant", 0.5).unwrap_err().to_string();
            assert!(idle.starts_with("schedule_file: is used by schedule = \"table\" only"), "{idle}");
        }
    }
}
