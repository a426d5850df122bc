//! A pruning method prepared for one model, size and number of steps. Its options are checked, a budget is solved for a
//! ratio, and its token counts and FLOPs are known before anything runs. This code treats all methods alike.

use std::sync::Arc;

use atedm_core::AttentionOps;
use atedm_core::plugin::{
    BuildContext, LayerTokens, MethodCatalogue, MethodPlan, NestId, Registry, StepOf, TokenReducer,
};
use atedm_sdxl::config::BlockInfo;
use atedm_sdxl::flops::{EvaluationCost, Rows};
use atedm_sdxl::rng::RngKind;
use serde_json::Value;

use crate::budget;
use crate::failure::Outcome;
use crate::spec::PruneSpec;
use crate::table::inline_tables;
use crate::workload::{can_meet, no_ratio, rows, solve, step_costs, tflops};

pub use crate::workload::{ControlSteps, GUIDANCE_SCALE, Workload, shape};

/// A method by name with checked options.
#[derive(Debug, Clone)]
pub struct Method {
    /// The registered name.
    pub name: String,
    /// Every option with its value. A budget is replaced by the ratio that meets it.
    pub settings: Value,
    plan: Arc<dyn MethodPlan>,
    remarks: Vec<String>,
}

impl Method {
    /// Describes `spec` for the workload and solves its budget. Methods that draw random numbers use `rng` unless their
    /// options name a generator.
    pub fn resolve(
        spec: &PruneSpec,
        work: &Workload<'_>,
        catalogue: &MethodCatalogue,
        rng: Option<RngKind>,
    ) -> Outcome<Self> {
        let plan = described(spec, work, catalogue, rng)?;
        let plan = match plan.budget_tflops() {
            Some(budget) => solve(budget, plan.as_ref(), work)?,
            None => plan,
        };
        let remarks = plan.remarks(&work.shape())?;
        let remarks = remarks.iter().map(|remark| format!("{}: {remark}", spec.method)).collect();
        Ok(Self { remarks, ..Self::of_plan(&spec.method, plan) })
    }

    /// Whether a ratio meets the budget of `spec`. It is true if `spec` has no budget.
    pub fn can_meet_budget(
        spec: &PruneSpec,
        work: &Workload<'_>,
        catalogue: &MethodCatalogue,
        rng: Option<RngKind>,
    ) -> Outcome<bool> {
        let plan = described(spec, work, catalogue, rng)?;
        let budget = plan.budget_tflops();
        Ok(budget.map_or(Ok(true), |budget| can_meet(budget, plan.as_ref(), work))?)
    }

    fn of_plan(name: &str, plan: Box<dyn MethodPlan>) -> Self {
        let settings = Value::Object(plan.settings());
        Self { name: name.into(), settings, plan: plan.into(), remarks: Vec::new() }
    }

    /// Notes for the user on options that have less effect here than their names say, one line each.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The method's plan, without tensors.
    pub fn plan(&self) -> &dyn MethodPlan {
        self.plan.as_ref()
    }

    /// The same method without rules that stop its work early, if it has some.
    pub fn without_early_stop(&self) -> Self {
        match self.plan.without_early_stop() {
            Some(plan) => Self::of_plan(&self.name, plan),
            None => self.clone(),
        }
    }

    /// The same method with scores that are iterated until they no longer change; `None` if it iterates none.
    pub fn converged(&self) -> Option<Self> {
        self.plan.converged().map(|plan| Self::of_plan(&self.name, plan))
    }

    /// Builds the method.
    pub fn build<T: AttentionOps>(
        &self,
        registry: &Registry<T>,
        context: &BuildContext<T>,
    ) -> atedm_core::Result<Box<dyn TokenReducer<T>>> {
        registry.build_plan(&self.name, self.plan(), context)
    }

    /// Builds the method once and drops it. This finds bad options of its parts before weights are read.
    pub fn check<T: AttentionOps>(&self, registry: &Registry<T>) -> Outcome {
        self.build(registry, &BuildContext::default())?;
        Ok(())
    }

    /// Whether it is the unpruned model.
    pub fn is_none(&self) -> bool {
        self.name == "none"
    }

