//! `--model` with a single-file checkpoint, parts from elsewhere, and `atedm convert`.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../sdxl/tests/single_support/mod.rs"]
mod single_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::{atedm, fail, latents, names, read_png, succeed};
use serde_json::Value;
use single_support::{Names, write, write_small};

/// A folder, `folder`, and the same model as one file, `small.safetensors`: written once.
fn models() -> &'static Path {
    static MODELS: OnceLock<PathBuf> = OnceLock::new();
    MODELS.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("single-file");
        if root.exists() {
            fs::remove_dir_all(&root).unwrap();
        }
        write_small(&root.join("folder"));
        write(&root.join("small.safetensors"), &Names::of("sdxl-base").single_file(&root.join("folder")));
        root
    })
}

fn model(name: &str) -> String {
    models().join(name).to_str().unwrap().to_string()
}

/// The picture and the latents that `generate` makes of a model.
fn drawn(model: &str) -> (Vec<u8>, Vec<f32>) {
    drawn_in(tempfile::tempdir().unwrap().path(), model, &[])
}

/// The same with more flags. The picture stays in `work` as `o.png`.
fn drawn_in(work: &Path, model: &str, more: &[&str]) -> (Vec<u8>, Vec<f32>) {
    let args = ["generate", "--model", model, "--prompt", "a red fox", "--steps", "2", "--width", "64"];
    let rest =
        ["--height", "64", "--prune", "at-edm", "--output", "o.png", "--save-latents", "l.safetensors"];
    succeed(work, &[&args[..], &rest, more].concat());
    (read_png(&work.join("o.png")).pixels, latents(&work.join("l.safetensors")).1)
}

