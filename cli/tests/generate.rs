//! The program end to end on a tiny checkpoint with random weights: images, latents, masks, metadata, drawings.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::Path;

use atedm_conformance::tolerance::relative_l2;
use atedm_core::DType;
use atedm_core::reference::NdTensor;
use atedm_sdxl::rng::RngKind;
use atedm_sdxl::schedulers::SamplerRegistry;
use common::{Png, atedm, latents, names, read_png, succeed, tiny};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// The backends of this build.
const BACKENDS: &[&str] = &[
    "ndarray",
    #[cfg(feature = "candle")]
    "candle",
];

/// Tolerance for f32 on two engines, which sum in different orders over a few steps.
const TOLERANCE: f64 = 1e-4;

/// `generate` in `work` with a prompt, 3 steps at 128 × 128 pixels, and these flags.
fn generate(work: &Path, more: &[&str]) -> String {
    let model = tiny().to_str().unwrap();
    let mut args = vec!["generate", "--model", model];
    let defaults = [
        ["--prompt", "a red fox"],
        ["--width", "128"],
        ["--height", "128"],
        ["--steps", "3"],
        ["--output", "out.png"],
    ];
    for pair in defaults.iter().filter(|pair| !more.contains(&pair[0])) {
        args.extend(pair);
    }
    args.extend(more);
    succeed(work, &args)
}

/// The final latents of a run with these flags.
fn final_latents(more: &[&str]) -> Vec<f32> {
    let work = tempfile::tempdir().unwrap();
    generate(work.path(), &[&["--save-latents", "l.safetensors", "--quiet"], more].concat());
    assert_eq!(names(work.path()), ["l.safetensors", "out.png"]);
    latents(&work.path().join("l.safetensors")).1
}

fn write_latents(path: &Path, shape: &[usize], values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).unwrap();
    fs::write(path, safetensors::serialize([("latents", view)], None).unwrap()).unwrap();
}

#[test]
fn backends_agree_and_pruning_matters() {
    let plain: Vec<Vec<f32>> = BACKENDS.iter().map(|name| final_latents(&["--backend", name])).collect();
    for other in &plain[1..] {
        let distance = relative_l2(other, &plain[0]);
        assert!(distance < TOLERANCE, "{distance}");
    }
    for (name, plain) in BACKENDS.iter().zip(&plain) {
        let pruned = final_latents(&["--backend", name, "--prune", "at-edm"]);
        let distance = relative_l2(&pruned, plain);
        assert!(distance > 1e-3 && distance < 1.0, "{name}: {distance}");
        let barely = final_latents(&["--backend", name, "--prune", "at-edm", "--prune-opt", "ratio=0"]);
        assert_eq!(&barely, plain, "{name}: ratio 0 is the identity");
    }
}

#[test]
fn double_precision_stays_close() {
    let single = final_latents(&["--backend", "ndarray"]);
    let double = final_latents(&["--backend", "ndarray", "--dtype", "f64", "--rng-dtype", "f32"]);
    let distance = relative_l2(&single, &double);
    assert!(distance < TOLERANCE && distance > 0.0, "{distance}");
}

#[cfg(feature = "candle")]
#[test]
fn half_precision_runs() {
    // Without guidance, because it would multiply the rounding by its scale.
    let flags = ["--backend", "candle", "--guidance-scale", "1", "--rng-dtype", "f32"];
    let single = final_latents(&flags);
    // A few times the dtype's own rounding, 2⁻¹¹ and 2⁻⁸.
    for (dtype, most) in [("f16", 0.01), ("bf16", 0.05)] {
        let half = final_latents(&[&flags[..], &["--dtype", dtype]].concat());
        let distance = relative_l2(&half, &single);
        assert!(distance > 0.0 && distance < most, "{dtype}: {distance}");
    }
}

#[test]
fn a_seed_decides_the_image() {
    for name in BACKENDS {
        let run = |seed: &str, threads: &str| {
            let work = tempfile::tempdir().unwrap();
            let flags = [
                "--backend",
                name,
                "--seed",
                seed,
                "--threads",
                threads,
                "--prune",
                "at-edm",
                "--deterministic",
            ];
            generate(work.path(), &flags);
            fs::read(work.path().join("out.png")).unwrap()
        };
        assert_eq!(run("7", "2"), run("7", "2"), "{name}");
        assert_eq!(run("7", "2"), run("7", "1"), "{name}: no sum is cut by the number of threads");
        assert_ne!(run("7", "2"), run("8", "2"), "{name}");
    }
}

