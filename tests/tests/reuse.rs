//! Methods that use earlier steps' work again, in whole runs against the authors' programs and diffusers' hooks: final
//! latents. `tests/python/reuse_reference.py` says what ran there.

// helpers outside `#[test]` functions are tests, too
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use atedm_conformance::host::Array;
use atedm_conformance::tolerance::{LATENTS, relative_l2};
use atedm_core::plugin::{
    Action, BuildContext, Event, NestId, NestSite, Registry, Run, Site, Step, TokenReducer,
};
use atedm_core::reference::{NdDevice, Reference32};
use atedm_core::{AttentionOps, Backend, DType, DeviceOf, Result};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};
use atedm_sdxl::pipeline::{Decoding, Output, Pipeline, Proceed, StepReport};
use atedm_tests::golden::{Golden, fixtures, request};
use serde_json::Value;

/// Notes the steps at which a nest did not run.
struct Noting<'a, T> {
    method: &'a mut dyn TokenReducer<T>,
    replaced: BTreeMap<NestId, Vec<usize>>,
}

impl<T: AttentionOps> TokenReducer<T> for Noting<'_, T> {
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.method.begin_run(run)
    }
    fn wants_guidance(&mut self, step: &Step) -> bool {
        self.method.wants_guidance(step)
    }
    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        self.method.on_event(site, event)
    }
    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &T) -> Result<Option<T>> {
        let output = self.method.enter_nest(site, hidden)?;
        if output.is_some() {
            self.replaced.entry(site.nest).or_default().push(site.step.index);
        }
        Ok(output)
    }
    fn leave_nest(&mut self, site: &NestSite<'_>, output: &T) -> Result<Option<T>> {
        self.method.leave_nest(site, output)
    }
    fn end_step(&mut self, prediction: &T) -> Result<()> {
        self.method.end_step(prediction)
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
    let request = atedm_sdxl::pipeline::Request { decoding: Decoding::Skip, ..request(case, latents) };
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
        if !(off <= LATENTS) {
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
