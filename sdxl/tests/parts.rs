//! Autoencoders and U-Nets that replace a checkpoint's own: folders, and files with diffusers' names or the original ones.

#![allow(clippy::unwrap_used)]

mod pipeline_support;
mod single_support;
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atedm_conformance::tolerance::relative_l2;
use atedm_core::reference::{NdDevice, Reference32};
use atedm_core::{DType, Tensor, Weights};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions, Part, identity, open_vae};
use atedm_sdxl::config::{TinyVaeConfig, VaeConfig};
use atedm_sdxl::pipeline::{Decoding, Pipeline, Proceed, Request};
use atedm_sdxl::vae::Vae;
use atedm_sdxl::weights::{RandomSource, Recorder};
use pipeline_support::{Golden, fixtures};
use safetensors::Dtype;
use serde_json::json;
use single_support::{Names, read, weight_file, write};
use support::{T, Tensors, write_tensors};

/// Largest relative L2 distance of a picture from diffusers'.
const PICTURE: f64 = 2e-5;

fn tiny_a() -> PathBuf {
    fixtures().join("tiny-a")
}

fn open(options: OpenOptions) -> atedm_core::Result<Checkpoint> {
    Checkpoint::open(tiny_a(), options)
}

fn with_vae(path: &Path) -> atedm_core::Result<Checkpoint> {
    open(OpenOptions { vae: Some(path.to_path_buf()), ..OpenOptions::default() })
}

fn with_unet(path: &Path) -> atedm_core::Result<Checkpoint> {
    open(OpenOptions { unet: Some(path.to_path_buf()), ..OpenOptions::default() })
}

/// The golden autoencoders of `tests/python/parts_reference.py`.
fn config(name: &str) -> VaeConfig {
    match name {
        "kl" => {
            let config = json!({
                "block_out_channels": [32, 32, 64], "norm_num_groups": 32, "sample_size": 1024, "scaling_factor": 0.13025,
                "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
                "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]
            });
            VaeConfig::from_json(Path::new("config.json"), config).unwrap()
        }
        _ => VaeConfig::Tiny(TinyVaeConfig {
            encoder_channels: vec![8; 4],
            decoder_channels: vec![8; 4],
            ..TinyVaeConfig::default()
        }),
    }
}

/// The weights of that script's formula, with diffusers' names.
fn tensors(config: &VaeConfig) -> Tensors {
    let (source, list) = Recorder::new(RandomSource::new(1, DType::F32, NdDevice));
    let weights: Weights<T> = Weights::new(source);
    Vae::<Reference32>::load(&weights, config).unwrap();
    let list = list.borrow();
    let formula = |name: &str, shape: &[usize]| {
        let count: usize = shape.iter().product();
        let inputs = if shape.len() > 1 { count / shape[0] } else { 100 };
        let value =
            |index: usize| 1.2 * (0.37 * index as f64 + name.len() as f64).sin() / (inputs as f64).sqrt();
        (0..count).map(|index| value(index) as f32).collect()
    };
    list.iter().map(|(name, shape)| (name.clone(), (shape.clone(), formula(name, shape)))).collect()
}

/// The same tensors under other names. Projections of attention become 1×1 convolutions.
fn original(tensors: &Tensors, root: &str) -> Tensors {
    let names = Names::of("tiny-a");
    let renamed = tensors.iter().map(|(name, (shape, values))| {
        let mut shape = shape.clone();
        if name.contains(".attentions.") && shape.len() == 2 {
            shape.extend([1, 1]);
        }
        let original = names.original(Part::Vae, name);
        (format!("{root}{}", original.strip_prefix("first_stage_model.").unwrap()), (shape, values.clone()))
    });
    renamed.collect()
}