#[test]
fn masks_replay_to_the_same_latents() {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("m.safetensors");
    let masks = file.to_str().unwrap();
    // Similarity copy makes a second discrete choice that masks do not hold. So backends are compared with another
    // recovery.
    for (recovery, between) in [("similarity", false), ("direct", true)] {
        let options = format!("prune_layers=0+1,ratio=0.4,recovery={recovery}");
        let run = |backend: &str, more: [&str; 2]| {
            let flags = ["--backend", backend, "--prune", "at-edm", "--prune-opt", &options];
            final_latents_with(&[&flags[..], &more].concat())
        };
        for name in BACKENDS {
            let scored = run(name, ["--masks-out", masks]);
            assert_eq!(run(name, ["--masks-in", masks]), scored, "{name}, {recovery}");
            for other in BACKENDS.iter().filter(|other| between && *other != name) {
                let distance = relative_l2(&run(other, ["--masks-in", masks]), &scored);
                assert!(distance < TOLERANCE, "{name} on {other}: {distance}");
            }
        }
    }
}

/// Like [`final_latents`], for runs that write more files elsewhere.
fn final_latents_with(more: &[&str]) -> Vec<f32> {
    let work = tempfile::tempdir().unwrap();
    generate(work.path(), &[&["--save-latents", "l.safetensors", "--quiet"], more].concat());
    latents(&work.path().join("l.safetensors")).1
}

#[test]
fn mask_files_hold_what_is_documented() {
    let work = tempfile::tempdir().unwrap();
    generate(
        work.path(),
        &["--prune", "at-edm", "--prune-opt", "tau=1,ratio=0.5", "--masks-out", "m.safetensors"],
    );
    let bytes = fs::read(work.path().join("m.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    // The last up block at level 1 is spared only in the first step. Blocks of 64 tokens keep 32.
    assert!(file.tensor("step.0.up.1.2.layer.0.kept").is_err());
    let kept = file.tensor("step.1.up.1.2.layer.0.kept").unwrap();
    assert_eq!((kept.dtype(), kept.shape()), (Dtype::I64, &[2, 32][..]));
    let scores = file.tensor("step.1.up.1.2.layer.0.scores").unwrap();
    assert_eq!((scores.dtype(), scores.shape()), (Dtype::F32, &[2, 64][..]));
    let site = file.tensor("step.1.up.1.2.layer.0.site").unwrap();
    let numbers: Vec<i64> =
        site.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(numbers, [64, 8, 8, 1]);
    // The kept positions are the highest scores.
    let scores: Vec<f32> =
        scores.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let kept: Vec<i64> =
        kept.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
    let least = kept[..32].iter().map(|&i| scores[i as usize]).fold(f32::INFINITY, f32::min);
    assert_eq!(scores[..64].iter().filter(|&&score| score >= least).count(), 32);
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    assert_eq!(metadata["method"], "at-edm");
    assert!(metadata["options"].contains("\"ratio\":0.5"));
}

#[test]
fn given_latents_take_the_place_of_the_seed() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("noise.safetensors");
    let file = path.to_str().unwrap();
    let shape = [1, 4, 16, 16];
    for (rng, kind) in [("torch", RngKind::Torch), ("chacha", RngKind::ChaCha)] {
        let noise = kind.source(5, 1, DType::F32).standard_normal(&shape).unwrap();
        write_latents(&path, &shape, &noise);
        let drawn = final_latents(&["--seed", "5", "--rng", rng]);
        assert_eq!(final_latents(&["--seed", "6", "--latents", file]), drawn, "{rng}");
        assert_ne!(final_latents(&["--seed", "6", "--rng", rng]), drawn, "{rng}");
    }
}

/// Noise is drawn in the run's dtype as torch does, unless another dtype is chosen.
#[cfg(feature = "candle")]
#[test]
fn noise_is_drawn_in_the_dtype_of_the_run() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("noise.safetensors");
    let file = path.to_str().unwrap();
    let shape = [1, 4, 16, 16];
    for (dtype, own) in [("f16", DType::F16), ("bf16", DType::BF16)] {
        let mut drawn = Vec::new();
        for (asked, noise) in [(None, own), (Some("f32"), DType::F32), (Some("bf16"), DType::BF16)] {
            write_latents(
                &path,
                &shape,
                &RngKind::Torch.source(5, 1, noise).standard_normal(&shape).unwrap(),
            );
            let more = asked.map_or(vec![], |asked| vec!["--rng-dtype", asked]);
            let values = final_latents(&[&["--dtype", dtype, "--seed", "5"], more.as_slice()].concat());
            let given = final_latents(&["--dtype", dtype, "--seed", "6", "--latents", file]);
            assert_eq!(values, given, "{dtype} {asked:?}");
            drawn.push(values);
        }
        assert_ne!(drawn[0], drawn[1], "{dtype}");
    }
    let chacha = |dtype: &str| final_latents(&["--rng", "chacha", "--dtype", dtype, "--guidance-scale", "1"]);
    let distance = relative_l2(&chacha("bf16"), &chacha("f32"));
    assert!(distance < 0.05, "{distance}");
}

