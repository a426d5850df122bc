//! T-GATE with methods that reduce the tokens of the same blocks, over whole runs of one block: what runs is what is planned,
//! a member that does nothing changes nothing, and one gated step is what a computation by hand gives.

// helpers outside `#[test]` functions are tests, too
#![allow(clippy::unwrap_used)]

use atedm_conformance::backend::block::{TestBlock, small};
use atedm_conformance::backend::support::Lab;
use atedm_conformance::host::Array;
use atedm_conformance::oracle::{self, AttentionWeights, LayerWeights, NORM_EPSILON};
use atedm_conformance::tolerance::assert_chain_arrays;
use atedm_conformance::trace::Tracing;
use atedm_core::plugin::{
    BlockShape, Branch, BuildContext, MaskRecorder, MethodPlan, ModelShape, Registry, Row, Run, Step, StepOf,
    TokenReducer,
};
use atedm_core::reference::{NdDevice, NdTensor, Reference64};
use atedm_core::{DType, Result, Tensor};
use serde_json::{Value, json};

/// Rows, tokens and channels of the block's stream.
const SHAPE: [usize; 3] = [2, 35, 16];
const ROWS: [Row; 2] = [Row { image: 0, branch: Branch::Uncond }, Row { image: 0, branch: Branch::Cond }];

fn block(depth: usize) -> TestBlock<NdTensor> {
    small(&mut Lab::<Reference64>::new(&NdDevice, DType::F64, 7), depth).unwrap()
}

fn step(index: usize, total: usize) -> Step {
    let timestep = 999.0 - 900.0 * index as f64 / total as f64;
    Step { index, total, evaluation: index, sigma: timestep / 100.0, timestep }
}

fn registry() -> Registry<NdTensor> {
    let mut registry = Registry::with_builtins();
    atedm_tomerge::register(&mut registry).unwrap();
    atedm_reuse::register(&mut registry).unwrap();
    registry
}

/// A method of this name, described for a run of the block.
struct Method {
    plan: Box<dyn MethodPlan>,
    reducer: Box<dyn TokenReducer<NdTensor>>,
}

fn method(name: &str, options: &Value, (block, steps): (&TestBlock<NdTensor>, usize)) -> Result<Method> {
    let mut model = ModelShape::new(vec![shape(block)], steps);
    model.timesteps = Some((0..steps).map(|index| step(index, steps).timestep).collect());
    let registry = registry();
    let catalogue = registry.catalogue();
    let facts = catalogue.facts().of_model(&model).with_rng("chacha");
    let plan = catalogue.describe(name, options.as_object().unwrap(), &facts)?;
    let reducer = registry.build_plan(name, plan.as_ref(), &BuildContext::default())?;
    Ok(Method { plan, reducer })
}

fn shape(block: &TestBlock<NdTensor>) -> BlockShape {
    BlockShape::new(block.id, block.layers.len(), block.grid).with_channels(SHAPE[2])
}

impl TokenReducer<NdTensor> for Method {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<NdTensor>> {
        Some(self.reducer.as_mut())
    }
}

/// The stream at a step. It changes from step to step, as latents do: tokens mix with their neighbours.
fn stream(block: &TestBlock<NdTensor>, index: usize) -> NdTensor {
    let (x, share) = (&block.hidden.on, 0.05 * index as f64);
    let rest = x.narrow(1, 1, SHAPE[1] - 1).unwrap();
    let moved = NdTensor::concat(&[&rest, &x.narrow(1, 0, 1).unwrap()], 1).unwrap();
    x.affine(1.0 - share, 0.0).unwrap().add(&moved.affine(share, 0.0).unwrap()).unwrap()
}

