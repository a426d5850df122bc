//! ControlNets that are refused, in one line that says what they are; and what a run with one needs.

use std::path::Path;

use atedm_core::plugin::Unpruned;
use atedm_core::reference::{NdDevice, NdTensor, Reference32};
use atedm_core::{DType, Tensor};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions, identity};
use atedm_sdxl::pipeline::{Control, ControlSpan, Decoding, Pipeline, Proceed, Request};
use atedm_tests::golden::fixtures;
use serde_json::{Value, json};

use super::folder::control_net;

fn open(net: &Path) -> atedm_core::Result<Checkpoint> {
    let options = OpenOptions { controlnet: Some(net.to_path_buf()), ..OpenOptions::default() };
    Checkpoint::open(fixtures().join("tiny-a"), options)
}

#[test]
fn what_is_no_control_net_for_this_u_net_is_named() {
    let net = control_net("tiny-a");
    let file = net.path().join("config.json");
    let own: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let expected = "expected a ControlNetModel of SD-XL";
    for (key, value, named) in [
        (
            "_class_name",
            json!("ControlNetUnionModel"),
            "is a union ControlNet, which takes pictures of several kinds",
        ),
        ("num_control_type", json!(6), "is a union ControlNet, which takes pictures of several kinds"),
        ("_class_name", json!("SparseControlNetModel"), "is a sparse ControlNet, for videos"),
        ("_class_name", json!("UNet2DConditionModel"), "is a U-Net"),
        ("_class_name", json!("FluxControlNetModel"), "is a FluxControlNetModel"),
        ("_class_name", Value::Null, "is no model of diffusers"),
        ("addition_embed_type", Value::Null, "addition_embed_type: is a ControlNet without inputs for sizes"),
        ("class_embed_type", json!("timestep"), "class_embed_type: \"timestep\" is not supported"),
        ("global_pool_conditions", json!(true), "global_pool_conditions: true is not supported"),
        ("controlnet_conditioning_channel_order", json!("bgr"), "\"bgr\" is not supported, expected \"rgb\""),
        ("conditioning_channels", json!(1), "conditioning_channels: 1 is not supported, expected 3"),
        (
            "conditioning_embedding_out_channels",
            json!([16, 32, 96, 256]),
            "conditioning_embedding_out_channels: expected halvings by 4, as the autoencoder has, got 8",
        ),
        (
            "block_out_channels",
            json!([8, 16, 48]),
            "block_out_channels: expected [8, 16, 24], as the U-Net has, got [8, 16, 48]",
        ),
        (
            "layers_per_block",
            json!(2),
            "layers_per_block: expected [1, 1, 1], as the U-Net has, got [2, 2, 2]",
        ),
        ("cross_attention_dim", json!(64), "cross_attention_dim: expected [40], as the U-Net has, got [64]"),
        ("in_channels", json!(9), "in_channels: expected 4 (the latents), got 9"),
        ("mid_block_type", Value::Null, "mid_block_type: expected a middle, got null"),
    ] {
        let mut changed = own.clone();
        changed[key] = value;
        std::fs::write(&file, changed.to_string()).unwrap();
        let message = open(net.path()).unwrap_err().to_string();
        assert!(message.contains("config.json: ") && message.contains(named), "{key}: {message}");
        assert!(!named.contains(" is a") || message.ends_with(expected), "{key}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
    // Stable Diffusion's own
    for (width, family) in [(768, "Stable Diffusion 1 (768)"), (1024, "Stable Diffusion 2 (1024)")] {
        let mut older = own.clone();
        (older["addition_embed_type"], older["cross_attention_dim"]) = (Value::Null, json!(width));
        std::fs::write(&file, older.to_string()).unwrap();
        let message = open(net.path()).unwrap_err().to_string();
        assert!(message.ends_with(&format!("is a ControlNet of {family}: {expected}")), "{message}");
    }
    std::fs::write(&file, own.to_string()).unwrap();
    let weights = net.path().join("diffusion_pytorch_model.safetensors");
    let message = open(&weights).unwrap_err().to_string();
    assert!(
        message.ends_with("is a file: expected a ControlNet's folder, with config.json and weights"),
        "{message}"
    );
    // a part of a checkpoint is another kind of folder
    let message = open(&fixtures().join("tiny-a/unet")).unwrap_err().to_string();
    assert!(message.ends_with(&format!("_class_name: is a U-Net: {expected}")), "{message}");
    std::fs::remove_file(&weights).unwrap();
    let message = open(net.path()).unwrap_err().to_string();
    assert!(message.contains("diffusion_pytorch_model.safetensors: no such file"), "{message}");
}

/// The folder of a whole pipeline gives its ControlNet. A variant need not be there.
#[test]
fn a_control_net_is_found_in_its_pipeline_and_in_variants() {
    let net = control_net("tiny-a");
    let whole = tempfile::tempdir().unwrap();
    std::fs::write(whole.path().join("model_index.json"), "{}").unwrap();
    let inner = whole.path().join("controlnet");
    std::fs::create_dir(&inner).unwrap();
    let name = "diffusion_pytorch_model.safetensors";
    std::fs::copy(net.path().join("config.json"), inner.join("config.json")).unwrap();
    std::fs::copy(net.path().join(name), inner.join("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    let [one, other] = [net.path(), whole.path()].map(|path| open(path).unwrap());
    // neither the place nor the files' names matter, but the ControlNet itself does
    assert_eq!(one.identity().unwrap(), other.identity().unwrap());
    assert_ne!(one.identity().unwrap(), identity(fixtures().join("tiny-a")).unwrap());
    let net = control_net("small");
    let small = open(net.path()).unwrap();
    assert_ne!(one.identity().unwrap(), small.identity().unwrap());
    let contents = one.control_contents().unwrap().unwrap();
    assert!(contents.parameters > small.control_contents().unwrap().unwrap().parameters);
}

#[test]
fn a_run_needs_both_control_net_and_picture() {
    let net = control_net("tiny-a");
    let checkpoint = open(net.path()).unwrap();
    let pipeline = Pipeline::<Reference32>::load(&checkpoint, DType::F32, &NdDevice).unwrap();
    let alone = Checkpoint::open(fixtures().join("tiny-a"), OpenOptions::default()).unwrap();
    let alone = Pipeline::<Reference32>::load(&alone, DType::F32, &NdDevice).unwrap();
    let says = |pipeline: &Pipeline<Reference32>, control: Option<Control<NdTensor>>| {
        let size = Some(32);
        let decoding = Decoding::Skip;
        let request =
            Request { width: size, height: size, steps: 1, control, decoding, ..Request::new(["a fox"]) };
        let made = pipeline.generate(&request, &mut Unpruned, &mut |_| Proceed::Continue(()));
        made.unwrap_err().to_string()
    };
    let control = |shape: &[usize], scale: f64| {
        let picture = NdTensor::full(0.5, shape, DType::F32, &NdDevice).unwrap();
        Some(Control { picture, scale, span: ControlSpan::WHOLE })
    };
    assert_eq!(says(&pipeline, None), "control: expected a picture for the ControlNet");
    assert_eq!(
        says(&alone, control(&[1, 3, 32, 32], 1.0)),
        "control: expected a checkpoint that was opened with a ControlNet"
    );
    assert_eq!(
        says(&pipeline, control(&[1, 3, 32, 40], 1.0)),
        "control: expected shape [1, 3, 32, 32], got [1, 3, 32, 40]"
    );
    assert_eq!(
        says(&pipeline, control(&[1, 3, 32, 32], f64::NAN)),
        "control-scale: expected a finite number, got NaN"
    );
}