#[test]
fn several_prompts_are_one_batch() {
    let work = tempfile::tempdir().unwrap();
    let flags = [
        "--prompt",
        "a red fox",
        "--prompt",
        "a blue house",
        "--rng",
        "chacha",
        "--save-latents",
        "l.safetensors",
    ];
    let said = generate(work.path(), &flags);
    assert_eq!(names(work.path()), ["l.safetensors", "out-0.png", "out-1.png"]);
    assert!(said.contains("out-0.png, out-1.png"), "{said}");
    let (shape, values) = latents(&work.path().join("l.safetensors"));
    assert_eq!(shape, [2, 4, 16, 16]);
    // With `chacha`, image 0 of a batch equals the image alone.
    let alone = final_latents(&["--prompt", "a red fox", "--rng", "chacha"]);
    assert!(relative_l2(&values[..alone.len()], &alone) < TOLERANCE);
    let prompt =
        |name: &str| read_png(&work.path().join(name)).chunks[0].1.lines().next().unwrap().to_string();
    assert_eq!([prompt("out-0.png"), prompt("out-1.png")], ["a red fox", "a blue house"]);
}

#[test]
fn pictures_say_how_they_were_made() {
    let work = tempfile::tempdir().unwrap();
    let flags = [
        "--prompt",
        "狐, in the snow",
        "--negative-prompt",
        "blurry",
        "--seed",
        "3",
        "--prune",
        "at-edm",
        "--prune-opt",
        "ratio=0.5,tau=1",
        "--width",
        "64",
        "--guidance-scale",
        "5.5",
    ];
    generate(work.path(), &flags);
    let Png { size, chunks, .. } = read_png(&work.path().join("out.png"));
    assert_eq!(size, (64, 128));
    let of =
        |key: &str| &chunks.iter().find(|(found, _)| found == key).unwrap_or_else(|| panic!("no {key}")).1;
    let lines: Vec<&str> = of("parameters").lines().collect();
    assert_eq!(lines[..2], ["狐, in the snow", "Negative prompt: blurry"]);
    for pair in [
        "Steps: 3",
        "Sampler: EulerDiscreteScheduler",
        "CFG scale: 5.5",
        "Seed: 3",
        "Size: 64x128",
        "Token pruning: at-edm",
    ] {
        assert!(lines[2].contains(pair), "{pair} in {}", lines[2]);
    }
    assert_eq!(of("atedm:method"), "at-edm");
    let options: serde_json::Value = serde_json::from_str(of("atedm:options")).unwrap();
    assert_eq!((&options["ratio"], &options["tau"]), (&0.5.into(), &1.into()));
    let flops: serde_json::Value = serde_json::from_str(of("atedm:flops")).unwrap();
    assert!(flops["mean_per_step"].as_f64() < flops["unpruned"].as_f64());
    generate(work.path(), &["--no-metadata"]);
    assert_eq!(read_png(&work.path().join("out.png")).chunks, []);
}

#[test]
fn options_from_a_file_and_from_flags_are_the_same() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("p.toml");
    fs::write(&path, "method = \"at-edm\"\nratio = 0.9\nprune_point = \"before_ff\"\ntau = 1\n").unwrap();
    let file = path.to_str().unwrap();
    let flags = final_latents(&[
        "--prune",
        "at-edm",
        "--prune-opt",
        "ratio=0.5,prune_point=before_ff",
        "--prune-opt",
        "tau=1",
    ]);
    assert_eq!(final_latents(&["--prune-config", file, "--prune-opt", "ratio=0.5"]), flags);
    assert_ne!(final_latents(&["--prune-config", file]), flags);
}