/// Compares a file's decoder and encoder with diffusers'.
#[track_caller]
fn is_golden(file: &Path, name: &str, with_encoder: bool) {
    let golden = Golden::open(fixtures().join("parts/autoencoders.safetensors"));
    let checkpoint = with_vae(file).unwrap();
    let weights = checkpoint.weights::<T>(Part::Vae, DType::F32, &NdDevice).unwrap();
    let vae = Vae::<Reference32>::load(&weights, checkpoint.vae()).unwrap();
    let close = |got: &T, expected: &str| {
        let distance = relative_l2(&got.to_f32().unwrap(), &golden.f32(expected));
        assert_eq!(got.shape(), golden.shape(expected));
        assert!(distance < PICTURE, "{}: {expected}: {distance:e}", file.display());
    };
    close(&vae.decode(&golden.tensor("latents")).unwrap(), &format!("{name}.image"));
    let encoded = vae.encode(&golden.tensor("picture"));
    match with_encoder {
        true => close(&encoded.unwrap(), &format!("{name}.encoded")),
        false => assert!(encoded.unwrap_err().to_string().contains("no encoder")),
    }
    // The same autoencoder without a checkpoint.
    let (alone, dtype) = open_vae::<Reference32>(file, DType::F32, &NdDevice).unwrap();
    assert_eq!(dtype, DType::F32);
    close(&alone.decode(&golden.tensor("latents")).unwrap(), &format!("{name}.image"));
}

#[test]
fn an_autoencoder_may_be_a_file_with_any_names() {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("sdxl_vae.safetensors");
    let kl = tensors(&config("kl"));
    let mut whole = original(&kl, "first_stage_model.");
    whole.insert("model.diffusion_model.out.2.bias".into(), (vec![1], vec![0.0]));
    for tensors in [&kl, &original(&kl, ""), &whole] {
        write_tensors(&file, tensors, Dtype::F32);
        is_golden(&file, "kl", true);
        let vae = with_vae(&file).unwrap().vae().clone();
        assert_eq!(vae, config("kl"), "SD-XL's values are assumed");
    }
    let decoder = kl.iter().filter(|(name, _)| !name.starts_with("encoder.") && !name.starts_with("quant"));
    write_tensors(&file, &decoder.map(|(name, tensor)| (name.clone(), tensor.clone())).collect(), Dtype::F32);
    is_golden(&file, "kl", false);
}

#[test]
fn a_small_autoencoder_may_be_a_file_too() {
    let work = tempfile::tempdir().unwrap();
    let tiny = tensors(&config("tiny"));
    let file = work.path().join("diffusion_pytorch_model.safetensors");
    write_tensors(&file, &tiny, Dtype::F32);
    is_golden(&file, "tiny", true);
    // The original's decoder begins with a clamp, so its numbers are higher by one.
    let side = |side: &str, shift: usize| -> Tensors {
        let prefix = format!("{side}.layers.");
        let renamed = tiny.iter().filter_map(|(name, tensor)| {
            let (number, rest) = name.strip_prefix(&prefix)?.split_once('.')?;
            Some((format!("{}.{rest}", number.parse::<usize>().unwrap() + shift), tensor.clone()))
        });
        renamed.collect()
    };
    let paths =
        ["taesdxl_encoder", "taesdxl_decoder"].map(|name| work.path().join(format!("{name}.safetensors")));
    write_tensors(&paths[1], &side("decoder", 1), Dtype::F32);
    is_golden(&paths[1], "tiny", false);
    write_tensors(&paths[0], &side("encoder", 0), Dtype::F32);
    for path in [&paths[0], &paths[1], &work.path().to_path_buf()] {
        is_golden(path, "tiny", true);
    }
    // one file with both sides, and a decoder of any name
    let both = [("encoder", 0), ("decoder", 1)].into_iter().flat_map(|(name, shift)| {
        side(name, shift).into_iter().map(move |(rest, tensor)| (format!("{name}.{rest}"), tensor))
    });
    write_tensors(&file, &both.collect(), Dtype::F32);
    is_golden(&file, "tiny", true);
    let other = work.path().join("fast.safetensors");
    write_tensors(&other, &side("decoder", 1), Dtype::F32);
    is_golden(&other, "tiny", false);
    write_tensors(&other, &side("encoder", 0), Dtype::F32);
    let message = with_vae(&other).unwrap_err().to_string();
    assert!(message.contains("fast.safetensors: is no decoder of TAESDXL"), "{message}");
}

