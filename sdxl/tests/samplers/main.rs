//! Samplers against diffusers' trajectories, and what they refuse.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod config;
#[path = "../pipeline_support/mod.rs"]
mod pipeline_support;
mod registry;

use std::path::Path;

use atedm_conformance::tolerance::relative_l2;
use atedm_core::reference::NdTensor;
use atedm_core::{DType, Tensor};
use atedm_sdxl::rng::{NoiseSource, RngKind};
use atedm_sdxl::schedulers::{Prediction, Sampler, SamplerRegistry, SchedulerConfig, Spacing};
use pipeline_support::{Golden, LATENTS, LEGACY_SIGMAS, SIGMAS, TIMESTEPS, fixtures, json, tensor};
use serde_json::Value;

/// Noise that diffusers drew, step by step.
struct Recorded {
    noises: Vec<f32>,
    used: usize,
}

impl NoiseSource for Recorded {
    fn standard_normal(&mut self, shape: &[usize]) -> atedm_core::Result<Vec<f32>> {
        let count: usize = shape.iter().product();
        self.used += count;
        Ok(self.noises[self.used - count..self.used].to_vec())
    }
}

/// No noise.
struct Silent;

impl NoiseSource for Silent {
    fn standard_normal(&mut self, shape: &[usize]) -> atedm_core::Result<Vec<f32>> {
        Ok(vec![0.0; shape.iter().product()])
    }
}

/// Counts what another source draws.
struct Counted {
    source: Box<dyn NoiseSource>,
    used: usize,
}

impl NoiseSource for Counted {
    fn standard_normal(&mut self, shape: &[usize]) -> atedm_core::Result<Vec<f32>> {
        self.used += shape.iter().product::<usize>();
        self.source.standard_normal(shape)
    }
}

/// Our samplers.
fn samplers() -> SamplerRegistry<NdTensor> {
    SamplerRegistry::with_builtins()
}

/// Names of models of another kind than noise over betas.
fn is_edm(name: &str) -> bool {
    name.starts_with("edm-")
}

fn config(value: &Value) -> atedm_core::Result<SchedulerConfig> {
    SchedulerConfig::from_json(&value.to_string(), Path::new("scheduler_config.json"))
}

/// What stands for a U-Net: `0.8 x + 0.3 sin(2 x + step)`.
fn pseudo_output(scaled: &[f32], step: usize) -> Vec<f32> {
    scaled.iter().map(|&x| 0.8 * x + 0.3 * (2.0 * x + step as f32).sin()).collect()
}

fn sampler_of(case: &Value) -> Box<dyn Sampler<NdTensor>> {
    let steps = case["steps"].as_u64().unwrap() as usize;
    let name = ["euler-sgm", "ddim-trailing"].into_iter().find(|name| case["sampler"] == *name);
    samplers().build(&config(&case["scheduler_config"]).unwrap(), name, steps).unwrap()
}

#[test]
fn schedules_are_diffusers() {
    for file in ["samplers", "samplers_edm", "solvers"] {
        compare_schedules(file);
    }
}

fn compare_schedules(file: &str) {
    let golden = Golden::open(fixtures().join(format!("{file}.safetensors")));
    let cases = json(fixtures().join(format!("{file}.json")));
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let sampler = sampler_of(case);
        let limit = if case["sampler"] == "euler-sgm" { LEGACY_SIGMAS } else { SIGMAS };
        let timesteps = golden.f32(&format!("{name}.timesteps"));
        assert_eq!(timesteps.len(), sampler.timesteps().len(), "{name}");
        for (got, expected) in sampler.timesteps().iter().zip(timesteps) {
            assert!(
                (got - f64::from(expected)).abs() <= TIMESTEPS,
                "{name}: timestep {got}, expected {expected}"
            );
        }
        if case["has_sigmas"] == true {
            let sigmas = golden.f32(&format!("{name}.sigmas"));
            assert_eq!(sigmas.len(), sampler.sigmas().len(), "{name}");
            for (got, expected) in sampler.sigmas().iter().zip(sigmas.iter().map(|&sigma| f64::from(sigma))) {
                assert!((got - expected).abs() <= limit * expected, "{name}: σ {got}, expected {expected}");
            }
        }
        assert_eq!(sampler.sigmas().len(), sampler.timesteps().len() + 1, "{name}");
        let (got, expected) = (sampler.init_noise_sigma(), case["init_noise_sigma"].as_f64().unwrap());
        assert!((got - expected).abs() <= limit * expected, "{name}: starts at {got}, expected {expected}");
    }
}

