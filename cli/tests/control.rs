//! ControlNets in the program: the pictures of diffusers, records, costs, and refusals before anything is loaded.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../tests/tests/control/folder.rs"]
mod folder;

use std::fs;
use std::path::{Path, PathBuf};

use atedm_conformance::tolerance::relative_l2;
use common::{atedm, fail, latents, names, read_png, succeed};
use folder::{board, control_net};
use serde_json::Value;
use tempfile::TempDir;

const CIRCLE: &str = "a photo of a red circle on a blue background";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// A folder with the reference's picture for 64 x 64 pixels, and its ControlNet for tiny-a.
fn prepared() -> (TempDir, TempDir) {
    let (work, net) = (tempfile::tempdir().unwrap(), control_net("tiny-a"));
    let planes = board(64, 64);
    let pixels: Vec<u8> = (0..64 * 64).flat_map(|at| [0, 1, 2].map(|c| planes[c * 64 * 64 + at])).collect();
    let file = fs::File::create(work.path().join("board.png")).unwrap();
    let mut encoder = png::Encoder::new(file, 64, 64);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    (work, net)
}

fn tiny_a() -> String {
    fixtures().join("tiny-a").to_str().unwrap().to_string()
}

/// The golden latents of a case.
fn golden(name: &str) -> Vec<f32> {
    let bytes = fs::read(fixtures().join("control/control.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let words = file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec();
    words.into_iter().map(f32::from_le_bytes).collect()
}

#[test]
fn generate_makes_diffusers_picture_and_names_what_it_followed() {
    let (work, net) = prepared();
    let (model, net) = (tiny_a(), net.path().to_str().unwrap());
    let common = ["generate", "--model", &model, "--prompt", CIRCLE, "--seed", "3", "--guidance-scale", "5"];
    let size = ["--width", "64", "--height", "64", "--output", "o.png", "--save-latents", "l.safetensors"];
    let control = ["--controlnet", net, "--control-image", "board.png"];
    let run = |more: &[&str]| {
        let errors = succeed(work.path(), &[&common[..], &size, more].concat());
        (latents(&work.path().join("l.safetensors")).1, errors)
    };
    let (whole, _) = run(&[&control[..], &["--steps", "5"]].concat());
    let distance = relative_l2(&whole, &golden("whole"));
    assert!(distance < 2e-5, "{distance:e}");
    let chunks = read_png(&work.path().join("o.png")).chunks;
    let of = |key: &str| chunks.iter().find(|(name, _)| name == key).map(|(_, text)| text.clone()).unwrap();
    let name = Path::new(net).file_name().unwrap().to_str().unwrap();
    assert!(of("parameters").contains(&format!("ControlNet: {name}, ")), "{}", of("parameters"));
    let followed: Value = serde_json::from_str(&of("atedm:control")).unwrap();
    assert_eq!((&followed["image"], &followed["scale"]), (&"board.png".into(), &1.0.into()));
    let flops: Value = serde_json::from_str(&of("atedm:flops")).unwrap();
    assert_eq!(flops["mean_per_step"], flops["unpruned"]);

    let pruned = [&control[..], &["--steps", "7", "--seed", "0", "--prune", "at-edm"]].concat();
    let common: Vec<&str> = common.iter().copied().filter(|word| !["--seed", "3"].contains(word)).collect();
    succeed(work.path(), &[&common[..], &size, &pruned, &["--masks-out", "m.safetensors"]].concat());
    let distance = relative_l2(&latents(&work.path().join("l.safetensors")).1, &golden("at-edm"));
    assert!(distance < 1e-4, "{distance:e}");
    let masks = fs::read(work.path().join("m.safetensors")).unwrap();
    let masks = safetensors::SafeTensors::deserialize(&masks).unwrap();
    assert!(masks.names().iter().any(|name| name.contains("control-mid.0")), "{:?}", masks.names());

    // it runs at one of two steps, so the unpruned model costs less than with it at both
    let half = [&control[..], &["--steps", "2", "--control-end", "0.5", "--control-scale", "0.5"]].concat();
    let common = [&common[..], &["--seed", "3"]].concat();
    succeed(work.path(), &[&common[..], &size, &half].concat());
    let chunks = read_png(&work.path().join("o.png")).chunks;
    let of = |key: &str| chunks.iter().find(|(name, _)| name == key).map(|(_, text)| text.clone()).unwrap();
    let shorter: Value = serde_json::from_str(&of("atedm:flops")).unwrap();
    assert_eq!(shorter["mean_per_step"], shorter["unpruned"]);
    assert!(shorter["unpruned"].as_f64() < flops["unpruned"].as_f64());
    assert!(of("atedm:control").contains("\"end\":0.5"));
}

#[test]
fn other_commands_follow_the_picture_too() {
    let (work, net) = prepared();
    let (model, net) = (tiny_a(), net.path().to_str().unwrap());
    let control = ["--controlnet", net, "--control-image", "board.png", "--prompt", "a fox"];
    let size = ["--model", &model, "--width", "64", "--height", "64", "--steps", "2"];
    let masks = [&["masks", "--output-dir", "m", "--quiet"], &control[..], &size].concat();
    succeed(work.path(), &masks);
    let drawn = names(&work.path().join("m"));
    assert!(drawn.iter().any(|name| name.contains("control-down.1.0")), "{drawn:?}");
    let compare =
        [&["compare", "--methods", "tome-c", "--output", "s.png", "--json"], &control[..], &size].concat();
    let output = atedm(work.path(), &compare);
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("\"controlnet\"") && table.contains("board.png"), "{table}");

    let shown = |more: &[&str]| {
        let inspect = ["inspect", "--model", &model, "--width", "64", "--height", "64", "--controlnet", net];
        let output = atedm(work.path(), &[&inspect[..], more].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = shown(&["--prune", "at-edm"]);
    for line in ["  controlnet      channels 8/16/24", "  control-down.1.0", "  of which the ControlNet: "] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let json: Value = serde_json::from_str(&shown(&["--json"])).unwrap();
    assert!(json["controlnet_tflop"].as_f64() > Some(0.0) && json["memory"]["controlnet"].as_u64() > Some(0));
}

/// The keys of a configuration are the flags. Another picture or another share of the steps is another run.
#[test]
fn a_configuration_names_control_net_and_picture() {
    let (work, net) = prepared();
    fs::create_dir(work.path().join("grids")).unwrap();
    fs::copy(work.path().join("board.png"), work.path().join("grids/b.png")).unwrap();
    let rest = format!(
        "model = {:?}\nsteps = 5\nguidance_scale = 5\nwidth = 64\nheight = 64\n[prompts]\np = {{ prompt = {CIRCLE:?}, seed = 3 }}\n\
         [[grid]]\nmethod = \"at-edm\"\n",
        tiny_a()
    );
    let write = |keys: &str| fs::write(work.path().join("grids/g.toml"), format!("{keys}{rest}")).unwrap();
    let keys = format!("controlnet = {:?}\ncontrol_image = \"b.png\"\n", net.path());
    write(&keys);
    succeed(work.path(), &["ablate", "grids/g.toml", "--output", "run", "--quiet"]);
    let made = latents(&work.path().join("run/latents/none/p.safetensors")).1;
    let distance = relative_l2(&made, &golden("whole"));
    assert!(distance < 2e-5, "{distance:e}");
    let lines = fs::read_to_string(work.path().join("run/results.jsonl")).unwrap();
    for record in lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        assert_eq!(record["settings"]["control"]["image"], "b.png");
        assert!(record["settings"]["parts"]["controlnet"].is_string());
    }
    // the plan knows what a run costs
    let info: Value = serde_json::from_slice(&fs::read(work.path().join("run/run.json")).unwrap()).unwrap();
    for point in info["points"].as_array().unwrap() {
        let record = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let record = record.into_iter().find(|record| record["point"] == point["id"]).unwrap();
        let [planned, ran] =
            [&point["planned_tflop"], &record["flops"]["mean_tflop"]].map(|v| v.as_f64().unwrap());
        assert!((planned - ran).abs() < 1e-9 * ran, "{planned} {ran}");
    }
    write(&format!("{keys}control_end = 0.5\n"));
    let line = fail(work.path(), &["ablate", "grids/g.toml", "--output", "run", "--resume", "--quiet"], 1);
    assert!(line.contains("is of another run"), "{line}");
    write("control_image = \"b.png\"\n");
    let line = fail(work.path(), &["ablate", "grids/g.toml", "--output", "other"], 2);
    assert!(line.contains("controlnet: expected a ControlNet, as a control image is given"), "{line}");
    write(&format!("controlnet = {:?}\n", net.path()));
    for more in [&["--output", "other"][..], &["--plan"]] {
        let line = fail(work.path(), &[&["ablate", "grids/g.toml"], more].concat(), 2);
        assert!(line.contains("control-image: expected a picture, as a ControlNet is given"), "{line}");
    }
}

#[test]
fn flags_that_do_not_fit_are_refused_at_once() {
    let (work, net) = prepared();
    let (model, net) = (tiny_a(), net.path().to_str().unwrap());
    let small = ["--prompt", "a fox", "--output", "o.png", "--model", &model];
    let both = ["--controlnet", net, "--control-image", "board.png"];
    for (flags, code, named) in [
        (vec!["--controlnet", net], 2, "--control-image: expected a picture, as --controlnet is given"),
        (vec!["--control-image", "board.png"], 2, "--controlnet"),
        (vec!["--control-scale", "0.5"], 2, "--control-image"),
        ([&both[..], &["--control-scale", "inf"]].concat(), 2, "--control-scale"),
        (
            [&both[..], &["--control-start", "0.5", "--control-end", "0.5"]].concat(),
            2,
            "control-start, control-end: expected shares",
        ),
        ([&both[..], &["--control-end", "1.5"]].concat(), 2, "--control-end"),
        (vec!["--controlnet", net, "--control-image", "gone.png"], 1, "gone.png"),
        (vec!["--controlnet", "gone", "--control-image", "board.png"], 1, "gone"),
        (vec!["--controlnet", net, "--controlnet", net, "--control-image", "board.png"], 2, "--controlnet"),
    ] {
        let line = fail(work.path(), &[&["generate"], &small[..], &flags].concat(), code);
        assert!(line.contains(named), "{flags:?}: {line}");
    }
    let unet = fixtures().join("tiny-a/unet");
    let flags = ["--controlnet", unet.to_str().unwrap(), "--control-image", "board.png"];
    let line = fail(work.path(), &[&["generate"], &small[..], &flags].concat(), 1);
    assert!(line.contains("is a U-Net: expected a ControlNetModel of SD-XL"), "{line}");
    let line = fail(work.path(), &["bench", "--model", &model, "--controlnet", net], 2);
    assert!(line.contains("--controlnet: expected none, as the U-Net alone is timed"), "{line}");
    assert_eq!(names(work.path()), ["board.png"]);
}
