//! The paper's claims in `recipes/claims`. Every file must fit every model of the project, at equal cost.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::Path;

use common::atedm;
use serde_json::Value;

/// The points of a configuration on a model.
fn plan(file: &Path, model: &str) -> Vec<Value> {
    let output = atedm(
        file.parent().unwrap(),
        &["ablate", file.to_str().unwrap(), "--plan", "--json", "--model", model],
    );
    assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    let info: Value = serde_json::from_slice(&output.stdout).unwrap();
    info["points"].as_array().unwrap().clone()
}

#[test]
fn every_file_fits_every_model() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let larger = root.join("assets/atedm-shapes-128");
    let files = fs::read_dir(root.join("recipes/claims")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|name| name == "toml")).collect();
    assert!(files.len() > 15);
    let mut budgets = 0;
    for file in files {
        for model in ["atedm-shapes", larger.to_str().unwrap()] {
            for point in plan(&file, model) {
                if let Some(budget) = point["budget_tflops"].as_f64() {
                    let planned = point["planned_tflop"].as_f64().unwrap();
                    assert!((planned / budget - 1.0).abs() < 0.005, "{}, {model}: {point}", file.display());
                    budgets += 1;
                }
            }
        }
    }
    assert!(budgets > 100, "{budgets}");
}
