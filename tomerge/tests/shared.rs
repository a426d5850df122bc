//! Tests of all methods of this crate: names, options, schedules, levels, counts, observers, reused plans.

// helpers outside `#[test]` functions belong to the tests, too
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};

use atedm_core::DType;
use atedm_core::plugin::LayerTokens;
use atedm_core::plugin::{
    BlockId, BlockShape, BuildContext, Event, Grid, Levels, MaskRecorder, MaskSet, ModelShape, Registry, Row,
    ScheduleRegistry, Scope, Scoring, Site, Stage, StepOf, Sublayer,
};
use atedm_core::reference::NdTensor;
use atedm_tomerge::{MergeConfig, Method as Own, presets};
use common::*;
use serde_json::{Map, Value, json};

fn options(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn schedules() -> ScheduleRegistry {
    ScheduleRegistry::with_builtins()
}

#[test]
fn every_preset_is_a_method_and_survives_being_written() {
    let mut registry = Registry::<NdTensor>::with_builtins();
    atedm_tomerge::register(&mut registry).unwrap();
    for name in presets::names() {
        assert!(registry.catalogue().names().contains(&name));
        let config = MergeConfig::preset(name).unwrap();
        config.validate().unwrap();
        assert_eq!(MergeConfig::from_options(name, &Map::new()).unwrap(), config, "{name}");
        // in full, every option can be laid over any preset of the same method
        let written = config.to_options().unwrap();
        assert_eq!(MergeConfig::from_options(name, &written).unwrap(), config, "{name}");
        registry.build(name, &Value::Null, &BuildContext::default()).unwrap();
    }
    assert!(atedm_tomerge::register(&mut registry).is_err(), "names are taken");
    assert_eq!(MergeConfig::preset("tome").unwrap().placement.ratio, 0.5);
    for (name, ratio) in [("tome-a", 0.75), ("tome-b", 0.6), ("tome-c", 0.5), ("tome-d", 0.4)] {
        let config = MergeConfig::preset(name).unwrap();
        let Own::Tome(tome) = &config.method else { panic!("{name}") };
        assert_eq!(config.placement.ratio, ratio);
        assert!(tome.merge_attn && tome.merge_crossattn && tome.merge_mlp && !tome.use_rand);
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (name, value, field) in [
        ("tome", json!({"ratoi": 0.5}), "ratoi: unknown option; expected one of budget_tflops"),
        ("tome", json!({"ratio": 1.0}), "ratio: "),
        ("tome", json!({"ratio": "half"}), "ratio: "),
        ("tome", json!({"ratio": 0.5, "token_merging_ratio": 0.5}), "token_merging_ratio: "),
        ("tome", json!({"ratio": 0.5, "budget_tflops": 4.1}), "budget_tflops: "),
        ("tome", json!({"max_downsample": 3}), "max_downsample: expected 1, 2, 4 or 8, got 3"),
        ("tome", json!({"sx": 0}), "sx: expected 1 to 1024, got 0"),
        ("tome", json!({"sx": 1, "sy": 1}), "sx: a cell of 1 x 1"),
        ("tome", json!({"sy": -1}), "sy: "),
        ("tome", json!({"use_rand": "yes"}), "use_rand: "),
        ("tome", json!({"merge_attn": false}), "merge_attn: expected at least one"),
        ("tome-comfy", json!({"merge_mlp": true}), "merge_mlp: "),
        ("tome", json!({"threshold": 1.5}), "threshold: "),
        ("tome", json!({"merge": "median"}), "merge: "),
        ("tome", json!({"rng": "mt"}), "rng: "),
        ("tome", json!({"reuse": {"steps": 0}}), "reuse.steps: "),
        ("tome", json!({"reuse": {"steps": 2, "at": [0, 5]}}), "reuse.at: "),
        ("tome", json!({"reuse": {"every": 2}}), "reuse: "),
        ("tome", json!({"levels": []}), "levels: "),
        ("tome", json!({"schedule": "table"}), "schedule: "),
        ("tome", json!({"tau": "130%"}), "tau: "),
        ("tome", json!({"tau": "10%"}), "tau: does nothing here: it is an option of schedule"),
        ("toma", json!({"num_tiles": 0}), "num_tiles: "),
        ("toma", json!({"attention_scale": 0.0}), "attention_scale: "),
        ("toma", json!({"max_downsample": 2}), "max_downsample: unknown option"),
        ("todo", json!({"downsample_factor": 0}), "downsample_factor: "),
        ("todo", json!({"timestep_threshold_stop": 2}), "timestep_threshold_stop: "),
        ("todo", json!({"timestep_threshold_switch": -0.1}), "timestep_threshold_switch: expected 0 to 1"),
        ("todo", json!({"ratio_level_2": 1.0}), "ratio_level_2: expected a fraction"),
        ("todo", json!({"merge_method": "max_pool"}), "merge_method: "),
        ("todo", json!({"secondary_merge_method": 1}), "secondary_merge_method: "),
        ("todo", json!({"sx": 1, "sy": 1}), "sx: a cell of 1 x 1"),
        ("todo", json!({"budget_tflops": 4.0}), "budget_tflops: "),
        ("tome", json!({"threshold_count": "fewest"}), "threshold_count: counts under a threshold alone"),
        ("tome", json!({"threshold": 0.5, "threshold_count": "mean"}), "threshold_count: "),
        ("toma", json!({"compare": "keys"}), "compare: "),
        ("sito", json!({"noise": "uniform"}), "noise: "),
        ("sito", json!({"sx": 2000}), "sx: "),
        ("sito", json!({"merge_attn": false}), "merge_attn: "),
        ("ibtm", json!({"dst_share": 0.0}), "dst_share: expected a fraction"),
        ("ibtm", json!({"pool_size": 0.9}), "pool_size: expected at least 1"),
        ("ibtm", json!({"merge_from": 0}), "merge_from: expected at least 1"),
        ("ibtm", json!({"dst_mode": "bottom"}), "dst_mode: "),
        ("ibtm", json!({"merge_attn": false}), "merge_attn: "),
        ("dito", json!({"interval": 1}), "interval: expected at least 2"),
        ("dito", json!({"frequency_penalty": -0.1}), "frequency_penalty: "),
        ("dito", json!({"sx": 1, "sy": 1}), "sx: "),
        ("dito", json!({"reuse": {"steps": 2}}), "reuse: unknown option"),
    ] {
        let message = MergeConfig::from_options(name, &options(value.clone())).unwrap_err().to_string();
        assert!(message.starts_with(field), "{name} {value}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
    // errors that only building finds
    for (value, field) in [
        (json!({"levels": "deepest"}), "levels: "),
        (json!({"budget_tflops": 4.1}), "budget_tflops: "),
        (json!({"schedule": "sometimes"}), "schedule: "),
    ] {
        let message = build("tome", value).err().unwrap().to_string();
        assert!(message.starts_with(field), "{message}");
    }
    let replay = BuildContext { replay: Some(Arc::new(MaskSet::default())), ..BuildContext::default() };
    let mut registry = Registry::<NdTensor>::with_builtins();
    atedm_tomerge::register(&mut registry).unwrap();
    assert!(registry.build("tome", &Value::Null, &replay).err().unwrap().to_string().starts_with("masks: "));
}

#[test]
fn listed_steps_replace_a_presets() {
    let toma = |value: Value| match MergeConfig::from_options("toma", &options(value)).unwrap().method {
        Own::Toma(toma) => toma.reuse,
        other => panic!("{other:?}"),
    };
    let listed = toma(json!({"reuse": {"at": [0, 7]}}));
    assert_eq!((listed.steps, listed.at, listed.layers), (1, Some(vec![0, 7]), 1000));
    let fewer = toma(json!({"reuse": {"layers": 1}}));
    assert_eq!((fewer.steps, fewer.at, fewer.layers), (5, None, 1));
}

#[test]
fn token_merging_ratio_is_ratio() {
    let config = MergeConfig::from_options("tome", &options(json!({"token_merging_ratio": 0.3}))).unwrap();
    assert_eq!(config.placement.ratio, 0.3);
    let config = MergeConfig::preset("tome").unwrap().with_ratio(0.25).unwrap();
    assert_eq!(config.placement.ratio, 0.25);
    assert!(MergeConfig::preset("tome").unwrap().with_ratio(1.0).is_err());
    let deepest = MergeConfig::from_options("tome", &options(json!({"levels": "deepest"}))).unwrap();
    assert_eq!(deepest.placement.levels.resolved(2), Levels::List(vec![2]));
}

fn block(stage: Stage, index: usize, count: usize, level: usize) -> BlockId {
    BlockId { stage, stage_index: 1, index, count, level }
}

/// Every method in blocks of two levels, inside and outside the schedule. The run matches the counts.
#[test]
fn schedules_levels_and_counts_hold_for_all_methods() {
    let rows = Row::singles(2);
    let edge = block(Stage::Down, 0, 2, 1);
    let inner = block(Stage::Down, 1, 2, 1);
    let deep = block(Stage::Mid, 0, 1, 2);
    let mut seen = 0;
    for name in presets::names() {
        for more in [
            json!({}),
            json!({"schedule": "prune-less", "tau": 4}),
            json!({"levels": [2]}),
            json!({"ratio": 0.0}),
        ] {
            let mut all = options(more);
            all.extend(options(match name {
                "tome" | "tome-comfy" => json!({"max_downsample": 4, "merge_attn": true}),
                "toma" => json!({"num_tiles": 4, "merge_mlp": true}),
                _ => json!({}),
            }));
            let config = MergeConfig::from_options(name, &all).unwrap();
            let plan = config.plan_with(&schedules()).unwrap();
            assert_eq!(plan.is_exact(), !name.starts_with("todo"), "{name}: time steps are to come");
            let plan = plan.timed((0..10).map(|step| 1000.0 - 100.0 * f64::from(step)).collect());
            assert!(plan.is_exact());
            plan.begin(10).unwrap();
            let mut method = build(name, Value::Object(all.clone())).unwrap();
            begin(&mut method, &rows, 0).unwrap();
            for (id, step, side) in [
                (edge, 0, 8),
                (inner, 0, 8),
                (deep, 0, 6),
                (edge, 3, 8),
                (edge, 4, 8),
                (inner, 9, 7),
                (deep, 9, 4),
            ] {
                let grid = Grid::new(side, side + 1);
                let hidden = tokens([2, grid.tokens(), 4], 1 + step as u64, DType::F32);
                let place = Site { block: id, ..at_step(&site(grid, &rows), step) };
                enter(&mut method, &place, &hidden).unwrap();
                let layers =
                    plan.tokens(&BlockShape::new(id, 3, grid), StepOf { index: step, total: 10 }).unwrap();
                assert_eq!(layers.len(), 3);
                let mut run = |sub| {
                    let around = before(&mut method, &place, sub, &hidden).unwrap();
                    let whole = grid.tokens();
                    match around {
                        None => [whole; 2],
                        Some((Scope::Queries, by)) => [by.kept(), whole],
                        Some((Scope::KeysValues, by)) => [whole, by.kept()],
                        Some((Scope::Both, by)) => [by.kept(); 2],
                    }
                };
                let [queries, keys] = run(Sublayer::SelfAttention);
                let counted =
                    [queries, keys, run(Sublayer::CrossAttention)[0], run(Sublayer::FeedForward)[0]];
                let LayerTokens { self_attention, self_keys, cross_attention, feed_forward } = layers[2];
                let planned = [self_attention, self_keys, cross_attention, feed_forward];
                assert_eq!(counted, planned, "{name} {all:?} {id} step {step}");
                seen += usize::from(queries.min(keys) < grid.tokens());
            }
        }
    }
    assert!(seen > 60, "{seen}: hardly anything was reduced");
    // prune-less leaves the stage's first block whole in the first four steps
    let config = options(json!({"schedule": "prune-less", "tau": 4, "max_downsample": 4}));
    let plan = MergeConfig::from_options("tome", &config).unwrap().plan_with(&schedules()).unwrap();
    let grid = Grid::new(8, 8);
    let kept =
        |id, index| plan.effect(&BlockShape::new(id, 1, grid), StepOf { index, total: 10 }).unwrap().kept;
    assert_eq!([kept(edge, 3), kept(edge, 4), kept(inner, 3), kept(deep, 0)], [64, 32, 32, 32]);
    assert!(plan.begin(3).is_err(), "τ exceeds the steps");
}

/// The paper's SD-XL blocks at 1024 px.
fn sdxl() -> Vec<BlockShape> {
    let (fine, deep) = (Grid::new(64, 64), Grid::new(32, 32));
    vec![
        BlockShape::new(block(Stage::Down, 0, 2, 1), 2, fine),
        BlockShape::new(block(Stage::Down, 1, 2, 2), 2, deep),
        BlockShape::new(block(Stage::Mid, 0, 1, 2), 2, deep),
    ]
}

#[test]
fn silent_caps_and_silent_nothing_are_said() {
    let remarks = |name: &str, value: Value| {
        let config = MergeConfig::from_options(name, &options(value)).unwrap();
        config.plan_with(&schedules()).unwrap().remarks(&ModelShape::new(sdxl(), 10)).unwrap().join("; ")
    };
    assert_eq!(
        remarks("tome", json!({})),
        "nothing is reduced: max_downsample = 1 reaches no attention block of this model, the finest needs 2"
    );
    assert_eq!(
        remarks("tome", json!({"ratio": 0.9, "max_downsample": 4})),
        "ratio 0.9 acts as 0.7500: one destination stays in each cell of 2 x 2 tokens"
    );
    assert_eq!(remarks("tome-a", json!({})), "");
    assert_eq!(remarks("tome", json!({"ratio": 0.0})), "");
    assert_eq!(
        remarks("tome", json!({"levels": [0]})),
        "nothing is reduced: levels and schedule spare every block"
    );
    assert_eq!(
        remarks("todo", json!({"ratio_level_2": 0.0})),
        "nothing is reduced: the factor is 1 at level 1, the finest with attention"
    );
    assert_eq!(remarks("todo-sdxl", json!({})), "");
    assert_eq!(remarks("toma", json!({})), "");
    assert!(remarks("sito", json!({"ratio": 0.8})).starts_with("ratio 0.8 acts as 0.7500"));
    assert_eq!(remarks("ibtm", json!({})), "");
    assert_eq!(
        remarks("ibtm", json!({"ratio": 0.8})),
        "ratio 0.8 acts as 0.7500: destinations stay: a share of 0.25 of the tokens, and one a cell of 2 x 2"
    );
    assert_eq!(remarks("dito", json!({})), "");
    assert!(
        remarks(
            "dito",
            json!({"interval": 10, "schedule": "table", "table": {"entries": [{"steps": [1, 10], "ratio": 0.0}]}})
        )
        .starts_with("nothing is reduced: every step is a matching")
    );
    let config =
        MergeConfig::from_options("tome", &options(json!({"ratio": 0.9, "max_downsample": 4}))).unwrap();
    let plan = config.plan_with(&schedules()).unwrap();
    let effect = plan.effect(&sdxl()[0], StepOf { index: 0, total: 10 }).unwrap();
    assert_eq!((effect.tokens, effect.kept, effect.ratio(), effect.asked), (4096, 1024, 0.75, 0.9));
    assert!(effect.applies() && plan.is_exact());
}

#[test]
fn observers_are_told_where_what_was_kept() {
    let recorder = MaskRecorder::shared();
    let context = BuildContext::<NdTensor> { observer: Some(recorder.clone()), ..BuildContext::default() };
    let mut registry = Registry::with_builtins();
    atedm_tomerge::register(&mut registry).unwrap();
    let mut method = registry.build("tome", &plain(json!({"levels": [1], "ratio": 0.5})), &context).unwrap();
    let rows = Row::singles(2);
    begin(&mut method, &rows, 0).unwrap();
    let grid = Grid::new(4, 6);
    let hidden = tokens([2, 24, 4], 1, DType::F32);
    for level in [1, 2] {
        let place = site(grid, &rows);
        let place = Site { block: BlockId { level, stage_index: level, ..place.block }, ..place };
        plan(&mut method, &place, &hidden).unwrap();
        method.on_event(&place, Event::BlockExit { hidden: &hidden }).unwrap();
    }
    let masks = Mutex::lock(&recorder).unwrap().take();
    assert_eq!(masks.len(), 1, "level 2 is not merged");
    let (_, entry) = masks.iter().next().unwrap();
    assert_eq!((entry.tokens, entry.kept.len(), entry.kept[0].len(), entry.grid), (24, 2, 12, (4, 6)));
    assert!(entry.kept.iter().all(|row| row.is_sorted()));
    // the kept tokens always include the destinations
    assert!([0, 2, 4, 12, 14, 16].iter().all(|place| entry.kept[1].contains(place)));
}

#[test]
fn plans_are_used_again_until_they_are_made_anew() {
    let rows = Row::singles(1);
    let grid = Grid::new(4, 6);
    let of = |reuse: Value, steps: &[(usize, usize)]| -> Vec<usize> {
        let mut method = build("tome", plain(json!({"ratio": 0.4, "reuse": reuse}))).unwrap();
        begin(&mut method, &rows, 0).unwrap();
        // the tokens of every call differ, so they show which call's plan is used
        let mut plans: Vec<Vec<usize>> = Vec::new();
        let mut from = Vec::new();
        for (call, &(step, layer)) in steps.iter().enumerate() {
            let hidden = tokens([1, 24, 6], 100 + call as u64, DType::F32);
            let place = Site { layer, ..at_step(&site(grid, &rows), step) };
            let by = plan(&mut method, &place, &hidden).unwrap().unwrap().1;
            let labels = labels(by.as_ref(), 1, 0);
            from.push(plans.iter().position(|plan| *plan == labels).unwrap_or(call));
            plans.push(labels);
        }
        from
    };
    let steps: Vec<(usize, usize)> = (0..6).map(|step| (step, 0)).collect();
    assert_eq!(of(json!({}), &steps), [0, 1, 2, 3, 4, 5]);
    assert_eq!(of(json!({"steps": 3}), &steps), [0, 0, 0, 3, 3, 3]);
    assert_eq!(of(json!({"at": [0, 1, 4]}), &steps), [0, 1, 1, 1, 4, 4]);
    // a run that begins later (image to image) makes its first plans
    assert_eq!(of(json!({"steps": 5}), &[(3, 0), (4, 0), (5, 0)]), [0, 0, 2]);
    let layers = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)];
    assert_eq!(of(json!({"layers": 2}), &layers), [0, 0, 2, 2, 4, 4]);
    assert_eq!(of(json!({"layers": 2, "steps": 2}), &layers), [0, 0, 2, 2, 0, 0]);
    // a new run forgets earlier plans
    let mut method = build("tome", plain(json!({"ratio": 0.4, "reuse": {"steps": 9}}))).unwrap();
    let mut standing = |seed: u64| {
        begin(&mut method, &rows, 0).unwrap();
        let hidden = tokens([1, 24, 6], seed, DType::F32);
        labels(plan(&mut method, &at_step(&site(grid, &rows), 1), &hidden).unwrap().unwrap().1.as_ref(), 1, 0)
    };
    assert_ne!(standing(1), standing(2));
}

/// The questions that the program asks a method before any tensor exists.
#[test]
fn a_plan_says_what_its_method_draws_costs_and_uses_again() {
    let mut registry = Registry::<NdTensor>::with_builtins();
    atedm_tomerge::register(&mut registry).unwrap();
    let model = ModelShape::new(sdxl(), 10);
    let facts = registry.catalogue().facts().of_model(&model).with_rng("chacha");
    let describe =
        |name: &str, value: Value| registry.catalogue().describe(name, &options(value), &facts).unwrap();
    // methods that draw use the program's generator, unless they name one
    assert_eq!(describe("tome", json!({})).settings()["rng"], "chacha");
    assert_eq!(describe("tome", json!({"rng": "torch"})).settings()["rng"], "torch");
    assert_eq!(describe("toma", json!({})).settings().get("rng"), None);
    // a ratio solves a budget if it decides the cost
    let budget = describe("tome-c", json!({"budget_tflops": 4.0}));
    assert_eq!((budget.budget_tflops(), budget.settings().get("ratio")), (Some(4.0), None));
    let solved = budget.with_ratio(0.25).unwrap().unwrap();
    assert_eq!((solved.budget_tflops(), &solved.settings()["ratio"]), (None, &json!(0.25)));
    assert!(describe("todo", json!({})).with_ratio(0.25).is_none());
    let by_data = describe("tome", json!({"threshold": 0.9}));
    assert!(by_data.with_ratio(0.25).is_none());
    let step = |index| StepOf { index, total: 10 };
    assert_eq!(by_data.tokens(&model.blocks[0], step(0)).unwrap(), None);
    // plans of every fifth step serve the next four steps
    use Scoring::{Fresh, Reused};
    let toma = describe("toma", json!({"reuse": {"steps": 5}}));
    let scoring = |index| toma.scoring(&model.blocks[0], step(index)).unwrap();
    assert_eq!([0, 1, 4, 5, 6].map(scoring), [Fresh, Reused, Reused, Fresh, Reused]);
    let listed = describe("toma", json!({"reuse": {"at": [0, 7]}}));
    let scoring = |index| listed.scoring(&model.blocks[0], step(index)).unwrap();
    assert_eq!([6, 7, 8].map(scoring), [Reused, Fresh, Reused]);
}
