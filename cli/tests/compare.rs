//! `atedm compare` on a tiny checkpoint with random weights.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::{atedm, fail, names, read_png, succeed, tiny};
use serde_json::Value;

const USAGE: i32 = 2;

/// Flags of a small comparison of two prompts.
fn flags<'a>(methods: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let model = tiny().to_str().unwrap();
    let mut args = vec!["compare", "--model", model, "--prompt", "a red fox", "--prompt", "an owl"];
    args.extend(["--steps", "2", "--width", "64", "--height", "64", "--quiet"]);
    args.extend(["--methods", methods, "--output", "sheet.png"]);
    args.extend(more);
    args
}

fn table(work: &Path, methods: &str, more: &[&str]) -> Value {
    let output = atedm(work, &[&flags(methods, more)[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn methods_stand_side_by_side() {
    let work = tempfile::tempdir().unwrap();
    let table = table(work.path(), "at-edm:ratio=0.5,recovery=zero,tome-c,at-edm:ratio=0", &["--cell", "96"]);
    assert_eq!(names(work.path()), ["sheet.png"]);
    let labels: Vec<&str> =
        table["methods"].as_array().unwrap().iter().map(|method| method["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["none", "at-edm ratio=0.5 recovery=zero", "tome-c", "at-edm ratio=0"]);
    let sheet = read_png(&work.path().join("sheet.png"));
    assert!(sheet.size.0 > 4 * 96 && sheet.size.1 > 2 * 96, "{:?}", sheet.size);
    let images = table["images"].as_array().unwrap();
    assert_eq!(images.len(), 8);
    for (index, image) in images.iter().enumerate() {
        assert_eq!(image["prompt"], if index < 4 { "a red fox" } else { "an owl" });
        let distances = &image["distances"];
        match index % 4 {
            0 => assert!(distances.is_null()),
            // nothing is pruned, so the images are equal to the last bit
            3 => {
                assert!(distances["psnr"].is_null() && distances["latent_l2"] == 0.0, "{distances}");
                assert!((distances["ssim"].as_f64().unwrap() - 1.0).abs() < 1e-12);
            }
            _ => {
                assert!(
                    distances["psnr"].as_f64().unwrap() < 60.0 && distances["ssim"].as_f64().unwrap() < 1.0
                );
                assert!(distances["latent_l2_relative"].as_f64().unwrap() > 0.0);
            }
        }
    }
    let means = table["methods"].as_array().unwrap();
    let mean = |key: &str| {
        (images[1]["distances"][key].as_f64().unwrap() + images[5]["distances"][key].as_f64().unwrap()) / 2.0
    };
    assert!((means[1]["distances"]["psnr"].as_f64().unwrap() - mean("psnr")).abs() < 1e-9);
    assert!(means[2]["mean_tflop"].as_f64().unwrap() < means[0]["mean_tflop"].as_f64().unwrap());
    assert_eq!(means[3]["mean_tflop"], means[0]["mean_tflop"]);
}

#[test]
fn the_pictures_are_those_of_generate() {
    let work = tempfile::tempdir().unwrap();
    let table = table(work.path(), "none,at-edm", &["--seeds", "3,4", "--cell", "64"]);
    let images = table["images"].as_array().unwrap();
    let rows: Vec<(&str, u64)> = images
        .iter()
        .step_by(2)
        .map(|image| (image["prompt"].as_str().unwrap(), image["seed"].as_u64().unwrap()))
        .collect();
    assert_eq!(rows, [("a red fox", 3), ("a red fox", 4), ("an owl", 3), ("an owl", 4)]);
    let sheet = read_png(&work.path().join("sheet.png"));
    let model = tiny().to_str().unwrap();
    let mut args = vec!["generate", "--model", model, "--prompt", "a red fox", "--seed", "4", "--steps", "2"];
    args.extend(["--width", "64", "--height", "64", "--prune", "at-edm", "--output", "o.png", "--quiet"]);
    succeed(work.path(), &args);
    let picture = read_png(&work.path().join("o.png"));
    // with 64 pixels per side, the sheet shows every pixel: each row of the picture is somewhere on it
    let row = &picture.pixels[..64 * 3];
    assert!(sheet.pixels.windows(row.len()).step_by(3).any(|window| window == row));
}

#[test]
fn the_table_is_readable() {
    let work = tempfile::tempdir().unwrap();
    let output = atedm(work.path(), &flags("at-edm", &[]));
    let text = String::from_utf8(output.stdout).unwrap();
    for named in ["method", "PSNR dB", "SSIM", "latent L2", "s a step", "an owl (seed 0)", "MFLOP"] {
        assert!(text.contains(named), "{named} in {text}");
    }
}

#[test]
fn bad_methods_are_named() {
    let work = tempfile::tempdir().unwrap();
    for (methods, named) in [
        ("at-edm:taw=3", "taw: unknown option"),
        ("at-edm,at-edm", "expected each once"),
        ("none", "beside none"),
        ("mine", "mine"),
        ("ratio=0.5", "name first"),
    ] {
        let message = fail(work.path(), &flags(methods, &[]), USAGE);
        assert!(message.contains(named), "{message}");
        assert_eq!(names(work.path()), [""; 0]);
    }
}
