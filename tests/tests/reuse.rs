//! Methods that use earlier steps' work again, in whole runs against the authors' programs and diffusers' hooks: final
//! latents. `tests/python/reuse_reference.py` says what ran there.

// helpers outside `#[test]` functions are tests, too
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use atedm_conformance::host::Array;
use atedm_conformance::tolerance::{LATENTS, relative_l2};
use atedm_core::plugin::{BuildContext, Grid, NestId, NestSite, Registry, TokenReducer};
use atedm_core::reference::{NdDevice, NdTensor, Reference32};
use atedm_core::{AttentionOps, Backend, DType, DeviceOf, Result, Tensor};
use atedm_experiment::method::{Method, Workload};
use atedm_experiment::spec::PruneSpec;
use atedm_experiment::subject::Subject;
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};
use atedm_sdxl::pipeline::{Decoding, InitialLatents, Output, Pipeline, Proceed, Request, StepReport};
use atedm_tests::golden::{Golden, fixtures, request};
use serde_json::{Value, json};

/// Notes the steps at which a nest did not run.
struct Noting<'a, T> {
    method: &'a mut dyn TokenReducer<T>,
    replaced: BTreeMap<NestId, Vec<usize>>,
}

impl<T: AttentionOps> TokenReducer<T> for Noting<'_, T> {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<T>> {
        Some(self.method)
    }
    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &T) -> Result<Option<T>> {
        let output = self.method.enter_nest(site, hidden)?;
        if output.is_some() {
            self.replaced.entry(site.nest).or_default().push(site.step.index);
        }
        Ok(output)
    }
}