#[test]
fn every_sampler_makes_an_image() {
    let mut seen: Vec<Vec<f32>> = Vec::new();
    // the U-Net was trained over betas, not over EDM's levels
    for name in SamplerRegistry::<NdTensor>::with_builtins().plain_names() {
        if name.starts_with("edm-") {
            continue;
        }
        let values = final_latents(&["--scheduler", name]);
        assert!(values.iter().all(|value| value.is_finite()), "{name}");
        assert!(!seen.contains(&values), "{name} gives what another one gives");
        seen.push(values);
    }
}

#[test]
fn guidance_off_and_sizes_of_the_checkpoint() {
    assert_ne!(final_latents(&["--guidance-scale", "1"]), final_latents(&[]));
    let work = tempfile::tempdir().unwrap();
    let args = [
        "generate",
        "--model",
        tiny().to_str().unwrap(),
        "--prompt",
        "a fox",
        "--steps",
        "1",
        "-o",
        "out.png",
    ];
    succeed(work.path(), &args);
    assert_eq!(read_png(&work.path().join("out.png")).size, (256, 256));
    // 72 pixels are 9 latents, so the U-Net halves an odd size.
    generate(work.path(), &["--width", "72", "--height", "40", "--prune", "at-edm"]);
    assert_eq!(read_png(&work.path().join("out.png")).size, (72, 40));
}

#[test]
fn quiet_says_nothing() {
    let work = tempfile::tempdir().unwrap();
    assert_eq!(generate(work.path(), &["--quiet"]), "");
    let said = generate(work.path(), &[]);
    assert!(said.contains("out.png") && said.contains("s a step") && said.contains("FLOP"), "{said}");
}

#[test]
fn a_run_costs_what_inspect_says() {
    let work = tempfile::tempdir().unwrap();
    let size = [
        "--width",
        "128",
        "--height",
        "128",
        "--steps",
        "3",
        "--prune",
        "at-edm",
        "--prune-opt",
        "prune_point=before_ff",
    ];
    generate(work.path(), &size[6..]);
    let chunks = read_png(&work.path().join("out.png")).chunks;
    let flops = &chunks.iter().find(|(key, _)| key == "atedm:flops").unwrap().1;
    let flops: serde_json::Value = serde_json::from_str(flops).unwrap();
    let args = [&["inspect", "--model", tiny().to_str().unwrap(), "--json"], &size[..]].concat();
    let json: serde_json::Value = serde_json::from_slice(&atedm(work.path(), &args).stdout).unwrap();
    let (ran, said) = (flops["mean_per_step"].as_f64().unwrap(), json["mean_tflop"].as_f64().unwrap() * 1e12);
    assert!((ran - said).abs() < 1e-9 * said, "{ran} and {said}");
}

/// Weights in a plain prompt are text, and one line says so. A syntax reads them, and cuts no prompt off.
#[test]
fn prompts_are_read_in_a_syntax() {
    let work = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        let told = generate(work.path(), &[&["--save-latents", "l.safetensors"], more].concat());
        (told, latents(&work.path().join("l.safetensors")).1)
    };
    let weighted = ["--prompt", "a (red:1.4) fox", "--prompt", "a (blue:1.4) fox"];
    let (told, plain) = run(&weighted);
    let warning = "--prompt-syntax: the weights in \"a (red:1.4) fox\" are read as text; a1111 would read them as weights";
    assert_eq!((told.matches("weights in").count(), told.contains(warning)), (1, true), "{told}");
    let (told, read) = run(&[&weighted[..], &["--prompt-syntax", "a1111"]].concat());
    assert!(!told.contains("warning") && relative_l2(&read, &plain) > 1e-3, "{told}");
    let long = "a red fox, ".repeat(30);
    let (told, whole) = run(&["--prompt", &long, "--prompt-syntax", "compel", "--clip-skip", "1"]);
    assert!(!told.contains("cut off"), "{told}");
    let (told, cut) = run(&["--prompt", &long]);
    assert!(told.contains("cut off") && relative_l2(&whole, &cut) > 1e-3, "{told}");
}

