//! A stack of two methods: the outer one reuses a nest's output, the inner one removes tokens.

use atedm_conformance::method::{Subject, checks, run_suite};
use atedm_conformance::report::{Outcome, Status};
use atedm_core::plugin::{
    BlockShape, LayerTokens, MethodPlan, ModelShape, NestId, NestShape, Options, Registry, StepOf,
};
use atedm_core::reference::{NdDevice, NdTensor, Reference64};
use atedm_core::{DType, Result};
use serde_json::json;

use crate::faults::Fault;
use crate::reusing::{self, Reusing};
use crate::toy::{self, Toy};

#[derive(Debug)]
struct ToyPlan;

impl MethodPlan for ToyPlan {
    fn settings(&self) -> Options {
        Options::new()
    }

    fn tokens(&self, block: &BlockShape, _: StepOf) -> Result<Option<Vec<LayerTokens>>> {
        Ok(Some(toy::counts(block, None)))
    }
}

/// Reuses the nest's output, and with `sublayers` also cross-attention's.
#[derive(Debug)]
struct ReusingPlan {
    sublayers: bool,
}

impl MethodPlan for ReusingPlan {
    fn settings(&self) -> Options {
        Options::new()
    }

    fn tokens(&self, block: &BlockShape, step: StepOf) -> Result<Option<Vec<LayerTokens>>> {
        let index = if self.sublayers { step.index } else { 0 };
        Ok(Some(reusing::counts(block, index)))
    }

    fn replaced(&self, step: StepOf) -> Option<NestId> {
        reusing::replaced(step)
    }

    fn wants_guidance(&self, step: StepOf) -> bool {
        reusing::guided(step)
    }

    fn memory(&self, model: &ModelShape) -> u64 {
        model.nest(NestId(1)).map_or(0, |nest| nest.values)
    }
}

fn registry(fault: Option<Fault>) -> Registry<NdTensor> {
    let mut registry = Registry::of_identity();
    registry.register_method("toy", |_, _| Ok(ToyPlan), |_, _| Ok(Box::new(Toy::new(false, None)))).unwrap();
    registry
        .register_method(
            "reusing",
            |_, _| Ok(ReusingPlan { sublayers: false }),
            move |_, _| Ok(Box::new(Reusing::of_nests(fault))),
        )
        .unwrap();
    registry
        .register_method(
            "reusing-sublayers",
            |_, _| Ok(ReusingPlan { sublayers: true }),
            move |_, _| Ok(Box::new(Reusing::new(fault))),
        )
        .unwrap();
    registry
}

fn subject(fault: Option<Fault>) -> Subject<Reference64> {
    const NAME: &str = "reusing+toy";
    let plan =
        || registry(None).catalogue().describe(NAME, &Options::new(), &registry(None).catalogue().facts());
    let (counts, nests, guidance) = (plan().unwrap(), plan().unwrap(), plan().unwrap());
    Subject::new(NAME, (NdDevice, DType::F64), move || {
        registry(fault).build(NAME, &json!({}), &Default::default())
    })
    .with_counts(move |block, step| counts.tokens(block, step).unwrap())
    .with_replaced(move |step| nests.replaced(step))
    .with_guidance(move |step| guidance.wants_guidance(step))
}

#[test]
fn a_stack_is_a_method() {
    let report = run_suite(&subject(None), &[]);
    assert!(report.is_conforming(), "{report}");
}

#[test]
fn a_members_fault_is_a_fault_of_the_stack() {
    let meant = [
        (Fault::NestsAreRememberedByPlace, "images_may_take_turns"),
        (Fault::NestsAreNeverForgotten, "a_run_forgets_the_runs_before"),
        (Fault::NestsAreReplacedTooOften, "nests_are_those_planned"),
        (Fault::GuidesOneStepMore, "guidance_ends_as_planned"),
    ];
    let all = checks::<Reference64>();
    for (fault, meant) in meant {
        let &(name, check) = all.iter().find(|(name, _)| *name == meant).unwrap();
        let subject = subject(Some(fault));
        let outcome = Outcome::of(("method", name), DType::F64, &[], || check(&subject));
        assert_eq!(outcome.status, Status::Failed, "{fault:?} passes {name}");
    }
}

