//! Token merging inside a whole transformer block. All backends give the same result, and without a request nothing
//! changes.

// Helpers outside `#[test]` functions are tests, too.
#![allow(clippy::unwrap_used)]

use atedm_conformance::backend::block::{TestBlock, small};
use atedm_conformance::backend::support::Lab;
use atedm_conformance::host::Array;
use atedm_conformance::tolerance::{chain, relative_l2};
use atedm_core::plugin::{BuildContext, Registry, Row, TokenReducer, Unpruned};
use atedm_core::reference::{NdDevice, Reference32, Reference64};
use atedm_core::{Backend, DType, DeviceOf, Tensor};
use serde_json::{Value, json};

/// Every method, with settings that reduce a grid of 5 x 7 at level 0.
fn methods() -> Vec<(&'static str, Value)> {
    let all = json!({"merge_crossattn": true, "merge_mlp": true, "use_rand": false});
    let with = |more: Value| {
        let mut all = all.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    vec![
        ("tome", json!({"use_rand": false})),
        ("tome", with(json!({"ratio": 0.6}))),
        ("tome", with(json!({"merge": "mlerp"}))),
        ("tome", with(json!({"merge": "prune", "sx": 3}))),
        ("tome", json!({"rng": "chacha"})),
        ("tome", with(json!({"threshold": 0.3}))),
        ("tome-comfy", json!({"use_rand": false})),
        ("tome-c", json!({"reuse": {"layers": 2}})),
        ("todo", json!({})),
        ("todo", json!({"merge_method": "similarity", "rng": "chacha"})),
        ("toma", json!({"attention_scale": 5.0, "merge_mlp": true})),
        ("toma", json!({"attention_scale": 5.0, "compare": "normalised"})),
        ("sito", json!({"rng": "chacha"})),
        ("ibtm", json!({"rng": "chacha"})),
        ("sito", json!({"noise_alpha": 0, "merge_crossattn": true, "merge_mlp": true})),
    ]
}

fn build<B: Backend>(name: &str, options: &Value) -> Box<dyn TokenReducer<B::Tensor>> {
    let mut registry = Registry::with_builtins();
    atedm_tomerge::register(&mut registry).unwrap();
    registry.build(name, options, &BuildContext::default()).unwrap()
}

/// The block's output under every method.
fn outputs<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Vec<Array> {
    let block = small(&mut Lab::<B>::new(device, dtype, 21), 2).unwrap();
    let run = |(name, options): &(&str, Value)| {
        let out = block.run(build::<B>(name, options).as_mut()).unwrap();
        Array::read(&out).unwrap()
    };
    methods().iter().map(run).collect()
}

#[test]
fn every_backend_gives_the_same() {
    let expected = outputs::<Reference64>(&NdDevice, DType::F64);
    let whole = small(&mut Lab::<Reference64>::new(&NdDevice, DType::F64, 21), 2).unwrap();
    let whole = Array::read(&whole.run(&mut Unpruned).unwrap()).unwrap();
    let candle = atedm_candle::Device::Cpu;
    for (actual, dtype) in [
        (outputs::<Reference32>(&NdDevice, DType::F32), DType::F32),
        (outputs::<atedm_candle::Candle>(&candle, DType::F32), DType::F32),
        (outputs::<atedm_candle::Candle>(&candle, DType::F64), DType::F64),
        #[cfg(feature = "tch")]
        (outputs::<atedm_tch::Torch>(&atedm_tch::Device::Cpu, DType::F32), DType::F32),
    ] {
        for ((actual, expected), method) in actual.iter().zip(&expected).zip(methods()) {
            let off = relative_l2(&actual.data, &expected.data);
            assert!(off <= chain(dtype), "{method:?} in {dtype}: {off:.1e}");
            let effect = relative_l2(&expected.data, &whole.data);
            assert!(effect > 1e-3, "{method:?} changes nothing: {effect:.1e}");
        }
    }
    // With 16 bits, methods choose other tokens. The results must still be numbers.
    for dtype in [DType::BF16, DType::F16] {
        for (output, method) in outputs::<atedm_candle::Candle>(&candle, dtype).iter().zip(methods()) {
            assert!(output.data.iter().all(|x| x.is_finite()), "{method:?} in {dtype}");
        }
    }
}

#[test]
fn nothing_asked_for_is_the_whole_block_bit_for_bit() {
    let device = atedm_candle::Device::Cpu;
    let block = small(&mut Lab::<atedm_candle::Candle>::new(&device, DType::F32, 22), 2).unwrap();
    let whole = block.run(&mut Unpruned).unwrap().to_bytes().unwrap();
    for (name, options) in methods() {
        for (key, value) in [("ratio", json!(0.0)), ("levels", json!([3]))] {
            let mut options = options.clone();
            options[key] = value;
            let mut method = build::<atedm_candle::Candle>(name, &options);
            assert_eq!(block.run(method.as_mut()).unwrap().to_bytes().unwrap(), whole, "{name} {options}");
        }
    }
}

/// An image's result does not depend on the other images of its batch.
#[test]
fn alone_and_in_a_batch() {
    let both = small(&mut Lab::<Reference64>::new(&NdDevice, DType::F64, 23), 2).unwrap();
    for (name, mut options) in methods() {
        // All rows merge the same number of tokens, so the batch decides that number.
        if options.get("threshold").is_some() {
            continue;
        }
        // In the preset, the first row decides too.
        if name == "toma" {
            options["guidance"] = "per_row".into();
        }
        let together = both.run(build::<Reference64>(name, &options).as_mut()).unwrap();
        for row in 0..2 {
            let mut alone: TestBlock<_> = both.clone();
            alone.hidden.on = both.hidden.on.narrow(0, row, 1).unwrap();
            alone.text.on = both.text.on.narrow(0, row, 1).unwrap();
            let rows = [Row::singles(2)[row]];
            let out = alone.run_rows(build::<Reference64>(name, &options).as_mut(), &rows).unwrap();
            let expected = Array::read(&together.narrow(0, row, 1).unwrap()).unwrap();
            let off = relative_l2(&Array::read(&out).unwrap().data, &expected.data);
            assert!(off <= chain(DType::F64), "{name} {options} row {row}: {off:.1e}");
        }
    }
}
