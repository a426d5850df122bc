//! Bad input gives one line that names the file or field and what was expected. The exit code is 2 (usage,
//! configuration) or 1 (files, run). No files are left behind.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{atedm, fail, names, replace, succeed, tiny, tiny_copy};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

const USAGE: i32 = 2;
const RUN: i32 = 1;

/// Flags of a small, quick run without `--model`, `--output` and `--prompt`.
const SMALL: [&str; 6] = ["--width", "64", "--height", "64", "--steps", "2"];

/// `generate` on `model` with a prompt, an output and these flags (later ones win) must fail. Returns the line.
fn refused(model: &Path, more: &[&str], code: i32, named: &[&str]) {
    let work = tempfile::tempdir().unwrap();
    let model = model.to_str().unwrap();
    let mut args = vec!["generate", "--model", model, "--prompt", "a fox", "--output", "out.png"];
    for pair in SMALL.chunks(2).filter(|pair| !more.contains(&pair[0])) {
        args.extend(pair);
    }
    args.extend(more);
    let line = fail(work.path(), &args, code);
    for word in named {
        assert!(line.contains(word), "{more:?}: expected {word:?} in: {line}");
    }
    assert_eq!(names(work.path()), [""; 0], "{more:?} left files behind");
}

#[test]
fn values_out_of_range() {
    for (flags, named) in [
        (&["--steps", "0"][..], &["--steps", "at least 1"][..]),
        (&["--guidance-scale", "NaN"], &["--guidance-scale", "finite"]),
        (&["--guidance-scale", "inf"], &["--guidance-scale", "finite"]),
        (&["--seed", "-1"], &["--seed", "0"]),
        (&["--width", "0"], &["--width", "at least 1"]),
        (&["--height", "0"], &["--height", "at least 1"]),
        (&["--width", "65"], &["width", "65"]),
        (&["--height", "100"], &["height", "100"]),
        (&["--threads", "0"], &["--threads", "at least 1"]),
        (&["--steps", "1001"], &["steps", "1000"]),
    ] {
        refused(tiny(), flags, USAGE, named);
    }
}

#[test]
fn unknown_names() {
    for (flags, named) in [
        (
            &["--scheduler", "eular"][..],
            &["--scheduler", "eular", "euler-sgm", "dpm++2m", "heun", "-karras"][..],
        ),
        (&["--guidance-rescale", "1.5"], &["--guidance-rescale", "a number from 0 to 1"]),
        (&["--backend", "tensorflow"], &["--backend", "tensorflow", "ndarray"]),
        (&["--device", "gpu"], &["--device", "gpu", "cuda:N"]),
        (&["--device", "cuda:x"], &["--device", "cuda:x"]),
        (&["--dtype", "f8"], &["--dtype", "f8", "bf16"]),
        (&["--rng", "dice"], &["--rng", "dice", "chacha"]),
        (&["--rng-dtype", "f8"], &["--rng-dtype", "f8", "bf16"]),
        (&["--rng", "chacha", "--rng-dtype", "f16"], &["--rng-dtype", "expected f32", "chacha"]),
        (&["--scheduler", "euler-edm"], &["--scheduler", "expected euler-sgm"]),
        (&["--init-mean"], &["--init-image"]),
        (&["--prune", "at-edn"], &["at-edn", "at-edm-dagger"]),
        (&["--prune", "at-edm", "--prune-opt", "ration=0.5"], &["ration", "ratio"]),
        (&["--prune", "none", "--prune-opt", "ratio=0.5"], &["ratio"]),
        (&["--prune", "at-edm", "--prune-opt", "recovery=magic"], &["recovery", "magic", "similarity"]),
        (&["--prune", "at-edm", "--prune-opt", "schedule=never"], &["schedule", "never", "prune-less"]),
        (&["--prune", "at-edm", "--prune-opt", "prune_point=later"], &["prune_point", "later", "before_ff"]),
        (&["--colour", "red"], &["--colour"]),
    ] {
        refused(tiny(), flags, USAGE, named);
    }
}

