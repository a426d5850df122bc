//! Single-file checkpoints: the same model as their folder, and what is refused.

#![allow(clippy::unwrap_used)]

mod single_support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use atedm_conformance::shapes::{ShapeDevice, ShapeTensor, ShapeWeights, Shapes};
use atedm_core::plugin::Unpruned;
use atedm_core::reference::{NdDevice, Reference32};
use atedm_core::{DType, Result, Tensor, Weights};
use atedm_sdxl::architecture::{Architecture, Autoencoder, Text, UNet as UNetSizes, Vocabulary};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions, Part, identity};
use atedm_sdxl::config::{TextActivation, TextEncoderConfig, UNetConfig, VaeConfig};
use atedm_sdxl::pipeline::{Pipeline, Request};
use atedm_sdxl::schedulers::{Prediction, SchedulerConfig};
use atedm_sdxl::unet::UNet;
use atedm_sdxl::weights::Recorder;
use safetensors::tensor::Dtype;
use serde_json::Value;
use single_support::{Names, Tensors, fixtures, read, weight_file, write, write_hole, write_small};

/// The shape of every tensor of a file, by name.
type TensorShapes = BTreeMap<String, Vec<usize>>;

fn open(path: &Path) -> Result<Checkpoint> {
    Checkpoint::open(path, OpenOptions::default())
}

/// With the configurations and tokenizers of a folder.
fn open_as(path: &Path, config: &Path) -> Result<Checkpoint> {
    Checkpoint::open(path, OpenOptions { config: Some(config.to_path_buf()), ..OpenOptions::default() })
}

/// tiny-a as a single file, with what real files also hold.
fn tiny() -> (tempfile::TempDir, PathBuf, Tensors) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny-a.safetensors");
    let mut tensors = Names::of("tiny-a").single_file(&fixtures().join("tiny-a"));
    let convolution = tensors["model.diffusion_model.input_blocks.0.0.weight"].clone();
    let scalar = (Dtype::F32, vec![], vec![0; 4]);
    for (name, tensor) in [
        ("model_ema.diffusion_modelinput_blocks00weight", convolution),
        ("model_ema.decay", scalar.clone()),
        ("conditioner.embedders.1.model.logit_scale", scalar),
        (
            "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
            (Dtype::I64, vec![1, 77], vec![0; 8 * 77]),
        ),
    ] {
        tensors.insert(name.to_string(), tensor);
    }
    write(&file, &tensors);
    (folder, file, tensors)
}

/// Final latents and pixels of a short run.
fn drawn(checkpoint: &Checkpoint, side: usize) -> (Vec<f32>, Vec<f32>) {
    let pipeline = Pipeline::<Reference32>::load(checkpoint, DType::F32, &NdDevice).unwrap();
    let request = Request {
        steps: 2,
        guidance_scale: 5.0,
        width: Some(side),
        height: Some(side),
        ..Request::new(["a photo of a red fox!"])
    };
    let output = pipeline.generate(&request, &mut Unpruned, &mut |_| ControlFlow::Continue(())).unwrap();
    (output.latents.to_f32().unwrap(), output.images.unwrap().values)
}

#[test]
fn a_single_file_draws_the_pictures_of_its_folder() {
    let (_folder, file, _) = tiny();
    let folder = fixtures().join("tiny-a");
    let single = open_as(&file, &folder).unwrap();
    assert!(single.is_single_file() && !open(&folder).unwrap().is_single_file());
    assert_eq!(drawn(&single, 32), drawn(&open(&folder).unwrap(), 32));
    for part in Part::ALL {
        let of_folder = open(&folder).unwrap().contents(part).unwrap();
        assert_eq!(single.contents(part).unwrap(), of_folder, "{part:?}");
    }
}

#[test]
fn a_converted_file_is_its_folder_tensor_by_tensor() {
    let (work, file, _) = tiny();
    let folder = fixtures().join("tiny-a");
    let written = work.path().join("new/converted");
    open_as(&file, &folder).unwrap().write_folder(&written).unwrap();
    for part in Part::ALL {
        assert_eq!(read(&weight_file(&written, part)), read(&weight_file(&folder, part)), "{part:?}");
    }
    // configurations and tokenizers too, as the hash of all that a run reads shows
    assert_eq!(identity(&written).unwrap(), identity(&folder).unwrap());
    assert_ne!(open_as(&file, &folder).unwrap().identity().unwrap(), identity(&folder).unwrap());
    // a folder with files in it stays as it is
    let refused = open_as(&file, &folder).unwrap().write_folder(&written).unwrap_err();
    assert!(refused.to_string().contains("converted: "), "{refused}");
    assert_eq!(identity(&written).unwrap(), identity(&folder).unwrap());
    let left: Vec<_> = std::fs::read_dir(work.path().join("new")).unwrap().collect();
    assert_eq!(left.len(), 1);
}

