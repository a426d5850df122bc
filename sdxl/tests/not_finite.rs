//! Weights that give NaN. The error names the first part and step with a value that is not finite.
#![allow(clippy::unwrap_used)]

mod pipeline_support;

use std::path::Path;

use atedm_core::DType;
use atedm_core::plugin::{BuildContext, Registry, TokenReducer, Unpruned};
use atedm_core::reference::{NdDevice, NdTensor, Reference32};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions};
use atedm_sdxl::pipeline::{Decoding, InitialLatents, Pipeline, Proceed, Request};
use pipeline_support::{copy_of, tensor};
use safetensors::SafeTensors;
use serde_json::json;

/// Sets a value of a tensor to NaN. The file is a copy that nobody has mapped.
fn poison(file: &Path, name: &str) {
    let mut bytes = std::fs::read(file).unwrap();
    let place = {
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let data = tensors.tensor(name).unwrap().data();
        data.as_ptr() as usize - bytes.as_ptr() as usize
    };
    bytes[place..place + 2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    std::fs::write(file, bytes).unwrap();
}

fn request() -> Request<NdTensor> {
    let mut request = Request::new(["a red circle"]);
    (request.steps, request.width, request.height) = (3, Some(32), Some(32));
    request
}

/// The error of a run of tiny-a with one weight poisoned.
fn error_of(
    part: &str,
    name: &str,
    request: &Request<NdTensor>,
    reducer: &mut dyn TokenReducer<NdTensor>,
) -> String {
    let folder = copy_of("tiny-a");
    let entries = std::fs::read_dir(folder.path().join(part)).unwrap();
    let file =
        entries.map(|entry| entry.unwrap().path()).find(|path| path.extension().unwrap() == "safetensors");
    poison(&file.unwrap(), name);
    let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
    let pipeline = Pipeline::<Reference32>::load(&checkpoint, DType::F32, &NdDevice).unwrap();
    let error = pipeline.generate(request, reducer, &mut |_| Proceed::Continue(())).unwrap_err().to_string();
    assert!(!error.contains('\n') && error.len() < 300, "{error}");
    error
}

#[test]
fn the_first_module_of_the_unet_is_named() {
    for (weight, module) in [
        ("conv_in.bias", "conv_in"),
        ("time_embedding.linear_1.bias", "time_embedding and add_embedding"),
        ("down_blocks.1.attentions.0.proj_in.bias", "down_blocks.1.attentions.0"),
        ("mid_block.resnets.1.conv1.bias", "mid_block.resnets.1"),
        ("up_blocks.1.upsamplers.0.conv.bias", "up_blocks.1.upsamplers.0"),
        ("conv_out.bias", "conv_norm_out and conv_out"),
    ] {
        let error = error_of("unet", weight, &request(), &mut Unpruned);
        assert_eq!(error, format!("step 0 of 0 to 2: {module} of the U-Net in f32 is not finite"));
    }
    let mut later = request();
    later.initial = InitialLatents::Noisy { latents: tensor(&[0.1; 256], &[1, 4, 8, 8]), start: 2 };
    let error = error_of("unet", "conv_in.bias", &later, &mut Unpruned);
    assert!(error.starts_with("step 2 of 0 to 2: conv_in of"), "{error}");
}

/// If a method sees NaN first, the error still names the module.
#[test]
fn the_module_is_named_with_pruning_too() {
    let options = json!({"schedule": "constant"});
    let mut reducer =
        Registry::<NdTensor>::with_builtins().build("at-edm", &options, &BuildContext::default()).unwrap();
    let error = error_of("unet", "down_blocks.1.resnets.0.conv1.bias", &request(), reducer.as_mut());
    assert_eq!(error, "step 0 of 0 to 2: down_blocks.1.resnets.0 of the U-Net in f32 is not finite");
}

#[test]
fn text_encoders_are_named() {
    for (part, weight) in [
        ("text_encoder", "text_model.encoder.layers.0.mlp.fc1.bias"),
        ("text_encoder_2", "text_model.encoder.layers.0.mlp.fc1.bias"),
        ("text_encoder_2", "text_projection.weight"),
    ] {
        let error = error_of(part, weight, &request(), &mut Unpruned);
        assert!(error.ends_with(&format!("output of {part} is not finite")), "{error}");
    }
}

/// Without the error, a picture of NaN would be black.
#[test]
fn the_autoencoder_is_named() {
    for decoding in [Decoding::Whole, Decoding::Tiled(None)] {
        let request = Request { decoding, ..request() };
        let error = error_of("vae", "decoder.conv_out.bias", &request, &mut Unpruned);
        assert_eq!(error, "vae: AutoencoderKL in f32 gives pixels that are not finite: take another VAE");
    }
    let skipped = Request { decoding: Decoding::Skip, ..request() };
    let folder = copy_of("tiny-a");
    poison(&folder.path().join("vae/diffusion_pytorch_model.safetensors"), "encoder.conv_out.bias");
    let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
    let pipeline = Pipeline::<Reference32>::load(&checkpoint, DType::F32, &NdDevice).unwrap();
    assert!(pipeline.generate(&skipped, &mut Unpruned, &mut |_| Proceed::Continue(())).is_ok());
    let image = tensor(&vec![0.5; 3 * 32 * 32], &[1, 3, 32, 32]);
    let error = pipeline.vae().distribution(&image).unwrap_err().to_string();
    assert_eq!(error, "vae: AutoencoderKL in f32 gives latents that are not finite: take another VAE");
}
