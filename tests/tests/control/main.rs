//! Runs with a ControlNet, whole and under methods, against diffusers' pipelines: final latents. The ControlNets' weights follow a
//! formula. `tests/python/control_reference.py` says what ran there.

// helpers outside `#[test]` functions are tests, too
#![allow(clippy::unwrap_used)]

mod folder;
mod refused;

use atedm_conformance::host::Array;
use atedm_conformance::tolerance::{LATENTS, PRUNED_LATENTS, relative_l2};
use atedm_core::plugin::{BuildContext, Grid, MaskRecorder, Registry, TokenReducer, Unpruned};
use atedm_core::reference::{NdDevice, NdTensor, Reference32};
use atedm_core::{AttentionOps, Backend, DType, DeviceOf, Tensor};
use atedm_experiment::method::{ControlSteps, Method, Workload};
use atedm_experiment::spec::PruneSpec;
use atedm_experiment::subject::Subject;
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};
use atedm_sdxl::pipeline::{
    Control, ControlSpan, Decoding, InitialLatents, Output, Pipeline, Proceed, Repaint, Request, StepReport,
};
use atedm_tests::golden::{Golden, fixtures, options, request};
use folder::{board, control_net};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

/// A golden checkpoint with a ControlNet beside it, and its U-Net with nine input channels if `wide`.
fn open(model: &str, control: &str, wide: bool) -> (Checkpoint, [tempfile::TempDir; 2]) {
    let (net, unet) = (control_net(control), tempfile::tempdir().unwrap());
    let mut options = OpenOptions { controlnet: Some(net.path().into()), ..OpenOptions::default() };
    if wide {
        let read = |name: &str| std::fs::read(fixtures().join(name)).unwrap();
        let own = read(&format!("{model}/unet/diffusion_pytorch_model.safetensors"));
        let parts = read("parts/inpainting.safetensors");
        let [own, parts] = [&own, &parts].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
        let views = own.tensors().into_iter().map(|(name, view)| {
            let view = if name == "conv_in.weight" { parts.tensor(&name).unwrap() } else { view };
            (name, view)
        });
        let file = unet.path().join("unet.safetensors");
        safetensors::serialize_to_file(views, None, &file).unwrap();
        options.unet = Some(file);
    }
    (Checkpoint::open(fixtures().join(model), options).unwrap(), [net, unet])
}

