//! The program of this crate treats its own method as it treats those that come with it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What the program prints, or its error.
fn run(arguments: &[&str], folder: &Path) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_example-own-method"));
    let output = command.args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn json(arguments: &[&str], folder: &Path) -> Value {
    serde_json::from_str(&run(arguments, folder).unwrap()).unwrap()
}

/// On SD-XL by formula: a half and a third of the tokens, and a budget that a ratio meets.
#[test]
fn flops_knows_its_counts_and_solves_its_budgets() {
    let folder = tempfile::tempdir().unwrap();
    let mean = |options: &str| {
        let report =
            json(&["flops", "--json", "--prune", "every-kth", "--prune-opt", options], folder.path());
        let row = report["methods"][0].clone();
        (row["mean_tflop"].as_f64().unwrap(), row["options"]["ratio"].as_f64().unwrap())
    };
    let (half, third) = (mean("every=2"), mean("every=3"));
    assert_eq!((half.1, third.1), (0.5, 1.0 - 1.0 / 3.0));
    assert_eq!(half, mean("ratio=50%"));
    assert!(third.0 < half.0 && half.0 < 6.761, "{third:?} {half:?}");
    let (tflop, ratio) = mean("budget_tflops=4.1,schedule=prune-less");
    assert!((tflop - 4.1).abs() < 0.005 && ratio > 0.5, "{tflop} {ratio}");
    for (options, named) in [
        ("evry=2", "error: evry: unknown option; expected one of budget_tflops, every"),
        ("every=0", "error: every: expected a whole number, at least 1, got 0"),
        ("every=2,ratio=0.5", "error: every: takes the place"),
        ("tau=3", "error: tau: does nothing here"),
        ("budget_tflops=1", "error: budget_tflops: expected at least"),
    ] {
        let error =
            run(&["flops", "--prune", "every-kth", "--prune-opt", options], folder.path()).unwrap_err();
        assert!(error.starts_with(named) && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn inspect_shows_what_it_keeps() {
    let folder = tempfile::tempdir().unwrap();
    run(&["init-tiny", "tiny"], folder.path()).unwrap();
    let options = ["--prune", "every-kth", "--prune-opt", "every=2,schedule=prune-less,tau=1"];
    let command = [&["inspect", "--json", "--model", "tiny", "--steps", "4"][..], &options].concat();
    let report = json(&command, folder.path());
    let phases = report["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 2, "one step of prune-less, then the rest");
    let (name, layers) = phases[1]["blocks"].as_object().unwrap().iter().next().unwrap();
    let whole = report["blocks"].as_array().unwrap().iter().find(|block| block["name"] == **name).unwrap();
    let tokens = whole["tokens"].as_u64().unwrap();
    assert_eq!(layers[0]["self_attention"].as_u64().unwrap(), tokens.div_ceil(2));
}

const GRID: &str = r#"
steps = 3
width = 128
height = 128

[prompts]
fox = "a fox"

[[grid]]
method = "at-edm"
options = { tau = 1 }
budget_tflops = 0.000155

[[grid]]
method = "every-kth"
budget_tflops = 0.000155

[[grid]]
name = "halved"
method = "every-kth"
options = { every = 2 }
"#;

/// What is planned is what a run costs; the report shows the method beside ours.
#[test]
fn a_grid_plans_runs_and_reports_it() {
    let folder = tempfile::tempdir().unwrap();
    run(&["init-tiny", "tiny"], folder.path()).unwrap();
    std::fs::write(folder.path().join("grid.toml"), GRID).unwrap();
    let ablate = ["ablate", "grid.toml", "--model", "tiny", "--output", "run", "--quiet"];
    let plan = run(&[&ablate[..], &["--plan"]].concat(), folder.path()).unwrap();
    assert!(plan.contains("every-kth") && plan.contains("halved"), "{plan}");
    run(&ablate, folder.path()).unwrap();
    let info: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("run/run.json")).unwrap()).unwrap();
    let lines = std::fs::read_to_string(folder.path().join("run/results.jsonl")).unwrap();
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 4, "the unpruned model is added");
    for (point, record) in info["points"].as_array().unwrap().iter().zip(&records) {
        let planned = point["planned_tflop"].as_f64().unwrap();
        let ran = record["flops"]["mean_tflop"].as_f64().or(record["mean_tflop"].as_f64()).unwrap();
        assert!((planned - ran).abs() < 1e-9 * planned, "{record}");
    }
    run(&["report", "run", "--output", "report"], folder.path()).unwrap();
    let found = std::fs::read_dir(folder.path().join("report")).map_or(0, Iterator::count);
    assert!(found > 0 || folder.path().join("report").is_file());
}

#[test]
fn bench_weighs_its_steps() {
    let folder = tempfile::tempdir().unwrap();
    run(&["init-tiny", "tiny"], folder.path()).unwrap();
    let bench = ["bench", "--model", "tiny", "--generated", "--size", "64", "--repeats", "1", "--steps", "4"];
    let rest = ["--methods", "every-kth", "--prune-opt", "every=2", "--json", "bench.json", "--quiet"];
    run(&[&bench[..], &rest].concat(), folder.path()).unwrap();
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("bench.json")).unwrap()).unwrap();
    let text = report.to_string();
    assert!(text.contains("every-kth"), "{text}");
}
