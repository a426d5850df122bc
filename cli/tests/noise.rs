//! Noise in half precision and pictures as a start: compared with diffusers' runs of the same seed, and the program's
//! messages.

#![cfg(feature = "candle")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use atedm_conformance::tolerance::relative_l2;
use common::{fail, names, read_png, replace, succeed, tiny, tiny_copy};
use safetensors::SafeTensors;
use serde_json::Value;

const CIRCLE: &str = "a photo of a red circle on a blue background";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn floats(bytes: &[u8], name: &str) -> Vec<f32> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let data = file.tensor(name).unwrap().data().to_vec();
    data.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// Writes the picture that the golden runs start from.
fn write_picture(path: &Path) {
    let bytes = fs::read(fixtures().join("tiny-a-expected/image_to_image.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let picture = file.tensor("picture").unwrap();
    let [height, width] = [0, 1].map(|axis| picture.shape()[axis] as u32);
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(picture.data()).unwrap();
}

/// Final latents of a run on tiny-a.
fn latents(work: &Path, more: &[&str]) -> Vec<f32> {
    let model = fixtures().join("tiny-a");
    let args = [
        "generate",
        "--model",
        model.to_str().unwrap(),
        "--backend",
        "candle",
        "--prompt",
        CIRCLE,
        "--width",
        "56",
        "--height",
        "40",
        "--output",
        "o.png",
        "--save-latents",
        "l.safetensors",
        "--quiet",
    ];
    succeed(work, &[&args[..], more].concat());
    floats(&fs::read(work.join("l.safetensors")).unwrap(), "latents")
}

/// A seed gives diffusers' result in the same dtype, up to its rounding. This holds from noise and from a picture, for
/// everything that draws noise. Noise of another dtype differs by 1.2.
#[test]
fn seeds_in_half_precision_are_diffusers() {
    let work = tempfile::tempdir().unwrap();
    write_picture(&work.path().join("in.png"));
    let folder = fixtures().join("tiny-a-expected");
    let golden = fs::read(folder.join("half_runs.safetensors")).unwrap();
    for case in json(&folder.join("half_runs.json")).as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap();
        let mut flags =
            vec!["--dtype", text("dtype"), "--scheduler", text("scheduler"), "--seed", "5", "--steps", "4"];
        flags.extend(["--guidance-scale", "1"]);
        if text("start") == "picture" {
            flags.extend(["--init-image", "in.png", "--strength", "0.5"]);
        }
        let expected = floats(&golden, text("name"));
        let distance = relative_l2(&latents(work.path(), &flags), &expected);
        let most = if text("dtype") == "f16" { 0.005 } else { 0.04 };
        println!("{}: relative L2 {distance:.1e}", text("name"));
        assert!(distance < most, "{}: {distance}", text("name"));
        flags.extend(["--rng-dtype", "f32"]);
        let other = relative_l2(&latents(work.path(), &flags), &expected);
        assert!(other > 0.1, "{} with f32 noise: {other}", text("name"));
    }
}

/// The same in f32. `--init-mean` starts from different latents.
#[test]
fn a_picture_is_encoded_as_diffusers_does() {
    let work = tempfile::tempdir().unwrap();
    write_picture(&work.path().join("in.png"));
    let golden = fs::read(fixtures().join("tiny-a-expected/image_to_image.safetensors")).unwrap();
    let flags = [
        "--init-image",
        "in.png",
        "--strength",
        "0.6",
        "--steps",
        "5",
        "--guidance-scale",
        "5",
        "--seed",
        "7",
    ];
    let expected = floats(&golden, "one.final_latents");
    let distance = relative_l2(&latents(work.path(), &flags), &expected);
    assert!(distance < 2e-5, "{distance:e}");
    let mean = relative_l2(&latents(work.path(), &[&flags[..], &["--init-mean"]].concat()), &expected);
    assert!(mean > 0.1, "{mean}");
}

/// A picture of another size is scaled and cut, and the program says so.
#[test]
fn a_picture_of_another_size_is_fitted() {
    let work = tempfile::tempdir().unwrap();
    write_picture(&work.path().join("in.png"));
    let small = ["--model", tiny().to_str().unwrap(), "--prompt", "a fox", "--steps", "2", "--strength", "1"];
    let size = ["--width", "64", "--height", "64", "--init-image", "in.png", "--output", "o.png"];
    let said = succeed(work.path(), &[&["generate"], &small[..], &size].concat());
    assert!(said.contains("in.png: 56 x 40 scaled to 64 x 64 and cut in the middle"), "{said}");
    assert_eq!(read_png(&work.path().join("o.png")).size, (64, 64));
}

/// Only the white part of the mask is painted again. The result is diffusers', from the picture and from noise alone.
#[test]
fn a_part_is_painted_as_diffusers_does() {
    let work = tempfile::tempdir().unwrap();
    write_picture(&work.path().join("in.png"));
    let golden = fs::read(fixtures().join("parts/inpainting.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&golden).unwrap();
    let write_mask = |name: &str, height: u32| {
        let mut encoder = png::Encoder::new(fs::File::create(work.path().join(name)).unwrap(), 56, height);
        encoder.set_color(png::ColorType::Grayscale);
        let rows = &file.tensor("mask").unwrap().data()[..56 * height as usize];
        encoder.write_header().unwrap().write_image_data(rows).unwrap();
    };
    write_mask("mask.png", 40);
    write_mask("low.png", 32);
    let flags = ["--init-image", "in.png", "--steps", "5", "--guidance-scale", "5", "--seed", "11"];
    let masked = [&flags[..], &["--mask-image", "mask.png"]].concat();
    let whole = latents(work.path(), &[&masked[..], &["--strength", "1"]].concat());
    let distance = relative_l2(&whole, &floats(&golden, "4.whole.final_latents"));
    assert!(distance < 2e-5, "{distance:e}");
    let parameters = read_png(&work.path().join("o.png")).chunks[0].1.clone();
    assert!(parameters.contains("Denoising strength: 1, Mask: mask.png, "), "{parameters}");
    let unguided = ["--strength", "0.6", "--guidance-scale", "1", "--scheduler", "ddim"];
    let unguided = latents(
        work.path(),
        &[&masked[..2], &masked[2..4], &unguided, &["--seed", "11", "--mask-image", "mask.png"]].concat(),
    );
    let distance = relative_l2(&unguided, &floats(&golden, "4.unguided.final_latents"));
    assert!(distance < 2e-5, "{distance:e}");

    let model = fixtures().join("tiny-a");
    let args = ["generate", "--model", model.to_str().unwrap(), "--prompt", CIRCLE, "--output", "p.png"];
    let size = ["--width", "56", "--height", "40"];
    let refused = |more: &[&str], code: i32, named: &str| {
        let line = fail(work.path(), &[&args[..], &size, more].concat(), code);
        assert!(line.contains(named), "{line}");
    };
    refused(
        &[&flags[..], &["--mask-image", "low.png"]].concat(),
        1,
        "low.png: expected a mask of the picture's 56 x 40",
    );
    refused(&["--mask-image", "mask.png"], 2, "--init-image");
}

/// With `protect=mask`, every kept set has all tokens that are painted, at each level and step.
#[test]
fn painted_tokens_are_never_pruned() {
    let work = tempfile::tempdir().unwrap();
    write_picture(&work.path().join("in.png"));
    // a bar of 24 x 8 pixels: latents 2 and 3 down, 5 to 10 across
    let white = |x: u32, y: u32| (20..44).contains(&x) && (8..16).contains(&y);
    let grey: Vec<u8> = (0..40 * 56).map(|at| if white(at % 56, at / 56) { 255 } else { 0 }).collect();
    let mut encoder = png::Encoder::new(fs::File::create(work.path().join("mask.png")).unwrap(), 56, 40);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&grey).unwrap();
    let flags = ["--init-image", "in.png", "--steps", "3", "--strength", "1", "--prune", "at-edm"];
    let options = ["--prune-opt", "ratio=0.6,schedule=constant", "--masks-out", "m.safetensors"];
    let kept = |more: &[&str]| {
        latents(work.path(), &[&flags[..], &options, &["--mask-image", "mask.png"], more].concat());
        fs::read(work.path().join("m.safetensors")).unwrap()
    };
    let (free, shielded) = (kept(&[]), kept(&["--prune-opt", "protect=mask"]));
    let (free, shielded) =
        [free.as_slice(), &shielded].map(|bytes| SafeTensors::deserialize(bytes).unwrap()).into();
    let (mut sets, mut changed) = (0, false);
    for (name, tensor) in shielded.tensors().into_iter().filter(|(name, _)| name.ends_with(".kept")) {
        // Grids of 5 x 7 tokens at level 1, of 3 x 4 at level 2.
        let deepest = [".down.2.", ".mid.", ".up.0."].iter().any(|block| name.contains(block));
        let painted: &[u32] = if deepest { &[1, 2] } else { &[9, 10, 11, 12] };
        let width = tensor.data().len() / tensor.shape().iter().product::<usize>();
        let words = tensor.data().chunks_exact(width).map(|word| word[..4].try_into().unwrap());
        let values: Vec<u32> = words.map(u32::from_le_bytes).collect();
        for row in values.chunks(tensor.shape()[1]) {
            assert!(
                painted.iter().all(|token| row.contains(token)),
                "{name}: {row:?} lacks one of {painted:?}"
            );
            sets += 1;
        }
        let other = free.tensor(&name).unwrap();
        assert_eq!(other.shape(), tensor.shape(), "{name}: the counts are the plan's");
        changed |= other.data() != tensor.data();
    }
    assert!(sets > 20 && changed, "{sets} sets");
    let model = fixtures().join("tiny-a");
    let args = ["generate", "--model", model.to_str().unwrap(), "--prompt", CIRCLE, "--output", "p.png"];
    let line =
        fail(work.path(), &[&args[..], &["--prune", "at-edm", "--prune-opt", "protect=mask"]].concat(), 2);
    assert!(line.contains("protect: expected none, as the run paints the whole picture"), "{line}");
}

/// A configuration starts every image from a picture. τ counts and strengths go with each point's own steps.
#[test]
fn a_run_starts_from_a_picture() {
    let work = tempfile::tempdir().unwrap();
    fs::create_dir(work.path().join("pictures")).unwrap();
    write_picture(&work.path().join("pictures/in.png"));
    let model = fixtures().join("tiny-a");
    let table = "width = 56\nheight = 40\nguidance_scale = 5\nsteps = 5\n[prompts]\np = { prompt = \"PROMPT\", seed = 7 }\n\
                 [[grid]]\nmethod = \"at-edm\"\n[[grid]]\nname = \"few\"\nmethod = \"at-edm\"\nsteps = 4\n";
    let table = table.replace("PROMPT", CIRCLE);
    let write =
        |keys: &str| fs::write(work.path().join("pictures/a.toml"), format!("{keys}{table}")).unwrap();
    let ablate =
        ["ablate", "pictures/a.toml", "--model", model.to_str().unwrap(), "--backend", "candle", "--quiet"];
    write("init_image = \"in.png\"\nstrength = 0.6\n");
    succeed(work.path(), &[&ablate[..], &["--output", "run"]].concat());
    let golden = fs::read(fixtures().join("tiny-a-expected/image_to_image.safetensors")).unwrap();
    let latents = fs::read(work.path().join("run/latents/none/p.safetensors")).unwrap();
    let distance = relative_l2(&floats(&latents, "latents"), &floats(&golden, "one.final_latents"));
    assert!(distance < 2e-5, "{distance:e}");
    let lines = fs::read_to_string(work.path().join("run/results.jsonl")).unwrap();
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(records.iter().all(|record| record["settings"]["inputs"]["init_image"].is_string()), "{lines}");
    assert!(records.iter().any(|record| record["settings"]["steps"] == 4), "{lines}");
    // 0.6 of 5 steps are 3, and of 4 steps 2
    let evaluations = |steps: u64| {
        let of = records.iter().find(|record| record["settings"]["steps"] == steps).unwrap();
        of["flops"]["evaluations"].as_u64().unwrap()
    };
    assert_eq!((evaluations(5), evaluations(4)), (3, 2));

    let line = |keys: &str, code: i32| {
        write(keys);
        fail(work.path(), &[&ablate[..], &["--output", "other"]].concat(), code)
    };
    assert!(
        line("init_image = \"in.png\"\nstrength = 0.2\n", 2)
            .contains("strength: expected a share of 4 steps")
    );
    assert!(line("init_image = \"gone.png\"\n", 1).contains("gone.png"));
    assert!(line("mask_image = \"in.png\"\n", 2).contains("mask_image: expected init_image beside it"));
    write("init_image = \"in.png\"\nstrength = 0.6\ninit_mean = true\n");
    let resumed = fail(work.path(), &[&ablate[..], &["--output", "run", "--resume"]].concat(), 1);
    assert!(resumed.contains("is of another run"), "{resumed}");
}

/// A U-Net of nine channels needs a picture and a mask. In other commands it runs as it is.
#[test]
fn an_inpainting_unet_needs_a_mask() {
    let copy = tiny_copy();
    let config = fs::read_to_string(copy.path().join("unet/config.json")).unwrap();
    let config = config.replace("\"in_channels\": 4", "\"in_channels\": 9");
    replace(copy.path(), "unet/config.json", config.as_bytes());
    let file = "unet/diffusion_pytorch_model.safetensors";
    let bytes = fs::read(copy.path().join(file)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let first = tensors.tensor("conv_in.weight").unwrap();
    let mut shape = first.shape().to_vec();
    shape[1] = 9;
    let wide: Vec<u8> = first.data().iter().copied().cycle().take(first.data().len() / 4 * 9).collect();
    let mut all: std::collections::HashMap<String, _> = tensors.tensors().into_iter().collect();
    let view = safetensors::tensor::TensorView::new(first.dtype(), shape, &wide).unwrap();
    all.insert("conv_in.weight".into(), view);
    let written = safetensors::serialize(&all, None).unwrap();
    replace(copy.path(), file, &written);

    let work = tempfile::tempdir().unwrap();
    write_picture(&work.path().join("in.png"));
    let small =
        ["--model", copy.path().to_str().unwrap(), "--prompt", "a fox", "--steps", "2", "--output", "o.png"];
    let small = [&["generate", "--width", "56", "--height", "40"], &small[..]].concat();
    for more in [&[][..], &["--init-image", "in.png", "--strength", "1"]] {
        let line = fail(work.path(), &[&small[..], more].concat(), 2);
        assert!(line.contains("mask-image: expected a picture and a mask"), "{line}");
    }
    assert_eq!(names(work.path()), ["in.png"]);
    succeed(
        work.path(),
        &[&small[..], &["--init-image", "in.png", "--mask-image", "in.png", "--strength", "1"]].concat(),
    );
    let inspect = ["inspect", "--model", copy.path().to_str().unwrap(), "--width", "64", "--height", "64"];
    assert!(common::atedm(work.path(), &inspect).status.success());
}

/// Every command that makes pictures reports its noise.
#[test]
fn the_noise_is_said() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    let small = ["--model", model, "--prompt", "a fox", "--width", "64", "--height", "64", "--steps", "1"];
    for (more, named) in [(&[][..], "f16"), (&["--rng-dtype", "f32"], "f32"), (&["--rng", "chacha"], "f32")] {
        let flags = [&small[..], &["--dtype", "f16"], more].concat();
        succeed(work.path(), &[&["generate", "--output", "o.png"], &flags[..]].concat());
        let chunks = read_png(&work.path().join("o.png")).chunks;
        assert!(chunks.contains(&("atedm:rng_dtype".into(), named.into())), "{named}: {chunks:?}");
        let compare = [&["compare", "--methods", "at-edm", "--output", "s.png"], &flags[..]].concat();
        let output = common::atedm(work.path(), &compare);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!(", drawn in {named}")), "{text}");
        let output = common::atedm(work.path(), &[&compare[..], &["--json"]].concat());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["methods"][1]["settings"]["rng_dtype"], named);
    }
    let table =
        "steps = 1\nwidth = 64\nheight = 64\n[prompts]\nfox = \"a fox\"\n[[grid]]\nmethod = \"at-edm\"\n";
    for (line, named) in [("", "bf16"), ("rng_dtype = \"f32\"\n", "f32")] {
        fs::write(work.path().join("a.toml"), format!("{line}{table}")).unwrap();
        let plan = ["ablate", "a.toml", "--plan", "--model", model, "--dtype", "bf16"];
        let text = String::from_utf8(common::atedm(work.path(), &plan).stdout).unwrap();
        assert!(text.contains(&format!("noise of a seed: torch, drawn in {named}")), "{text}");
        let output = format!("run-{named}");
        succeed(
            work.path(),
            &["ablate", "a.toml", "--output", &output, "--model", model, "--dtype", "bf16", "--quiet"],
        );
        let lines = fs::read_to_string(work.path().join(output).join("results.jsonl")).unwrap();
        let record: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&record["settings"]["rng"], &record["settings"]["rng_dtype"]),
            (&"torch".into(), &named.into())
        );
    }
}