/// Nothing but the file: configurations from its shapes, tokenizers from the crate.
#[test]
fn a_file_alone_draws_the_pictures_of_its_folder() {
    let work = tempfile::tempdir().unwrap();
    let [folder, file, converted] = ["folder", "small.safetensors", "converted"].map(|n| work.path().join(n));
    write_small(&folder);
    write(&file, &Names::of("sdxl-base").single_file(&folder));
    let (of_folder, single) = (open(&folder).unwrap(), open(&file).unwrap());
    assert_eq!(single.unet(), of_folder.unet());
    assert_eq!(single.vae(), of_folder.vae());
    let expected = drawn(&of_folder, 64);
    assert!(expected.0.iter().any(|value| *value != expected.0[0]));
    assert_eq!(drawn(&single, 64), expected);
    single.write_folder(&converted).unwrap();
    let converted = open(&converted).unwrap();
    assert_eq!(drawn(&converted, 64), expected);
    assert_eq!(converted.scheduler(), &scheduler_at(single.scheduler(), converted.scheduler()));
    assert_eq!(converted.default_size(), Some(1024));
}

/// `config` with the file name of `other`.
fn scheduler_at(config: &SchedulerConfig, other: &SchedulerConfig) -> SchedulerConfig {
    let mut config = config.clone();
    config.origin = other.origin.clone();
    config
}

/// SD-XL base without its U-Net: names in a folder, and shapes.
fn base_parts() -> Architecture {
    Architecture {
        size: 1024,
        context: 77,
        text: Text {
            channels: [768, 1280],
            layers: [12, 32],
            heads: [12, 20],
            expansion: 4,
            projection: 1280,
        },
        unet: UNetSizes {
            channels: vec![320, 640, 1280],
            layers: 2,
            depths: vec![0, 2, 10],
            head_channels: 64,
            groups: 32,
            size_channels: 256,
        },
        vae: Autoencoder {
            channels: vec![128, 256, 512, 512],
            layers: 2,
            groups: 32,
            latent_channels: 4,
            scaling_factor: 0.13025,
            mid_attention: true,
        },
    }
}

/// A file with the shapes of SD-XL and of the U-Net that `single_file.json` has under this name, and no values.
fn hole(model: &str, file: &Path) -> UNetConfig {
    let names = Names::of(model);
    let config = UNetConfig::from_json(Path::new(model), names.fact("unet_config").clone()).unwrap();
    let device = ShapeDevice::default();
    let (source, list) = Recorder::new(ShapeWeights(device));
    let weights: Weights<ShapeTensor> = Weights::new(source);
    UNet::<Shapes>::load(&weights, &config).unwrap();
    let mut shapes = names.shapes(Part::UNet, list.borrow().iter().cloned());
    assert_eq!(shapes.len() as u64, names.fact("unet_tensors").as_u64().unwrap());
    let (parts, vocabulary) = (base_parts(), Vocabulary::clip());
    for part in [Part::TextEncoder, Part::TextEncoder2, Part::Vae] {
        let list = parts.parameters(&vocabulary, part).into_iter().map(|p| (p.name, p.shape));
        shapes.extend(names.shapes(part, list));
    }
    write_hole(file, &shapes);
    config
}