#[test]
fn devices_that_are_not_there() {
    refused(
        tiny(),
        &["--backend", "ndarray", "--device", "cuda:0"],
        USAGE,
        &["--device", "ndarray", "cuda:0"],
    );
    refused(tiny(), &["--backend", "ndarray", "--dtype", "bf16"], USAGE, &["--dtype", "ndarray", "bf16"]);
    refused(tiny(), &["--device", "metal", "--deterministic"], USAGE, &["--deterministic", "metal"]);
    #[cfg(all(feature = "candle", not(feature = "cuda")))]
    refused(tiny(), &["--device", "cuda:0"], USAGE, &["--device", "cuda"]);
}

#[test]
fn levels_of_the_cpu_kernels_that_do_not_exist() {
    let work = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_atedm"));
    command.args(["generate", "--prompt", "a fox", "--output", "out.png"]).current_dir(work.path());
    let output = command.env("ATEDM_CPU", "avx3").output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(USAGE), "{line}");
    assert!(line.contains("ATEDM_CPU") && line.contains("avx512-bf16") && line.contains("avx3"), "{line}");
}

#[test]
fn pruning_options_out_of_range() {
    for (option, named) in [
        ("ratio=1", &["ratio"][..]),
        ("ratio=1.5", &["ratio", "1.5"]),
        ("ratio=-0.1", &["ratio", "-0.1"]),
        ("ratio=NaN", &["ratio", "NaN"]),
        ("ratio=inf", &["ratio"]),
        ("ratio=much", &["ratio"]),
        ("tau=3", &["tau", "3"]),
        ("tau=101%", &["tau"]),
        ("max_iterations=0", &["max_iterations"]),
        ("epsilon=-1", &["epsilon"]),
        ("keep_multiple=0", &["keep_multiple"]),
        ("budget_tflops=0.000001", &["budget_tflops", "at least"]),
        ("budget_tflops=-4", &["budget_tflops"]),
        ("ratio", &["--prune-opt", "key=value"]),
        ("ratio=", &["ratio"]),
        ("ratio=0.1,ratio=0.2", &["ratio", "twice"]),
    ] {
        refused(tiny(), &["--prune", "at-edm", "--prune-opt", option], USAGE, named);
    }
}

#[test]
fn pruning_files() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("prune.toml");
    let file = path.to_str().unwrap();
    for (content, named) in [
        ("method = \"at-edm\"\nratio = \n", &["prune.toml", "line 2"][..]),
        ("method = \"at-edm\"\nration = 0.5\n", &["ration"]),
        ("method = \"at-edm\"\nratio = nan\n", &["prune.toml", "ratio", "finite"]),
        ("method = 3\n", &["prune.toml", "method"]),
        ("ratio = 0.5\n", &["prune.toml", "method"]),
        ("method = \"at-edn\"\n", &["at-edn", "at-edm"]),
    ] {
        fs::write(&path, content).unwrap();
        refused(tiny(), &["--prune-config", file], USAGE, named);
    }
    refused(tiny(), &["--prune-config", "missing.toml"], RUN, &["missing.toml"]);
}

#[test]
fn missing_arguments() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    let line = fail(work.path(), &["generate", "--model", model, "--output", "o.png"], USAGE);
    assert!(line.contains("--prompt"), "{line}");
    let line = fail(work.path(), &["generate", "--prompt", "a fox", "--model", model], USAGE);
    assert!(line.contains("--output"), "{line}");
    let line = fail(work.path(), &["make"], USAGE);
    assert!(line.contains("make"), "{line}");
    let line = fail(work.path(), &[], USAGE);
    assert!(line.contains("generate") && line.contains("init-tiny"), "{line}");
}

