//! A transformer that reports its nests. It is compared with diffusers' hook for the first-block cache, and run in
//! batches.

// helpers outside `#[test]` functions are tests too
#![allow(clippy::unwrap_used)]

use atedm_core::plugin::{
    BlockId, BlockPass, BuildContext, Grid, NestId, NestSite, Registry, Row, Run, Step, TokenReducer, nest,
};
use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{DType, Error, Result, Tensor};
use safetensors::SafeTensors;
use serde_json::{Value, json};

const TOKENS: usize = 5;
const CHANNELS: usize = 6;

/// Blocks `x + tanh(x W + time)`. The whole evaluation is nest 0. Nest d is all blocks from block d on.
struct Transformer {
    weights: Vec<NdTensor>,
    /// Number of blocks that ran.
    ran: usize,
}

impl Transformer {
    fn evaluate(
        &mut self,
        x: NdTensor,
        (step, rows): (&Step, &[Row]),
        reducer: &mut dyn TokenReducer<NdTensor>,
    ) -> Result<NdTensor> {
        self.from(0, x, (step, rows), reducer)
    }

    fn from(
        &mut self,
        block: usize,
        x: NdTensor,
        (step, rows): (&Step, &[Row]),
        reducer: &mut dyn TokenReducer<NdTensor>,
    ) -> Result<NdTensor> {
        let site = NestSite { nest: NestId(block), step: *step, rows };
        nest(reducer, &site, x, |reducer, x| {
            self.ran += 1;
            let grid = Grid::new(1, TOKENS);
            let mut pass = BlockPass::enter(reducer, step, rows, BlockId::whole(), 1, grid);
            let x = pass.layer(0, x)?;
            let time = step.index as f64 / 10.0;
            let weight = &self.weights[block];
            let x = pass.feed_forward(
                x,
                |x| Ok(x.clone()),
                |x| tanh(&product(x.tokens, weight)?.affine(1.0, time)?),
            )?;
            let x = pass.exit(x)?;
            match block + 1 < self.weights.len() {
                true => self.from(block + 1, x, (step, rows), reducer),
                false => Ok(x),
            }
        })
    }
}

/// `[b, tokens, channels] x [channels, channels]`.
fn product(x: &NdTensor, weight: &NdTensor) -> Result<NdTensor> {
    let shape = x.shape();
    let flat = x.reshape(&[shape[0] * shape[1], CHANNELS])?;
    flat.matmul(weight)?.reshape(&shape)
}

fn tanh(x: &NdTensor) -> Result<NdTensor> {
    // 1 - 2 / (exp(2x) + 1)
    let below = x.affine(2.0, 0.0)?.exp()?.affine(1.0, 1.0)?;
    let one = below.affine(0.0, 1.0)?;
    one.sub(&one.affine(2.0, 0.0)?.div(&below)?)
}

fn tensor(file: &SafeTensors<'_>, name: &str) -> NdTensor {
    let view = file.tensor(name).unwrap();
    NdTensor::from_bytes(view.data(), DType::F32, view.shape(), &NdDevice).unwrap()
}

fn fixture() -> (Vec<u8>, Value) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/reuse/");
    let text = std::fs::read_to_string(format!("{folder}reuse.json")).unwrap();
    (std::fs::read(format!("{folder}reuse.safetensors")).unwrap(), serde_json::from_str(&text).unwrap())
}

fn method(name: &str, options: &Value) -> Box<dyn TokenReducer<NdTensor>> {
    let mut registry = Registry::with_builtins();
    atedm_reuse::register(&mut registry).unwrap();
    registry.build(name, options, &BuildContext::default()).unwrap()
}

/// A run of `x ← x − 0.04 f(x)`. Also returns the steps at which every block ran.
fn run(
    file: &SafeTensors<'_>,
    mut x: NdTensor,
    (steps, rows): (usize, &[Row]),
    method: &mut dyn TokenReducer<NdTensor>,
) -> Result<(NdTensor, Vec<usize>)> {
    let all = tensor(file, "toy.weights");
    let weight = |i| all.narrow(0, i, 1)?.reshape(&[CHANNELS, CHANNELS]);
    let mut model = Transformer { weights: (0..4).map(weight).collect::<Result<_>>()?, ran: 0 };
    method.begin_run(&Run::new(steps, 0, rows))?;
    let mut whole = Vec::new();
    for index in 0..steps {
        let step = Step { index, total: steps, evaluation: index, sigma: 1.0, timestep: 0.0 };
        method.begin_step(&step, rows)?;
        let before = model.ran;
        let prediction = model.evaluate(x.clone(), (&step, rows), method)?;
        if model.ran == before + 4 {
            whole.push(index);
        }
        method.end_step(&prediction)?;
        x = x.sub(&prediction.affine(0.04, 0.0)?)?;
    }
    Ok((x, whole))
}