#[test]
fn trajectories_are_diffusers() {
    assert!(compare_trajectories("samplers", LATENTS) >= 90);
    assert_eq!(compare_trajectories("samplers_edm", LATENTS), 16);
    assert!(compare_trajectories("solvers", SOLVED) >= 150);
}

/// Largest relative L2 distance of the final samples of `solvers`.
const SOLVED: f64 = 1e-5;

fn compare_trajectories(file: &str, limit: f64) -> usize {
    let golden = Golden::open(fixtures().join(format!("{file}.safetensors")));
    let cases = json(fixtures().join(format!("{file}.json")));
    let (mut worst, mut compared) = (0f64, 0);
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let mut sampler = sampler_of(case);
        let noises = case["noises"].as_u64().unwrap();
        let recorded = golden.names().contains(&format!("{name}.noise"));
        let source: Box<dyn NoiseSource> = match recorded {
            true => Box::new(Recorded { noises: golden.f32(&format!("{name}.noise")), used: 0 }),
            false => RngKind::Torch.source(22, 1, DType::F32),
        };
        let mut noise = Counted { source, used: 0 };
        let mut sample = golden.tensor("noise").affine(sampler.init_noise_sigma(), 0.0).unwrap();
        let mut trajectory = vec![sample.to_f32().unwrap()];
        for step in 0..sampler.timesteps().len() {
            let scaled = sampler.scale_input(&sample, step).unwrap();
            let output = pseudo_output(&scaled.to_f32().unwrap(), step);
            sample = sampler.step(&tensor(&output, &sample.shape()), step, &sample, &mut noise).unwrap();
            trajectory.push(sample.to_f32().unwrap());
        }
        assert_eq!(
            noise.used,
            noises as usize * golden.f32("noise").len(),
            "{name}: another number of draws"
        );
        let distance = relative_l2(&sample.to_f32().unwrap(), &golden.f32(&format!("{name}.final")));
        assert!(distance <= limit, "{name}: final sample off by {distance:e}");
        worst = worst.max(distance);
        if case["has_trajectory"] == true {
            let distance = relative_l2(&trajectory.concat(), &golden.f32(&format!("{name}.trajectory")));
            assert!(distance <= limit, "{name}: trajectory off by {distance:e}");
        }
        compared += 1;
    }
    println!("{compared} runs, worst relative L2 {worst:e}");
    compared
}

/// The discretisation of the original SD-XL code, in f64: `t = ⌊linspace(999, 0, n)⌋` without the end.
#[test]
fn euler_sgm_is_sgms_discretisation() {
    let betas = |t: usize| {
        let (low, high) = (0.00085f64.sqrt(), 0.012f64.sqrt());
        (low + (high - low) * t as f64 / 999.0).powi(2)
    };
    let sigma = |t: usize| {
        let alpha: f64 = (0..=t).map(|t| 1.0 - betas(t)).product();
        ((1.0 - alpha) / alpha).sqrt()
    };
    for steps in [1usize, 7, 28, 50, 999, 1000] {
        let sampler = samplers().build(&SchedulerConfig::sdxl(), Some("euler-sgm"), steps).unwrap();
        for (i, (&t, &level)) in sampler.timesteps().iter().zip(sampler.sigmas()).enumerate() {
            let expected = 999 * (steps - i) / steps;
            let expected = if steps == 1000 { 999 - i } else { expected };
            assert_eq!(t, expected as f64, "step {i} of {steps}");
            assert!((level / sigma(expected) - 1.0).abs() < 1e-6, "σ of step {i} of {steps}");
        }
        let first = sampler.sigmas()[0];
        assert!((sampler.init_noise_sigma() / (1.0 + first * first).sqrt() - 1.0).abs() < 1e-6);
        assert_eq!(sampler.sigmas()[steps], 0.0);
    }
}

