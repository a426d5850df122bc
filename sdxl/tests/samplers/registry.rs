//! Samplers by name.

use atedm_core::reference::NdTensor;
use atedm_core::{Result, Tensor};
use atedm_sdxl::rng::NoiseSource;
use atedm_sdxl::schedulers::{Sampler, SamplerRegistry, SchedulerConfig};
use serde_json::json;

use super::{build_error, config, is_edm, samplers};

/// What else a checkpoint with EDM's preconditioning may be sampled with: nothing.
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
        for name in samplers().names().into_iter().filter(|name| !is_edm(name)) {
            let error = build_error(&config, Some(name), 4);
            let start = "scheduler_config.json: _class_name: expected no --scheduler: ";
            assert!(error.starts_with(start), "{name}: {error}");
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

/// A default of LCM's alone is no reason to refuse a checkpoint to others.
#[test]
fn few_training_steps() {
    let few = config(&json!({"_class_name": "EulerDiscreteScheduler", "num_train_timesteps": 40})).unwrap();
    for name in [None, Some("ddim"), Some("dpm++2m")] {
        let sampler = samplers().build(&few, name, 10).unwrap();
        assert_eq!(sampler.timesteps().len(), 10);
    }
    let error = build_error(&few, Some("lcm"), 4);
    assert!(
        error.starts_with("scheduler_config.json: original_inference_steps: expected 1 to the 40"),
        "{error}"
    );
}

/// Without a choice the checkpoint's class decides; a choice takes the checkpoint's fields over.
#[test]
fn choices_change_only_what_they_name() {
    let first = |config: &SchedulerConfig, choice| {
        let sampler = samplers().build(config, choice, 50).unwrap();
        (sampler.timesteps()[0], sampler.init_noise_sigma())
    };
    let sdxl = SchedulerConfig::sdxl();
    assert_eq!(first(&sdxl, None).0, 981.0);
    assert_eq!(first(&sdxl, None), first(&sdxl, Some("euler")));
    assert_eq!(first(&sdxl, Some("euler-trailing")).0, 999.0);
    assert_eq!(first(&sdxl, Some("euler-sgm")).0, 999.0);
    assert_eq!(first(&sdxl, Some("ddim")), (981.0, 1.0));
    assert_eq!(first(&sdxl, Some("ddim-trailing")), (999.0, 1.0));
    let karras = config(&json!({"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "beta_end": 0.012, "use_karras_sigmas": true}))
    .unwrap();
    assert_eq!(first(&karras, None), first(&karras, Some("euler-karras")));
    let levels = |choice| {
        let sampler = samplers().build(&karras, choice, 10).unwrap();
        sampler.sigmas().to_vec()
    };
    assert_ne!(levels(None), levels(Some("euler")));
    // a class keeps the config's levels
    assert_eq!(levels(None), levels(Some("EulerDiscreteScheduler")));
}

/// A sampler of models of EDM's kind may take the other's place, and none over betas.
#[test]
fn edm_samplers_are_for_edm_checkpoints() {
    let edm = config(&json!({"_class_name": "EDMEulerScheduler", "sigma_data": 0.5})).unwrap();
    for name in ["edm-euler", "edm-dpm++2m", "EDMDPMSolverMultistepScheduler"] {
        assert_eq!(samplers().build(&edm, Some(name), 4).unwrap().timesteps().len(), 4, "{name}");
        let error = build_error(&SchedulerConfig::sdxl(), Some(name), 4);
        assert!(error.starts_with("scheduler_config.json: _class_name: expected one of EDM's"), "{error}");
    }
}

#[test]
fn unknown_names_list_the_known() {
    let error = build_error(&SchedulerConfig::sdxl(), Some("euler-edm"), 4);
    assert!(error.starts_with("scheduler: expected euler-sgm"), "{error}");
    let error = build_error(&SchedulerConfig::sdxl(), Some("plms"), 4);
    assert!(
        error.starts_with(
            "scheduler: expected one of ddim, ddim-trailing, ddpm, dpm++2m, dpm++2m-sde, dpm++2s"
        ),
        "{error}"
    );
    assert!(error.ends_with("ending -karras, -exponential, -beta, got \"plms\""), "{error}");
    assert!(!error.contains('\n') && error.len() < 300, "{error}");
    let (plain, all) = (samplers().plain_names().len(), samplers().names().len());
    assert_eq!((plain, all), (18, 42));
}

/// A sampler of one's own, which leaves everything as it is.
struct Still([f64; 2], [f64; 3]);

impl<T: Tensor> Sampler<T> for Still {
    fn timesteps(&self) -> &[f64] {
        &self.0
    }

    fn sigmas(&self) -> &[f64] {
        &self.1
    }

    fn step(&mut self, _: &T, _: usize, sample: &T, _: &mut dyn NoiseSource) -> Result<T> {
        Ok(sample.clone())
    }

    fn add_noise(&self, clean: &T, _: &T, _: usize) -> Result<T> {
        Ok(clean.clone())
    }
}

#[test]
fn samplers_of_others_join_by_name_and_by_class() {
    let still = |_: &SchedulerConfig, _: usize| -> Result<Box<dyn Sampler<NdTensor>>> {
        Ok(Box::new(Still([999.0, 499.0], [14.0, 1.0, 0.0])))
    };
    let mut samplers: SamplerRegistry<NdTensor> = SamplerRegistry::with_builtins();
    samplers.register("still", still).unwrap();
    samplers.register_class("StillScheduler", still).unwrap();
    let own = config(&json!({"_class_name": "StillScheduler"})).unwrap();
    for (config, name) in
        [(&SchedulerConfig::sdxl(), Some("still")), (&own, None), (&own, Some("StillScheduler"))]
    {
        assert_eq!(samplers.build(config, name, 2).unwrap().timesteps(), [999.0, 499.0]);
    }
    for taken in ["still", "heun", "", "EulerDiscreteScheduler"] {
        let error = samplers.register(taken, still).unwrap_err().to_string();
        assert_eq!(error, format!("scheduler: expected a new name, got {taken:?}"));
    }
    assert!(samplers.register_class("LCMScheduler", still).is_err());
    assert!(samplers.register_class("heun", still).is_err());
}
