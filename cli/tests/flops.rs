//! `flops`: the paper's figures, budgets, a checkpoint of another shape, and refused input.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;

use common::{atedm, fail, tiny};
use serde_json::Value;

fn text(args: &[&str]) -> String {
    let work = tempfile::tempdir().unwrap();
    let output = atedm(work.path(), &[&["flops"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&text(&[args, &["--json"]].concat())).unwrap()
}

/// Three decimals, as printed.
fn shown(value: &Value) -> String {
    format!("{:.3}", value.as_f64().unwrap())
}

#[test]
fn the_papers_figures_are_the_default() {
    let report = json(&[]);
    assert_eq!(shown(&report["full"]["mean_tflop"]), "6.761");
    let rows: Vec<[String; 4]> = report["methods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            [
                row["name"].as_str().unwrap().to_string(),
                shown(&row["prune_less_tflop"]),
                shown(&row["normal_tflop"]),
                shown(&row["mean_tflop"]),
            ]
        })
        .collect();
    let expected = [
        ["at-edm", "4.989", "4.065", "4.342"],
        ["at-edm prune_point=before_ff", "4.811", "3.786", "4.094"],
        ["at-edm-dagger", "5.216", "4.443", "4.675"],
        ["at-edm-dagger prune_point=before_ff", "5.114", "4.291", "4.538"],
    ];
    assert_eq!(rows, expected.map(|row| row.map(String::from)));
    // Fig. 2 of the full model, in TFLOP (twice the GMAC of an independent count)
    for (kind, tflop) in
        [("conv 3x3", "1.556"), ("self-attention products", "0.752"), ("feed-forward", "2.819")]
    {
        assert_eq!(shown(&report["full"]["kinds"][kind]), tflop, "{kind}");
    }
    for (block, tflop) in [("down.2.attention", "1.353"), ("up.0.attention", "2.029"), ("up.2.conv", "0.325")]
    {
        assert_eq!(shown(&report["full"]["blocks"][block]), tflop, "{block}");
    }
    // the mean is the same, summed by kind or by block
    for row in report["methods"].as_array().unwrap() {
        for split in ["kinds", "blocks"] {
            let sum: f64 = row[split].as_object().unwrap().values().map(|part| part.as_f64().unwrap()).sum();
            assert!((sum - row["mean_tflop"].as_f64().unwrap()).abs() < 1e-9, "{split}");
        }
    }
    let table = text(&[]);
    for words in ["6.761", "4.342", "4.094", "4.675", "4.538", "by kind", "by block", "2 x MAC"] {
        assert!(table.contains(words), "{words} in\n{table}");
    }
}

#[test]
fn a_budget_may_be_a_share_of_the_whole_models_cost() {
    let report = json(&["--prune", "tome-c,at-edm", "--budget", "70%"]);
    assert_eq!(report["methods"].as_array().unwrap().len(), 2);
    for row in report["methods"].as_array().unwrap() {
        let share = row["mean_tflop"].as_f64().unwrap() / 6.7612;
        assert!((share - 0.7).abs() < 2e-3, "{row}");
    }
}