/// A whole diffusers folder gives its part. A variant of the checkpoint does not need one of the part.
#[test]
fn a_folder_gives_its_part() {
    let tiny_b = fixtures().join("tiny-b");
    for path in [tiny_b.clone(), tiny_b.join("vae")] {
        let checkpoint = with_vae(&path).unwrap();
        assert_eq!(checkpoint.vae(), Checkpoint::open(&tiny_b, OpenOptions::default()).unwrap().vae());
        assert!(checkpoint.files(Part::Vae)[0].path.starts_with(&tiny_b));
    }
    let copy = pipeline_support::copy_of("tiny-a");
    for part in Part::ALL {
        let file = weight_file(copy.path(), part);
        std::fs::rename(&file, file.with_extension("fp16.safetensors")).unwrap();
    }
    let options = OpenOptions {
        variant: Some("fp16".into()),
        vae: Some(tiny_b),
        unet: Some(tiny_a()),
        ..OpenOptions::default()
    };
    let checkpoint = Checkpoint::open(copy.path(), options).unwrap();
    assert!(checkpoint.files(Part::UNet)[0].path.starts_with(tiny_a()));
    assert!(checkpoint.files(Part::TextEncoder)[0].path.starts_with(copy.path()));
}

/// Final latents of a short run.
fn drawn(checkpoint: &Checkpoint) -> Vec<f32> {
    let pipeline = Pipeline::<Reference32>::load(checkpoint, DType::F32, &NdDevice).unwrap();
    let mut request = Request::new(["a red fox"]);
    (request.steps, request.width, request.height) = (2, Some(32), Some(32));
    request.decoding = Decoding::Skip;
    let unpruned = &mut atedm_core::plugin::Unpruned;
    let output = pipeline.generate(&request, unpruned, &mut |_| Proceed::Continue(())).unwrap();
    output.latents.to_f32().unwrap()
}

#[test]
fn a_unet_may_be_a_file_with_any_names() {
    let work = tempfile::tempdir().unwrap();
    let own = open(OpenOptions::default()).unwrap();
    let expected = drawn(&own);
    let file = work.path().join("unet.safetensors");
    let weights = read(&weight_file(&tiny_a(), Part::UNet));
    let names = Names::of("tiny-a");
    let renamed = |root: &str| -> single_support::Tensors {
        let original = |name: &str| names.original(Part::UNet, name);
        let bare = |name: &str| original(name).strip_prefix("model.diffusion_model.").unwrap().to_string();
        weights.iter().map(|(name, tensor)| (format!("{root}{}", bare(name)), tensor.clone())).collect()
    };
    for tensors in [&weights, &renamed(""), &renamed("model.diffusion_model."), &names.single_file(&tiny_a())]
    {
        write(&file, tensors);
        let checkpoint = with_unet(&file).unwrap();
        assert_eq!(checkpoint.unet(), own.unet(), "the checkpoint's own configuration counts");
        assert!(!checkpoint.is_single_file());
        assert_eq!(drawn(&checkpoint), expected);
        assert_eq!(checkpoint.contents(Part::UNet).unwrap(), own.contents(Part::UNet).unwrap());
    }
    // Other weights: other latents, and another identity.
    let mut other = weights.clone();
    let (_, _, bytes) = other.get_mut("conv_in.bias").unwrap();
    bytes.iter_mut().skip(1).step_by(2).for_each(|byte| *byte ^= 0x80);
    write(&file, &other);
    let checkpoint = with_unet(&file).unwrap();
    assert_ne!(drawn(&checkpoint), expected);
    assert_ne!(checkpoint.identity().unwrap(), identity(tiny_a()).unwrap());
    // It is the identity of the folder that one makes of it, whatever its name.
    let written = work.path().join("written");
    checkpoint.write_folder(&written).unwrap();
    assert_eq!(drawn(&Checkpoint::open(&written, OpenOptions::default()).unwrap()), drawn(&checkpoint));
}

/// With another form than the checkpoint's own U-Net, shapes and SD-XL's facts give the configuration.
#[test]
fn a_unet_of_another_form_is_found_by_its_shapes() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("small");
    single_support::write_small(&folder);
    let small = Checkpoint::open(&folder, OpenOptions::default()).unwrap();
    // Its own file lacks the second layers of the deepest level.
    let mut tensors = Names::of("sdxl-base").single_file(&folder);
    tensors.retain(|name, _| {
        name.starts_with("model.diffusion_model.") && !name.contains("transformer_blocks.1.")
    });
    let file = work.path().join("flat.safetensors");
    write(&file, &tensors);
    let options = OpenOptions { unet: Some(file.clone()), ..OpenOptions::default() };
    let checkpoint = Checkpoint::open(&folder, options).unwrap();
    let depths: Vec<_> = checkpoint.unet().down.iter().map(|stage| stage.attention.clone()).collect();
    assert_eq!(depths, [None, Some(vec![1, 1]), Some(vec![1, 1])]);
    assert!(drawn(&checkpoint).iter().all(|value| value.is_finite()));
    assert_ne!(checkpoint.unet(), small.unet());
}

