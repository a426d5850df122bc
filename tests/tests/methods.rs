//! Runs the suite for methods on every method that the registries of `atedm-core`, `atedm-tomerge` and `atedm-reuse` name. It
//! also runs settings of these methods that take other paths.

// Helpers outside `#[test]` functions are tests, too.
#![allow(clippy::unwrap_used)]

use atedm_conformance::method::{Subject, run_suite};
use atedm_conformance::report::KnownFailure;
use atedm_core::plugin::{
    BlockId, BlockShape, BuildContext, Grid, MethodPlan, ModelShape, NestShape, Options, Registry, Stage,
    stack,
};
use atedm_core::reference::{NdDevice, NdTensor, Reference64};
use atedm_core::{DType, Result};
use serde_json::{Value, json};

/// A method's name, its options, and the checks that it is known to fail.
type Method = (&'static str, Value, &'static [KnownFailure]);

/// The suite's model has attention at levels 0 and 1.
const DEEPEST: usize = 1;

/// tomesd, ComfyUI and SiTo's program draw from one stream of random numbers. The first two draw nothing for an odd
/// batch.
const DRAWS_OF_A_BATCH: &[KnownFailure] = &[
    KnownFailure {
        check: "images_do_not_depend_on_their_batch",
        dtypes: &[DType::F64],
        reason: "torch's generator: an odd batch draws nothing, as in tomesd",
    },
    KnownFailure {
        check: "images_may_take_turns",
        dtypes: &[DType::F64],
        reason: "torch's generator: one stream, so that a draw depends on all before it",
    },
];

/// In the program of ToMA's authors, the first row of a batch chooses for all rows.
const FIRST_ROW_DECIDES: &[KnownFailure] = &[
    KnownFailure {
        check: "images_do_not_depend_on_their_batch",
        dtypes: &[DType::F64],
        reason: "guidance = first: the first row's destinations serve the whole batch, as in ToMA's program",
    },
    KnownFailure {
        check: "images_may_take_turns",
        dtypes: &[DType::F64],
        reason: "guidance = first: the first row's destinations serve the whole batch, as in ToMA's program",
    },
];

/// SiTo's program draws its noise for all rows of a batch at once.
const NOISE_OF_A_BATCH: &[KnownFailure] = &[
    KnownFailure {
        check: "images_do_not_depend_on_their_batch",
        dtypes: &[DType::F64],
        reason: "torch's generator: noise for all rows in one draw, as in SiTo's program",
    },
    KnownFailure {
        check: "images_may_take_turns",
        dtypes: &[DType::F64],
        reason: "torch's generator: one stream, so that a draw depends on all before it",
    },
];

fn registry() -> Registry<NdTensor> {
    let mut registry = Registry::with_builtins();
    atedm_tomerge::register(&mut registry).unwrap();
    atedm_reuse::register(&mut registry).unwrap();
    registry
}

fn table(options: &Value) -> Options {
    options.as_object().unwrap().clone()
}

/// The method for the suite's model.
fn describe(name: &str, options: &Value) -> Result<Box<dyn MethodPlan>> {
    let id = BlockId { stage: Stage::Mid, stage_index: 0, index: 0, count: 1, level: DEEPEST };
    let deepest = BlockShape::new(id, 1, Grid::new(1, 1));
    // every block from the n-th on lies in nest n
    let nest = |n: usize| NestShape { blocks: n..3, values: 1 };
    let model = ModelShape { nests: (0..3).map(nest).collect(), ..ModelShape::new(vec![deepest; 3], 50) };
    let registry = registry();
    let catalogue = registry.catalogue();
    catalogue.describe(name, &table(options), &catalogue.facts().of_model(&model))
}

/// The method in the form that the suite needs. The ratio of a budget is given, because nothing here solves it.
fn subject(name: &'static str, options: &Value) -> Subject<Reference64> {
    let build = |options: Value| {
        move || registry().build_plan(name, describe(name, &options)?.as_ref(), &BuildContext::default())
    };
    let mut idle = options.clone();
    for member in stack::members(name) {
        let table = if stack::is_stack(name) { &mut idle[member] } else { &mut idle };
        idle_options(member).into_iter().for_each(|(key, value)| table[key] = value);
    }
    let plan = describe(name, options).unwrap();
    let [again, guidance] = [(); 2].map(|()| describe(name, options).unwrap());
    let subject = Subject::new(format!("{name} {options}"), (NdDevice, DType::F64), build(options.clone()))
        .with_idle(build(idle))
        .with_counts(move |block, step| plan.tokens(block, step).unwrap())
        .with_guidance(move |step| guidance.wants_guidance(step));
    // what a first-block cache leaves out, only a run can tell
    if name == "first-block-cache" {
        subject
    } else {
        subject.with_replaced(move |step| again.replaced(step))
    }
}

