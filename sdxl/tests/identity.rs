//! Checks when two checkpoints have the same identity.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions, Part, identity};
use safetensors::tensor::Dtype;
use serde_json::json;
use support::{checkpoint, tensors_of, weight_file, write_json, write_tensors};

fn of(root: &Path) -> String {
    identity(root).unwrap()
}

#[test]
fn place_and_file_names_do_not_matter() {
    let (one, other) = (checkpoint(), checkpoint());
    let first = of(one.path());
    assert!(first.len() == 64 && first.chars().all(|c| c.is_ascii_hexdigit()), "{first}");
    assert_eq!(first, of(other.path()));
    let file = weight_file(one.path(), Part::Vae);
    std::fs::rename(&file, file.with_extension("fp16.safetensors")).unwrap();
    std::fs::write(one.path().join("README.md"), "a note").unwrap();
    std::fs::write(one.path().join("unet/old.safetensors"), "not read").unwrap();
    assert_eq!(first, of(one.path()));
}

#[test]
fn every_file_that_a_run_reads_matters() {
    let folder = checkpoint();
    let root = folder.path();
    let whole = of(root);
    for name in [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder_2/config.json",
        "unet/config.json",
        "vae/config.json",
        "tokenizer/vocab.json",
        "tokenizer_2/merges.txt",
        "tokenizer/tokenizer_config.json",
    ] {
        let file = root.join(name);
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, [&bytes[..], b"\n"].concat()).unwrap();
        assert_ne!(of(root), whole, "{name}");
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(of(root), whole, "{name}");
    }
    for name in ["tokenizer/special_tokens_map.json", "tokenizer_2/added_tokens.json"] {
        write_json(&root.join(name), &json!({}));
        assert_ne!(of(root), whole, "{name}");
        std::fs::remove_file(root.join(name)).unwrap();
    }
}

#[test]
fn weights_matter_by_name_dtype_shape_and_value() {
    let folder = checkpoint();
    let root = folder.path();
    let whole = of(root);
    for part in Part::ALL {
        let file = weight_file(root, part);
        let tensors = tensors_of(part);
        write_tensors(&file, &tensors, Dtype::F16);
        assert_ne!(of(root), whole, "{part:?}: dtype");

        let name = tensors.keys().next().unwrap().clone();
        let (shape, values) = tensors[&name].clone();
        let mut changed = tensors.clone();
        changed.get_mut(&name).unwrap().1[0] += 0.25;
        write_tensors(&file, &changed, Dtype::F32);
        assert_ne!(of(root), whole, "{part:?}: value");

        changed.insert(name.clone(), ([&[1], &shape[..]].concat(), values.clone()));
        write_tensors(&file, &changed, Dtype::F32);
        assert_ne!(of(root), whole, "{part:?}: shape");

        changed.remove(&name);
        changed.insert(format!("{name}x"), (shape, values));
        write_tensors(&file, &changed, Dtype::F32);
        assert_ne!(of(root), whole, "{part:?}: name");

        write_tensors(&file, &tensors, Dtype::F32);
        assert_eq!(of(root), whole, "{part:?}");
    }
}

#[test]
fn another_autoencoder_is_another_identity() {
    let (folder, other) = (checkpoint(), checkpoint());
    let with = |vae: &Path| {
        let options = OpenOptions { vae: Some(vae.to_path_buf()), ..OpenOptions::default() };
        Checkpoint::open(folder.path(), options).unwrap().identity().unwrap()
    };
    let vae = other.path().join("vae");
    assert_eq!(with(&vae), of(folder.path()));
    let config = vae.join("config.json");
    std::fs::write(&config, [&std::fs::read(&config).unwrap()[..], b"\n"].concat()).unwrap();
    assert_ne!(with(&vae), of(folder.path()));
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = checkpoint();
    let file = weight_file(folder.path(), Part::UNet);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let error = identity(folder.path()).unwrap_err().to_string();
    assert!(error.contains("diffusion_pytorch_model.safetensors"), "{error}");
    assert!(identity(folder.path().join("none")).is_err());
}