/// A perfect prediction of the noise leads from any start to the clean sample, whatever the sampler.
#[test]
fn true_noise_gives_back_the_clean_sample() {
    let shape = [1, 4, 2, 2];
    let clean = tensor(&(0..16).map(|i| (i as f32 * 0.7).sin() * 0.9).collect::<Vec<_>>(), &shape);
    let noise = tensor(&(0..16).map(|i| (i as f32 * 1.3).cos()).collect::<Vec<_>>(), &shape);
    let mut spec = SchedulerConfig::sdxl();
    spec.set_alpha_to_one = Some(true);
    // Samplers that add no noise of their own, from the top and from the middle.
    let registry = samplers();
    let draws = |name: &str| name.contains("sde") || ["euler-a", "ddpm", "lcm", "tcd"].contains(&name);
    for name in registry.names().into_iter().filter(|name| !is_edm(name) && !draws(name)) {
        // diffusers' DDIM goes down by a whole number of timesteps, which trailing ones are apart only if the steps divide 1000.
        let steps = if name == "ddim-trailing" { 10 } else { 12 };
        for start in [0usize, 5] {
            let mut sampler = registry.build(&spec, Some(name), steps).unwrap();
            let first = sampler.first_evaluations()[start];
            let mut sample = sampler.add_noise(&clean, &noise, first).unwrap();
            for evaluation in first..sampler.timesteps().len() {
                sample = sampler.step(&noise, evaluation, &sample, &mut Silent).unwrap();
            }
            let distance = relative_l2(&sample.to_f32().unwrap(), &clean.to_f32().unwrap());
            assert!(distance < 2e-5, "{name} from step {start}: {distance:e}");
        }
    }
}