/// The options that ask a method for nothing.
fn idle_options(name: &str) -> Vec<(&'static str, Value)> {
    match name {
        "none" => Vec::new(),
        "deepcache" | "step-forecast" => vec![("cache_interval", json!(1))],
        "tgate" => vec![("gate_step", json!(49)), ("sp_interval", json!(1))],
        "first-block-cache" => vec![("threshold", json!(0.0))],
        _ => vec![("ratio", json!(0.0))],
    }
}

/// Runs the suite on each method, and reports all faults together.
fn assert_conforming(methods: impl IntoIterator<Item = Method>) {
    let reports =
        methods.into_iter().map(|(name, options, known)| run_suite(&subject(name, &options), known));
    let faults: Vec<String> =
        reports.filter(|report| !report.is_conforming()).map(|report| report.to_string()).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn presets() -> Vec<Method> {
    let budget = json!({"ratio": 0.4});
    vec![
        ("none", json!({}), &[]),
        ("at-edm", json!({}), &[]),
        ("at-edm-dagger", json!({}), &[]),
        ("at-edm-fast", json!({}), &[]),
        ("at-edm-dagger-fast", json!({}), &[]),
        ("at-edm-best", json!({}), &[]),
        ("at-edm-a", budget.clone(), &[]),
        ("at-edm-b", budget.clone(), &[]),
        ("at-edm-c", budget.clone(), &[]),
        ("at-edm-d", budget, &[]),
    ]
}

fn merging_presets() -> Vec<Method> {
    let drawing = ["tome", "tome-comfy"].map(|name| (name, json!({}), DRAWS_OF_A_BATCH));
    let others = ["tome-a", "tome-b", "tome-c", "tome-d"].map(|name| (name, json!({}), &[][..]));
    // Similarity draws destinations in the last fifth of the time.
    let late = ["todo", "todo-sdxl"].map(|name| (name, json!({}), &DRAWS_OF_A_BATCH[1..]));
    let whole_batch = [("toma", json!({}), FIRST_ROW_DECIDES), ("sito", json!({}), NOISE_OF_A_BATCH)];
    let drawing = drawing.into_iter().chain([
        ("ibtm", json!({}), DRAWS_OF_A_BATCH),
        ("ibtm", json!({"rng": "chacha", "merge_from": 1}), &[]),
        ("dito", json!({}), &[]),
        ("dito", json!({"interval": 2, "merge_mlp": true, "ratio": 0.7}), &[]),
    ]);
    drawing.chain(others).chain(late).chain(whole_batch).collect()
}

fn reusing_presets() -> Vec<Method> {
    ["deepcache", "tgate", "first-block-cache", "step-forecast"].map(|name| (name, json!({}), &[][..])).into()
}

#[test]
fn every_name_of_the_registry_is_here() {
    let all: Vec<Method> = presets().into_iter().chain(merging_presets()).chain(reusing_presets()).collect();
    for name in registry().catalogue().names() {
        assert!(all.iter().any(|(other, ..)| *other == name), "{name} is not held to the suite");
    }
}

#[test]
fn presets_of_at_edm_conform() {
    assert_conforming(presets());
}

#[test]
fn presets_of_token_merging_conform() {
    assert_conforming(merging_presets());
}

/// Merging at the finer level and pruning at the coarser one; both prune, in the order in which they are named.
#[test]
fn stacks_conform() {
    let apart = |merging: &str, pruning: &str| json!({merging: {"levels": [0]}, pruning: {"levels": [1]}});
    assert_conforming([
        ("tome-c+at-edm-fast", apart("tome-c", "at-edm-fast"), &[][..]),
        ("at-edm-fast+tome-c", apart("tome-c", "at-edm-fast"), &[][..]),
        (
            "at-edm+at-edm-dagger",
            json!({"at-edm": {"levels": [0], "max_iterations": 3}, "at-edm-dagger": {"levels": [1]}}),
            &[][..],
        ),
    ]);
}

/// The gate gives outputs of the layers whose tokens the other member reduces.
#[test]
fn stacks_of_a_gate_and_a_reduction_conform() {
    let gate = json!({"gate_step": 2, "sp_interval": 2, "fi_interval": 2, "warm_up": 0});
    let with = |name: &'static str, member: &str, more: Value| -> Method {
        (name, json!({"tgate": gate, member: more}), &[])
    };
    let constant = json!({"schedule": "constant", "ratio": 0.5});
    assert_conforming([
        with("tgate+at-edm-fast", "at-edm-fast", json!({})),
        with("at-edm-fast+tgate", "at-edm-fast", constant.clone()),
        with("tgate+at-edm", "at-edm", json!({"prune_layers": [0, 1], "recovery": "direct", "ratio": 0.4})),
        with("tgate+tome-c", "tome-c", json!({})),
        with("tome-c+tgate", "tome-c", json!({"merge_crossattn": true})),
    ]);
}

