//! Parts and methods by name, and any method under the shared schedule.

use atedm_core::at_edm::scoring::RandomScores;
use atedm_core::at_edm::{Parts, ScoreInput, Scores, TokenScorer};
use atedm_core::backend::dims;
use atedm_core::plugin::{
    Action, BlockShape, BuildContext, Event, Facts, Levels, MaskRecorder, ModelShape, Options,
    PlacedSchedule, PruningSchedule, Registry, RunTells, ScheduleQuery, Scheduled, Site, Stage, StepOf,
    TokenReducer, Unpruned, WithRatio,
};
use atedm_core::reference::NdTensor;
use atedm_core::{Error, Result, Tensor};
use serde_json::{Value, json};

use crate::method::{GRID, Inputs, run};
use crate::support::{batch, block, mid, single, step};
use crate::toy::Toy;

/// A user's scorer: the score is the position.
#[derive(Debug)]
struct ByPosition {
    backwards: bool,
}

impl TokenScorer<NdTensor> for ByPosition {
    fn score(&mut self, input: &ScoreInput<'_, NdTensor>) -> Result<Scores<NdTensor>> {
        let [b, n, _] = dims(input.hidden, "by position")?;
        let sign = if self.backwards { -1.0 } else { 1.0 };
        let row: Vec<f32> = (0..n).map(|i| sign * i as f32).collect();
        let tokens =
            NdTensor::from_f32(&row.repeat(b), &[b, n], input.hidden.dtype(), &input.hidden.device())?;
        Ok(Scores { tokens, votes: 0 })
    }
}

fn with_by_position() -> Registry<NdTensor> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Options {
        backwards: bool,
    }
    let mut parts = Parts::with_builtins();
    parts
        .register_scorer("by-position", |spec| {
            let Options { backwards } = spec.parse()?;
            Ok(Box::new(ByPosition { backwards }))
        })
        .unwrap();
    assert!(parts.register_scorer("random", |_| Ok(Box::new(RandomScores))).is_err());
    Registry::with_parts(parts)
}

#[test]
fn a_users_scorer_is_found_by_name() {
    let (toy, inputs) = (Toy::new(62, 2, GRID), Inputs::new(63, 1));
    for (backwards, first) in [(true, 0), (false, 12)] {
        let recorder = MaskRecorder::shared();
        let context = BuildContext { observer: Some(recorder.clone()), ..BuildContext::default() };
        let options = json!({"scorer": "by-position", "scorer_options": {"backwards": backwards}, "schedule": "constant"});
        let mut method = with_by_position().build("at-edm", &options, &context).unwrap();
        run(&toy, method.as_mut(), &inputs).unwrap();
        let masks = recorder.lock().unwrap().take();
        assert_eq!(masks.iter().next().unwrap().1.kept[0], (first..first + 8).collect::<Vec<u32>>());
    }
    let bad = json!({"scorer": "by-position", "scorer_options": {"sideways": true}});
    let message = |options| match with_by_position().build("at-edm", &options, &BuildContext::default()) {
        Ok(_) => panic!("{options} must not build"),
        Err(error) => error.to_string(),
    };
    let error = message(bad);
    assert!(error.starts_with("scorer_options: ") && error.contains("sideways"), "{error}");
    let error = message(json!({"scorer": "by-height"}));
    assert!(
        error.starts_with("scorer: ") && error.contains("by-position") && error.contains("page-rank"),
        "{error}"
    );
    let error = message(json!({"scorer": "random", "scorer_options": {"a": 1}}));
    assert!(error.starts_with("scorer_options.a: "), "{error}");
}