#[test]
fn points_out_of_reach_are_refused_or_left_out() {
    let work = tempfile::tempdir().unwrap();
    let config = "[prompts]\nfox = \"a fox\"\n[[grid]]\nmethod = \"at-edm\"\n\
                  options = { prune_point = \"before_ff\" }\neach = { budget_tflops = [\"70%\", \"30%\", 4.1] }\n";
    fs::write(work.path().join("c.toml"), config).unwrap();
    let line = fail(work.path(), &["ablate", "c.toml", "--plan"], 2);
    assert!(line.contains("at-edm budget_tflops=30%: budget_tflops: expected at least"), "{line}");
    fs::write(work.path().join("c.toml"), format!("unreachable = \"leave_out\"\n{config}")).unwrap();
    let output = atedm(work.path(), &["ablate", "c.toml", "--plan", "--json"]);
    assert!(output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).to_string();
    assert!(told.contains("at-edm budget_tflops=30%: left out: no ratio meets its budget"), "{told}");
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let points = plan["points"].as_array().unwrap();
    let labels: Vec<&str> = points.iter().map(|point| point["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["none", "at-edm budget_tflops=70%", "at-edm budget_tflops=4.1"]);
    assert!((points[1]["budget_tflops"].as_f64().unwrap() - 0.7 * 6.7612).abs() < 1e-3, "{}", points[1]);
    let alone = config.replace("\"70%\", \"30%\", 4.1", "\"30%\"");
    fs::write(work.path().join("c.toml"), format!("unreachable = \"leave_out\"\n{alone}")).unwrap();
    let line = fail(work.path(), &["ablate", "c.toml", "--plan"], 2);
    assert!(line.contains("grid: no ratio meets the budget of any point"), "{line}");
    fs::write(work.path().join("c.toml"), format!("unreachable = \"drop\"\n{config}")).unwrap();
    let line = fail(work.path(), &["ablate", "c.toml", "--plan"], 2);
    assert!(line.contains("unreachable") || line.contains("leave_out"), "{line}");
}

#[test]
fn budgets_are_solved_or_name_the_least() {
    let report = json(&["--prune", "at-edm", "--prune-opt", "prune_point=before_ff", "--budget", "4.1"]);
    let row = &report["methods"][0];
    assert!((row["mean_tflop"].as_f64().unwrap() - 4.1).abs() < 0.005);
    assert!((row["ratio"].as_f64().unwrap() - 0.628).abs() < 0.0015);
    let published: Vec<String> = json(&["--prune", "at-edm-a,at-edm-b,at-edm-c,at-edm-d"])["methods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{:.1}", row["mean_tflop"].as_f64().unwrap()))
        .collect();
    assert_eq!(published, ["2.9", "3.6", "4.1", "4.5"]);
    let work = tempfile::tempdir().unwrap();
    let line = fail(work.path(), &["flops", "--prune", "at-edm", "--budget", "2.9"], 2);
    assert!(line.contains("budget_tflops") && line.contains("3.090 TFLOP"), "{line}");
    // of the default rows, those out of reach give a warning, and the others are shown
    let output = atedm(work.path(), &["flops", "--budget", "2.9", "--json"]);
    let warned = String::from_utf8(output.stderr).unwrap();
    assert_eq!(warned.lines().filter(|line| line.starts_with("warning: at-edm")).count(), 3, "{warned}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["methods"].as_array().unwrap().len(), 1);
}

#[test]
fn another_checkpoint_needs_no_weights() {
    let work = tempfile::tempdir().unwrap();
    fs::create_dir_all(work.path().join("bare/unet")).unwrap();
    fs::copy(tiny().join("unet/config.json"), work.path().join("bare/unet/config.json")).unwrap();
    let bare = work.path().join("bare");
    let size = ["--width", "128", "--height", "192", "--steps", "10"];
    let config = work.path().join("half.toml");
    fs::write(&config, "method = \"at-edm\"\nratio = 0.5\n").unwrap();
    let more = ["--model", bare.to_str().unwrap(), "--prune-config", config.to_str().unwrap()];
    let report = json(&[&size[..], &more].concat());
    assert_eq!((report["width"].as_u64(), report["latents"][0].as_u64()), (Some(128), Some(24)));
    assert_eq!(report["methods"][0]["ratio"], 0.5);
    // `inspect` opens the whole checkpoint and gives the same result
    let whole = [
        "inspect",
        "--json",
        "--model",
        tiny().to_str().unwrap(),
        "--prune-config",
        config.to_str().unwrap(),
    ];
    let inspected = atedm(work.path(), &[&whole[..], &size].concat());
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    for (ours, theirs) in [
        (&report["full"]["mean_tflop"], "unpruned_tflop"),
        (&report["methods"][0]["mean_tflop"], "mean_tflop"),
    ] {
        assert!(
            (ours.as_f64().unwrap() / inspected[theirs].as_f64().unwrap() - 1.0).abs() < 1e-9,
            "{theirs}"
        );
    }
    let table = text(&["--model", bare.to_str().unwrap(), "--width", "64", "--height", "64"]);
    assert!(table.contains("MFLOP") || table.contains("GFLOP"), "{table}");
}

/// SD-XL over 50 steps: ten guided ones, then 40 of one row in place of two.
#[test]
fn steps_without_guidance_count_half() {
    let report = json(&["--prune", "tgate", "--prune-opt", "sp_interval=1"]);
    let (full, row) = (&report["full"], &report["methods"][0]);
    let figure = |value: &Value| value.as_f64().unwrap();
    let whole = figure(&full["mean_tflop"]);
    let kinds = ["cross-attention q,k,v,out", "cross-attention products"];
    let half = 0.5 * (whole - kinds.iter().map(|kind| figure(&full["kinds"][kind])).sum::<f64>());
    for (key, expected) in [
        ("prune_less_tflop", whole),
        ("normal_tflop", half),
        ("mean_tflop", (10.0 * whole + 40.0 * half) / 50.0),
    ] {
        assert!((figure(&row[key]) - expected).abs() < 1e-9, "{key}: {} {expected}", row[key]);
    }
    let table = text(&["--prune", "tgate"]);
    assert!(table.contains("a step at which guidance has ended counts half"), "{table}");
    assert!(!text(&["--prune", "deepcache"]).contains("guidance"));
}

#[test]
fn what_is_wrong_is_named() {
    let work = tempfile::tempdir().unwrap();
    for (args, code, named) in [
        (&["--prune", "at-edn"][..], 2, "at-edm-dagger"),
        (&["--prune", "at-edm", "--prune-opt", "ratio=2"], 2, "ratio"),
        (&["--prune", "none", "--budget", "4"], 2, "budget_tflops"),
        (&["--prune", "at-edm", "--prune-opt", "ratio=0.5", "--budget", "4"], 2, "budget_tflops"),
        (&["--prune", "at-edm,none", "--prune-config", "x.toml"], 2, "--prune"),
        (&["--prune-config", "x.toml"], 1, "x.toml"),
        (&["--budget", "NaN"], 2, "--budget"),
        (&["--width", "100"], 2, "--width"),
        (&["--steps", "0"], 2, "--steps"),
        (&["--model", "nowhere"], 1, "nowhere"),
    ] {
        let line = fail(work.path(), &[&["flops"], args].concat(), code);
        assert!(line.contains(named), "{args:?}: expected {named:?} in: {line}");
    }
}

#[test]
fn what_a_run_counts_is_what_the_model_says() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    // one side of self-attention only, all sublayers, a stream that stays short
    for (method, options) in [
        ("todo", "downsample_factor=2,downsample_factor_level_2=2,downsample_factor_level_3=2"),
        ("tome-comfy", "max_downsample=4,ratio=0.5"),
        ("tome-c", "schedule=prune-less"),
        ("at-edm", "prune_point=before_ff"),
    ] {
        let pruned = ["--prune", method, "--prune-opt", options];
        let report = json(&[&["--model", model, "--steps", "3"][..], &pruned].concat());
        let [said, whole] =
            [&report["methods"][0]["mean_tflop"], &report["full"]["mean_tflop"]].map(|v| v.as_f64().unwrap());
        let run = ["generate", "--model", model, "--prompt", "a fox", "--steps", "3", "--output", "fox.png"];
        let output = atedm(work.path(), &[&run[..], &pruned].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let picture = fs::File::open(work.path().join("fox.png")).unwrap();
        let reader = png::Decoder::new(std::io::BufReader::new(picture)).read_info().unwrap();
        let chunks = &reader.info().uncompressed_latin1_text;
        let flops = &chunks.iter().find(|chunk| chunk.keyword == "atedm:flops").unwrap().text;
        let counted = serde_json::from_str::<Value>(flops).unwrap()["mean_per_step"].as_f64().unwrap() / 1e12;
        assert!((counted / said - 1.0).abs() < 1e-12, "{method}: {counted} counted, {said} said");
        assert!(counted < whole, "{method} saves something");
    }
}
