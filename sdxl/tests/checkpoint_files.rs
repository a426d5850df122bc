//! Checks which of several weight files is read, and the messages about paths and files of another kind.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use atedm_core::reference::NdDevice;
use atedm_core::{DType, Tensor, Weights};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions, Part};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use support::{T, checkpoint, tensors_of, weight_file, write_json, write_tensors};

/// A bias of each part. Its value identifies the file.
fn marked(part: Part) -> (&'static str, usize) {
    match part {
        Part::TextEncoder => ("text_model.final_layer_norm.bias", 8),
        Part::TextEncoder2 => ("text_model.final_layer_norm.bias", 16),
        Part::UNet => ("conv_in.bias", 8),
        Part::Vae => ("decoder.conv_in.bias", 8),
    }
}

/// Writes the part's tensors to one file of this name. The marked bias is all `value`.
fn write_file(root: &Path, part: Part, name: &str, value: f32) {
    let (bias, channels) = marked(part);
    let mut tensors = tensors_of(part);
    tensors.insert(bias.into(), (vec![channels], vec![value; channels]));
    write_tensors(&root.join(part.folder()).join(name), &tensors, Dtype::F32);
}

/// Like [`write_file`], as one shard and an index of this name.
fn write_index(root: &Path, part: Part, index: &str, value: f32) {
    let shard = format!("{}-{value}-00001-of-00001.safetensors", part.stem());
    write_file(root, part, &shard, value);
    let map: serde_json::Map<String, Value> =
        tensors_of(part).into_keys().map(|name| (name, json!(shard))).collect();
    write_json(&root.join(part.folder()).join(index), &json!({"metadata": {}, "weight_map": map}));
}

fn value(root: &Path, part: Part, variant: Option<&str>) -> f32 {
    let options = OpenOptions { variant: variant.map(String::from), ..OpenOptions::default() };
    let checkpoint = Checkpoint::open(root, options).unwrap();
    let weights: Weights<T> = checkpoint.weights(part, DType::F32, &NdDevice).unwrap();
    let (bias, channels) = marked(part);
    weights.tensor(bias, &[channels]).unwrap().to_f32().unwrap()[0]
}