fn off(got: &NdTensor, expected: &NdTensor) -> f64 {
    let (got, expected) = (got.to_f32().unwrap(), expected.to_f32().unwrap());
    assert_eq!(got.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let differences: f64 = got.iter().zip(&expected).map(|(a, b)| square(a - b)).sum();
    (differences / expected.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

#[test]
fn a_first_block_cache_is_diffusers() {
    let (bytes, listed) = fixture();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let cases = listed["toy"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let steps = case["steps"].as_u64().unwrap() as usize;
        let mut method = method("first-block-cache", &json!({"threshold": case["threshold"]}));
        let start = tensor(&file, "toy.start");
        let (end, whole) = run(&file, start, (steps, &Row::singles(1)), method.as_mut()).unwrap();
        let computed: Vec<usize> = serde_json::from_value(case["computed"].clone()).unwrap();
        assert_eq!(whole, computed, "{name}");
        let off = off(&end, &tensor(&file, &format!("{name}.final")));
        assert!(off < 1e-5, "{name}: {off:.1e}");
    }
}

/// Images decide separately. An image that must run does not change one that need not.
#[test]
fn images_of_a_batch_decide_for_themselves() {
    let (bytes, _) = fixture();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let options = json!({"threshold": 0.1});
    let first = tensor(&file, "toy.start");
    let second = first.affine(-3.0, 0.5).unwrap();
    let alone = |x: &NdTensor, row: Row| {
        run(&file, x.clone(), (20, &[row]), method("first-block-cache", &options).as_mut()).unwrap()
    };
    let rows = Row::singles(2);
    let (a, ran_a) = alone(&first, rows[0]);
    let (b, ran_b) = alone(&second, rows[1]);
    assert_ne!(ran_a, ran_b, "the images do not differ in when they run");
    let both = NdTensor::concat(&[&first, &second], 0).unwrap();
    let (both, _) = run(&file, both, (20, &rows), method("first-block-cache", &options).as_mut()).unwrap();
    for (row, expected) in [a, b].iter().enumerate() {
        let got = both.narrow(0, row, 1).unwrap();
        assert_eq!(got.to_f32().unwrap(), expected.to_f32().unwrap(), "image {row}");
    }
}

/// If the model does not report the nest, it cannot be reused, and the method says so.
#[test]
fn a_model_without_the_nest_is_refused() {
    let (bytes, _) = fixture();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut method = method("deepcache", &json!({"cache_branch_id": 7}));
    let start = tensor(&file, "toy.start");
    let error = run(&file, start, (4, &Row::singles(1)), method.as_mut()).unwrap_err();
    assert!(matches!(&error, Error::Config { field, .. } if field == "cache_branch_id"), "{error}");
    assert_eq!(error.to_string(), "cache_branch_id: the model tells of no nest 8");
}

/// Every second step of a run takes nest 2 from memory, both by hand and with DeepCache.
#[test]
fn deepcache_leaves_out_a_nest_of_a_transformer_too() {
    let (bytes, _) = fixture();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let start = || tensor(&file, "toy.start");
    let options = json!({"cache_interval": 2, "cache_branch_id": 1});
    let (_, whole) =
        run(&file, start(), (6, &Row::singles(1)), method("deepcache", &options).as_mut()).unwrap();
    assert_eq!(whole, [0, 2, 4]);
    let every = json!({"cache_interval": 1});
    let (end, whole) =
        run(&file, start(), (6, &Row::singles(1)), method("deepcache", &every).as_mut()).unwrap();
    let (plain, _) = run(&file, start(), (6, &Row::singles(1)), &mut atedm_core::plugin::Unpruned).unwrap();
    assert_eq!((whole.len(), end.to_f32().unwrap()), (6, plain.to_f32().unwrap()));
}

/// The error of every option out of range is one line that names it.
#[test]
fn bad_options_are_named() {
    for (name, options, message) in [
        ("deepcache", json!({"cache_interval": 0}), "cache_interval: expected at least 1, got 0"),
        ("deepcache", json!({"center": 3}), "center: does nothing here: it is an option of uniform = false"),
        ("deepcache", json!({"uniform": false, "pow": 1.0}), "pow: expected a number above 1, got 1"),
        (
            "deepcache",
            json!({"cache_interval": -1}),
            "cache_interval: invalid value: integer `-1`, expected usize",
        ),
        (
            "deepcache",
            json!({"interval": 3}),
            "interval: unknown option; expected one of cache_branch_id, cache_interval, center, pow, uniform",
        ),
        ("tgate", json!({"gate_step": 0}), "gate_step: expected at least 1, got 0"),
        ("tgate", json!({"sp_interval": 0}), "sp_interval: expected at least 1, got 0"),
        ("tgate", json!({"fi_interval": 0}), "fi_interval: expected at least 1, got 0"),
        (
            "first-block-cache",
            json!({"threshold": -0.1}),
            "threshold: expected a finite number, at least 0, got -0.1",
        ),
        (
            "first-block-cache",
            json!({"threshold": "nan"}),
            "threshold: invalid type: string \"nan\", expected f64",
        ),
        ("step-forecast", json!({"cache_interval": 0}), "cache_interval: expected at least 1, got 0"),
        ("step-forecast", json!({"max_order": 3}), "max_order: expected 0, 1 or 2, got 3"),
        (
            "step-forecast",
            json!({"disable_cache_before_step": 0}),
            "disable_cache_before_step: expected at least 1, got 0",
        ),
    ] {
        let mut registry = Registry::<NdTensor>::with_builtins();
        atedm_reuse::register(&mut registry).unwrap();
        let error = registry.build(name, &options, &BuildContext::default()).err().unwrap();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn settings_describe_the_same_method_again() {
    let mut registry = Registry::<NdTensor>::with_builtins();
    atedm_reuse::register(&mut registry).unwrap();
    let catalogue = registry.catalogue();
    for (name, options) in [
        ("deepcache", json!({})),
        ("deepcache", json!({"uniform": false, "center": 4})),
        ("tgate", json!({"gate_step": 4})),
        ("first-block-cache", json!({"threshold": 0.1})),
        ("step-forecast", json!({"disable_cache_after_step": 9})),
    ] {
        let described = |options: &Value| {
            let options = options.as_object().unwrap();
            catalogue.describe(name, options, &catalogue.facts()).unwrap().settings()
        };
        let settings = described(&options);
        assert_eq!(described(&Value::Object(settings.clone())), settings, "{name}");
        for (key, value) in options.as_object().unwrap() {
            assert_eq!(&settings[key], value, "{name}");
        }
    }
}