    /// The tokens that each layer of a block runs on at a step; `None` if only a run can tell.
    pub fn tokens(&self, block: &BlockInfo, index: usize, total: usize) -> Outcome<Option<Vec<LayerTokens>>> {
        Ok(self.plan.tokens(&shape(block), StepOf { index, total })?)
    }

    /// The nest that does not run at a step.
    pub fn replaced(&self, index: usize, total: usize) -> Option<NestId> {
        self.plan.replaced(StepOf { index, total })
    }

    /// Whether a guided run is guided at a step.
    pub fn wants_guidance(&self, index: usize, total: usize) -> bool {
        self.plan.wants_guidance(StepOf { index, total })
    }

    /// The rows of a step's evaluation.
    pub fn rows(&self, work: &Workload<'_>, index: usize) -> Rows {
        rows(self.plan(), work, StepOf { index, total: work.steps })
    }

    /// The cost of the evaluation at each step; `None` if only a run can tell.
    pub fn step_costs(&self, work: &Workload<'_>) -> Outcome<Option<Vec<EvaluationCost>>> {
        Ok(step_costs(self.plan(), work)?)
    }

    /// TFLOPs (2 × MAC) of the evaluation at each step, for each of the run's rows; `None` if only a run can tell.
    pub fn step_tflops(&self, work: &Workload<'_>) -> Outcome<Option<Vec<f64>>> {
        Ok(self.step_costs(work)?.map(tflops))
    }
}

/// The plan of `spec`. Its budget is in TFLOPs and not solved yet.
fn described(
    spec: &PruneSpec,
    work: &Workload<'_>,
    catalogue: &MethodCatalogue,
    rng: Option<RngKind>,
) -> Outcome<Box<dyn MethodPlan>> {
    let model = work.shape();
    let facts = catalogue.facts().of_model(&model);
    let facts = rng.map_or(facts, |rng| facts.with_rng(rng.name()));
    let mut given = inline_tables(&spec.method, &spec.options)?;
    budget::in_tflops(&mut given.options, &|| work.whole_tflop())?;
    let plan = catalogue.describe(&spec.method, &given.options, &facts);
    let plan = plan.map_err(|error| given.named(error))?;
    let asked = given.options.get(budget::KEY).is_some_and(|budget| !budget.is_null());
    match plan.budget_tflops() {
        None if asked => Err(no_ratio().into()),
        _ => Ok(plan),
    }
}

#[cfg(test)]
mod tests {
    use atedm_core::plugin::{BlockShape, Grid, ModelShape, Options, RunTells};
    use atedm_core::reference::NdTensor;
    use atedm_sdxl::config::UNetConfig;
    use atedm_sdxl::flops::readable;
    use serde_json::json;

    use super::*;
    use crate::Extension;
    use crate::extension::registry;
    use crate::subject::Subject;

    fn resolve(method: &str, options: Value) -> Outcome<(Method, Vec<f64>)> {
        resolve_with(method, options, (), None)
    }

    fn resolve_with(
        method: &str,
        options: Value,
        extension: impl Extension,
        rng: Option<RngKind>,
    ) -> Outcome<(Method, Vec<f64>)> {
        resolve_at(7.0, method, options, extension, rng)
    }