#[test]
fn names_are_listed_unique_and_known() {
    let mut registry = with_by_position();
    assert_eq!(
        registry.catalogue().names(),
        [
            "at-edm",
            "at-edm-a",
            "at-edm-b",
            "at-edm-best",
            "at-edm-c",
            "at-edm-d",
            "at-edm-dagger",
            "at-edm-dagger-fast",
            "at-edm-fast",
            "none"
        ]
    );
    let taken = registry.register_method("", |_, _| Ok(RunTells::default()), |_, _| Ok(Box::new(Unpruned)));
    assert!(taken.is_err());
    let mine = |options: &Options, _: &Facts<'_>| Ok(RunTells { options: options.clone() });
    registry.register_method("mine", mine, |_, _| Ok(Box::new(Unpruned))).unwrap();
    let context = BuildContext::default();
    assert!(registry.build("mine", &json!(null), &context).is_ok());
    for (name, options, expected) in [
        ("tome", json!({}), "method: expected one of at-edm,"),
        ("none", json!({"ratio": 0.5}), "ratio: "),
        ("at-edm", json!({"rati": 0.5}), "rati: unknown option; expected one of bicubic, budget_tflops"),
        ("at-edm", json!([1]), "at-edm: expected a table"),
        ("at-edm", json!({"ratio": 1.0}), "ratio: "),
        (
            "at-edm",
            json!({"recovery": "hope"}),
            "recovery: expected one of bicubic, direct, similarity, soft, update, zero",
        ),
        ("at-edm", json!({"selector": "x"}), "selector: expected one of sample, top-k"),
        (
            "at-edm",
            json!({"schedule": "x"}),
            "schedule: expected one of constant, prune-less, prune-more, table",
        ),
        ("at-edm-dagger", json!({}), "levels: "),
        ("at-edm-a", json!({}), "budget_tflops: "),
    ] {
        match registry.build(name, &options, &context) {
            Ok(_) => panic!("{name} {options} must not build"),
            Err(error) => assert!(error.to_string().starts_with(expected), "{error}"),
        }
    }
    let deep = BlockShape::new(block(Stage::Mid, 0, 0, 1, 2), 2, GRID);
    let model = ModelShape::new(vec![deep], 10);
    let describe = |name: &str, options: Value| {
        let facts = registry.catalogue().facts().of_model(&model);
        registry.catalogue().describe(name, options.as_object().unwrap(), &facts)
    };
    for name in ["at-edm-dagger", "at-edm-dagger-fast"] {
        let plan = describe(name, json!({})).unwrap();
        assert_eq!(plan.settings()["levels"], json!([2]));
        assert!(registry.build_plan(name, plan.as_ref(), &context).is_ok());
        let foreign = registry.build_plan("mine", plan.as_ref(), &context).err().unwrap().to_string();
        assert!(foreign.contains("mine") && foreign.contains("RunTells"), "{foreign}");
    }
    let plan = describe("at-edm-a", json!({})).unwrap();
    assert_eq!(plan.budget_tflops(), Some(2.9));
    assert!(plan.tokens(&deep, StepOf { index: 0, total: 10 }).is_err());
    let solved = plan.with_ratio(0.5).unwrap().unwrap();
    let layers = solved.tokens(&deep, StepOf { index: 9, total: 10 }).unwrap().unwrap();
    assert_eq!(layers[1].self_attention, GRID.tokens() / 2);
    assert!(registry.build_plan("at-edm-a", solved.as_ref(), &context).is_ok());
    let late = describe("at-edm", json!({"tau": 11})).unwrap_err().to_string();
    assert!(late.starts_with("tau: "), "{late}");
    let error = describe("at-edm", json!({"levels": [1, 7]})).unwrap_err().to_string();
    assert_eq!(error, "levels: expected levels from 0 to 2, the model's deepest, got 7");
    assert!(registry.build("at-edm", &json!({"levels": [1, 7]}), &context).is_ok());
    assert!(registry.build("at-edm-a", &json!({"ratio": 0.9}), &context).is_ok());
}

