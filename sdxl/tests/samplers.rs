//! Compares samplers with diffusers' trajectories, and checks what they refuse.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pipeline_support;

use std::path::Path;

use atedm_conformance::tolerance::relative_l2;
use atedm_core::Tensor;
use atedm_core::reference::NdTensor;
use atedm_sdxl::rng::NoiseSource;
use atedm_sdxl::schedulers::{Sampler, SamplerChoice, SchedulerConfig};
use pipeline_support::{Golden, LATENTS, LEGACY_SIGMAS, SIGMAS, TIMESTEPS, fixtures, json, tensor};
use serde_json::{Value, json};

/// Recorded noise that diffusers drew, step by step.
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

fn config(value: &Value) -> atedm_core::Result<SchedulerConfig> {
    SchedulerConfig::from_json(&value.to_string(), Path::new("scheduler_config.json"))
}

/// A substitute for a U-Net: `0.8 x + 0.3 sin(2 x + step)`.
fn pseudo_output(scaled: &[f32], step: usize) -> Vec<f32> {
    scaled.iter().map(|&x| 0.8 * x + 0.3 * (2.0 * x + step as f32).sin()).collect()
}

fn sampler_of(case: &Value) -> Box<dyn Sampler<NdTensor>> {
    let steps = case["steps"].as_u64().unwrap() as usize;
    let edm = case["sampler"] == "euler-sgm";
    config(&case["scheduler_config"]).unwrap().build(edm.then_some(SamplerChoice::EulerSgm), steps).unwrap()
}

#[test]
fn schedules_are_diffusers() {
    for file in ["samplers", "samplers_edm"] {
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
    assert!(compare_trajectories("samplers") >= 90);
    assert_eq!(compare_trajectories("samplers_edm"), 16);
}

fn compare_trajectories(file: &str) -> usize {
    let golden = Golden::open(fixtures().join(format!("{file}.safetensors")));
    let cases = json(fixtures().join(format!("{file}.json")));
    let (mut worst, mut compared) = (0f64, 0);
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let mut sampler = sampler_of(case);
        let noises = case["noises"].as_u64().unwrap();
        let noises = if noises > 0 { golden.f32(&format!("{name}.noise")) } else { Vec::new() };
        let mut noise = Recorded { noises, used: 0 };
        let mut sample = golden.tensor("noise").affine(sampler.init_noise_sigma(), 0.0).unwrap();
        let mut trajectory = vec![sample.to_f32().unwrap()];
        for step in 0..sampler.timesteps().len() {
            let scaled = sampler.scale_input(&sample, step).unwrap();
            let output = pseudo_output(&scaled.to_f32().unwrap(), step);
            sample = sampler.step(&tensor(&output, &sample.shape()), step, &sample, &mut noise).unwrap();
            trajectory.push(sample.to_f32().unwrap());
        }
        assert_eq!(noise.used, noise.noises.len(), "{name}: another number of draws");
        let distance = relative_l2(&sample.to_f32().unwrap(), &golden.f32(&format!("{name}.final")));
        assert!(distance <= LATENTS, "{name}: final sample off by {distance:e}");
        worst = worst.max(distance);
        if case["has_trajectory"] == true {
            let distance = relative_l2(&trajectory.concat(), &golden.f32(&format!("{name}.trajectory")));
            assert!(distance <= LATENTS, "{name}: trajectory off by {distance:e}");
        }
        compared += 1;
    }
    println!("{compared} runs, worst relative L2 {worst:e}");
    compared
}