    fn resolve_at(
        guidance_scale: f64,
        method: &str,
        options: Value,
        extension: impl Extension,
        rng: Option<RngKind>,
    ) -> Outcome<(Method, Vec<f64>)> {
        let subject = Subject::sdxl_base();
        let guided = UNetConfig::sdxl_base().is_guided(guidance_scale);
        let work = Workload { latents: Grid::new(128, 128), guided, ..subject.workload(50) };
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
    fn a_share_is_a_budget_of_the_whole_models_cost() {
        for name in ["at-edm", "tome-c"] {
            let (share, steps) = resolve(name, json!({"budget_tflops": "70%"})).unwrap();
            let (tflops, _) = resolve(name, json!({"budget_tflops": 0.7 * 6.761_2})).unwrap();
            let ratio = |method: &Method| method.settings["ratio"].as_f64().unwrap();
            assert!((ratio(&share) - ratio(&tflops)).abs() < 1e-3, "{name}");
            assert!((mean(&steps) / 6.761 - 0.7).abs() < 2e-3, "{name}: {}", mean(&steps));
        }
        let stack = json!({"deepcache": {"cache_interval": 2}, "at-edm": {"budget_tflops": "45%"}});
        let (_, steps) = resolve("deepcache+at-edm", stack).unwrap();
        assert!((mean(&steps) / 6.761 - 0.45).abs() < 2e-3, "{}", mean(&steps));
        let message = resolve("at-edm", json!({"budget_tflops": "a lot"})).unwrap_err().to_string();
        assert_eq!(
            message,
            "budget_tflops: expected TFLOPs or a share of the unpruned model's cost such as \"80%\", got \"a lot\""
        );
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

    /// T-GATE ends guidance at step 10: an image is one row in place of two, unless it was one before.
    #[test]
    fn steps_without_guidance_cost_half() {
        for (method, options) in [("tgate", json!({})), ("deepcache+tgate", json!({}))] {
            let steps = |scale: f64| resolve_at(scale, method, options.clone(), (), None).unwrap().1;
            let (guided, single) = (steps(7.0), steps(1.0));
            assert_eq!(guided[..10], single[..10], "{method}");
            let half: Vec<f64> = single[10..].iter().map(|step| 0.5 * step).collect();
            assert_eq!(guided[10..], half, "{method}");
        }
        // a budget is the mean of such steps
        let options =
            json!({"tgate": {"sp_interval": 1}, "tome": {"max_downsample": 2}, "budget_tflops": 3.7});
        let (_, steps) = resolve("tgate+tome", options).unwrap();
        assert!((mean(&steps) - 3.7).abs() < 0.005, "{}", mean(&steps));
        assert!(steps[0] > 6.0 && steps[10] < 3.1, "{steps:?}");
    }

    #[test]
    fn methods_that_draw_take_the_programs_generator() {
        let rng = |method: &str, options: Value| {
            let method = resolve_with(method, options, (), Some(RngKind::ChaCha)).unwrap().0;
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
        // only keys and values are reduced: the 10 layers with 4096 tokens keep a quarter of them, and half in the ten
        // steps from time step 181 on; the products shrink in proportion
        let (_, steps) = resolve("todo-sdxl", json!({})).unwrap();
        let saved = |share: f64| {
            let (tokens, channels) = (4096.0 * share, 640.0);
            2e-12 * 10.0 * (2.0 * tokens * channels * channels + 2.0 * 4096.0 * tokens * channels)
        };
        for (step, share) in [(0, 0.75), (39, 0.75), (40, 0.5), (49, 0.5)] {
            let expected = 6.761215 - saved(share);
            assert!((steps[step] - expected).abs() < 1e-3, "step {step}: {} {expected}", steps[step]);
        }
        // only a run can tell
        assert!(resolve("tome", json!({"threshold": 0.9})).unwrap().1.is_empty());
        for (preset, options) in [("todo-sdxl", json!({})), ("tome", json!({"threshold": 0.9}))] {
            let mut options = options;
            options["budget_tflops"] = 4.0.into();
            let message = resolve(preset, options).unwrap_err().to_string();
            assert!(message.contains("budget_tflops: no ratio decides"), "{message}");
        }
        // tomesd's default affects no block of SD-XL
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

    /// A method whose token counts only a run can tell.
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

    /// A method that computes a nest at even steps and reuses its output at odd ones.
    struct EverySecond;

    #[derive(Debug)]
    struct EverySecondPlan(NestId);

    impl MethodPlan for EverySecondPlan {
        fn settings(&self) -> Options {
            [("nest".to_string(), self.0.0.into())].into_iter().collect()
        }

        fn tokens(&self, block: &BlockShape, _: StepOf) -> atedm_core::Result<Option<Vec<LayerTokens>>> {
            Ok(Some(block.whole()))
        }

        fn replaced(&self, step: StepOf) -> Option<NestId> {
            (step.index % 2 == 1).then_some(self.0)
        }

        fn memory(&self, model: &ModelShape) -> u64 {
            model.nest(self.0).map_or(0, |nest| nest.values)
        }
    }

    impl Extension for EverySecond {
        fn register<T: AttentionOps>(&self, registry: &mut Registry<T>) -> atedm_core::Result<()> {
            registry.register_method(
                "every-second",
                |options, _| {
                    let nest = options.get("nest").and_then(Value::as_u64).unwrap_or(1);
                    Ok(EverySecondPlan(NestId(nest as usize)))
                },
                |_, _| Ok(Box::new(atedm_core::plugin::Unpruned)),
            )
        }
    }

    #[test]
    fn a_nest_that_is_given_again_costs_nothing() {
        let of = |method: &str, options: Value| resolve_with(method, options, EverySecond, None).unwrap();
        let (_, steps) = of("every-second", json!({}));
        // outside nest 1 are both ends of the U-Net and its last resnet
        assert_eq!(format!("{:.3} {:.4} {:.3}", steps[0], steps[1], mean(&steps)), "6.761 0.0981 3.430");
        let (_, steps) = of("every-second", json!({"nest": 0}));
        assert_eq!((readable(steps[0]), steps[1]), ("6.761 TFLOP".to_string(), 0.0));
        let error = resolve_with("every-second", json!({"nest": 10}), EverySecond, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "every-second: gives an earlier output of nest 10, and the model's nests are 0 to 9"
        );
    }

    /// The cost of a stack's steps follows from all its members: nothing in the nest, fewer tokens elsewhere.
    #[test]
    fn a_stacks_costs_are_those_of_its_members_together() {
        let of = |method: &str, options: Value| resolve_with(method, options, EverySecond, None);
        let (_, alone) = of("at-edm", json!({})).unwrap();
        let (method, both) = of("every-second+at-edm", json!({"every-second": {"nest": 9}})).unwrap();
        let middle = |steps: &[f64], step: usize| steps[step] - both[step];
        // even steps cost what AT-EDM costs; at odd ones the middle is missing, which AT-EDM prunes from the first step
        // on
        assert!((0..50).step_by(2).all(|step| middle(&alone, step) == 0.0));
        let (missing, late) = (middle(&alone, 1), middle(&alone, 49));
        assert!((missing - late).abs() < 1e-9 && missing > 0.3, "{missing} {late}");
        assert_eq!(method.settings["every-second"], json!({"nest": 9}));
        assert_eq!(method.settings["at-edm"]["ratio"], 0.63);
        assert_eq!(method.name, "every-second+at-edm");
        // the settings are complete
        let (again, steps) = of("every-second+at-edm", method.settings.clone()).unwrap();
        assert_eq!((again.settings, steps), (method.settings, both));
        // a budget applies to the whole stack, wherever it is written
        for options in [json!({"budget_tflops": 2.2}), json!({"at-edm": {"budget_tflops": 2.2}})] {
            let (method, steps) = of("every-second+at-edm", options).unwrap();
            assert!((mean(&steps) - 2.2).abs() < 0.005, "{}", mean(&steps));
            assert!(method.settings["at-edm"]["ratio"].as_f64().is_some_and(|ratio| ratio > 0.5));
            assert_eq!(method.settings.get("budget_tflops"), None);
        }
        for (method, options, expected) in [
            (
                "at-edm+tome-c",
                json!({}),
                "at-edm+tome-c: both reduce the tokens of self-attention in layer 1 of down.1.0 at step 15",
            ),
            (
                "at-edm+tome-c",
                json!({"budget_tflops": 4.0}),
                "budget_tflops: expected one member whose ratio",
            ),
            ("at-edm+tomate", json!({}), "method: expected one of "),
            ("at-edm+tome", json!({"at-edm": {"ratio": 2}}), "at-edm.ratio: "),
            (
                "at-edm+tome",
                json!({"ratio": 0.5}),
                "ratio: unknown option; the options of at-edm+tome are tables",
            ),
        ] {
            let error = of(method, options).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{method}: {error}");
        }
        // members that share no block can be stacked: each has its own levels
        let (_, steps) =
            of("at-edm+tome-c", json!({"at-edm": {"levels": [2]}, "tome-c": {"levels": [1]}})).unwrap();
        let (_, one) = of("at-edm", json!({"levels": [2]})).unwrap();
        let (_, other) = of("tome-c", json!({"levels": [1]})).unwrap();
        let whole = 6.761215;
        assert!(
            (steps[40] - (one[40] + other[40] - whole)).abs() < 1e-4,
            "{} {} {}",
            steps[40],
            one[40],
            other[40]
        );
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

    /// A run depends on the table, not on the name of its file.
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