#[test]
fn presets_of_reuse_conform() {
    assert_conforming(reusing_presets());
}

#[test]
fn other_settings_of_reuse_conform() {
    let settings = [
        ("deepcache", json!({"cache_interval": 2, "cache_branch_id": 1})),
        ("deepcache", json!({"cache_interval": 2, "uniform": false, "center": 0})),
        ("tgate", json!({"gate_step": 2, "sp_interval": 2, "fi_interval": 2, "warm_up": 0})),
        ("tgate", json!({"gate_step": 1, "fi_interval": 3})),
        ("tgate", json!({"gate_step": 4, "sp_interval": 3, "warm_up": 1})),
        ("first-block-cache", json!({"threshold": 1.4})),
        ("first-block-cache", json!({"threshold": 1e9})),
        ("step-forecast", json!({"cache_interval": 2, "disable_cache_before_step": 1, "max_order": 2})),
        ("step-forecast", json!({"cache_interval": 3, "max_order": 0, "disable_cache_after_step": 4})),
    ];
    assert_conforming(settings.map(|(name, options)| (name, options, &[][..])));
}

#[test]
fn other_settings_of_at_edm_conform() {
    let base = json!({"schedule": "constant", "ratio": 0.5});
    let with = |more: Value| -> Method {
        let mut options = base.clone();
        options.as_object_mut().unwrap().extend(table(&more));
        ("at-edm", options, &[])
    };
    assert_conforming([
        with(json!({"prune_layers": [0, 1], "recovery": "direct"})),
        with(
            json!({"prune_layers": [0, 1], "prune_point": "before_ff", "recovery": "zero", "scorer": "random"}),
        ),
        with(json!({"recovery": "bicubic", "scorer": "value-norm"})),
        with(json!({"recovery": "bicubic", "bicubic": "normalised", "prune_layers": [0, 1]})),
        with(json!({"recovery": "update", "selector": "sample", "prune_layers": [0, 1]})),
        with(json!({"recovery": "update", "rescore_every": 2})),
        with(json!({"score": "cross", "guidance": "mean", "heads": "max"})),
        with(json!({"rescore_every": 3, "guidance": "cond"})),
        with(json!({"rescore_every": 2, "prune_layers": [0, 1], "scorer": "token-norm"})),
        with(json!({"warm_start": true, "max_iterations": 1, "keep_multiple": 4})),
        with(json!({"scorer": "column-mean", "levels": "deepest", "ratio": 0.97})),
    ]);
}

#[test]
fn other_settings_of_token_merging_conform() {
    let all = json!({"merge_crossattn": true, "merge_mlp": true});
    let with = |name: &'static str, more: Value| -> Method {
        let mut options = all.clone();
        options.as_object_mut().unwrap().extend(table(&more));
        (name, options, &[])
    };
    assert_conforming([
        with("tome", json!({"ratio": 0.6, "use_rand": false, "max_downsample": 8})),
        with("tome", json!({"rng": "chacha", "merge": "mlerp"})),
        with("tome", json!({"use_rand": false, "merge": "prune", "sx": 3})),
        with("tome-c", json!({"reuse": {"layers": 2, "steps": 2}})),
        with("tome-c", json!({"guidance": "mean", "schedule": "prune-less"})),
        ("todo", json!({"downsample_method": "nearest-exact", "timestep_threshold_stop": 0.5}), &[]),
        with("toma", json!({"attention_scale": 5.0, "ratio": 0.75, "guidance": "per_row"})),
        with("sito", json!({"noise_alpha": 0.0, "ratio": 0.7})),
    ]);
}