/// One evaluation of the block, with the rows that the method wants.
fn evaluate(
    block: &TestBlock<NdTensor>,
    reducer: &mut dyn TokenReducer<NdTensor>,
    (index, steps): (usize, usize),
) -> Result<NdTensor> {
    let step = step(index, steps);
    let rows = if reducer.wants_guidance(&step) { &ROWS[..] } else { &ROWS[..1] };
    reducer.begin_step(&step, rows)?;
    let mut visited = block.clone();
    visited.hidden.on = stream(block, index).narrow(0, 0, rows.len())?;
    visited.text.on = block.text.on.narrow(0, 0, rows.len())?;
    let output = visited.run_at(reducer, rows, step)?;
    reducer.end_step(&output.reshape(&[rows.len(), SHAPE[1], SHAPE[2], 1])?)?;
    Ok(output)
}

/// What the block gives at every step of a run; every step's tokens are those planned.
fn run(name: &str, options: &Value, (block, steps): (&TestBlock<NdTensor>, usize)) -> Vec<Vec<f32>> {
    let method = method(name, options, (block, steps)).unwrap();
    let again = self::method(name, options, (block, steps)).unwrap();
    let mut traced = Tracing::new(method);
    traced.begin_run(&Run::new(steps, 3, &ROWS)).unwrap();
    let mut outputs = Vec::with_capacity(steps);
    for index in 0..steps {
        outputs.push(evaluate(block, &mut traced, (index, steps)).unwrap().to_f32().unwrap());
        let planned = again.plan.tokens(&shape(block), StepOf { index, total: steps }).unwrap().unwrap();
        assert_eq!(traced.trace()[&block.id], planned, "{name} {options} at step {index}");
    }
    outputs
}

/// The members' options, with those of T-GATE.
fn with_gate(gate: &Value, name: &str, options: &Value) -> Value {
    json!({"tgate": gate, name: options})
}

fn both_orders(name: &str) -> [String; 2] {
    [format!("tgate+{name}"), format!("{name}+tgate")]
}

/// Methods that reduce, with settings that take all ways.
fn reducing() -> Vec<(&'static str, Value)> {
    vec![
        ("at-edm", json!({})),
        ("at-edm-fast", json!({})),
        ("at-edm", json!({"schedule": "constant", "prune_point": "before_ff", "recovery": "direct"})),
        ("at-edm", json!({"schedule": "constant", "ratio": 0.4, "prune_layers": [0, 1], "recovery": "soft"})),
        ("at-edm", json!({"schedule": "constant", "rescore_every": 3})),
        ("at-edm", json!({"schedule": "constant", "rescore_every": 4, "prune_layers": [0, 1], "ratio": 0.3})),
        ("at-edm", json!({"schedule": "constant", "score": "cross", "recovery": "zero"})),
        ("at-edm", json!({"scorer": "random", "recovery": "bicubic"})),
        ("tome-c", json!({"max_downsample": 1})),
        ("tome", json!({"merge_crossattn": true, "merge_mlp": true})),
        ("tome-comfy", json!({"max_downsample": 1})),
        ("todo", json!({})),
        ("toma", json!({})),
        ("sito", json!({})),
        ("ibtm", json!({})),
        ("dito", json!({"merge_mlp": true})),
    ]
}

#[test]
fn what_runs_is_what_is_planned() {
    let block = block(3);
    let gates = [
        json!({}),
        json!({"gate_step": 6, "sp_interval": 3, "fi_interval": 2, "warm_up": 1}),
        json!({"gate_step": 1, "fi_interval": 3}),
    ];
    let mut changed = 0;
    for (name, options) in reducing() {
        for gate in &gates {
            let alone = run("tgate", gate, (&block, 16));
            let [outer, inner] =
                both_orders(name).map(|stack| run(&stack, &with_gate(gate, name, &options), (&block, 16)));
            // who is asked first makes no difference, except to DiTo: it counts what it would have merged
            if name != "dito" {
                assert_eq!(outer, inner, "{name} {options} with {gate}");
            }
            changed += usize::from(outer != alone);
        }
    }
    assert_eq!(changed, 3 * reducing().len(), "a method changed nothing beside the gate");
}