/// The settings of prompts enter the metadata, and those of an ablation's images.
#[test]
fn prompt_settings_are_recorded() {
    let work = tempfile::tempdir().unwrap();
    generate(work.path(), &["--prompt-syntax", "a1111", "--clip-skip", "1", "--quiet"]);
    let Png { chunks, .. } = read_png(&work.path().join("out.png"));
    let of = |key: &str| chunks.iter().find(|chunk| chunk.0 == key).map(|chunk| chunk.1.clone()).unwrap();
    assert_eq!((of("atedm:prompt_syntax"), of("atedm:clip_skip")), ("a1111".into(), "1".into()));
    assert!(of("parameters").contains("Clip skip: 3, "), "{}", of("parameters"));

    let config = "steps = 1\nwidth = 64\nheight = 64\ndistances = false\nprompt_syntax = \"compel\"\n\
        [prompts]\nfox = \"a red++ fox\"\n[[grid]]\nmethod = \"none\"\n\
        each = { clip_skip = [0, 1], prompt_syntax = [\"none\", \"compel\"] }\n";
    fs::write(work.path().join("run.toml"), config).unwrap();
    let model = tiny().to_str().unwrap();
    succeed(work.path(), &["ablate", "run.toml", "--model", model, "--output", "run", "--quiet"]);
    let lines = fs::read_to_string(work.path().join("run/results.jsonl")).unwrap();
    let mut found: Vec<(String, u64)> = Vec::new();
    for line in lines.lines() {
        let settings = serde_json::from_str::<serde_json::Value>(line).unwrap()["settings"].clone();
        let syntax = settings["prompt_syntax"].as_str().unwrap_or("none").to_string();
        found.push((syntax, settings["clip_skip"].as_u64().unwrap_or(0)));
    }
    found.sort();
    let pairs = [("compel", 0), ("compel", 1), ("none", 0), ("none", 1)];
    assert_eq!(found, pairs.map(|(syntax, skip)| (syntax.to_string(), skip)));
}

/// A word of a textual inversion is known to all commands, and records name it.
#[test]
fn embeddings_are_words() {
    let work = tempfile::tempdir().unwrap();
    let values: Vec<u8> = (0..64).flat_map(|i| (i as f32).sin().to_le_bytes()).collect();
    let view = || TensorView::new(Dtype::F32, vec![2, 32], &values).unwrap();
    let bytes = safetensors::serialize([("clip_l", view()), ("clip_g", view())], None).unwrap();
    fs::write(work.path().join("fox.safetensors"), bytes).unwrap();
    let run = |more: &[&str]| {
        let told = generate(work.path(), &[&["--save-latents", "l.safetensors"], more].concat());
        assert!(!told.contains("warning"), "{told}");
        latents(&work.path().join("l.safetensors")).1
    };
    let flag = ["--embedding", "fox.safetensors:<toy>", "--prompt", "a <toy> in the snow"];
    let (with, without) = (run(&flag), run(&flag[2..]));
    assert!(relative_l2(&with, &without) > 1e-3);
    run(&flag);
    let Png { chunks, .. } = read_png(&work.path().join("out.png"));
    let named =
        chunks.iter().find(|chunk| chunk.0 == "atedm:embeddings").map(|chunk| chunk.1.clone()).unwrap();
    assert!(named.starts_with("{\"<toy>\":\""), "{named}");

    let model = tiny().to_str().unwrap();
    let shown = atedm(work.path(), &["inspect", "--model", model, flag[0], flag[1]]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("embeddings      \"<toy>\" (2 tokens)"), "{shown}");
    let config = "steps = 1\nwidth = 64\nheight = 64\ndistances = false\nembeddings = [\"fox.safetensors:a\"]\n\
        [prompts]\na = \"a fox\"\n[[grid]]\nmethod = \"none\"\n";
    fs::write(work.path().join("run.toml"), config).unwrap();
    let ablate = |more: &[&str]| {
        let args = ["ablate", "run.toml", "--model", model, "--output", "run", "--quiet", "--resume"];
        atedm(work.path(), &[&args[..], more].concat())
    };
    let refused = String::from_utf8(ablate(&[]).stderr).unwrap();
    assert!(refused.contains("expected another word: the tokenizer has a token \"a\""), "{refused}");
    assert!(ablate(&flag[..2]).status.success());
    assert!(ablate(&flag[..2]).status.success());
    // The same folder with other words is another run.
    let other = ablate(&["--embedding", "fox.safetensors:<other>"]);
    assert!(!other.status.success(), "{}", String::from_utf8_lossy(&other.stderr));
}
