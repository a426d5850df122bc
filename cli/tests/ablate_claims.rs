//! The paper's claims in `recipes/claims`. Every file must fit every model of the project, at equal cost.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::{names, plan};

#[test]
fn every_file_fits_every_model() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (folder, larger) = (root.join("recipes/claims"), root.join("assets/atedm-shapes-128"));
    let files: Vec<_> = names(&folder).into_iter().filter(|name| name.ends_with(".toml")).collect();
    assert!(files.len() > 15);
    let mut budgets = 0;
    for file in files {
        for model in ["atedm-shapes", larger.to_str().unwrap()] {
            for point in plan(&folder, &file, &["--model", model])["points"].as_array().unwrap() {
                if let Some(budget) = point["budget_tflops"].as_f64() {
                    let planned = point["planned_tflop"].as_f64().unwrap();
                    assert!((planned / budget - 1.0).abs() < 0.005, "{file}, {model}: {point}");
                    budgets += 1;
                }
            }
        }
    }
    assert!(budgets > 100, "{budgets}");
}