/// DDIM clips latents if the checkpoint's own DDIM config does not say otherwise, as in diffusers, but never because a
/// user chose it over a config of another class.
#[test]
fn ddim_clips_only_where_the_checkpoint_does() {
    let step = |class: &str, extra: &str, choice| {
        let text = format!(
            r#"{{"_class_name": "{class}", "prediction_type": "sample", "set_alpha_to_one": true{extra}}}"#
        );
        let config = SchedulerConfig::from_json(&text, Path::new("s.json")).unwrap();
        let mut sampler = samplers().build(&config, choice, 1).unwrap();
        let (sample, clean) = (tensor(&[0.0], &[1, 1, 1, 1]), tensor(&[3.0], &[1, 1, 1, 1]));
        sampler.step(&clean, 0, &sample, &mut Silent).unwrap().to_f32().unwrap()[0]
    };
    assert!(step("DDIMScheduler", "", None) < 1.5);
    assert!(step("DDIMScheduler", "", Some("ddim")) < 1.5);
    assert!(step("DDIMScheduler", r#", "clip_sample": false"#, None) > 2.5);
    assert!(step("EulerDiscreteScheduler", "", Some("ddim")) > 2.5);
    assert!(step("EulerDiscreteScheduler", r#", "clip_sample": true"#, Some("ddim")) < 1.5);
}

fn build_error(config: &SchedulerConfig, name: Option<&str>, steps: usize) -> String {
    samplers().build(config, name, steps).err().expect("an error").to_string()
}

#[test]
fn steps_out_of_range() {
    let sdxl = SchedulerConfig::sdxl();
    for name in samplers().names().into_iter().filter(|name| !is_edm(name)) {
        for steps in [0, 1001, usize::MAX] {
            assert!(build_error(&sdxl, Some(name), steps).starts_with("steps: expected 1 to"), "{name}");
        }
    }
    assert_eq!(build_error(&sdxl, None, 0), "steps: expected 1 to 1000, got 0");
    assert!(build_error(&sdxl, Some("lcm"), 51).starts_with("steps: expected at most the 50 steps"));
}

/// Every count of steps up to the largest gives a falling schedule of finite levels, and steps work at its ends.
#[test]
fn every_count_of_steps_works() {
    let sdxl = SchedulerConfig::sdxl();
    let one = tensor(&[0.5], &[1, 1, 1, 1]);
    let registry = samplers();
    for name in registry.names().into_iter().filter(|name| !is_edm(name)) {
        for steps in (1..=50).chain([333, 500, 501, 998, 999]) {
            let Ok(mut sampler) = registry.build(&sdxl, Some(name), steps) else {
                assert!(["lcm", "tcd"].contains(&name) && steps > 50, "{name} with {steps} steps");
                continue;
            };
            let sigmas = sampler.sigmas();
            assert!(sigmas.iter().all(|sigma| sigma.is_finite()), "{name} with {steps} steps");
            assert!(sigmas.windows(2).all(|pair| pair[0] >= pair[1]), "{name} with {steps} steps");
            // numpy's range of floats may be one longer, and so are diffusers' trailing timesteps
            let made = sampler.first_evaluations().len();
            assert!(
                made == steps || (name.ends_with("-trailing") && made == steps + 1),
                "{name}: {made} of {steps}"
            );
            for evaluation in [0, sampler.timesteps().len() - 1] {
                let next = sampler.step(&one, evaluation, &one, &mut Silent).unwrap().to_f32().unwrap();
                assert!(next[0].is_finite(), "{name}, evaluation {evaluation} of {steps} steps");
            }
            let beyond = sampler.timesteps().len();
            assert!(sampler.step(&one, beyond, &one, &mut Silent).is_err(), "{name} with {steps} steps");
        }
    }
}

/// Heun's steps have two evaluations, but for the last; both see the noise level that they share with their neighbour.
#[test]
fn heun_evaluates_twice_a_step() {
    let sampler = samplers().build(&SchedulerConfig::sdxl(), Some("heun"), 3).unwrap();
    let euler = samplers().build(&SchedulerConfig::sdxl(), Some("euler"), 3).unwrap();
    let steps: Vec<usize> = (0..5).map(|evaluation| sampler.step_of(evaluation)).collect();
    assert_eq!((steps, sampler.first_evaluations()), (vec![0, 0, 1, 1, 2], vec![0, 2, 4]));
    let (levels, times) = (euler.sigmas(), euler.timesteps());
    assert_eq!(sampler.sigmas(), [0, 1, 1, 2, 2, 3].map(|level: usize| levels[level]));
    assert_eq!(sampler.timesteps(), [0, 1, 1, 2, 2].map(|level: usize| times[level]));
}

/// The second evaluation of a step is of no use without the first.
#[test]
fn heun_cannot_begin_in_the_middle_of_a_step() {
    let one = tensor(&[0.5], &[1, 1, 1, 1]);
    let mut sampler = samplers().build(&SchedulerConfig::sdxl(), Some("heun"), 3).unwrap();
    let error = sampler.step(&one, 1, &one, &mut Silent).unwrap_err().to_string();
    assert_eq!(error, "step: evaluation 1 ends a step of which the first evaluation is missing");
}

/// Where the sample is noise alone, a prediction of noise tells no picture.
#[test]
fn zero_terminal_snr_needs_more_than_noise() {
    let mut zero = SchedulerConfig::sdxl();
    zero.rescale_betas_zero_snr = true;
    zero.spacing = Some(Spacing::Trailing);
    for name in ["ddim", "ddpm"] {
        let error = build_error(&zero, Some(name), 10);
        assert!(
            error.starts_with("scheduler_config.json: prediction_type: expected v_prediction"),
            "{error}"
        );
    }
    zero.prediction = Prediction::VPrediction;
    for name in ["ddim", "ddpm", "euler", "heun", "lms", "dpm++2s", "euler-sgm"] {
        let sampler = samplers().build(&zero, Some(name), 10).unwrap();
        assert!(sampler.sigmas()[0] > 100.0, "{name} begins at {}", sampler.sigmas()[0]);
    }
}