/// A VAE that overflows in f16 gives an error that names it, not a black picture. This holds for every command.
#[test]
fn a_vae_that_overflows_is_an_error() {
    let copy = tiny_copy();
    let config = fs::read_to_string(copy.path().join("vae/config.json")).unwrap();
    let config = config.replace("\"force_upcast\": true", "\"force_upcast\": false");
    replace(copy.path(), "vae/config.json", config.as_bytes());
    let file = "vae/diffusion_pytorch_model.safetensors";
    let mut bytes = fs::read(copy.path().join(file)).unwrap();
    let (place, length, dtype) = {
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor("decoder.conv_in.weight").unwrap();
        let place = tensor.data().as_ptr() as usize - bytes.as_ptr() as usize;
        (place, tensor.data().len(), tensor.dtype())
    };
    assert_eq!(dtype, safetensors::Dtype::F32);
    // 30000 is finite, and so are all other weights
    for value in bytes[place..place + length].chunks_exact_mut(4) {
        value.copy_from_slice(&30_000f32.to_le_bytes());
    }
    replace(copy.path(), file, &bytes);
    let work = tempfile::tempdir().unwrap();
    let model = copy.path().to_str().unwrap();
    let run = |head: &[&str], dtype: &str| {
        let small =
            ["--model", model, "--prompt", "a fox", "--width", "64", "--height", "64", "--steps", "1"];
        let args = [head, &small, &["--backend", "candle", "--dtype", dtype]].concat();
        args.into_iter().map(str::to_string).collect::<Vec<_>>()
    };
    let commands: [&[&str]; 4] = [
        &["generate", "--output", "o.png"],
        &["generate", "--output", "o.png", "--vae-tiling", "32"],
        &["masks", "--output-dir", "m"],
        &["compare", "--methods", "at-edm", "--output", "s.png"],
    ];
    for head in commands {
        let args = run(head, "f16");
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let line = fail(work.path(), &args, 1);
        for word in
            ["vae: AutoencoderKL in f16 gives pixels that are not finite", "force_upcast", "another VAE"]
        {
            assert!(line.contains(word), "{head:?}: {line}");
        }
        assert!(line.len() < 300, "{line}");
        assert_eq!(names(work.path()), [""; 0], "{head:?}");
    }
    let args = run(&["generate", "--output", "o.png"], "f32");
    succeed(work.path(), &args.iter().map(String::as_str).collect::<Vec<_>>());
}