#[test]
fn outputs_that_cannot_be_written() {
    let work = tempfile::tempdir().unwrap();
    fs::write(work.path().join("file"), "").unwrap();
    fs::create_dir(work.path().join("folder")).unwrap();
    let model = tiny().to_str().unwrap();
    let mut args = vec!["generate", "--model", model, "--prompt", "a fox"];
    args.extend(SMALL);
    for (flags, named) in [
        (&["--output", "no/where.png"][..], "no/where.png"),
        (&["--output", "file/out.png"], "file/out.png"),
        (&["--output", "folder"], "folder"),
        (&["--output", "o.png", "--save-latents", "no/l.safetensors"], "no/l.safetensors"),
        (&["--output", "o.png", "--prune", "at-edm", "--masks-out", "no/m.safetensors"], "no/m.safetensors"),
    ] {
        let line = fail(work.path(), &[&args[..], flags].concat(), RUN);
        assert!(line.contains(named), "{line}");
    }
    let same = fail(work.path(), &[&args[..], &["--output", "o", "--save-latents", "./o"]].concat(), USAGE);
    assert!(same.contains("own path"), "{same}");
    let line = fail(work.path(), &["masks", "--model", model, "--prompt", "p", "--output-dir", "file"], RUN);
    assert!(line.contains("file"), "{line}");
    assert_eq!(names(work.path()), ["file", "folder"]);
    assert_eq!(names(&work.path().join("folder")), [""; 0]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_read_only_folder_is_found_out_before_the_run() {
    // Nobody may create files in there, not even the administrator.
    let output = "/proc/self/fdinfo/out.png";
    let work = tempfile::tempdir().unwrap();
    // The checkpoint is missing too: the output is checked first.
    let args = ["generate", "--model", "missing", "--prompt", "a fox", "--output", output];
    let line = fail(work.path(), &args, RUN);
    assert!(line.contains(output) && line.contains("writable"), "{line}");
}

/// A safetensors file with one tensor.
fn one_tensor(name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Vec<u8> {
    let view = TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    safetensors::serialize([(name, view)], None).unwrap()
}

#[test]
fn latents_that_do_not_fit() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("l.safetensors");
    let file = path.to_str().unwrap();
    let zeros = vec![0u8; 4 * 4 * 8 * 8];
    let nan = f32::NAN.to_le_bytes().repeat(4 * 8 * 8);
    for (bytes, named) in [
        (one_tensor("noise", Dtype::F32, &[1, 4, 8, 8], &zeros), &["latents", "noise"][..]),
        (one_tensor("latents", Dtype::F32, &[1, 4, 4, 16], &zeros), &["[1, 4, 8, 8]", "[1, 4, 4, 16]"]),
        (one_tensor("latents", Dtype::I32, &[1, 4, 8, 8], &zeros), &["F32", "I32"]),
        (one_tensor("latents", Dtype::F32, &[1, 4, 8, 8], &nan), &["finite"]),
        (b"not safetensors".to_vec(), &["safetensors"]),
        (Vec::new(), &["safetensors"]),
    ] {
        fs::write(&path, bytes).unwrap();
        refused(tiny(), &["--latents", file], RUN, &[&["l.safetensors"], named].concat());
    }
    refused(tiny(), &["--latents", "missing.safetensors"], RUN, &["missing.safetensors"]);
}

#[test]
fn masks_that_do_not_fit() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    let mut args =
        vec!["generate", "--model", model, "--prompt", "a fox", "--prune", "at-edm", "--output", "o.png"];
    args.extend(SMALL);
    args.extend(["--masks-out", "m.safetensors", "--quiet"]);
    succeed(work.path(), &args);
    let path = work.path().join("m.safetensors");
    let masks = path.to_str().unwrap();
    let prune = ["--prune", "at-edm", "--masks-in"];
    // Other counts, another grid, an unknown step, a method that prunes nothing.
    refused(
        tiny(),
        &[&prune[..], &[masks, "--prune-opt", "ratio=0.3"]].concat(),
        RUN,
        &["m.safetensors", "kept"],
    );
    refused(tiny(), &[&prune[..], &[masks, "--width", "128"]].concat(), RUN, &["m.safetensors", "tokens"]);
    refused(tiny(), &[&prune[..], &[masks, "--steps", "3"]].concat(), RUN, &["m.safetensors", "step 2"]);
    refused(tiny(), &["--masks-in", masks], USAGE, &["--masks-in", "none"]);
    refused(tiny(), &[&prune[..], &["missing.safetensors"]].concat(), RUN, &["missing.safetensors"]);
    // A position outside the block's tokens.
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let changed: HashMap<String, Vec<u8>> = file
        .iter()
        .filter(|(name, _)| name.ends_with(".kept"))
        .map(|(name, view)| (name.to_string(), 9999i64.to_le_bytes().repeat(view.data().len() / 8)))
        .collect();
    let views = file.iter().map(|(name, view)| {
        let data = changed.get(name).map_or(view.data(), Vec::as_slice);
        (name.to_string(), TensorView::new(view.dtype(), view.shape().to_vec(), data).unwrap())
    });
    fs::write(&path, safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap()).unwrap();
    refused(tiny(), &[&prune[..], &[masks]].concat(), RUN, &["m.safetensors", "ascending"]);
}

#[test]
fn files_missing_from_the_checkpoint() {
    refused(Path::new("/no/such/checkpoint"), &[], RUN, &["/no/such/checkpoint"]);
    for name in [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder_2/config.json",
        "tokenizer/vocab.json",
        "tokenizer_2/merges.txt",
    ] {
        let copy = tiny_copy();
        fs::remove_file(copy.path().join(name)).unwrap();
        let (folder, file) = name.split_once('/').unwrap_or(("", name));
        let stem = file.split('.').next().unwrap();
        refused(copy.path(), &[], RUN, &[folder, stem]);
    }
}

#[test]
fn broken_json_in_the_checkpoint() {
    for name in [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer/vocab.json",
        "tokenizer/tokenizer_config.json",
    ] {
        for content in ["{\"block_out_channels\": [16,", ""] {
            let copy = tiny_copy();
            replace(copy.path(), name, content.as_bytes());
            refused(copy.path(), &[], RUN, &[name]);
        }
    }
    for name in
        ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "tokenizer/vocab.json"]
    {
        let copy = tiny_copy();
        replace(copy.path(), name, b"[]");
        refused(copy.path(), &[], RUN, &[name]);
    }
    let copy = tiny_copy();
    let text = fs::read_to_string(copy.path().join("unet/config.json")).unwrap();
    replace(
        copy.path(),
        "unet/config.json",
        text.replace("\"norm_num_groups\": 8", "\"norm_num_groups\": 0").as_bytes(),
    );
    refused(copy.path(), &[], RUN, &["norm_num_groups"]);
}

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

