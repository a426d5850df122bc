//! `bench` on small models: the JSON's form, consistent figures, and refused input.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::Path;

use common::{atedm, fail, names, tiny};
use serde_json::Value;

/// Runs `bench` on the tiny checkpoint. Returns the table and the JSON.
fn bench(folder: &Path, more: &[&str]) -> (String, Value) {
    bench_of(tiny(), folder, more)
}

/// The same on another model.
fn bench_of(model: &Path, folder: &Path, more: &[&str]) -> (String, Value) {
    let args = [
        "bench",
        "--model",
        model.to_str().unwrap(),
        "--size",
        "64",
        "--repeats",
        "2",
        "--quiet",
        "--json",
        "b.json",
    ];
    let output = atedm(folder, &[&args[..], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "quiet, but said {}", String::from_utf8_lossy(&output.stderr));
    let json = serde_json::from_slice(&fs::read(folder.join("b.json")).unwrap()).unwrap();
    (String::from_utf8(output.stdout).unwrap(), json)
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn figure(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"))
}

/// Checks all relations between the figures of one method.
fn consistent(report: &Value, row: &Value) {
    let full = figure(report, "full_ms");
    let (less, normal, mean) =
        (figure(row, "prune_less_ms"), figure(row, "normal_ms"), figure(row, "mean_ms"));
    assert!(less > 0.0 && normal > 0.0 && full > 0.0);
    // 15 of 50 steps prune less
    assert!((mean - (15.0 * less + 35.0 * normal) / 50.0).abs() < 1e-6 * mean, "{row}");
    assert!((figure(row, "speedup") - full / mean).abs() < 1e-9);
    let flops = figure(row, "flops_full") / figure(row, "flops_mean");
    assert!(flops > 1.0 && (figure(row, "efficiency") - figure(row, "speedup") / flops).abs() < 1e-9);
    assert!((0.0..1.0).contains(&figure(row, "scoring_share")), "{row}");
    if cfg!(target_os = "linux") {
        assert!(figure(row, "peak_bytes") > 1e6);
    }
}

#[test]
fn figures_fit_each_other() {
    let work = tempfile::tempdir().unwrap();
    let (table, report) = bench(work.path(), &["--methods", "at-edm,at-edm-fast", "--batch", "2"]);
    assert_eq!(keys(&report), ["batch", "device", "dtype", "full_ms", "guided", "methods", "size", "steps"]);
    assert_eq!((&report["device"], &report["dtype"]), (&"cpu".into(), &"f32".into()));
    assert_eq!((report["size"].as_u64(), report["batch"].as_u64()), (Some(64), Some(2)));
    let methods = report["methods"].as_array().unwrap();
    for (row, name) in methods.iter().zip(["at-edm", "at-edm-fast"]) {
        let expected = [
            "efficiency",
            "flops_full",
            "flops_mean",
            "mean_ms",
            "name",
            "normal_ms",
            "overlap",
            "peak_bytes",
            "prune_less_ms",
            "scoring_share",
            "speedup",
            "unguided_steps",
        ];
        assert_eq!(keys(row), expected);
        assert_eq!(row["name"], name);
        consistent(&report, row);
        // with a checkpoint's own weights, kept sets were compared along a run
        assert!((0.3..=1.0).contains(&figure(row, "overlap")), "{row}");
    }
    for words in
        ["attention", "scoring", "selection", "gather", "recovery", "threads", "its weights", "speed-up"]
    {
        assert!(table.contains(words), "{words} in\n{table}");
    }
}

/// From step 4 of 12 on an image is one row in place of two. An odd batch has no guidance to end, and the user is told.
#[test]
fn steps_without_guidance_run_on_half_of_the_rows() {
    let work = tempfile::tempdir().unwrap();
    let tgate = ["--steps", "12", "--methods", "tgate,tgate:gate_step=6", "--prune-opt", "gate_step=4"];
    let args = |batch: &'static str| {
        let model =
            ["bench", "--model", tiny().to_str().unwrap(), "--size", "64", "--repeats", "1", "--quiet"];
        let output =
            atedm(work.path(), &[&model[..], &["--json", "b.json", "--batch", batch], &tgate].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: Value = serde_json::from_slice(&fs::read(work.path().join("b.json")).unwrap()).unwrap();
        let [table, said] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (table, said, json)
    };
    let (table, said, guided) = args("2");
    assert!(table.contains("tgate") && table.contains(": 8 of 12 steps run without guidance"), "{table}");
    assert!(table.contains("batch 2 with guidance") && !said.contains("even number"), "{said}\n{table}");
    assert_eq!((&guided["guided"], &guided["steps"]), (&true.into(), &12.into()));
    let (table, said, single) = args("1");
    assert!(said.contains("it ends guidance at step 4") && !table.contains("guidance"), "{said}\n{table}");
    assert_eq!(single["guided"], false);
    let own = &guided["methods"][1];
    assert_eq!((&own["name"], &own["unguided_steps"]), (&"tgate gate_step=6".into(), &6.into()));
    let (guided, single) = (&guided["methods"][0], &single["methods"][0]);
    assert_eq!((&guided["unguided_steps"], &single["unguided_steps"]), (&8.into(), &0.into()));
    assert_eq!(guided["flops_full"], single["flops_full"]);
    // four whole steps, and eight of which half is left
    let whole = figure(guided, "flops_full");
    let expected = 0.5 * (figure(single, "flops_mean") + 4.0 / 12.0 * whole);
    assert!((figure(guided, "flops_mean") / expected - 1.0).abs() < 1e-9, "{guided}\n{single}");
}

#[test]
fn fifty_votes_are_the_converged_ones() {
    let work = tempfile::tempdir().unwrap();
    let options = ["--methods", "at-edm", "--prune-opt", "max_iterations=50,epsilon=0", "--steps", "4"];
    let (_, report) = bench(work.path(), &options);
    assert_eq!(figure(&report["methods"][0], "overlap"), 1.0);
    let options = ["--methods", "at-edm", "--prune-opt", "scorer=random", "--steps", "4"];
    let (_, report) = bench(work.path(), &options);
    assert!(figure(&report["methods"][0], "overlap") < 0.8, "{report}");
}

#[test]
fn a_lora_changes_the_timed_model() {
    let work = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let (model, lora) = (fixtures.join("tiny-a"), fixtures.join("lora/kohya.safetensors"));
    let overlap = |more: &[&str]| {
        let (_, report) = bench_of(&model, work.path(), &[&["--methods", "at-edm"], more].concat());
        figure(&report["methods"][0], "overlap")
    };
    assert_ne!(overlap(&[]), overlap(&["--lora", &format!("{}:20", lora.display())]));
}

#[test]
fn generated_weights_need_no_weight_files() {
    let work = tempfile::tempdir().unwrap();
    fs::create_dir_all(work.path().join("bare/unet")).unwrap();
    fs::copy(tiny().join("unet/config.json"), work.path().join("bare/unet/config.json")).unwrap();
    for more in [
        &["--backend", "ndarray"][..],
        &["--dtype", "bf16"],
        &["--unfused"],
        &["--prune-opt", "rescore_every=2"],
    ] {
        let args = [
            "bench",
            "--model",
            "bare",
            "--generated",
            "--size",
            "64",
            "--repeats",
            "1",
            "--threads",
            "1",
            "--json",
            "b.json",
            "--methods",
            "at-edm",
        ];
        let output = atedm(work.path(), &[&args[..], more].concat());
        let (table, said) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{more:?}: {said}");
        assert!(
            said.contains("round 1 of 1: full ") && table.contains("generated weights"),
            "{said}\n{table}"
        );
        assert_eq!(table.contains("every attention map stored"), more == ["--unfused"]);
        let report: Value = serde_json::from_slice(&fs::read(work.path().join("b.json")).unwrap()).unwrap();
        assert_eq!(report["methods"][0]["overlap"], Value::Null);
        consistent(&report, &report["methods"][0]);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    for (args, code, named) in [
        (&["--methods", "at-edn"][..], 2, "at-edm-dagger"),
        (&["--methods", "ratio=1"], 2, "name first"),
        (&["--prune-opt", "ratio=2"], 2, "ratio"),
        (&["--repeats", "0"], 2, "--repeats"),
        (&["--batch", "0"], 2, "--batch"),
        (&["--size", "100"], 2, "--size"),
        (&["--steps", "3", "--prune-opt", "tau=9"], 2, "tau"),
        (&["--backend", "ndarray", "--dtype", "bf16"], 2, "--dtype"),
        (&["--device", "cuda:x"], 2, "--device"),
        (&["--generated", "--lora", "ink.safetensors"], 2, "--lora"),
        (&["--lora", "nowhere.safetensors"], 1, "nowhere.safetensors"),
        (&["--json", "no/such/folder.json"], 1, "no/such"),
    ] {
        let line = fail(work.path(), &[&["bench", "--model", model, "--quiet"], args].concat(), code);
        assert!(line.contains(named), "{args:?}: expected {named:?} in: {line}");
        assert_eq!(names(work.path()), [""; 0], "{args:?} left files behind");
    }
    // the tests' standard input is empty
    let line = fail(work.path(), &["bench", "--model", model, "--size", "64", "--quiet", "--paced"], 1);
    assert!(line.contains("--paced"), "{line}");
    let line = fail(work.path(), &["bench", "--model", "nowhere"], 1);
    assert!(line.contains("nowhere"), "{line}");
    let line = fail(work.path(), &["bench", "--generated"], 2);
    assert!(line.contains("--model"), "{line}");
}