/// A checkpoint of EDM's kind runs without changes, and refuses other samplers.
#[test]
fn edm_checkpoints_run_as_they_are() {
    let copy = tiny_copy();
    let config = r#"{"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5,
        "num_train_timesteps": 1000, "prediction_type": "epsilon", "rho": 7.0, "solver_order": 2}"#;
    replace(copy.path(), "scheduler/scheduler_config.json", config.as_bytes());
    // the index decides the class of a part
    let index = fs::read_to_string(copy.path().join("model_index.json")).unwrap();
    let index = index.replace("EulerDiscreteScheduler", "EDMDPMSolverMultistepScheduler");
    replace(copy.path(), "model_index.json", index.as_bytes());
    let work = tempfile::tempdir().unwrap();
    let model = copy.path().to_str().unwrap();
    let args = [
        "generate", "--model", model, "--prompt", "a fox", "--width", "64", "--height", "64", "--steps", "3",
        "--output", "o.png",
    ];
    for choice in ["euler", "euler-sgm", "dpm++2m", "lcm"] {
        let line = fail(work.path(), &[&args[..], &["--scheduler", choice]].concat(), 2);
        assert!(line.contains("_class_name: expected no --scheduler: "), "{choice}: {line}");
        assert_eq!(names(work.path()), [""; 0]);
    }
    succeed(work.path(), &args);
    assert_eq!(names(work.path()), ["o.png"]);
}