/// One line says what the file is and what was expected.
#[test]
fn what_does_not_fit_is_named() {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("part.safetensors");
    let named = |names: &[(&str, &[usize])]| {
        let tensor = |(name, shape): &(&str, &[usize])| {
            (name.to_string(), (shape.to_vec(), vec![0.0; shape.iter().product()]))
        };
        write_tensors(&file, &names.iter().map(tensor).collect::<BTreeMap<_, _>>(), Dtype::F16);
    };
    let says = |opened: atedm_core::Result<Checkpoint>, words: &[&str]| {
        let message = opened.unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
        assert!(message.contains("part.safetensors: ") && !message.contains('\n'), "{message}");
    };
    let lora: &[(&str, &[usize])] = &[("lora_unet_mid_block.lora_down.weight", &[1, 1])];
    named(lora);
    says(with_vae(&file), &["is a LoRA: expected an autoencoder of SD-XL"]);
    says(with_unet(&file), &["is a LoRA: expected a U-Net of SD-XL"]);
    named(&[("double_blocks.0.img_attn.qkv.weight", &[3, 1])]);
    says(with_vae(&file), &["is FLUX: expected an autoencoder"]);
    says(with_unet(&file), &["is FLUX: expected a U-Net"]);
    named(&[("model.diffusion_model.input_blocks.0.0.weight", &[4, 4, 3, 3])]);
    says(
        with_unet(&file),
        &["without inputs for sizes and pooled text, as Stable Diffusion 1 and 2 have it"],
    );
    says(with_vae(&file), &["is a lone U-Net: expected an autoencoder"]);
    named(&[("x", &[1])]);
    says(with_vae(&file), &["is no file with an autoencoder that is known here"]);
    says(with_unet(&file), &["is no file with a U-Net that is known here"]);

    let mut kl = tensors(&config("kl"));
    for (name, axis) in [("decoder.conv_in.weight", 1), ("post_quant_conv.weight", 0)] {
        let (shape, values) = kl.get_mut(name).unwrap();
        shape[axis] = 16;
        *values = vec![0.0; shape.iter().product()];
    }
    write_tensors(&file, &kl, Dtype::F16);
    says(with_vae(&file), &["16 latent channels (as FLUX's and Stable Diffusion 3's): expected 4"]);
    says(with_unet(&file), &["is a lone autoencoder: expected a U-Net of SD-XL"]);

    let mut unet = read(&weight_file(&tiny_a(), Part::UNet));
    unet.remove("mid_block.resnets.0.conv1.bias");
    write(&file, &unet);
    says(with_unet(&file), &["mid_block.resnets.0.conv1.bias", "differs from the checkpoint's own U-Net"]);

    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    for opened in [with_vae(&file), with_unet(&file)] {
        says(opened, &["is truncated"]);
    }
    std::fs::write(&file, b"PK\x03\x04\x00\x00\x00\x00\x00\x00").unwrap();
    for opened in [with_vae(&file), with_unet(&file)] {
        says(opened, &["is a zip archive, as PyTorch writes them: only safetensors are read"]);
    }
    std::fs::remove_file(&file).unwrap();
    for opened in [with_vae(&file), with_unet(&file)] {
        says(opened, &["No such file"]);
    }
}

/// An autoencoder in a file has an identity of its own, which its values change.
#[test]
fn another_autoencoder_in_a_file_is_another_identity() {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("vae.safetensors");
    let of = |tensors: &Tensors| {
        write_tensors(&file, tensors, Dtype::F32);
        with_vae(&file).unwrap().identity().unwrap()
    };
    let mut kl = tensors(&config("kl"));
    let first = of(&kl);
    assert_ne!(first, identity(tiny_a()).unwrap());
    kl.get_mut("decoder.conv_out.bias").unwrap().1[0] += 0.25;
    assert_ne!(of(&kl), first);
}