/// A checkpoint with EDM's preconditioning accepts no other sampler.
#[test]
fn models_of_another_kind_take_no_choice() {
    let configs = [
        json!({"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}),
        json!({"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5}),
        json!({"_class_name": "OwnScheduler", "sigma_data": 0.5}),
        json!({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}),
    ];
    for value in configs {
        let config = config(&value).unwrap();
        for choice in SamplerChoice::ALL {
            let error = build_error(&config, Some(choice), 4);
            let start = format!("scheduler_config.json: _class_name: expected no --scheduler ({choice})");
            assert!(error.starts_with(&start), "{error}");
        }
    }
    for bad in [json!({"sigma_data": 0.0}), json!({"rho": -1.0}), json!({"sigma_schedule": "even"})] {
        let mut value = json!({"_class_name": "EDMEulerScheduler"});
        value.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
        assert!(config(&value).is_err(), "{value}");
    }
    let sample = json!({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"});
    assert!(build_error(&config(&sample).unwrap(), None, 4).contains("prediction_type: expected epsilon"));
}

/// A default that only LCM uses must not make other samplers refuse a checkpoint.
#[test]
fn few_training_steps() {
    let few = config(&json!({"_class_name": "EulerDiscreteScheduler", "num_train_timesteps": 40})).unwrap();
    for choice in [None, Some(SamplerChoice::Ddim), Some(SamplerChoice::DpmMultistep)] {
        let sampler: Box<dyn Sampler<NdTensor>> = few.build(choice, 10).unwrap();
        assert_eq!(sampler.timesteps().len(), 10);
    }
    let error = build_error(&few, Some(SamplerChoice::Lcm), 4);
    assert!(
        error.starts_with("scheduler_config.json: original_inference_steps: expected 1 to the 40"),
        "{error}"
    );
}

/// The discretization of the original SD-XL code, in f64: `t = ⌊linspace(999, 0, n)⌋` without the end.
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
        let sampler: Box<dyn Sampler<NdTensor>> =
            SchedulerConfig::sdxl().build(Some(SamplerChoice::EulerSgm), steps).unwrap();
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

/// A perfect prediction of the noise leads from any start to the clean sample, with every sampler.
#[test]
fn true_noise_gives_back_the_clean_sample() {
    struct Silent;
    impl NoiseSource for Silent {
        fn standard_normal(&mut self, shape: &[usize]) -> atedm_core::Result<Vec<f32>> {
            Ok(vec![0.0; shape.iter().product()])
        }
    }
    let shape = [1, 4, 2, 2];
    let clean = tensor(&(0..16).map(|i| (i as f32 * 0.7).sin() * 0.9).collect::<Vec<_>>(), &shape);
    let noise = tensor(&(0..16).map(|i| (i as f32 * 1.3).cos()).collect::<Vec<_>>(), &shape);
    let mut spec = SchedulerConfig::sdxl();
    spec.set_alpha_to_one = Some(true);
    // Samplers that add no noise of their own, starting at the top and in the middle.
    for choice in [
        SamplerChoice::Euler,
        SamplerChoice::EulerKarras,
        SamplerChoice::EulerTrailing,
        SamplerChoice::EulerSgm,
        SamplerChoice::Ddim,
        SamplerChoice::DpmMultistep,
        SamplerChoice::DpmMultistepKarras,
    ] {
        for start in [0usize, 5] {
            let mut sampler: Box<dyn Sampler<NdTensor>> = spec.build(Some(choice), 12).unwrap();
            let mut sample = sampler.add_noise(&clean, &noise, start).unwrap();
            for step in start..12 {
                sample = sampler.step(&noise, step, &sample, &mut Silent).unwrap();
            }
            let distance = relative_l2(&sample.to_f32().unwrap(), &clean.to_f32().unwrap());
            assert!(distance < 2e-5, "{choice} from step {start}: {distance:e}");
        }
    }
}

/// Without a choice, the checkpoint's class decides. A choice takes over the checkpoint's fields.
#[test]
fn choices_change_only_what_they_name() {
    let first = |config: &SchedulerConfig, choice| {
        let sampler: Box<dyn Sampler<NdTensor>> = config.build(choice, 50).unwrap();
        (sampler.timesteps()[0], sampler.init_noise_sigma())
    };
    let sdxl = SchedulerConfig::sdxl();
    assert_eq!(first(&sdxl, None).0, 981.0);
    assert_eq!(first(&sdxl, None), first(&sdxl, Some(SamplerChoice::Euler)));
    assert_eq!(first(&sdxl, Some(SamplerChoice::EulerTrailing)).0, 999.0);
    assert_eq!(first(&sdxl, Some(SamplerChoice::EulerSgm)).0, 999.0);
    assert_eq!(first(&sdxl, Some(SamplerChoice::Ddim)), (981.0, 1.0));
    let karras = config(&json!({"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "beta_end": 0.012, "use_karras_sigmas": true}))
    .unwrap();
    assert_eq!(first(&karras, None), first(&karras, Some(SamplerChoice::EulerKarras)));
    let levels = |choice| {
        let sampler: Box<dyn Sampler<NdTensor>> = karras.build(choice, 10).unwrap();
        sampler.sigmas().to_vec()
    };
    assert_ne!(levels(None), levels(Some(SamplerChoice::Euler)));
}

/// As in diffusers, DDIM clips latents unless the checkpoint's own DDIM config forbids it. It never clips because a
/// user chose DDIM over a config of another class.
#[test]
fn ddim_clips_only_where_the_checkpoint_does() {
    let step = |class: &str, extra: &str, choice| {
        let text = format!(
            r#"{{"_class_name": "{class}", "prediction_type": "sample", "set_alpha_to_one": true{extra}}}"#
        );
        let config = SchedulerConfig::from_json(&text, Path::new("s.json")).unwrap();
        let mut sampler: Box<dyn Sampler<NdTensor>> = config.build(choice, 1).unwrap();
        let (sample, clean) = (tensor(&[0.0], &[1, 1, 1, 1]), tensor(&[3.0], &[1, 1, 1, 1]));
        let mut silent = Recorded { noises: Vec::new(), used: 0 };
        sampler.step(&clean, 0, &sample, &mut silent).unwrap().to_f32().unwrap()[0]
    };
    assert!(step("DDIMScheduler", "", None) < 1.5);
    assert!(step("DDIMScheduler", "", Some(SamplerChoice::Ddim)) < 1.5);
    assert!(step("DDIMScheduler", r#", "clip_sample": false"#, None) > 2.5);
    assert!(step("EulerDiscreteScheduler", "", Some(SamplerChoice::Ddim)) > 2.5);
    assert!(step("EulerDiscreteScheduler", r#", "clip_sample": true"#, Some(SamplerChoice::Ddim)) < 1.5);
}

#[test]
fn names_round_trip() {
    for choice in SamplerChoice::ALL {
        assert_eq!(choice.name().parse::<SamplerChoice>().unwrap(), choice);
    }
    let error = "euler-edm".parse::<SamplerChoice>().unwrap_err().to_string();
    assert!(error.starts_with("scheduler: expected euler-sgm"), "{error}");
    let error = "plms".parse::<SamplerChoice>().unwrap_err().to_string();
    assert!(error.starts_with("scheduler: expected one of euler, euler-karras"), "{error}");
    assert!(error.ends_with("got \"plms\""), "{error}");
}

fn build_error(config: &SchedulerConfig, choice: Option<SamplerChoice>, steps: usize) -> String {
    let built = config.build::<NdTensor>(choice, steps);
    built.err().expect("an error").to_string()
}

#[test]
fn steps_out_of_range() {
    let sdxl = SchedulerConfig::sdxl();
    for choice in SamplerChoice::ALL {
        assert!(build_error(&sdxl, Some(choice), 0).starts_with("steps: expected 1 to"), "{choice}");
        assert!(build_error(&sdxl, Some(choice), 1001).starts_with("steps: expected 1 to"), "{choice}");
        assert!(build_error(&sdxl, Some(choice), usize::MAX).starts_with("steps: expected 1 to"), "{choice}");
    }
    assert_eq!(build_error(&sdxl, None, 0), "steps: expected 1 to 1000, got 0");
    assert!(
        build_error(&sdxl, Some(SamplerChoice::Lcm), 51).starts_with("steps: expected at most the 50 steps")
    );
}

/// Every number of steps up to the largest gives a falling schedule of finite levels, and steps work at its ends.
#[test]
fn every_count_of_steps_works() {
    let sdxl = SchedulerConfig::sdxl();
    let one = tensor(&[0.5], &[1, 1, 1, 1]);
    let mut silent = Recorded { noises: vec![0.0; 4000], used: 0 };
    for choice in SamplerChoice::ALL {
        for steps in (1..=50).chain([333, 500, 501, 998, 999]) {
            let Ok(mut sampler) = sdxl.build::<NdTensor>(Some(choice), steps) else {
                assert!(choice == SamplerChoice::Lcm && steps > 50, "{choice} with {steps} steps");
                continue;
            };
            let sigmas = sampler.sigmas();
            assert!(sigmas.iter().all(|sigma| sigma.is_finite()), "{choice} with {steps} steps");
            assert!(sigmas.windows(2).all(|pair| pair[0] >= pair[1]), "{choice} with {steps} steps");
            for step in [0, sampler.timesteps().len() - 1] {
                let next = sampler.step(&one, step, &one, &mut silent).unwrap().to_f32().unwrap();
                assert!(next[0].is_finite(), "{choice}, step {step} of {steps}");
            }
            assert!(sampler.step(&one, sampler.timesteps().len(), &one, &mut silent).is_err());
        }
    }
}

/// Errors name each bad or unsupported value with its file.
#[test]
fn bad_configs_name_file_and_field() {
    let cases = [
        (json!({"beta_start": -1.0}), "beta_start"),
        (json!({"beta_end": 2.0}), "beta_end"),
        (json!({"beta_start": "small"}), "beta_start"),
        (json!({"beta_schedule": "squaredcos_cap_v2"}), "beta_schedule"),
        (json!({"trained_betas": [0.1, 0.2]}), "trained_betas"),
        (json!({"num_train_timesteps": 0}), "num_train_timesteps"),
        (json!({"num_train_timesteps": 1e18}), "num_train_timesteps"),
        (json!({"num_train_timesteps": u64::MAX}), "num_train_timesteps"),
        (json!({"steps_offset": 1000}), "steps_offset"),
        (json!({"steps_offset": -1}), "steps_offset"),
        (json!({"prediction_type": "flow_prediction"}), "prediction_type"),
        (json!({"timestep_spacing": "even"}), "timestep_spacing"),
        (json!({"rescale_betas_zero_snr": true}), "rescale_betas_zero_snr"),
        (json!({"thresholding": true}), "thresholding"),
        (json!({"use_exponential_sigmas": true}), "use_exponential_sigmas"),
        (json!({"use_karras_sigmas": 1}), "use_karras_sigmas"),
        (json!({"interpolation_type": "log_linear"}), "interpolation_type"),
        (json!({"algorithm_type": "sde-dpmsolver++"}), "algorithm_type"),
        (json!({"solver_type": "heun"}), "solver_type"),
        (json!({"solver_order": 3}), "solver_order"),
        (json!({"final_sigmas_type": "one"}), "final_sigmas_type"),
        (json!({"original_inference_steps": 0}), "original_inference_steps"),
        (json!({"sigma_min": 0.0}), "sigma_min"),
    ];
    for (value, field) in cases {
        let error = config(&value).err().unwrap_or_else(|| panic!("{value} is taken")).to_string();
        assert!(error.starts_with(&format!("scheduler_config.json: {field}: ")), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let error = SchedulerConfig::from_json("{", Path::new("s.json")).unwrap_err().to_string();
    assert!(error.starts_with("s.json: broken JSON") && !error.contains('\n'), "{error}");
    let error = SchedulerConfig::from_json("[]", Path::new("s.json")).unwrap_err().to_string();
    assert_eq!(error, "s.json: expected a JSON object");
}

/// Measured with diffusers 0.42: each key is set to `null` in each class's config. Flags count as false. Numbers and
/// names are errors if the class reads them.
#[test]
fn null_is_what_python_makes_of_none() {
    let common = ["num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type"];
    let others = [
        "timestep_spacing",
        "steps_offset",
        "final_sigmas_type",
        "interpolation_type",
        "algorithm_type",
        "solver_type",
        "solver_order",
        "clip_sample_range",
        "original_inference_steps",
        "timestep_scaling",
    ];
    let classes: [(&str, &[usize]); 5] = [
        ("EulerDiscreteScheduler", &[0, 1, 2, 3]),
        ("EulerAncestralDiscreteScheduler", &[0, 1]),
        ("DDIMScheduler", &[0, 1, 7]),
        ("DPMSolverMultistepScheduler", &[0, 1, 2, 4, 5, 6]),
        ("LCMScheduler", &[8, 9]),
    ];
    for (class, read) in classes {
        let of = |key: &str, value: Value| config(&json!({"_class_name": class, key: value}));
        for key in common.into_iter().chain(read.iter().map(|i| others[*i])) {
            let error = of(key, json!(null)).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("scheduler_config.json: {key}: expected a value, got null")),
                "{error}"
            );
        }
        let absent = config(&json!({"_class_name": class})).unwrap();
        for key in others.iter().enumerate().filter(|(i, _)| !read.contains(i)).map(|(_, key)| key) {
            assert_eq!(of(key, json!(null)).unwrap(), absent, "{class} {key}");
        }
        for key in ["trained_betas", "sigma_min", "sigma_max", "timestep_type", "lambda_min_clipped"] {
            assert_eq!(of(key, json!(null)).unwrap(), absent, "{class} {key}");
        }
        for key in [
            "lower_order_final",
            "euler_at_final",
            "clip_sample",
            "set_alpha_to_one",
            "use_karras_sigmas",
            "thresholding",
            "rescale_betas_zero_snr",
        ] {
            assert_eq!(of(key, json!(null)).unwrap(), of(key, json!(false)).unwrap(), "{class} {key}");
        }
    }
    // without clipping, no range is needed
    let ddim = |clip| {
        config(&json!({"_class_name": "DDIMScheduler", "clip_sample": clip, "clip_sample_range": null}))
    };
    assert!(ddim(json!(null)).is_ok() && ddim(json!(true)).is_err());
}

/// An unknown class is an error only if it is used. Unknown keys and Python's `-Infinity` are never errors.
#[test]
fn unknown_class() {
    let text = r#"{"_class_name": "PNDMScheduler", "skip_prk_steps": true, "lambda_min_clipped": -Infinity}"#;
    let pndm = SchedulerConfig::from_json(text, Path::new("s.json")).unwrap();
    assert!(pndm.build::<NdTensor>(Some(SamplerChoice::Euler), 4).is_ok());
    let error = build_error(&pndm, None, 4);
    assert!(error.starts_with("s.json: _class_name: expected EulerDiscreteScheduler"), "{error}");
    assert!(error.ends_with("got \"PNDMScheduler\""), "{error}");
}