/// The machine's blocks as a model.
fn model() -> ModelShape {
    use atedm_core::plugin::{BlockId, Grid, Stage};
    let block = |stage, stage_index, index, level, depth| {
        let id = BlockId { stage, stage_index, index, count: 2, level };
        BlockShape::new(id, depth, Grid::new(4 >> level, 4 >> level)).with_channels(8)
    };
    let blocks =
        vec![block(Stage::Down, 0, 1, 0, 2), block(Stage::Mid, 0, 0, 1, 3), block(Stage::Up, 1, 0, 0, 1)];
    let nest = |start: usize| NestShape { blocks: start..3, values: 10 * start as u64 };
    ModelShape { nests: (0..3).map(nest).collect(), ..ModelShape::new(blocks, 6) }
}

#[test]
fn members_that_do_the_same_are_refused_before_the_first_step() {
    let registry = registry(None);
    let (catalogue, model) = (registry.catalogue(), model());
    let facts = catalogue.facts().of_model(&model);
    let describe = |name: &str, options: serde_json::Value| {
        let options = options.as_object().cloned().unwrap_or_default();
        catalogue.describe(name, &options, &facts)
    };
    let plan = describe("reusing+toy", json!({})).unwrap();
    assert_eq!(plan.memory(&model), 10);
    assert_eq!(serde_json::Value::Object(plan.settings()), json!({"reusing": {}, "toy": {}}));
    let at = |index| StepOf { index, total: 6 };
    assert_eq!([0, 1].map(|index| plan.replaced(at(index))), [None, Some(NestId(1))]);
    assert_eq!(plan.tokens(&model.blocks[0], at(1)).unwrap().unwrap()[1], LayerTokens::whole(8));
    for (name, options, expected) in [
        (
            "reusing+reusing-sublayers",
            json!({}),
            "reusing+reusing-sublayers: both give an earlier output of nest 1: one of them would never be asked",
        ),
        (
            "reusing-sublayers+toy",
            json!({}),
            "reusing-sublayers+toy: one gives an earlier output of cross-attention in layer 1 of down.0.1, the other \
             changes its tokens from step to step",
        ),
        ("toy+toy", json!({}), "method: toy stands twice in toy+toy"),
        ("reusing+", json!({}), "method: expected a name on each side of +, got \"reusing+\""),
        (
            "reusing+toy",
            json!({"ratio": 0.5}),
            "ratio: unknown option; the options of reusing+toy are tables named reusing and toy",
        ),
        ("reusing+toy", json!({"toy": 3}), "toy: expected a table of options, got 3"),
        ("none+toy", json!({"none": {"a": 1}}), "none.a: unknown option; the method none takes none"),
        (
            "reusing+toy",
            json!({"budget_tflops": 3.0}),
            "budget_tflops: expected one member whose ratio can meet it, and 0 of reusing+toy have one",
        ),
    ] {
        assert_eq!(describe(name, options).unwrap_err().to_string(), expected);
    }
    let shallow = ModelShape { nests: Vec::new(), ..model.clone() };
    let facts = catalogue.facts().of_model(&shallow);
    assert_eq!(
        catalogue.describe("reusing", &Options::new(), &facts).unwrap_err().to_string(),
        "reusing: gives an earlier output of nest 1, and the model names no nests"
    );
    let mut registry = registry;
    let error =
        registry.register_method("a+b", |_, _| Ok(ToyPlan), |_, _| Ok(Box::new(Toy::new(true, None))));
    assert_eq!(error.unwrap_err().to_string(), "method: expected a name without +, got \"a+b\"");
}

/// Without a model, the conflict is not known beforehand. The run detects it.
#[test]
fn members_that_do_the_same_are_refused_while_they_run() {
    let build = || {
        let mut registry = Registry::<NdTensor>::of_identity();
        for name in ["one", "two"] {
            registry.register_method(name, |_, _| Ok(ToyPlan), |_, _| Ok(Box::new(Toy::new(false, None))))?;
        }
        registry.build("one+two", &json!({}), &Default::default())
    };
    let subject = Subject::<Reference64>::new("one+two", (NdDevice, DType::F64), build);
    let all = checks::<Reference64>();
    let &(name, check) = all.iter().find(|(name, _)| *name == "every_life_runs").unwrap();
    let outcome = Outcome::of(("method", name), DType::F64, &[], || check(&subject));
    assert_eq!(outcome.status, Status::Failed);
    let message = outcome.message.unwrap_or_default();
    assert!(message.contains("plugin one+two: one and two both want to change the same place"), "{message}");
}
