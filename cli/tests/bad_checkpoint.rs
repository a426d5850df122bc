//! Checkpoints of another kind, or with impossible sizes. Each gives one line before anything is built from them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{fail, names, replace, tiny_copy};
use serde_json::{Value, json};

const RUN: i32 = 1;
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// `generate`, `inspect` and `flops` on `model` must refuse it with the same words.
fn refused(model: &Path, named: &[&str]) {
    let model = model.to_str().unwrap();
    let generate = ["generate", "--model", model, "--prompt", "a fox", "--output", "out.png", "--steps", "2"];
    for args in [&generate[..], &["inspect", "--model", model], &["flops", "--model", model]] {
        refuses(args, named);
    }
}

fn refuses(args: &[&str], named: &[&str]) {
    let work = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let line = fail(work.path(), args, RUN);
    assert!(start.elapsed() < Duration::from_secs(10), "{args:?} took {:?}", start.elapsed());
    for word in named {
        assert!(line.contains(word), "{args:?}: expected {word:?} in: {line}");
    }
    assert_eq!(names(work.path()), [""; 0], "{args:?} left files behind");
}

#[test]
fn a_file_in_the_folders_place() {
    let copy = tiny_copy();
    let root = copy.path();
    refused(
        &root.join("model_index.json"),
        &["model_index.json: is a file of a checkpoint, expected its folder"],
    );
    refused(&root.join(UNET), &["is a lone U-Net: expected a whole SD-XL checkpoint"]);
    fs::write(root.join("model.ckpt"), b"PK\x03\x04").unwrap();
    refused(&root.join("model.ckpt"), &["model.ckpt: is a zip archive", "expected a diffusers folder"]);
    refused(&root.join("text_encoder"), &["one part of a checkpoint: expected"]);
}

/// The message of `generate` and `inspect` about the U-Net's file; `flops` reads no weights.
fn unet_file(root: &Path, named: &[&str]) {
    let model = root.to_str().unwrap();
    refuses(&["generate", "--model", model, "--prompt", "a fox", "--output", "o.png", "--steps", "2"], named);
    refuses(&["inspect", "--model", model], named);
}

#[test]
fn something_else_than_weights() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:31e3\nsize 10270077736\n";
    for (bytes, what) in [
        (&pointer[..], "is a Git LFS pointer"),
        (b"<!doctype html>\n<title>Sign in</title>", "is a web page, not weights"),
        (b"{\"error\":\"Invalid username or password.\"}", "is a text, not weights: "),
        (b"\x80\x02}q\x00(X\x0a", "is a pickle of PyTorch"),
    ] {
        let copy = tiny_copy();
        replace(copy.path(), UNET, bytes);
        unet_file(copy.path(), &["diffusion_pytorch_model.safetensors: ", what]);
    }
}

#[cfg(unix)]
#[test]
fn a_link_to_nowhere() {
    let copy = tiny_copy();
    fs::remove_file(copy.path().join(UNET)).unwrap();
    std::os::unix::fs::symlink("../../blobs/31e3", copy.path().join(UNET)).unwrap();
    unet_file(copy.path(), &["safetensors: is a link to ../../blobs/31e3, which is missing"]);
}

fn edited(file: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let copy = tiny_copy();
    let mut json: Value = serde_json::from_slice(&fs::read(copy.path().join(file)).unwrap()).unwrap();
    change(&mut json);
    replace(copy.path(), file, json.to_string().as_bytes());
    copy
}

#[test]
fn sizes_of_no_model() {
    for (file, key, value, limit) in [
        ("unet/config.json", "layers_per_block", json!(1 << 20), "at most 64"),
        ("unet/config.json", "transformer_layers_per_block", json!(1 << 20), "at most 256"),
        ("unet/config.json", "cross_attention_dim", json!(1 << 20), "at most 65536"),
        ("unet/config.json", "block_out_channels", json!([1 << 20, 1 << 20, 1 << 20]), "at most 65536"),
        ("vae/config.json", "layers_per_block", json!(1 << 20), "at most 64"),
        ("text_encoder/config.json", "max_position_embeddings", json!(1 << 20), "at most 4096"),
    ] {
        let copy = edited(file, |json| json[key] = value);
        refused(copy.path(), &[file, key, limit]);
    }
}

#[test]
fn a_size_that_nobody_asked_for_is_the_checkpoints() {
    let copy = edited("unet/config.json", |json| json["sample_size"] = json!(1 << 20));
    let work = tempfile::tempdir().unwrap();
    let model = copy.path().to_str().unwrap();
    let line = fail(work.path(), &["inspect", "--model", model], 2);
    assert!(line.contains("--width") && line.contains("the checkpoint's own sample_size makes"), "{line}");
}

#[test]
fn pipelines_and_autoencoders_of_other_kinds() {
    let class = json!("StableDiffusionXLControlNetPipeline");
    let copy = edited("model_index.json", |json| json["_class_name"] = class);
    let model = copy.path().to_str().unwrap();
    refuses(&["inspect", "--model", model], &["StableDiffusionXLControlNetPipeline", "control network"]);
    let copy = edited("vae/config.json", |json| json["out_channels"] = json!(4));
    refused(copy.path(), &["vae/config.json: out_channels: expected 3"]);
}