fn output(args: &[&str]) -> String {
    let output = atedm(models(), args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_file_is_drawn_like_its_folder_and_so_is_what_it_is_converted_to() {
    let work = tempfile::tempdir().unwrap();
    let file = model("small.safetensors");
    let said = succeed(work.path(), &["convert", &file, "converted"]);
    assert!(said.contains("wrote converted") && said.contains("channels 32/64/64"), "{said}");
    let of_folder = drawn(&model("folder"));
    assert_eq!(drawn(&file), of_folder);
    assert_eq!(drawn(work.path().join("converted").to_str().unwrap()), of_folder);
    let there = names(&work.path().join("converted"));
    let parts = ["scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae"];
    assert_eq!(there, [&["model_index.json"], &parts[..]].concat());
}

#[test]
fn other_commands_take_a_file_too() {
    let shown = output(&["inspect", "--model", "small.safetensors", "--width", "64", "--height", "64"]);
    assert!(shown.contains("checkpoint  small.safetensors"), "{shown}");
    assert!(shown.contains("single file with the original names, SD-XL"), "{shown}");
    let json = |model: &str| -> Value {
        serde_json::from_str(&output(&[
            "flops", "--model", model, "--width", "64", "--height", "64", "--json",
        ]))
        .unwrap()
    };
    assert_eq!(json("small.safetensors")["full"], json("folder")["full"]);
    assert!(json("folder")["full"]["mean_tflop"].as_f64().unwrap() > 0.0);
    let work = tempfile::tempdir().unwrap();
    let grid =
        "steps = 2\nwidth = 64\nheight = 64\n[prompts]\np = \"a fox\"\n[[grid]]\nmethod = \"at-edm\"\n";
    let grid = format!("model = {:?}\n{grid}", model("small.safetensors"));
    fs::write(work.path().join("grid.toml"), grid).unwrap();
    succeed(work.path(), &["ablate", "grid.toml", "--plan"]);
    succeed(work.path(), &["ablate", "grid.toml", "--output", "run", "--quiet"]);
    assert!(work.path().join("run/results.jsonl").is_file());
}

/// A file of `tests/fixtures`.
fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
    path.canonicalize().unwrap().to_str().unwrap().to_string()
}

#[test]
fn loras_change_the_picture_and_its_metadata() {
    let work = tempfile::tempdir().unwrap();
    let (model, lora) = (fixture("tiny-a"), fixture("lora/kohya.safetensors"));
    let draw = |more: &[&str], name: &str| {
        let args = ["generate", "--model", &model, "--prompt", "a cat", "--steps", "2", "--output", name];
        let said = succeed(work.path(), &[&args[..], more].concat());
        let png = read_png(&work.path().join(name));
        let loras = png.chunks.iter().find(|(key, _)| key == "atedm:loras").map(|(_, text)| text.clone());
        (png.pixels, loras, said)
    };
    let (plain, none, _) = draw(&[], "plain.png");
    let (changed, loras, _) = draw(&["--lora", &lora], "changed.png");
    assert_eq!(none, None);
    assert_ne!(changed, plain);
    let loras: Value = serde_json::from_str(&loras.unwrap()).unwrap();
    assert_eq!((&loras[0]["file"], &loras[0]["scale"]), (&"kohya.safetensors".into(), &1.0.into()));
    assert_eq!(loras[0]["hash"].as_str().unwrap().len(), 16);
    let (same, _, _) = draw(&["--lora", &format!("{lora}:0")], "zero.png");
    assert_eq!(same, plain);
    let half = format!("{lora}:0.5");
    let (_, loras, _) = draw(&["--lora", &half, "--lora", &lora, "--lora-clip-scale", "0.25"], "two.png");
    let loras: Value = serde_json::from_str(&loras.unwrap()).unwrap();
    assert_eq!((&loras[0]["scale"], &loras[1]["clip_scale"]), (&0.5.into(), &0.25.into()));
    // a known name whose sampler does not fit
    fs::copy(&lora, work.path().join("lcm-lora.safetensors")).unwrap();
    let (_, _, said) = draw(&["--lora", "lcm-lora.safetensors"], "lcm.png");
    assert!(
        said.contains("warning: lcm-lora.safetensors: a LoRA of LCM expects the scheduler lcm"),
        "{said}"
    );
    let (_, _, said) =
        draw(&["--lora", "lcm-lora.safetensors", "--scheduler", "lcm", "--guidance-scale", "1"], "lcm.png");
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn loras_are_described_and_wrong_ones_named() {
    let (model, lora) = (fixture("tiny-a"), fixture("lora/kohya.safetensors"));
    let shown = output(&["inspect", "--model", &model, "--lora", &lora]);
    let words = "lora            kohya.safetensors: LoRA with kohya's names, ranks 2 to 4, 4 layers of text_encoder, \
                 4 layers of text_encoder_2, 9 layers of unet; scale 1";
    assert!(shown.contains(words), "{shown}");
    let work = tempfile::tempdir().unwrap();
    let line = fail(work.path(), &["inspect", "--model", &lora], 1);
    assert!(line.contains("is a LoRA, which --lora takes: expected a whole SD-XL checkpoint"), "{line}");
    let generate = |lora: &str| {
        ["generate", "--model", &model, "--prompt", "p", "--output", "o.png", "--lora", lora]
            .map(String::from)
    };
    for (lora, code, words) in [
        (format!("{lora}:much"), 2, "expected a number after the colon, got \"much\""),
        (format!("{lora}:inf"), 2, "expected a finite scale, got inf"),
        ("missing.safetensors".into(), 1, "missing.safetensors: No such file"),
        (fixture("tiny-a/unet/diffusion_pytorch_model.safetensors"), 1, "is a lone U-Net: expected a LoRA"),
        (model.clone(), 1, "is a folder: expected one safetensors file"),
    ] {
        let args = generate(&lora);
        let line = fail(work.path(), &args.each_ref().map(String::as_str), code);
        assert!(line.contains(words), "{line}");
    }
    assert!(names(work.path()).is_empty());
}

#[test]
fn a_resumed_ablation_does_not_mix_loras() {
    let work = tempfile::tempdir().unwrap();
    let (model, lora) = (fixture("tiny-a"), fixture("lora/kohya.safetensors"));
    let grid = |lora: &str| {
        let text = "steps = 2\n[prompts]\np = \"a cat\"\n[[grid]]\nmethod = \"none\"\n";
        fs::write(work.path().join("grid.toml"), format!("model = {model:?}\nloras = [{lora:?}]\n{text}"))
            .unwrap();
    };
    let ablate = ["ablate", "grid.toml", "--output", "run", "--quiet", "--resume"];
    grid(&lora);
    succeed(work.path(), &ablate);
    let line: Value =
        serde_json::from_str(&fs::read_to_string(work.path().join("run/results.jsonl")).unwrap()).unwrap();
    assert_eq!(line["settings"]["loras"][0]["file"], "kohya.safetensors");
    let images = fs::read_to_string(work.path().join("run/results.jsonl")).unwrap();
    succeed(work.path(), &ablate);
    assert_eq!(fs::read_to_string(work.path().join("run/results.jsonl")).unwrap(), images);
    for other in [format!("{lora}:0.5"), fixture("lora/peft.safetensors")] {
        grid(&other);
        let line = fail(work.path(), &ablate, 1);
        assert!(line.contains("run.json: is of another run"), "{line}");
    }
}

#[test]
fn what_cannot_be_converted_is_named() {
    let work = tempfile::tempdir().unwrap();
    let line = fail(work.path(), &["convert", &model("folder"), "out"], 1);
    assert!(line.contains("expected a single safetensors file, got a folder"), "{line}");
    let vae = model("folder/vae/diffusion_pytorch_model.safetensors");
    let line = fail(work.path(), &["convert", &vae, "out"], 1);
    assert!(line.contains("is a lone autoencoder: expected a whole SD-XL checkpoint"), "{line}");
    let line = fail(work.path(), &["convert", "missing.safetensors", "out"], 1);
    assert!(line.contains("missing.safetensors"), "{line}");
    fs::create_dir(work.path().join("full")).unwrap();
    fs::write(work.path().join("full/mine"), "").unwrap();
    let line = fail(work.path(), &["convert", &model("small.safetensors"), "full"], 1);
    assert!(line.contains("expected a new or an empty folder"), "{line}");
    assert_eq!(names(work.path()), ["full"]);
}

/// The picture is another, the latents are the same. The picture's metadata name the autoencoder.
#[test]
fn another_autoencoder_is_used_and_named() {
    let work = tempfile::tempdir().unwrap();
    let vae = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-b/vae");
    let vae = vae.to_str().unwrap();
    let (own, latents) = drawn(&model("folder"));
    let (picture, same) = drawn_in(work.path(), &model("folder"), &["--vae", vae]);
    assert!(picture != own && same == latents);
    let parameters = read_png(&work.path().join("o.png")).chunks[0].1.clone();
    assert!(parameters.contains("Model: folder, VAE: vae, RNG: torch"), "{parameters}");
    let shown = output(&["inspect", "--model", "folder", "--vae", vae, "--width", "64", "--height", "64"]);
    assert!(shown.contains("; from vae"), "{shown}");
    let line = fail(work.path(), &["generate", "--vae", "gone", "--prompt", "a fox", "--output", "p.png"], 1);
    assert!(line.contains("gone"), "{line}");
    let line = fail(work.path(), &["flops", "--vae", vae], 2);
    assert!(line.contains("--model: expected a checkpoint"), "{line}");
}

/// The key of a configuration does the same as the flag. A run with another autoencoder is another run.
#[test]
fn a_configuration_names_parts_and_its_run_remembers_them() {
    let work = tempfile::tempdir().unwrap();
    let vae = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-b/vae");
    let vae = vae.to_str().unwrap();
    let rest = "steps = 1\nwidth = 64\nheight = 64\ndistances = false\n[prompts]\np = \"a fox\"\n[[grid]]\nmethod = \"none\"\n";
    let plain = format!("model = {:?}\n{rest}", model("folder"));
    fs::write(work.path().join("plain.toml"), &plain).unwrap();
    fs::write(work.path().join("grid.toml"), format!("vae = {vae:?}\n{plain}")).unwrap();
    let record = |run: &str| -> Value {
        let lines = fs::read_to_string(work.path().join(run).join("results.jsonl")).unwrap();
        serde_json::from_str(lines.lines().next().unwrap()).unwrap()
    };
    succeed(work.path(), &["ablate", "grid.toml", "--output", "key", "--quiet"]);
    succeed(work.path(), &["ablate", "plain.toml", "--vae", vae, "--output", "flag", "--quiet"]);
    succeed(work.path(), &["ablate", "plain.toml", "--output", "own", "--quiet"]);
    assert_eq!(record("key")["settings"]["parts"]["vae"], "vae");
    assert_eq!(record("own")["settings"].get("parts"), None);
    assert_eq!(record("key")["config_hash"], record("flag")["config_hash"]);
    assert_ne!(record("key")["config_hash"], record("own")["config_hash"]);
    let checkpoint = |run: &str| record(run)["settings"]["inputs"]["checkpoint"].clone();
    assert_ne!(checkpoint("key"), checkpoint("own"));
    let line = fail(work.path(), &["ablate", "plain.toml", "--vae", vae, "--output", "own", "--resume"], 1);
    assert!(line.contains("own"), "{line}");
    fs::write(work.path().join("bad.toml"), format!("variant = \"int4\"\n{plain}")).unwrap();
    let line = fail(work.path(), &["ablate", "bad.toml", "--output", "bad"], 1);
    assert!(line.contains("int4"), "{line}");
}