/// The steps at which self-attention is given: default options, 16 steps.
#[test]
fn a_block_without_its_map_is_left_whole_unless_a_kept_set_serves() {
    let block = block(3);
    let pruned = |options: Value| -> Vec<usize> {
        let options = with_gate(&json!({}), "at-edm", &options);
        let plan = method("tgate+at-edm", &options, (&block, 16)).unwrap().plan;
        let last = |index| plan.tokens(&shape(&block), StepOf { index, total: 16 }).unwrap().unwrap()[2];
        (0..16).filter(|&index| last(index).feed_forward < SHAPE[1]).collect()
    };
    let constant = |more: Value| {
        let mut options = json!({"schedule": "constant"});
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        pruned(options)
    };
    assert_eq!(constant(json!({})), [0, 1, 2, 5, 9, 10, 11, 12, 13, 14, 15]);
    // scored at 0, 5, 9 and later; 1, 2 and 6, 7 use the sets of 0 and 5
    assert_eq!(constant(json!({"rescore_every": 3})), [0, 1, 2, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15]);
    // cross-attention is given from the gate on
    let across = json!({"score": "cross", "recovery": "zero"});
    assert_eq!(constant(across), [0, 1, 2, 5, 9]);
}

#[test]
fn a_member_that_does_nothing_changes_nothing() {
    let block = block(3);
    let gate = json!({"gate_step": 4, "sp_interval": 2, "fi_interval": 2, "warm_up": 0});
    let idle = json!({"gate_step": 7, "sp_interval": 1});
    let gated = run("tgate", &gate, (&block, 8));
    for (name, options) in reducing() {
        // ToDo has no ratio: its keys and values are whole without a factor and at a threshold
        let nothing = match name {
            "todo" => json!({"merge_method": "none", "secondary_merge_method": "none"}),
            _ => json!({"ratio": 0.0}),
        };
        let alone = run(name, &options, (&block, 8));
        for stack in both_orders(name) {
            let idle_inner = run(&stack, &with_gate(&gate, name, &nothing), (&block, 8));
            assert_eq!(idle_inner, gated, "{stack}: {name} reduces nothing");
            let idle_gate = run(&stack, &with_gate(&idle, name, &options), (&block, 8));
            assert_eq!(idle_gate[..7], alone[..7], "{stack} {options}: the gate is the last step");
            let first_row = &alone[7][..SHAPE[1] * SHAPE[2]];
            assert_ne!(idle_gate[7], first_row, "{stack} {options}: the gate is the last step");
        }
    }
}

/// `x + added`.
fn plus(x: &Array, added: &Array) -> Array {
    oracle::binary(x, added, |a, b| a + b)
}

/// The map and the output of an attention sublayer.
fn attend(weights: &AttentionWeights<Array>, x: &Array, text: Option<&Array>) -> (Array, Array) {
    let AttentionWeights { norm, projections: [q, k, v, out], bias } = weights;
    let normed = oracle::layer_norm(x, &norm[0], &norm[1], NORM_EPSILON);
    let keys = text.unwrap_or(&normed);
    // two heads of 8
    let split =
        |x: Array| oracle::permute(&x.reshaped(&[x.shape[0], x.shape[1], 2, SHAPE[2] / 2]), &[0, 2, 1, 3]);
    let project = |x: &Array, weight: &Array| split(oracle::linear(x, weight, None));
    let map = oracle::attention_map(&project(&normed, q), &project(keys, k), 8f64.sqrt().recip(), None);
    let merged = oracle::permute(&oracle::matmul(&map, &project(keys, v)), &[0, 2, 1, 3]);
    (map, oracle::linear(&merged.reshaped(&x.shape), out, Some(bias)))
}

fn feed_forward(layer: &LayerWeights<Array>, x: &Array) -> Array {
    let normed = oracle::layer_norm(x, &layer.norm[0], &layer.norm[1], NORM_EPSILON);
    let wide = oracle::geglu(&normed, &layer.expand[0], Some(&layer.expand[1]));
    plus(x, &oracle::linear(&wide, &layer.contract[0], Some(&layer.contract[1])))
}

/// Every row's mean over all rows.
fn mean_of_rows(x: &Array) -> Array {
    let rows = x.shape[0];
    Array::from_fn(&x.shape, |i| (0..rows).map(|row| x.at(&[row, i[1], i[2]])).sum::<f64>() / rows as f64)
}