fn cases() -> (Vec<Value>, Golden) {
    let text = std::fs::read_to_string(fixtures().join("reuse/reuse.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    (file["runs"].as_array().unwrap().clone(), Golden::open("reuse/reuse.safetensors"))
}

fn method<T: AttentionOps>(name: &str, options: &Value) -> Box<dyn TokenReducer<T>> {
    let mut registry = Registry::with_builtins();
    atedm_reuse::register(&mut registry).unwrap();
    registry.build(name, options, &BuildContext::default()).unwrap()
}

/// One case; with the steps at which nests did not run.
fn run<B: Backend>(
    pipeline: &Pipeline<B>,
    case: &Value,
    golden: &Golden,
) -> (Output<B::Tensor>, BTreeMap<NestId, Vec<usize>>) {
    let latents =
        golden.array(case["start"].as_str().unwrap()).upload(DType::F32, pipeline.device()).unwrap();
    let request = Request { decoding: Decoding::Skip, ..request(case, Some(latents)) };
    let mut method = method(case["method"].as_str().unwrap(), &case["options"]);
    let mut noting = Noting { method: method.as_mut(), replaced: BTreeMap::new() };
    let mut go_on = |_: &StepReport<'_, B::Tensor>| Proceed::Continue(());
    let output = pipeline.generate(&request, &mut noting, &mut go_on).unwrap();
    (output, noting.replaced)
}

/// Every case of a method that the filter takes, in f32.
fn assert_parity<B: Backend>(device: &DeviceOf<B>, method: &str) {
    let (cases, golden) = cases();
    let mut pipelines: BTreeMap<String, Pipeline<B>> = BTreeMap::new();
    let mut faults = Vec::new();
    let of_method: Vec<&Value> = cases.iter().filter(|case| case["method"] == method).collect();
    assert!(of_method.len() >= 5);
    for case in of_method {
        let (name, model) = (case["name"].as_str().unwrap(), case["model"].as_str().unwrap());
        let pipeline = pipelines.entry(model.into()).or_insert_with(|| {
            let opened = Checkpoint::open(fixtures().join(model), OpenOptions::default()).unwrap();
            Pipeline::load(&opened, DType::F32, device).unwrap()
        });
        let (output, replaced) = run(pipeline, case, &golden);
        let latents = Array::read(&output.latents).unwrap();
        let expected = golden.array(&format!("{name}.final_latents"));
        let off = relative_l2(&latents.data, &expected.data);
        println!("{name} on {}: {off:.2e}", B::NAME);
        if off.is_nan() || off > LATENTS {
            faults.push(format!("{name} on {}: {off:.2e}", B::NAME));
        }
        // one image: what did not run is known
        if let Some([computed]) = case["computed"].as_array().map(Vec::as_slice) {
            let computed: Vec<usize> = serde_json::from_value(computed.clone()).unwrap();
            let steps = case["steps"].as_u64().unwrap() as usize;
            let left_out: Vec<usize> = (0..steps).filter(|step| !computed.contains(step)).collect();
            assert_eq!(replaced.get(&NestId(2)), Some(&left_out), "{name}");
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn tiny_a() -> Checkpoint {
    Checkpoint::open(fixtures().join("tiny-a"), OpenOptions::default()).unwrap()
}

/// A guided run of one case on tiny-a under another method, on ndarray.
fn output(name: &str, options: &Value, start: usize) -> Output<<Reference32 as Backend>::Tensor> {
    output_at(5.0, name, options, start)
}

/// The same at a guidance scale.
fn output_at(
    guidance_scale: f64,
    name: &str,
    options: &Value,
    start: usize,
) -> Output<<Reference32 as Backend>::Tensor> {
    let (cases, golden) = cases();
    let case = &cases[0];
    let pipeline = Pipeline::<Reference32>::load(&tiny_a(), DType::F32, &NdDevice).unwrap();
    let latents = golden.array(case["start"].as_str().unwrap());
    let latents: <Reference32 as Backend>::Tensor = latents.upload(DType::F32, &NdDevice).unwrap();
    let request = request(case, Some(latents.clone()));
    let mut request = Request { decoding: Decoding::Skip, guidance_scale, ..request };
    if start > 0 {
        request.initial = InitialLatents::Noisy { latents, start };
    }
    let mut go_on = |_: &StepReport<'_, _>| Proceed::Continue(());
    pipeline.generate(&request, method(name, options).as_mut(), &mut go_on).unwrap()
}

fn values<T: Tensor>(output: &Output<T>) -> Vec<f32> {
    output.latents.to_f32().unwrap()
}

/// In a stack a member that is asked for nothing changes nothing, and two that work change more than each alone.
#[test]
fn stacks_do_what_their_members_do() {
    let (deepcache, tgate) = (json!({"cache_interval": 3}), json!({"gate_step": 4}));
    let of = |name: &str, options: Value| values(&output(name, &options, 0));
    let alone = (of("deepcache", deepcache.clone()), of("tgate", tgate.clone()));
    let idle = json!({"deepcache": {"cache_interval": 1}, "tgate": tgate});
    assert_eq!(of("deepcache+tgate", idle), alone.1);
    let idle = json!({"deepcache": deepcache, "tgate": {"gate_step": 99, "sp_interval": 1}});
    assert_eq!(of("deepcache+tgate", idle), alone.0);
    let both = of("deepcache+tgate", json!({"deepcache": deepcache, "tgate": tgate}));
    let off = |other: &[f32]| {
        let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        relative_l2(&wide(&both), &wide(other))
    };
    assert!(off(&alone.0) > 1e-3 && off(&alone.1) > 1e-3);
    let at_edm = json!({"ratio": 0.5, "schedule": "constant"});
    let idle = json!({"deepcache": {"cache_interval": 1}, "at-edm": at_edm});
    let pruned = of("at-edm", at_edm.clone());
    assert_eq!(of("deepcache+at-edm", idle), pruned);
    assert_ne!(of("deepcache+at-edm", json!({"deepcache": deepcache, "at-edm": at_edm})), pruned);
}

/// What does not run is not counted, and from the gate on an image is one row. A run that starts late counts from there.
#[test]
fn costs_are_those_of_what_runs() {
    let deepcache = json!({"cache_interval": 3});
    for (start, full) in [(0, vec![0, 3, 6]), (1, vec![1, 4, 7])] {
        let costs = output("deepcache", &deepcache, start).costs;
        let most = costs.iter().map(|cost| cost.macs.total()).max().unwrap();
        let whole: Vec<usize> =
            costs.iter().filter(|cost| cost.macs.total() == most).map(|cost| cost.step).collect();
        assert_eq!(whole, full, "from step {start}");
    }
    for start in [0, 2] {
        let costs = output("tgate", &json!({"gate_step": 4}), start).costs;
        let rows: Vec<usize> = costs.iter().map(|cost| cost.rows).collect();
        assert_eq!(rows, [vec![2; 4], vec![1; 4 - start]].concat(), "from step {start}");
    }
    let costs = output("step-forecast", &json!({"cache_interval": 3}), 0).costs;
    let ran: Vec<usize> = costs.iter().filter(|cost| cost.macs.total() > 0).map(|cost| cost.step).collect();
    assert_eq!(ran, [0, 1, 2, 4, 7]);
}

/// The plan's FLOPs are those of the run, step by step: with guidance, where the gate halves the rows, and without.
#[test]
fn costs_are_those_planned() {
    let checkpoint = tiny_a();
    let mut registry = Registry::<NdTensor>::with_builtins();
    atedm_reuse::register(&mut registry).unwrap();
    let subject = Subject::of_checkpoint(&checkpoint);
    let (deepcache, tgate) = (json!({"cache_interval": 3}), json!({"gate_step": 4}));
    let stacked = json!({"deepcache": deepcache, "tgate": tgate});
    for (name, options) in [("deepcache", &deepcache), ("tgate", &tgate), ("deepcache+tgate", &stacked)] {
        let ran = |scale: f64| -> Vec<f64> {
            output_at(scale, name, options, 0).costs.iter().map(|cost| cost.tflop()).collect()
        };
        let planned = |scale: f64| {
            let guided = checkpoint.unet().is_guided(scale);
            let work = Workload { latents: Grid::new(16, 16), guided, ..subject.workload(8) };
            let options = options.as_object().unwrap().clone();
            let spec = PruneSpec { method: name.into(), options };
            let method = Method::resolve(&spec, &work, registry.catalogue(), None).unwrap();
            method.step_tflops(&work).unwrap().unwrap()
        };
        let (guided, single) = (planned(5.0), planned(1.0));
        assert_eq!(ran(5.0), guided, "{name} with guidance");
        assert_eq!(ran(1.0), single, "{name} without guidance");
        let share = |step: usize| if name == "deepcache" || step < 4 { 1.0 } else { 0.5 };
        let expected: Vec<f64> = single.iter().enumerate().map(|(step, cost)| cost * share(step)).collect();
        assert_eq!(guided, expected, "{name}: from the gate on half");
    }
}

#[test]
fn deepcache_is_the_authors() {
    assert_parity::<Reference32>(&NdDevice, "deepcache");
    assert_parity::<atedm_candle::Candle>(&atedm_candle::Device::Cpu, "deepcache");
}

#[test]
fn tgate_is_the_authors() {
    assert_parity::<Reference32>(&NdDevice, "tgate");
    assert_parity::<atedm_candle::Candle>(&atedm_candle::Device::Cpu, "tgate");
}

#[test]
fn a_first_block_cache_is_a_plain_loops() {
    assert_parity::<Reference32>(&NdDevice, "first-block-cache");
    assert_parity::<atedm_candle::Candle>(&atedm_candle::Device::Cpu, "first-block-cache");
}

#[test]
fn a_forecast_is_diffusers() {
    assert_parity::<Reference32>(&NdDevice, "step-forecast");
    assert_parity::<atedm_candle::Candle>(&atedm_candle::Device::Cpu, "step-forecast");
}
