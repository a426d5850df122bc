//! `inspect`, `masks`, `init-tiny` and the help, on a tiny checkpoint with random weights.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;

use common::{atedm, names, read_png, succeed, tiny};

#[test]
fn inspect_shows_blocks_and_costs() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    let args = [
        "inspect",
        "--model",
        model,
        "--prune",
        "at-edm",
        "--steps",
        "10",
        "--prune-opt",
        "tau=30%,ratio=0.5",
    ];
    let text = String::from_utf8(atedm(work.path(), &args).stdout).unwrap();
    for words in [
        "down.1.0",
        "up.1.2",
        "mid.0",
        "steps 0-2",
        "steps 3-9",
        "256, 128 from layer 1 on",
        "mean: ",
        "unpruned: ",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    let output = atedm(work.path(), &[&args[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["blocks"].as_array().unwrap().len(), 11);
    assert_eq!(json["phases"][0]["steps"], 3);
    assert_eq!(json["phases"][0]["blocks"]["down.1.0"][1]["self_attention"], 256);
    assert_eq!(json["phases"][1]["blocks"]["down.1.0"][1]["self_attention"], 128);
    let figure = |value: &serde_json::Value| value.as_f64().unwrap();
    let (early, late) = (figure(&json["phases"][0]["tflop"]), figure(&json["phases"][1]["tflop"]));
    assert!(late < early && early < figure(&json["unpruned_tflop"]));
    assert!((figure(&json["mean_tflop"]) - (3.0 * early + 7.0 * late) / 10.0).abs() < 1e-12);
    assert_eq!(names(work.path()), [""; 0]);
}

/// Guidance ends at step 4 of 10: a phase of its own, which costs half.
#[test]
fn inspect_shows_where_guidance_ends() {
    let work = tempfile::tempdir().unwrap();
    let args = [
        "inspect",
        "--model",
        tiny().to_str().unwrap(),
        "--prune",
        "tgate",
        "--steps",
        "10",
        "--prune-opt",
        "gate_step=4,sp_interval=1",
    ];
    let text = String::from_utf8(atedm(work.path(), &args).stdout).unwrap();
    assert!(text.contains("a step, guidance has ended: half of the rows"), "{text}");
    let output = atedm(work.path(), &[&args[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let phases = json["phases"].as_array().unwrap();
    let rows: Vec<_> = phases.iter().map(|phase| (&phase["first_step"], &phase["rows"])).collect();
    assert_eq!(rows, [(&0.into(), &1.0.into()), (&4.into(), &0.5.into())]);
    let figure = |value: &serde_json::Value| value.as_f64().unwrap();
    let (early, late) = (figure(&phases[0]["tflop"]), figure(&phases[1]["tflop"]));
    assert_eq!(early, figure(&json["unpruned_tflop"]));
    assert!(late < 0.5 * early && late > 0.3 * early);
    assert!((figure(&json["mean_tflop"]) - (4.0 * early + 6.0 * late) / 10.0).abs() < 1e-12);
}

#[test]
fn budgets_are_met() {
    let work = tempfile::tempdir().unwrap();
    let inspect = |options: &str| {
        let args = [
            "inspect",
            "--model",
            tiny().to_str().unwrap(),
            "--json",
            "--prune",
            "at-edm",
            "--prune-opt",
            options,
        ];
        serde_json::from_slice::<serde_json::Value>(&atedm(work.path(), &args).stdout).unwrap()
    };
    let wanted = inspect("ratio=0.4")["mean_tflop"].as_f64().unwrap();
    let solved = inspect(&format!("budget_tflops={wanted}"));
    assert!((solved["mean_tflop"].as_f64().unwrap() / wanted - 1.0).abs() < 0.01);
    assert!((solved["options"]["ratio"].as_f64().unwrap() - 0.4).abs() < 0.02);
}

#[test]
fn masks_are_drawn() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    let small = ["--width", "128", "--height", "128", "--steps", "4"];
    let args = [
        "masks",
        "--model",
        model,
        "--prompt",
        "a fox",
        "--output-dir",
        "m",
        "--steps-shown",
        "0,3",
        "--variance",
        "--prune-opt",
        "tau=1",
    ];
    succeed(work.path(), &[&args[..], &small].concat());
    let found = names(&work.path().join("m"));
    for name in [
        "contact-sheet.png",
        "image.png",
        "variance.svg",
        "step-000-mid.0-layer-0.png",
        "step-003-down.1.0-layer-0.png",
    ] {
        assert!(found.contains(&name.to_string()), "{name} in {found:?}");
    }
    // These blocks are spared in the first step.
    assert!(!found.contains(&"step-000-down.1.0-layer-0.png".to_string()));
    assert_eq!(found.iter().filter(|name| name.starts_with("step-")).count(), 7 + 11);
    let drawn = read_png(&work.path().join("m/step-003-mid.0-layer-0.png"));
    assert_eq!((drawn.size, drawn.pixels.len()), ((256, 256), 3 * 256 * 256));
    let svg = fs::read_to_string(work.path().join("m/variance.svg")).unwrap();
    assert!(svg.contains("level 1") && svg.contains("level 2"));
    for colour in ["#0072B2", "#D55E00"] {
        let line = format!("<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"");
        assert_eq!(svg.matches(&line).count(), 1, "{colour}");
    }
    // Two prompts and no pruning give only pictures and the chart.
    let args = [
        "masks",
        "--model",
        model,
        "--prompt",
        "a fox",
        "--prompt",
        "a cat",
        "--output-dir",
        "v",
        "--variance",
        "--prune",
        "none",
    ];
    succeed(work.path(), &[&args[..], &small].concat());
    assert_eq!(names(&work.path().join("v")), ["0-image.png", "1-image.png", "variance.svg"]);
}

#[test]
fn init_tiny_is_reproducible_and_honest() {
    let work = tempfile::tempdir().unwrap();
    let said = succeed(work.path(), &["init-tiny", "a", "--seed", "5"]);
    assert!(said.contains("UNTRAINED"), "{said}");
    succeed(work.path(), &["init-tiny", "b", "--seed", "5"]);
    succeed(work.path(), &["init-tiny", "c", "--seed", "6"]);
    let read = |folder: &str, name: &str| fs::read(work.path().join(folder).join(name)).unwrap();
    for name in [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "tokenizer/vocab.json",
        "model_index.json",
    ] {
        assert_eq!(read("a", name), read("b", name), "{name}");
    }
    let weights = "unet/diffusion_pytorch_model.safetensors";
    assert_ne!(read("a", weights), read("c", weights));
    for name in ["README.md", "model_index.json"] {
        assert!(String::from_utf8(read("a", name)).unwrap().contains("UNTRAINED"), "{name}");
    }
}

#[test]
fn help_has_examples() {
    let work = tempfile::tempdir().unwrap();
    for command in [
        &["--help"][..],
        &["generate", "--help"],
        &["inspect", "--help"],
        &["masks", "--help"],
        &["init-tiny", "--help"],
    ] {
        let output = atedm(work.path(), command);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Example:"), "{command:?}\n{text}");
    }
    assert!(atedm(work.path(), &["--version"]).status.success());
}