#[test]
fn configurations_are_found_from_the_shapes() {
    let work = tempfile::tempdir().unwrap();
    for (model, parameters) in
        [("sdxl-base", 2_567_463_684), ("ssd-1b", 1_331_334_404), ("vega", 745_225_604)]
    {
        let file = work.path().join(format!("{model}.safetensors"));
        let config = hole(model, &file);
        let checkpoint = open(&file).unwrap();
        assert_eq!(checkpoint.unet(), &config, "{model}");
        assert_eq!(checkpoint.contents(Part::UNet).unwrap().parameters, config.parameters());
        assert_eq!(config.parameters(), parameters, "{model}");
        let [first, second] = checkpoint.text_encoders();
        let text = |channels, layers, heads, activation, projection| TextEncoderConfig {
            vocabulary: 49_408,
            channels,
            feed_forward: 4 * channels,
            layers,
            heads,
            context: 77,
            activation,
            norm_epsilon: 1e-5,
            end_token: 2,
            projection,
        };
        assert_eq!(first, &text(768, 12, 12, TextActivation::QuickGelu, None));
        assert_eq!(second, &text(1280, 32, 20, TextActivation::Gelu, Some(1280)));
        let VaeConfig::Kl(vae) = checkpoint.vae() else { panic!("expected AutoencoderKL") };
        assert_eq!((&vae.channels[..], vae.layers), (&[128, 256, 512, 512][..], 2));
        assert_eq!((vae.scaling_factor, vae.sample_size, vae.norm_groups), (0.13025, 1024, 32));
        assert!(vae.mid_attention && vae.quant_conv && vae.post_quant_conv && vae.force_upcast);
        assert_eq!(checkpoint.scheduler(), &scheduler_at(&SchedulerConfig::sdxl(), checkpoint.scheduler()));
        assert_eq!(checkpoint.default_size(), Some(1024));
        assert!(checkpoint.force_zeros_for_empty_prompt());
    }
    assert_eq!(open(&work.path().join("sdxl-base.safetensors")).unwrap().unet(), &UNetConfig::sdxl_base());
}

#[test]
fn tokens_are_those_of_transformers() {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("base.safetensors");
    hole("sdxl-base", &file);
    let expected = std::fs::read(fixtures().join("clip_tokens.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let prompts = expected["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 8);
    let tokenizers = open(&file).unwrap().tokenizers().unwrap();
    for (tokenizer, name) in tokenizers.iter().zip(["tokenizer", "tokenizer_2"]) {
        for (prompt, ids) in prompts.iter().zip(expected[name].as_array().unwrap()) {
            let encoded = tokenizer.encode(prompt.as_str().unwrap()).unwrap();
            assert_eq!(serde_json::json!(encoded.ids), *ids, "{name}: {prompt}");
        }
    }
}

/// A hole of a file with SD-XL base's shapes, changed.
fn changed(change: impl FnOnce(&mut TensorShapes)) -> Result<Checkpoint> {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("model.safetensors");
    hole("sdxl-base", &file);
    let mut shapes = header(&file);
    change(&mut shapes);
    write_hole(&file, &shapes);
    open(&file)
}

fn header(file: &Path) -> TensorShapes {
    use std::io::Read;
    let mut reader = std::fs::File::open(file).unwrap();
    let mut length = [0; 8];
    reader.read_exact(&mut length).unwrap();
    let mut json = vec![0; u64::from_le_bytes(length) as usize];
    reader.read_exact(&mut json).unwrap();
    let header: BTreeMap<String, Value> = serde_json::from_slice(&json).unwrap();
    let shape = |value: &Value| serde_json::from_value(value["shape"].clone()).unwrap();
    header.iter().map(|(name, value)| (name.clone(), shape(value))).collect()
}

#[test]
fn markers_say_how_the_model_was_trained() {
    let marked = |names: &[&str]| {
        changed(|shapes| shapes.extend(names.iter().map(|name| (name.to_string(), vec![0]))))
    };
    assert_eq!(marked(&["v_pred"]).unwrap().scheduler().prediction, Prediction::VPrediction);
    // the second marker is what the configuration's field of that name is
    let config = r#"{
        "_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000, "timestep_spacing": "leading", "steps_offset": 1, "clip_sample": false,
        "set_alpha_to_one": false, "prediction_type": "v_prediction", "rescale_betas_zero_snr": true
    }"#;
    let reason = |error: atedm_core::Error| {
        let message = error.to_string();
        assert!(message.contains("rescale_betas_zero_snr: "), "{message}");
        message.split_once("rescale_betas_zero_snr: ").map(|(_, reason)| reason.to_string())
    };
    let here = |config: SchedulerConfig| scheduler_at(&config, &SchedulerConfig::sdxl());
    let expected = SchedulerConfig::from_json(config, Path::new("scheduler_config.json"));
    let opened = marked(&["v_pred", "ztsnr"]).map(|checkpoint| checkpoint.scheduler().clone());
    assert_eq!(opened.map(here).map_err(reason), expected.map(here).map_err(reason));
}

