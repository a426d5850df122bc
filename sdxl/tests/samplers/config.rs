//! What a scheduler's config may say.

use std::path::Path;

use atedm_sdxl::schedulers::{DpmAlgorithm, Levels, SchedulerConfig};
use serde_json::{Value, json};

use super::{build_error, config, samplers};

/// Each bad or unsupported value is named with its file.
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
        (json!({"rescale_betas_zero_snr": "yes"}), "rescale_betas_zero_snr"),
        (json!({"thresholding": true}), "thresholding"),
        (json!({"use_karras_sigmas": true, "use_exponential_sigmas": true}), "use_exponential_sigmas"),
        (json!({"use_exponential_sigmas": true, "use_beta_sigmas": true}), "use_beta_sigmas"),
        (json!({"use_lu_lambdas": true}), "use_lu_lambdas"),
        (json!({"predict_x0": false}), "predict_x0"),
        (json!({"disable_corrector": [0]}), "disable_corrector"),
        (json!({"variance_type": "learned"}), "variance_type"),
        (json!({"use_karras_sigmas": 1}), "use_karras_sigmas"),
        (json!({"interpolation_type": "log_linear"}), "interpolation_type"),
        (json!({"algorithm_type": "sde-dpmsolver"}), "algorithm_type"),
        (json!({"solver_type": "heun"}), "solver_type"),
        (json!({"solver_order": 4}), "solver_order"),
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

/// Measured on diffusers 0.42: each key set to `null` in each class's config. Flags are false, numbers and names cannot be
/// used where the class reads them.
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
    let classes: [(&str, &[usize]); 10] = [
        ("EulerDiscreteScheduler", &[0, 1, 2, 3]),
        ("EulerAncestralDiscreteScheduler", &[0, 1]),
        ("DDIMScheduler", &[0, 1, 7]),
        ("DPMSolverMultistepScheduler", &[0, 1, 2, 4, 5, 6]),
        ("LCMScheduler", &[8, 9]),
        ("HeunDiscreteScheduler", &[0, 1]),
        ("LMSDiscreteScheduler", &[0, 1]),
        ("DDPMScheduler", &[0, 1, 7]),
        ("UniPCMultistepScheduler", &[0, 1, 2, 5, 6]),
        ("DPMSolverSinglestepScheduler", &[2, 4, 5, 6]),
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
        for key in [
            "trained_betas",
            "sigma_min",
            "sigma_max",
            "timestep_type",
            "lambda_min_clipped",
            "variance_type",
        ] {
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
    // what does not clip needs no range
    let ddim = |clip| {
        config(&json!({"_class_name": "DDIMScheduler", "clip_sample": clip, "clip_sample_range": null}))
    };
    assert!(ddim(json!(null)).is_ok() && ddim(json!(true)).is_err());
}

/// An unknown class is an error only if it is asked for; unknown keys and Python's `-Infinity` never are.
#[test]
fn unknown_class() {
    let text = r#"{"_class_name": "PNDMScheduler", "skip_prk_steps": true, "lambda_min_clipped": -Infinity}"#;
    let pndm = SchedulerConfig::from_json(text, Path::new("s.json")).unwrap();
    assert!(samplers().build(&pndm, Some("euler"), 4).is_ok());
    let error = build_error(&pndm, None, 4);
    assert!(
        error.starts_with("s.json: _class_name: expected one of DDIMScheduler, DDPMScheduler"),
        "{error}"
    );
    assert!(error.ends_with("got \"PNDMScheduler\""), "{error}");
}

/// Fields that only some classes have.
#[test]
fn fields_of_the_solvers() {
    let read = |value: Value| config(&value).unwrap();
    let levels = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"]
        .map(|field| read(json!({field: true})).levels);
    assert_eq!(levels, [Levels::Karras, Levels::Exponential, Levels::Beta]);
    assert_eq!(read(json!({})).levels, Levels::Training);
    assert_eq!(read(json!({"algorithm_type": "sde-dpmsolver++"})).algorithm, DpmAlgorithm::Sde);
    let heun = read(json!({"_class_name": "HeunDiscreteScheduler"}));
    assert_eq!((heun.beta_start, heun.beta_end), (0.00085, 0.012));
    for class in ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"] {
        let third = read(json!({"_class_name": class, "solver_order": 3}));
        let error = build_error(&third, None, 4);
        assert!(
            error.starts_with("scheduler_config.json: solver_order: expected 1 or 2 for DPM++"),
            "{error}"
        );
    }
    let infinite = read(json!({"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1"}));
    let error = build_error(&infinite, None, 4);
    assert!(error.starts_with("scheduler_config.json: solver_type: expected bh2"), "{error}");
}