#[test]
fn weights_files_that_lie() {
    let good = fs::read(tiny().join(UNET)).unwrap();
    let header_len = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(good[8..8 + header_len].to_vec()).unwrap();
    let with_header = |header: &str| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(&good[8 + header_len..]);
        bytes
    };
    let first_end = header.find("\"data_offsets\":[0,").unwrap() + "\"data_offsets\":[0,".len();
    let number: String = header[first_end..].chars().take_while(char::is_ascii_digit).collect();
    let far = format!("{}9{number}{}", &header[..first_end], &header[first_end + number.len()..]);
    for (what, bytes) in [
        ("truncated data", good[..good.len() - 1000].to_vec()),
        ("truncated header", good[..header_len / 2].to_vec()),
        ("empty", Vec::new()),
        ("a header longer than the file", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("a header that is not JSON", with_header(&header.replace(':', ";"))),
        ("offsets past the end", with_header(&far)),
        ("a shape larger than its data", with_header(&header.replacen("\"shape\":[", "\"shape\":[7,", 1))),
    ] {
        let copy = tiny_copy();
        replace(copy.path(), UNET, &bytes);
        eprintln!("{what}");
        refused(copy.path(), &[], RUN, &["diffusion_pytorch_model.safetensors"]);
    }
}

/// The tiny U-Net with one tensor changed by `change`: dtype, shape and bytes.
fn with_tensor(
    name: &str,
    change: impl Fn(Dtype, Vec<usize>, Vec<u8>) -> (Dtype, Vec<usize>, Vec<u8>),
) -> Vec<u8> {
    let bytes = fs::read(tiny().join(UNET)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let (dtype, shape, data) = change(view.dtype(), view.shape().to_vec(), view.data().to_vec());
    let changed = TensorView::new(dtype, shape, &data).unwrap();
    let views: Vec<_> = file
        .iter()
        .map(|(other, view)| (other.to_string(), if other == name { changed.clone() } else { view }))
        .collect();
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn tensors_of_the_wrong_kind() {
    let tensor = "mid_block.attentions.0.proj_in.weight";
    for (bytes, named) in [
        (with_tensor(tensor, |dtype, _, data| (dtype, vec![32, 128], data)), "[32, 128]"),
        (with_tensor(tensor, |_, shape, data| (Dtype::I32, shape, data)), "I32"),
    ] {
        let copy = tiny_copy();
        replace(copy.path(), UNET, &bytes);
        refused(copy.path(), &[], RUN, &["diffusion_pytorch_model.safetensors", tensor, named]);
    }
    let bytes = fs::read(tiny().join(UNET)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let without: Vec<_> =
        file.iter().filter(|(name, _)| *name != tensor).map(|(n, v)| (n.to_string(), v)).collect();
    let copy = tiny_copy();
    replace(copy.path(), UNET, &safetensors::serialize(without, None).unwrap());
    refused(copy.path(), &[], RUN, &["diffusion_pytorch_model.safetensors", tensor]);
}

#[test]
fn init_tiny_keeps_what_is_there() {
    let work = tempfile::tempdir().unwrap();
    fs::create_dir(work.path().join("full")).unwrap();
    fs::write(work.path().join("full/mine.txt"), "mine").unwrap();
    let line = fail(work.path(), &["init-tiny", "full"], RUN);
    assert!(line.contains("full") && line.contains("empty"), "{line}");
    assert_eq!(names(&work.path().join("full")), ["mine.txt"]);
    fs::write(work.path().join("file"), "").unwrap();
    fail(work.path(), &["init-tiny", "file"], RUN);
    fail(work.path(), &["init-tiny", "file/below"], RUN);
    assert_eq!(names(work.path()), ["file", "full"]);
}

#[test]
fn inspect_and_masks_refuse_the_same() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    for (flags, named) in [
        (&["--prune", "at-edn"][..], "at-edn"),
        (&["--prune", "at-edm", "--prune-opt", "ratio=1"], "ratio"),
        (&["--prune", "at-edm", "--prune-opt", "tau=51"], "tau"),
        (&["--width", "65"], "width"),
        (&["--steps", "0"], "--steps"),
    ] {
        let line = fail(work.path(), &[&["inspect", "--model", model], flags].concat(), USAGE);
        assert!(line.contains(named), "{line}");
        let masks = ["masks", "--model", model, "--prompt", "p", "--output-dir", "m"];
        let line = fail(work.path(), &[&masks, flags].concat(), USAGE);
        assert!(line.contains(named), "{line}");
    }
    let shown = [
        "masks",
        "--model",
        model,
        "--prompt",
        "p",
        "--output-dir",
        "m",
        "--steps",
        "2",
        "--steps-shown",
        "2",
    ];
    let line = fail(work.path(), &shown, USAGE);
    assert!(line.contains("--steps-shown"), "{line}");
    assert_eq!(names(work.path()), [""; 0]);
}

#[cfg(not(feature = "hub"))]
#[test]
fn a_hub_id_needs_the_feature() {
    refused(
        Path::new("stabilityai/stable-diffusion-xl-base-1.0"),
        &[],
        RUN,
        &["stable-diffusion-xl-base-1.0", "hub"],
    );
}

#[test]
fn long_prompts_are_cut_with_a_warning() {
    let work = tempfile::tempdir().unwrap();
    let prompt = "a red fox ".repeat(60);
    let mut args =
        vec!["generate", "--model", tiny().to_str().unwrap(), "--prompt", &prompt, "--output", "o.png"];
    args.extend(SMALL);
    let output = atedm(work.path(), &args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("warning: ") && errors.contains("77"), "{errors}");
    assert_eq!(names(work.path()), ["o.png"]);
}