#[test]
fn files_that_are_something_else_are_refused_by_name() {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("model.safetensors");
    let unet = "model.diffusion_model.input_blocks.0.0.weight";
    for (names, what) in [
        (&["lora_unet_down_blocks_0.lora_down.weight"][..], "a LoRA, which --lora takes"),
        (&["lora_te1_text_model_encoder.alpha"], "a LoRA, which --lora takes"),
        (&["unet.down_blocks.0.attn2.to_k.lora_A.weight"], "a LoRA, which --lora takes"),
        (&["lora_unet_double_blocks_0.lora_down.weight"], "a LoRA of FLUX, which --lora takes"),
        (&["emb_params"], "a textual inversion"),
        (&["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"], "FLUX"),
        (&["double_blocks.0.img_attn.qkv.weight"], "FLUX"),
        (&["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
        (&[unet, "cond_stage_model.model.ln_final.weight"], "Stable Diffusion 2"),
        (&[unet, "cond_stage_model.transformer.text_model.final_layer_norm.weight"], "Stable Diffusion 1"),
        (&[unet, "conditioner.embedders.0.model.ln_final.weight"], "SD-XL's refiner"),
        (&["control_model.time_embed.0.weight", unet], "a control network"),
        (&["edm_mean", unet, "conditioner.embedders.1.model.ln_final.weight"], "Playground v2.5"),
        (&[unet], "a lone U-Net"),
        (&[unet, "first_stage_model.decoder.conv_in.weight"], "a lone U-Net"),
        (&["input_blocks.0.0.weight"], "a lone U-Net"),
        (&["down_blocks.0.resnets.0.conv1.weight"], "a lone U-Net"),
        (&["first_stage_model.decoder.conv_in.weight"], "a lone autoencoder"),
        (&["decoder.conv_in.weight", "encoder.conv_in.weight"], "a lone autoencoder"),
        (&["text_model.final_layer_norm.weight"], "a lone text encoder"),
        (&["weight"], "no checkpoint that is known here"),
    ] {
        write_hole(&file, &names.iter().map(|name| (name.to_string(), vec![4, 4, 3, 3])).collect());
        let message = open(&file).unwrap_err().to_string();
        let expected =
            format!("{}: is {what}: expected a whole SD-XL checkpoint (U-Net, both text", file.display());
        assert!(message.starts_with(&expected) && !message.contains('\n'), "{names:?}: {message}");
    }
}

#[test]
fn checkpoints_that_are_not_whole_or_do_more_are_refused() {
    let refused = |change: &dyn Fn(&mut TensorShapes), what: &str| {
        let message = changed(change).unwrap_err().to_string();
        assert!(message.contains(what) && !message.contains('\n'), "{message}");
    };
    let without = |beginning: &'static str| {
        move |shapes: &mut TensorShapes| shapes.retain(|name, _| !name.starts_with(beginning))
    };
    let convolution = "model.diffusion_model.input_blocks.0.0.weight";
    let inputs = |channels: usize| {
        move |shapes: &mut TensorShapes| {
            shapes.insert(convolution.into(), vec![320, channels, 3, 3]);
        }
    };
    assert!(changed(inputs(9)).unwrap().unet().is_inpainting());
    refused(&inputs(8), "is an editing model (its U-Net also takes an image)");
    refused(&without("first_stage_model."), "is a checkpoint without an autoencoder (first_stage_model.…)");
    refused(&without("model.diffusion_model."), "is a checkpoint without a U-Net");
    refused(&without("conditioner.embedders.0."), "is a checkpoint without a first text encoder");
    refused(&without("conditioner.embedders.1."), "is a checkpoint without a second text encoder");
    refused(
        &|shapes| {
            drop(shapes.insert("model.diffusion_model.time_embed.cond_proj.weight".into(), vec![320, 256]))
        },
        "time_embed.cond_proj.weight: expected only tensors of SD-XL's U-Net",
    );
    refused(&without("model.diffusion_model.output_blocks.8."), "expected stages like those of SD-XL");
    refused(
        &without("model.diffusion_model.input_blocks.4.1."),
        "expected blocks of one resolution to have the same channels",
    );
    refused(
        &|shapes| {
            let table = "conditioner.embedders.1.model.token_embedding.weight";
            shapes.insert(table.into(), vec![49_408, 1281]);
        },
        "expected a multiple of 64 channels (SD-XL's heads), got 1281",
    );
    refused(&without("model.diffusion_model.label_emb."), "label_emb.0.0.weight: is missing");
}

#[test]
fn broken_files_and_options_are_named() {
    let (_folder, file, _) = tiny();
    let config = fixtures().join("tiny-a");
    let options = OpenOptions { variant: Some("fp16".into()), ..OpenOptions::default() };
    let message = Checkpoint::open(&file, options).unwrap_err().to_string();
    assert!(message.starts_with("variant: expected none, as "), "{message}");
    let message = open_as(&config, &config).unwrap_err().to_string();
    assert!(message.starts_with("config: expected none, as "), "{message}");
    let message = open_as(&file, &file).unwrap_err().to_string();
    assert!(message.contains("expected a diffusers folder"), "{message}");

    let bytes = std::fs::read(&file).unwrap();
    for length in [bytes.len() - 1, 5000, 8, 3] {
        std::fs::write(&file, &bytes[..length]).unwrap();
        let message = open_as(&file, &config).unwrap_err().to_string();
        assert!(message.contains("tiny-a.safetensors: is truncated"), "{length}: {message}");
    }
    for (name, bytes, what) in [
        ("sd_xl.ckpt", &b"PK\x03\x04\x00\x00"[..], "is a zip archive, as PyTorch writes them"),
        ("old.ckpt", b"\x80\x02\x8a\x0a", "is a pickle of PyTorch"),
        ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ] {
        let path = file.with_file_name(name);
        std::fs::write(&path, bytes).unwrap();
        let message = open(&path).unwrap_err().to_string();
        assert!(message.contains(what) && !message.contains('\n'), "{message}");
    }
}

/// A file without the extension, and one whose own autoencoder is not needed.
#[test]
fn names_and_autoencoders_of_the_users_choice() {
    let (work, file, mut tensors) = tiny();
    let folder = fixtures().join("tiny-a");
    let renamed = work.path().join("blob");
    std::fs::rename(&file, &renamed).unwrap();
    assert!(open_as(&renamed, &folder).unwrap().is_single_file());
    tensors.retain(|name, _| !name.starts_with("first_stage_model."));
    write(&file, &tensors);
    let options =
        OpenOptions { vae: Some(folder.join("vae")), config: Some(folder.clone()), ..OpenOptions::default() };
    let checkpoint = Checkpoint::open(&file, options).unwrap();
    assert_eq!(drawn(&checkpoint, 32), drawn(&open(&folder).unwrap(), 32));
    let written = work.path().join("written");
    checkpoint.write_folder(&written).unwrap();
    assert_eq!(identity(&written).unwrap(), identity(&folder).unwrap());
}

/// f32 values, f16 values and bf16 values in one file.
#[test]
fn dtypes_may_differ_from_tensor_to_tensor() {
    let (_folder, file, mut tensors) = tiny();
    let folder = fixtures().join("tiny-a");
    let expected = drawn(&open(&folder).unwrap(), 32);
    for (name, tensor) in tensors.iter_mut().filter(|(name, _)| name.contains(".out")) {
        let halves = tensor.2.as_chunks::<2>().0.iter().map(|half| half::f16::from_le_bytes(*half).to_f32());
        assert_eq!(tensor.0, Dtype::F16, "{name}");
        *tensor = (Dtype::F32, tensor.1.clone(), halves.flat_map(f32::to_le_bytes).collect());
    }
    write(&file, &tensors);
    let single = open_as(&file, &folder).unwrap();
    assert_eq!(drawn(&single, 32), expected);
    let dtypes = single.contents(Part::UNet).unwrap().dtypes;
    assert_eq!(dtypes.into_iter().collect::<Vec<_>>(), ["F16", "F32"]);
    let weight = tensors.get_mut("model.diffusion_model.out.2.weight").unwrap();
    let floats = weight.2.as_chunks::<4>().0.iter().map(|float| f32::from_le_bytes(*float));
    let halves: Vec<u8> = floats.flat_map(|float| half::bf16::from_f32(float).to_le_bytes()).collect();
    *weight = (Dtype::BF16, weight.1.clone(), halves);
    write(&file, &tensors);
    let dtypes = open_as(&file, &folder).unwrap().contents(Part::UNet).unwrap().dtypes;
    assert!(dtypes.contains("BF16"));
    assert_ne!(drawn(&open_as(&file, &folder).unwrap(), 32), expected);
}