/// A selector that keeps too few tokens gives an error.
#[test]
fn a_selector_that_breaks_the_plan_is_an_error() {
    #[derive(Debug)]
    struct Half;
    impl atedm_core::at_edm::TokenSelector<NdTensor> for Half {
        fn select(
            &mut self,
            _: &Site<'_>,
            scores: &NdTensor,
            kept: usize,
        ) -> Result<atedm_core::Partition<NdTensor>> {
            scores.split_top_k(kept / 2)
        }
    }
    let mut parts = Parts::with_builtins();
    parts.register_selector("half", |_| Ok(Box::new(Half))).unwrap();
    let registry = Registry::with_parts(parts);
    let options = json!({"selector": "half", "schedule": "constant"});
    let mut method = registry.build("at-edm", &options, &BuildContext::default()).unwrap();
    let result = run(&Toy::new(64, 2, GRID), method.as_mut(), &Inputs::new(65, 1));
    assert!(matches!(result, Err(Error::Plugin { .. })), "{result:?}");
}

/// A method of a few lines under the shared schedule. It keeps the first tokens of the stream.
#[derive(Debug)]
struct First {
    ratio: f64,
    asked: Vec<f64>,
}

impl WithRatio for First {
    fn set_ratio(&mut self, ratio: f64) {
        self.ratio = ratio;
    }
}

impl TokenReducer<NdTensor> for First {
    fn on_event(&mut self, _: &Site<'_>, event: Event<'_, NdTensor>) -> Result<Action<NdTensor>> {
        if let Event::BlockExit { .. } = event {
            self.asked.push(self.ratio);
        }
        Ok(Action::Continue)
    }
}

#[derive(Debug, Clone)]
struct Falling;

impl PruningSchedule for Falling {
    fn ratio(&self, query: &ScheduleQuery) -> f64 {
        query.ratio * (1.0 - query.step as f64 / query.total as f64)
    }
    fn clone_box(&self) -> Box<dyn PruningSchedule> {
        Box::new(self.clone())
    }
}

#[test]
fn any_method_runs_under_a_schedule_and_levels() {
    let schedule = || PlacedSchedule::new(Box::new(Falling), Levels::List(vec![0]), 0.5).unwrap();
    assert_eq!(schedule().ratio(mid(), 1, 4).unwrap(), 0.375);
    let below = block(Stage::Mid, 0, 0, 1, 1);
    assert_eq!(schedule().clone().ratio(below, 1, 4).unwrap(), 0.0);
    let inputs = Inputs::new(67, 1);
    let rows = single(1);
    let mut seen = Vec::new();
    for level in [0, 1] {
        let toy = Toy { block: block(Stage::Mid, 0, 0, 1, level), ..Toy::new(66, 2, GRID) };
        let mut method = Scheduled::new(First { ratio: 9.0, asked: Vec::new() }, schedule());
        for index in 0..2 {
            let text = batch(&inputs.text);
            toy.run(&mut method, &step(index, 2), &rows, batch(&inputs.hidden), &text).unwrap();
        }
        seen.push(format!("{method:?}"));
    }
    assert!(seen[0].contains("asked: [0.5, 0.25]"), "{}", seen[0]);
    assert!(seen[1].contains("asked: []"), "{}", seen[1]);
}

#[test]
fn a_schedule_outside_its_bounds_is_an_error() {
    #[derive(Debug, Clone)]
    struct Wild(f64);
    impl PruningSchedule for Wild {
        fn ratio(&self, _: &ScheduleQuery) -> f64 {
            self.0
        }
        fn clone_box(&self) -> Box<dyn PruningSchedule> {
            Box::new(self.clone())
        }
    }
    for wild in [1.0, -0.1, f64::NAN] {
        let schedule = PlacedSchedule::new(Box::new(Wild(wild)), Levels::All, 0.5).unwrap();
        assert!(matches!(schedule.ratio(mid(), 0, 1), Err(Error::Plugin { .. })), "{wild}");
    }
    assert!(PlacedSchedule::new(Box::new(Wild(0.1)), Levels::All, 1.0).is_err());
    assert!(PlacedSchedule::new(Box::new(Wild(0.1)), Levels::Deepest, 0.1).is_err());
}