fn cases() -> Vec<Value> {
    let text = std::fs::read_to_string(fixtures().join("control/control.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What the ControlNet follows in a case.
fn control<T: Tensor>(case: &Value, device: &T::Device) -> Control<T> {
    let number = |name: &str, default: f64| case[name].as_f64().unwrap_or(default);
    let [width, height] = ["width", "height"].map(|side| case[side].as_u64().unwrap() as usize);
    let values: Vec<f32> = board(width, height).into_iter().map(|value| f32::from(value) / 255.0).collect();
    let picture = T::from_f32(&values, &[1, 3, height, width], DType::F32, device).unwrap();
    let span = ControlSpan::new(number("start", 0.0), number("end", 1.0)).unwrap();
    Control { picture, scale: number("scale", 1.0), span }
}

/// What a case on a picture starts from.
fn start<B: Backend>(case: &Value, pipeline: &Pipeline<B>) -> InitialLatents<B::Tensor> {
    let Some(strength) = case["strength"].as_f64() else { return InitialLatents::Drawn };
    let bytes = Golden::open("tiny-a-expected/image_to_image.safetensors").pictures("picture").concat();
    let mask = Golden::open("parts/inpainting.safetensors").pictures("mask").concat();
    let (width, height) = (56, 40);
    let upload = |values: &[f32], shape: &[usize]| {
        B::Tensor::from_f32(values, shape, DType::F32, pipeline.device()).unwrap()
    };
    let picture = |keep: &dyn Fn(usize) -> bool| {
        let value = |at: usize| {
            let (channel, place) = (at / (width * height), at % (width * height));
            if keep(place) { f32::from(bytes[3 * place + channel]) / 127.5 - 1.0 } else { 0.0 }
        };
        let values: Vec<f32> = (0..bytes.len()).map(value).collect();
        pipeline.vae().distribution(&upload(&values, &[1, 3, height, width])).unwrap()
    };
    let steps = case["steps"].as_u64().unwrap() as usize;
    let start = steps - (strength * steps as f64) as usize;
    if case["mask"] != true {
        return InitialLatents::Encoded { distribution: picture(&|_| true), start };
    }
    let spots: Vec<f32> = (0..height / 4)
        .flat_map(|y| (0..width / 4).map(move |x| 4 * (y * width + x)))
        .map(|at| f32::from(u8::from(mask[at] >= 128)))
        .collect();
    InitialLatents::Repainted(Repaint {
        mask: upload(&spots, &[1, 1, height / 4, width / 4]),
        picture: picture(&|_| true),
        masked: Some(picture(&|place| mask[place] < 128)),
        start: (strength < 1.0).then_some(start),
    })
}

/// The name and the options of a case's method.
fn method_of(case: &Value) -> Option<(&str, Map<String, Value>)> {
    let own = |name: &'static str| case[name].as_object().map(|options| (name, options.clone()));
    let prune = case["prune"].as_str().map(|text| ("at-edm", options(text)));
    prune.or_else(|| own("tome")).or_else(|| own("deepcache"))
}

fn registry<T: AttentionOps>() -> Registry<T> {
    let mut registry = Registry::with_builtins();
    atedm_tomerge::register(&mut registry).unwrap();
    atedm_reuse::register(&mut registry).unwrap();
    registry
}

/// A run of a case under a method, and how often it pruned.
fn run<B: Backend>(
    pipeline: &Pipeline<B>,
    case: &Value,
    method: Option<(&str, Map<String, Value>)>,
) -> (Output<B::Tensor>, usize) {
    let recorder = MaskRecorder::shared();
    let context = BuildContext { observer: Some(recorder.clone()), ..BuildContext::default() };
    let mut reducer: Box<dyn TokenReducer<B::Tensor>> = match method {
        None => Box::new(Unpruned),
        Some((name, options)) => registry().build(name, &Value::Object(options), &context).unwrap(),
    };
    let request = Request {
        initial: start(case, pipeline),
        control: Some(control(case, pipeline.device())),
        decoding: Decoding::Skip,
        ..request(case, None)
    };
    let mut go_on = |_: &StepReport<'_, B::Tensor>| Proceed::Continue(());
    let output = pipeline.generate(&request, reducer.as_mut(), &mut go_on).unwrap();
    let prunings = recorder.lock().unwrap().take().len();
    (output, prunings)
}

/// Every case in f32.
fn assert_parity<B: Backend>(device: &DeviceOf<B>) {
    let golden = Golden::open("control/control.safetensors");
    let mut faults = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 13);
    for case in &cases {
        let [name, model, control] = ["name", "model", "control"].map(|key| case[key].as_str().unwrap());
        let (checkpoint, _held) = open(model, control, case["channels"] == 9);
        let pipeline = Pipeline::<B>::load(&checkpoint, DType::F32, device).unwrap();
        let method = method_of(case);
        let allowed = if method.is_some() { PRUNED_LATENTS } else { LATENTS };
        let (output, prunings) = run(&pipeline, case, method);
        if let Some(expected) = case["prunings"].as_u64() {
            assert_eq!(prunings as u64, expected, "{name}");
        }
        let off = relative_l2(&Array::read(&output.latents).unwrap().data, &golden.array(name).data);
        println!("{name} on {}: {off:.2e}", B::NAME);
        if off.is_nan() || off > allowed {
            faults.push(format!("{name} on {}: {off:.2e}", B::NAME));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn diffusers_on_ndarray() {
    assert_parity::<Reference32>(&NdDevice);
}

#[test]
fn diffusers_on_candle() {
    assert_parity::<atedm_candle::Candle>(&atedm_candle::Device::Cpu);
}

/// The first case, with these steps and this span.
fn short(steps: usize, [start, end]: [f64; 2]) -> Value {
    let mut case = cases().swap_remove(0);
    for (key, value) in [("steps", json!(steps)), ("start", json!(start)), ("end", json!(end))] {
        case[key] = value;
    }
    case
}

/// Without effect on the U-Net, a ControlNet changes no bit. A method that reduces nothing does not either.
#[test]
fn what_does_nothing_changes_no_bit() {
    let (checkpoint, _held) = open("tiny-a", "tiny-a", false);
    let pipeline = Pipeline::<Reference32>::load(&checkpoint, DType::F32, &NdDevice).unwrap();
    let alone = Checkpoint::open(fixtures().join("tiny-a"), OpenOptions::default()).unwrap();
    let alone = Pipeline::<Reference32>::load(&alone, DType::F32, &NdDevice).unwrap();
    let values = |output: Output<NdTensor>| output.latents.to_f32().unwrap();
    let mut case = short(3, [0.0, 1.0]);
    let whole = values(run(&pipeline, &case, None).0);
    for (name, options) in [
        ("at-edm", json!({"ratio": 0.0})),
        ("tome", json!({"ratio": 0.0})),
        ("tome-c", json!({"ratio": 0.0})),
    ] {
        let method = (name, options.as_object().unwrap().clone());
        assert_eq!(values(run(&pipeline, &case, Some(method)).0), whole, "{name}");
    }
    let request = Request { decoding: Decoding::Skip, ..request(&case, None) };
    let expected = alone.generate(&request, &mut Unpruned, &mut |_| Proceed::Continue(())).unwrap();
    let expected = values(expected);
    assert_ne!(whole, expected);
    case["scale"] = json!(0.0);
    assert_eq!(values(run(&pipeline, &case, None).0), expected);
    // no step lies wholly between these shares
    let never = short(3, [0.1, 0.3]);
    assert_eq!(values(run(&pipeline, &never, None).0), expected);
}

/// Costs by formula are those that a run has, at steps with the ControlNet and without it.
#[test]
fn costs_are_those_of_a_run() {
    let (checkpoint, _held) = open("tiny-a", "tiny-a", false);
    let pipeline = Pipeline::<Reference32>::load(&checkpoint, DType::F32, &NdDevice).unwrap();
    let registry = registry::<NdTensor>();
    let subject = Subject::of_checkpoint(&checkpoint);
    let stack = json!({"deepcache": {"cache_interval": 2, "cache_branch_id": 1}, "at-edm": {"ratio": 0.5}});
    let methods = [
        ("none", json!({})),
        ("at-edm", json!({"schedule": "constant"})),
        ("tome-c", json!({"max_downsample": 4})),
        ("deepcache", json!({"cache_interval": 3, "cache_branch_id": 2})),
        ("deepcache+at-edm", stack),
        ("tgate", json!({"gate_step": 4})),
    ];
    for [start, end] in [[0.0, 1.0], [0.0, 0.5]] {
        let case = short(8, [start, end]);
        let control = ControlSteps { span: ControlSpan::new(start, end).unwrap(), first: 0 };
        let work = Workload { latents: Grid::new(16, 16), guided: true, control, ..subject.workload(8) };
        for (name, options) in &methods {
            let options = options.as_object().unwrap();
            let spec = PruneSpec { method: name.to_string(), options: options.clone() };
            let method = Method::resolve(&spec, &work, registry.catalogue(), None).unwrap();
            let planned = method.step_tflops(&work).unwrap().unwrap();
            let (output, _) = run(&pipeline, &case, Some((name, options.clone())));
            let ran: Vec<f64> = output.costs.iter().map(|cost| cost.tflop()).collect();
            assert_eq!(ran, planned, "{name} until {end}");
            if *name == "none" {
                let mean = planned.iter().sum::<f64>() / 8.0;
                assert!((work.whole_tflop().unwrap() - mean).abs() < 1e-12);
                assert_eq!(end < 1.0, planned[0] > planned[7], "until {end}");
            }
        }
    }
}