/// Two layers by hand, of which the first removes all tokens but `kept`: the output, and what both cross-attentions gave for
/// every token. With `given` these stand for cross-attention.
fn two_layers(
    block: &oracle::Block,
    [x, text]: [&Array; 2],
    kept: &[Vec<u32>],
    given: Option<&[Array; 2]>,
) -> (Array, [Array; 2]) {
    let [first, second] = &block.layers[..] else { panic!("two layers") };
    let (map, output) = attend(&first.self_attention, x, None);
    let x = plus(x, &output);
    let cross =
        given.map_or_else(|| attend(&first.cross_attention, &x, Some(text)).1, |given| given[0].clone());
    let x = feed_forward(first, &plus(&x, &cross));
    let tokens = x.shape[1] as u32;
    let removed = |row: &Vec<u32>| (0..tokens).filter(|token| !row.contains(token)).collect();
    let pruned: Vec<Vec<u32>> = kept.iter().map(removed).collect();
    let donors = oracle::strongest(&map, kept, &pruned);
    // a removed token is the copy of the kept one that attends to it most
    let restore = |small: &Array| {
        Array::from_fn(&[small.shape[0], tokens as usize, small.shape[2]], |i| {
            let at = |row: &[u32]| row.iter().position(|&token| token as usize == i[1]);
            let of = match (at(&kept[i[0]]), at(&pruned[i[0]])) {
                (Some(at), _) => at,
                (None, Some(at)) => donors[i[0]][at] as usize,
                (None, None) => panic!("token {} is neither kept nor removed", i[1]),
            };
            small.at(&[i[0], of, i[2]])
        })
    };
    let x = oracle::gather(&x, 1, kept);
    let x = plus(&x, &attend(&second.self_attention, &x, None).1);
    let later = match given {
        Some(given) => oracle::gather(&given[1], 1, kept),
        None => attend(&second.cross_attention, &x, Some(text)).1,
    };
    let x = feed_forward(second, &plus(&x, &later));
    (restore(&x), [cross, restore(&later)])
}

/// One step before the gate and one behind it, with kept sets that differ between the steps and the halves.
#[test]
fn a_gated_step_is_the_one_by_hand() {
    let block = block(2);
    for stack in both_orders("at-edm") {
        let options = json!({"schedule": "constant", "ratio": 0.5});
        let options = with_gate(&json!({"gate_step": 1}), "at-edm", &options);
        let recorder = MaskRecorder::shared();
        let context = BuildContext { observer: Some(recorder.clone()), ..BuildContext::default() };
        let mut reducer = registry().build(&stack, &options, &context).unwrap();
        reducer.begin_run(&Run::new(3, 0, &ROWS)).unwrap();
        let mut kept_before: Option<[Array; 2]> = None;
        let mut sets = Vec::new();
        for index in 0..3 {
            let got = Array::read(&evaluate(&block, reducer.as_mut(), (index, 3)).unwrap()).unwrap();
            let masks = recorder.lock().unwrap().take();
            let kept = masks.iter().next().unwrap().1.kept.clone();
            let rows = kept.len();
            assert_eq!(rows, if index == 0 { 2 } else { 1 }, "guidance ends at the gate");
            let narrow = |x: &Array| oracle::narrow(x, 0, 0, rows);
            let x = narrow(&Array::read(&stream(&block, index)).unwrap());
            let given = kept_before.as_ref().map(|given| given.each_ref().map(narrow));
            let (expected, cross) =
                two_layers(&block.host, [&x, &narrow(&block.text.host)], &kept, given.as_ref());
            assert_chain_arrays(&got, &expected, DType::F64, &format!("{stack} at step {index}"));
            kept_before = kept_before.or_else(|| Some(cross.each_ref().map(mean_of_rows)));
            sets.extend(kept);
        }
        assert!(sets[0] != sets[1] && sets[0] != sets[2], "every row keeps the same tokens");
    }
}