fn refused(root: &Path) -> String {
    let message = Checkpoint::open(root, OpenOptions::default()).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn of_a_single_file_and_an_index_diffusers_reads_the_index_and_transformers_the_file() {
    for (part, read) in
        [(Part::UNet, 2.0), (Part::Vae, 2.0), (Part::TextEncoder, 1.0), (Part::TextEncoder2, 1.0)]
    {
        let folder = checkpoint();
        let (root, stem) = (folder.path(), part.stem());
        write_file(root, part, &format!("{stem}.safetensors"), 1.0);
        write_index(root, part, &format!("{stem}.safetensors.index.json"), 2.0);
        assert_eq!(value(root, part, None), read, "{part:?}");
        // one of them is enough
        let single = weight_file(root, part);
        let index = single.with_extension("safetensors.index.json");
        std::fs::rename(&index, root.join("away")).unwrap();
        assert_eq!(value(root, part, None), 1.0, "{part:?}");
        std::fs::rename(root.join("away"), &index).unwrap();
        std::fs::remove_file(single).unwrap();
        assert_eq!(value(root, part, None), 2.0, "{part:?}");
    }
}

#[test]
fn variants_choose_alike() {
    let part = Part::UNet;
    let stem = part.stem();
    for index in [
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.safetensors.fp16.index.json",
    ] {
        let folder = checkpoint();
        let root = folder.path();
        for other in [Part::TextEncoder, Part::TextEncoder2, Part::Vae] {
            write_file(root, other, &format!("{}.fp16.safetensors", other.stem()), 0.0);
        }
        write_file(root, part, &format!("{stem}.safetensors"), 1.0);
        write_file(root, part, &format!("{stem}.fp16.safetensors"), 3.0);
        assert_eq!(value(root, part, Some("fp16")), 3.0);
        write_index(root, part, index, 4.0);
        assert_eq!(value(root, part, Some("fp16")), 4.0, "{index}");
        // another variant's index does not affect the plain files
        assert_eq!(value(root, part, None), 1.0, "{index}");
        write_index(root, part, &format!("{stem}.safetensors.index.json"), 2.0);
        assert_eq!(value(root, part, None), 2.0);
        assert_eq!(value(root, part, Some("fp16")), 4.0);
    }
    // the newer name of an index takes precedence over the older one
    let folder = checkpoint();
    let root = folder.path();
    std::fs::remove_file(weight_file(root, part)).unwrap();
    write_index(root, part, "diffusion_pytorch_model.safetensors.fp16.index.json", 5.0);
    write_index(root, part, "diffusion_pytorch_model.safetensors.index.fp16.json", 6.0);
    assert_eq!(value(root, part, None), 6.0);
}

#[test]
fn an_index_whose_shards_are_missing_is_not_replaced_by_an_old_file() {
    let folder = checkpoint();
    let root = folder.path();
    write_index(root, Part::Vae, "diffusion_pytorch_model.safetensors.index.json", 2.0);
    std::fs::remove_file(root.join("vae/diffusion_pytorch_model-2-00001-of-00001.safetensors")).unwrap();
    let message = refused(root);
    assert!(message.contains("00001-of-00001.safetensors: no such file, though"), "{message}");
    assert!(message.contains("diffusion_pytorch_model.safetensors.index.json names it"), "{message}");
}

#[cfg(unix)]
#[test]
fn links_to_nowhere_are_named_as_such() {
    let dead = |path: PathBuf| {
        let folder = checkpoint();
        let link = folder.path().join(&path);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink("../../blobs/31e35c80", &link).unwrap();
        let opened = Checkpoint::open(folder.path(), OpenOptions::default());
        let message =
            opened.and_then(|checkpoint| checkpoint.tokenizers().map(drop)).unwrap_err().to_string();
        let path = path.display().to_string();
        assert!(message.contains(&path), "{message}");
        assert!(message.ends_with("is a link to ../../blobs/31e35c80, which is missing"), "{message}");
    };
    for name in [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder_2/config.json",
        "tokenizer/vocab.json",
        // an optional file of a tokenizer must be readable if it exists
        "tokenizer/tokenizer.json",
        "tokenizer_2/special_tokens_map.json",
        "tokenizer_2/added_tokens.json",
    ] {
        dead(name.into());
    }
    // a file of another variant does not replace it
    let folder = checkpoint();
    let file = weight_file(folder.path(), Part::UNet);
    std::fs::copy(&file, file.with_extension("fp16.safetensors")).unwrap();
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("blob", &file).unwrap();
    assert!(refused(folder.path()).contains("is a link to blob, which is missing"));
    // files that nobody reads may be missing
    let folder = checkpoint();
    std::os::unix::fs::symlink("blob", folder.path().join("unet/flax_model.msgpack")).unwrap();
    std::os::unix::fs::symlink("blob", folder.path().join("unet/diffusion_pytorch_model.fp16.safetensors"))
        .unwrap();
    Checkpoint::open(folder.path(), OpenOptions::default()).unwrap().tokenizers().unwrap();
    // a whole part, and the checkpoint itself
    std::fs::rename(folder.path().join("vae"), folder.path().join("old")).unwrap();
    std::os::unix::fs::symlink("new", folder.path().join("vae")).unwrap();
    assert!(refused(folder.path()).contains("vae is a link to new, which is missing"));
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("gone", &link).unwrap();
    assert!(refused(&link).contains("link is a link to gone, which is missing"));
}

#[test]
fn files_that_are_something_else_say_what() {
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:31e3\nsize 10270077736\n";
    for (bytes, what) in [
        (lfs.as_bytes(), "is a Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html class=\"\">\n", "is a web page, not weights"),
        (b"{\"error\": \"Repository not found\"}", "is a text, not weights"),
        (b"Access denied", "is a text, not weights: \"Access denied\""),
        (b"PK\x03\x04\x00\x00\x08\x08\x00\x00", "is a zip archive, as PyTorch writes them"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j", "is a pickle of PyTorch"),
    ] {
        for part in Part::ALL {
            let folder = checkpoint();
            let file = weight_file(folder.path(), part);
            std::fs::write(&file, bytes).unwrap();
            let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
            let opened = checkpoint.weights::<T>(part, DType::F32, &NdDevice).map(drop);
            for error in [opened.unwrap_err(), checkpoint.contents(part).unwrap_err()] {
                let message = error.to_string();
                assert!(message.starts_with(&format!("{}: {what}", file.display())), "{message}");
                assert!(!message.contains('\n'), "{message}");
            }
        }
    }
}

#[test]
fn what_is_given_for_the_folder_is_named() {
    let folder = checkpoint();
    let root = folder.path();
    let index = root.join("model_index.json");
    assert_eq!(
        refused(&index),
        format!("{}: is a file of a checkpoint, expected its folder: {}", index.display(), root.display())
    );
    let message = refused(&weight_file(root, Part::UNet));
    assert!(message.contains("is a lone U-Net: expected a whole SD-XL checkpoint"), "{message}");
    let pickle = root.join("sd_xl_base_1.0.ckpt");
    std::fs::write(&pickle, b"PK\x03\x04").unwrap();
    let message = refused(&pickle);
    assert!(
        message.contains("is a zip archive") && message.contains("expected a diffusers folder"),
        "{message}"
    );
    std::fs::write(&pickle, b"\x01\x02").unwrap();
    assert!(refused(&pickle).contains("is a file: expected a diffusers folder"));
    let message = refused(&root.join("unet"));
    assert!(
        message.contains(&format!("this is one part of a checkpoint: expected {}", root.display())),
        "{message}"
    );
    let cache = tempfile::tempdir().unwrap();
    std::fs::create_dir(cache.path().join("snapshots")).unwrap();
    assert!(refused(cache.path()).contains("expected a folder below its snapshots/"));
}

#[test]
fn pipelines_that_do_more_than_sd_xl_are_refused() {
    let open = |class: &str| {
        let folder = checkpoint();
        let file = folder.path().join("model_index.json");
        let mut index: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        index["_class_name"] = json!(class);
        write_json(&file, &index);
        Checkpoint::open(folder.path(), OpenOptions::default()).map(drop)
    };
    for class in
        ["StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"]
    {
        open(class).unwrap();
    }
    for (class, why) in [
        ("StableDiffusionXLControlNetPipeline", "control network"),
        ("StableDiffusionXLControlNetImg2ImgPipeline", "control network"),
        ("StableDiffusionXLControlNetUnionInpaintPipeline", "control network"),
        ("StableDiffusionXLControlNetXSPipeline", "control network"),
        ("StableDiffusionXLControlNetPAGPipeline", "control network"),
        ("StableDiffusionXLPAGPipeline", "perturbed attention"),
        ("StableDiffusionXLAdapterPipeline", "adapter"),
        ("StableDiffusionXLInstructPix2PixPipeline", "edits an image"),
        ("StableDiffusionXLSomethingPipeline", "not known here"),
        ("StableDiffusionPipeline", "no SD-XL pipeline"),
        ("KolorsPipeline", "no SD-XL pipeline"),
    ] {
        let message = open(class).unwrap_err().to_string();
        assert!(message.contains("model_index.json: _class_name: \""), "{message}");
        assert!(message.contains(class) && message.contains(why), "{message}");
    }
}
