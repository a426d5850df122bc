//! LoRAs: merged weights against an independent computation, and what is refused. f8 weights.
//!
//! `tests/python/lora_reference.py` wrote the files. Final latents are compared in `tests/tests/parity.rs`.
#![allow(clippy::unwrap_used)]

mod pipeline_support;
mod single_support;

use std::path::{Path, PathBuf};

use atedm_conformance::tolerance::relative_l2;
use atedm_core::reference::{NdDevice, NdTensor};
use atedm_core::{DType, Result, Tensor};
use atedm_sdxl::checkpoint::{Checkpoint, Lora, OpenOptions, Part};
use pipeline_support::{Golden, copy_of, fixtures, json};
use safetensors::tensor::Dtype;
use serde_json::Value;
use single_support::{Names, Stored, Tensors, read, weight_file, write};

/// Largest relative L2 distance of a merged weight from its golden one: the rounding of f32.
const MERGED: f64 = 3e-7;
/// The cross-attention's keys of a middle block, in kohya's names.
const KEYS: &str = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k";

fn file(name: &str) -> PathBuf {
    fixtures().join(format!("lora/{name}.safetensors"))
}

fn with(loras: Vec<Lora>) -> Result<Checkpoint> {
    Checkpoint::open(fixtures().join("tiny-a"), OpenOptions { loras, ..OpenOptions::default() })
}

fn weight(checkpoint: &Checkpoint, part: Part, name: &str, shape: &[usize], dtype: DType) -> NdTensor {
    checkpoint.weights::<NdTensor>(part, dtype, &NdDevice).unwrap().tensor(name, shape).unwrap()
}

#[test]
fn merged_weights_are_those_of_an_independent_computation() {
    let golden = Golden::open(fixtures().join("lora/expected.safetensors"));
    let (names, list) = (golden.names(), json(fixtures().join("lora/cases.json")));
    let mut compared = 0;
    for case in list["cases"].as_array().unwrap() {
        let lora = |lora: &Value| Lora {
            path: file(lora[0].as_str().unwrap()),
            scale: lora[1].as_f64().unwrap(),
            clip_scale: lora[2].as_f64(),
        };
        let checkpoint = with(case["loras"].as_array().unwrap().iter().map(lora).collect()).unwrap();
        for part in [Part::UNet, Part::TextEncoder, Part::TextEncoder2] {
            let prefix = format!("{}.{}.", case["name"].as_str().unwrap(), part.folder());
            for name in names.iter().filter(|name| name.starts_with(&prefix)) {
                let tensor = format!("{}.weight", &name[prefix.len()..]);
                let shape = golden.shape(name);
                let merged = weight(&checkpoint, part, &tensor, &shape, DType::F32).to_f32().unwrap();
                let error = relative_l2(&merged, &golden.f32(name));
                assert!(error <= MERGED, "{name}: {error:e}");
                // weights in f64 are merged in f64
                let double = weight(&checkpoint, part, &tensor, &shape, DType::F64).to_f32().unwrap();
                let error = relative_l2(&double, &golden.f32(name));
                assert!(error <= MERGED, "{name} in f64: {error:e}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 40, "{compared} weights");
}

#[test]
fn a_scale_of_zero_and_other_weights_change_nothing() {
    let (plain, merged) = (with(vec![]).unwrap(), with(vec![Lora::new(file("kohya"))]).unwrap());
    let nothing = with(vec![Lora { scale: 0.0, ..Lora::new(file("kohya")) }]).unwrap();
    let query = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight";
    let value = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v.weight";
    let of = |checkpoint: &Checkpoint, name: &str| {
        weight(checkpoint, Part::UNet, name, &[16, 16], DType::F32).to_f32().unwrap()
    };
    assert_ne!(of(&merged, query), of(&plain, query));
    assert_eq!(of(&nothing, query), of(&plain, query));
    assert_eq!(of(&merged, value), of(&plain, value));
}

#[test]
fn a_file_is_described() {
    let described = |name: &str| {
        let checkpoint = with(vec![Lora::new(file(name))]).unwrap();
        let lora = &checkpoint.loras()[0];
        let layers =
            [Part::UNet, Part::TextEncoder, Part::TextEncoder2, Part::Vae].map(|part| lora.layers(part));
        (lora.kind().to_string(), lora.ranks(), layers)
    };
    assert_eq!(described("kohya"), ("LoRA with kohya's names".into(), Some(2..=4), [9, 4, 4, 0]));
    let kind = "LoRA with kohya's names (original blocks), with convolutions";
    assert_eq!(described("original"), (kind.into(), Some(2..=4), [19, 0, 0, 0]));
    assert_eq!(
        described("peft"),
        ("LoRA with PEFT's names, with convolutions".into(), Some(2..=4), [14, 4, 4, 0])
    );
    assert_eq!(described("old").0, "LoRA with diffusers' names");
    assert_eq!(described("loha").0, "LoHa with kohya's names, with convolutions");
    assert_eq!(described("lokr").0, "LoKr with kohya's names, with convolutions");
}

#[test]
fn files_and_scales_are_part_of_the_identity() {
    let identity = |loras: &[(&str, f64, Option<f64>)]| {
        let lora = |(name, scale, clip_scale): &(&str, f64, Option<f64>)| Lora {
            path: file(name),
            scale: *scale,
            clip_scale: *clip_scale,
        };
        with(loras.iter().map(lora).collect()).unwrap().identity().unwrap()
    };
    let all = [
        identity(&[]),
        identity(&[("kohya", 1.0, None)]),
        identity(&[("kohya", 0.5, None)]),
        identity(&[("kohya", 1.0, Some(0.5))]),
        identity(&[("peft", 1.0, None)]),
        identity(&[("kohya", 1.0, None), ("peft", 1.0, None)]),
    ];
    for (index, one) in all.iter().enumerate() {
        assert!(all[..index].iter().all(|other| other != one), "{index}");
    }
    assert_eq!(identity(&[("kohya", 1.0, Some(1.0))]), all[1]);
}

/// Tensors of zeros in f32.
fn zeros(shapes: &[(&str, &[usize])]) -> Tensors {
    let tensor = |shape: &[usize]| (Dtype::F32, shape.to_vec(), vec![0; 4 * shape.iter().product::<usize>()]);
    shapes.iter().map(|(name, shape)| (name.to_string(), tensor(shape))).collect()
}

/// The message about these tensors as a LoRA, without the file's path.
fn refused(tensors: &Tensors) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    write(&path, tensors);
    message(&path)
}

fn message(path: &Path) -> String {
    let message = with(vec![Lora::new(path)]).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    let of_file = message.strip_prefix(&format!("{}: ", path.display()));
    of_file.unwrap_or_else(|| panic!("{message}")).to_string()
}

#[test]
fn files_of_other_kinds_are_named() {
    for (names, expected) in [
        (&["model.diffusion_model.input_blocks.0.0.weight"][..], "is a lone U-Net: expected a LoRA"),
        (
            &["conditioner.embedders.0.transformer.text_model.a.weight"],
            "is an SD-XL checkpoint: expected a LoRA",
        ),
        (&["down_blocks.0.resnets.0.conv1.weight"], "is a lone U-Net: expected a LoRA"),
        (&["double_blocks.0.img_attn.qkv.weight"], "is FLUX: expected a LoRA"),
        (&["emb_params"], "is a textual inversion: expected a LoRA"),
        (&["a.weight"], "is no LoRA that is known here: expected a LoRA"),
        (
            &["lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"],
            "is a LoRA of FLUX: expected one of SD-XL",
        ),
        (&["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"], "is a LoRA of FLUX: expected"),
        (
            &["lora_transformer_single_transformer_blocks_0_attn_to_q.lora_up.weight"],
            "is a LoRA of FLUX: expected",
        ),
        (
            &["diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight"],
            "is a LoRA of Stable Diffusion 3: expected",
        ),
        (
            &["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"],
            "is a LoRA of a diffusion transformer (FLUX, Stable",
        ),
        (
            &["base_model.model.conv_in.lora_A.weight"],
            "is a file of PEFT alone, which keeps its scale elsewhere",
        ),
    ] {
        let shapes: Vec<(&str, &[usize])> = names.iter().map(|name| (*name, &[4, 4][..])).collect();
        let message = refused(&zeros(&shapes));
        assert!(message.starts_with(expected), "{names:?}: {message}");
    }
    for (width, model) in
        [(768, "Stable Diffusion 1.x"), (1024, "Stable Diffusion 2.x"), (2048, "SD-XL"), (7, "another model")]
    {
        let expected =
            format!("is a LoRA of {model} (cross-attention width {width}): expected one of width 40");
        let (down, up) = (format!("{KEYS}.lora_down.weight"), format!("{KEYS}.lora_up.weight"));
        assert_eq!(refused(&zeros(&[(&down, &[2, width]), (&up, &[24, 2])])), expected);
        let name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_v_lora.down.weight";
        assert_eq!(refused(&zeros(&[(name, &[2, width])])), expected);
    }
}

#[test]
fn files_that_are_no_safetensors_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.pt");
    let whole = std::fs::read(file("kohya")).unwrap();
    let start = "is truncated or lies: the header";
    for (bytes, expected) in [
        (&b"PK\x03\x04 archive"[..], "is a zip archive, as PyTorch writes them: only safetensors are read"),
        (b"\x80\x02}q\x00K\x01K\x02u.", "is a pickle of PyTorch: only safetensors are read"),
        (b"<!DOCTYPE html><html>", "is a web page, not weights: its download failed"),
        (&whole[..whole.len() - 1], start),
        (&whole[..100], start),
        (&whole[..4], "is truncated: no safetensors header"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let message = message(&path);
        assert!(message.starts_with(expected), "{message}");
    }
    assert!(message(folder.path()).starts_with("is a folder: expected one safetensors file"));
    std::fs::remove_file(&path).unwrap();
    assert!(message(&path).starts_with("No such file"));
}

#[test]
fn layers_that_do_not_fit_are_named() {
    let kohya = read(&file("kohya"));
    let query = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q";
    let [down, up, alpha] =
        ["lora_down.weight", "lora_up.weight", "alpha"].map(|leaf| format!("{query}.{leaf}"));
    let changed = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = kohya.clone();
        change(&mut tensors);
        refused(&tensors)
    };
    let put = |name: &str, shape: &[usize]| {
        let tensor: Stored = (Dtype::F16, shape.to_vec(), vec![0; 2 * shape.iter().product::<usize>()]);
        let name = name.to_string();
        move |tensors: &mut Tensors| drop(tensors.insert(name.clone(), tensor.clone()))
    };
    for (message, expected) in [
        (changed(&put(&up, &[16, 3])), format!("{down}: expected rank 3 as in {up}, got 2")),
        (changed(&put(&up, &[24, 2])), format!("{query}: expected a change of shape [16, 16], got 24 x 16")),
        (changed(&put(&up, &[32])), format!("{up}: expected 2 to 4 axes, got [32]")),
        (changed(&|tensors| drop(tensors.remove(&up))), format!("{down}: expected the other factor of this product beside it")),
        (changed(&|tensors| drop(tensors.remove(&down))), format!("{up}: expected the other factor of this product beside it")),
        (changed(&put(&alpha, &[2])), format!("{alpha}: expected one value, got shape [2]")),
        (
            changed(&|tensors| drop(tensors.insert(alpha.clone(), (Dtype::F32, vec![], f32::NAN.to_le_bytes().to_vec())))),
            format!("{alpha}: expected a finite number, got NaN"),
        ),
        (
            changed(&put(&format!("{query}.dora_scale"), &[16, 1])),
            format!("holds DoRA, which is not read ({query}.dora_scale): expected LoRA, LoHa or LoKr"),
        ),
        (
            changed(&put(&format!("{query}.what"), &[16, 1])),
            format!("expected only tensors of LoRA, LoHa or LoKr, got 1 of other kinds: {query}.what"),
        ),
        (
            changed(&put(&format!("{query}.hada_w1_a"), &[16, 1])),
            format!("{query}: expected one kind of change, got LoHa and LoRA"),
        ),
        (
            changed(&put("lora_unet_x.alpha", &[])),
            "lora_unet_x.alpha: expected the tensors of this module beside its alpha".into(),
        ),
        (
            changed(&put("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", &[2, 16])),
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight: expected the other".into(),
        ),
    ] {
        assert!(message.starts_with(&expected), "{message}\n{expected}");
    }
    // two ways of writing one layer
    let other = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";
    let twice = changed(&|tensors| {
        put(&format!("{other}.lora_A.weight"), &[2, 16])(tensors);
        put(&format!("{other}.lora_B.weight"), &[16, 2])(tensors);
    });
    assert_eq!(
        twice,
        "expected one change of down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight, got two"
    );
}

#[test]
fn layers_that_match_nothing_are_counted() {
    let mut tensors = read(&file("kohya"));
    for number in 0..5 {
        for (leaf, shape) in [("lora_down", [2, 16]), ("lora_up", [16, 2])] {
            tensors.extend(zeros(&[(&format!("lora_unet_more_{number}.{leaf}.weight"), &shape)]));
        }
    }
    let expected = "expected only layers of this checkpoint, got 5 of 22 others: lora_unet_more_0, lora_unet_more_1, lora_unet_more_2, …";
    assert_eq!(refused(&tensors), expected);
}

#[test]
fn values_and_scales_must_be_finite() {
    for (name, dtype, bytes) in [
        ("kohya", Dtype::F16, [0, 0x7c]),
        ("original", Dtype::BF16, [0xc0, 0x7f]),
        ("no-alpha", Dtype::F32, [0x80, 0x7f]),
    ] {
        let mut tensors = read(&file(name));
        let first = tensors.keys().find(|name| name.ends_with("lora_up.weight")).unwrap().clone();
        let (stored, _, values) = tensors.get_mut(&first).unwrap();
        assert_eq!(*stored, dtype);
        let end = values.len();
        values[end - 2..].copy_from_slice(&bytes);
        assert_eq!(refused(&tensors), format!("{first}: expected finite values, got NaN or infinities"));
    }
    for (scale, clip_scale) in [(f64::NAN, None), (f64::INFINITY, None), (1.0, Some(f64::NEG_INFINITY))] {
        let error =
            with(vec![Lora { scale, clip_scale, ..Lora::new(file("kohya")) }]).unwrap_err().to_string();
        assert!(error.contains("kohya.safetensors: expected a finite scale, got "), "{error}");
    }
}

#[test]
fn every_f8_value_is_torchs() {
    let path = fixtures().join("lora/f8_values.safetensors");
    let source =
        atedm_sdxl::weights::SafetensorsSource::open(&[path.clone().into()], DType::F32, NdDevice).unwrap();
    let (weights, golden) = (atedm_core::Weights::<NdTensor>::new(source), Golden::open(path));
    for name in ["e4m3", "e5m2"] {
        let read = weights.tensor(name, &[256]).unwrap().to_f32().unwrap();
        for (byte, (got, expected)) in read.iter().zip(golden.f32(&format!("{name}.f32"))).enumerate() {
            let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
            assert!(same, "{name} {byte:#x}: {got}, expected {expected}");
        }
    }
}

/// The f8 (E4M3) of a value, and the value that it stands for.
fn rounded(value: f32) -> (u8, f32) {
    let golden = Golden::open(fixtures().join("lora/f8_values.safetensors"));
    let values = golden.f32("e4m3.f32");
    let near = |byte: &u8| (values[usize::from(*byte)] - value).abs();
    let nearest =
        (0..=255u8).filter(|byte| near(byte).is_finite()).min_by(|a, b| near(a).total_cmp(&near(b))).unwrap();
    (nearest, values[usize::from(nearest)])
}

/// A checkpoint in f8 is the checkpoint of the values that it stands for. Scales multiply them.
#[test]
fn f8_checkpoints_and_their_scales() {
    const NAME: &str = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight";
    let folder = copy_of("tiny-a");
    let path = weight_file(folder.path(), Part::UNet);
    let mut tensors = read(&path);
    let scale_name = NAME.replace(".weight", ".scale_weight");
    let (_, shape, bytes) = tensors[NAME].clone();
    let halves = bytes.as_chunks::<2>().0.iter().map(|half| half::f16::from_le_bytes(*half).to_f32());
    let (stored, values): (Vec<u8>, Vec<f32>) = halves.map(rounded).unzip();
    let opened = |tensors: &Tensors| {
        write(&path, tensors);
        let checkpoint = Checkpoint::open(folder.path(), OpenOptions::default()).unwrap();
        checkpoint.weights::<NdTensor>(Part::UNet, DType::F32, &NdDevice).unwrap().tensor(NAME, &shape)
    };
    tensors.insert(NAME.into(), (Dtype::F8_E4M3, shape.clone(), stored.clone()));
    assert_eq!(opened(&tensors).unwrap().to_f32().unwrap(), values);
    tensors.insert("scaled_fp8".into(), (Dtype::F8_E4M3, vec![0], vec![]));
    tensors.insert(scale_name.clone(), (Dtype::F32, vec![], 0.375f32.to_le_bytes().to_vec()));
    let scaled: Vec<f32> = values.iter().map(|value| value * 0.375).collect();
    assert_eq!(opened(&tensors).unwrap().to_f32().unwrap(), scaled);
    tensors.insert(scale_name.clone(), (Dtype::F32, vec![2], vec![0; 8]));
    let message = opened(&tensors).unwrap_err().to_string();
    assert!(message.ends_with(&format!("{scale_name}: expected one value, got shape [2]")), "{message}");
    tensors.remove(&scale_name);
    tensors.insert(NAME.into(), (Dtype::I8, shape.clone(), stored));
    let message = opened(&tensors).unwrap_err().to_string();
    assert!(message.ends_with("expected dtype F8_E4M3, F8_E5M2, F16, BF16, F32 or F64, got I8"), "{message}");
}

/// A single file of scaled f8 weights with the original names, and a LoRA over it.
#[test]
fn single_files_have_scales_and_take_loras() {
    const NAME: &str = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight";
    const ORIGINAL: &str = "model.diffusion_model.input_blocks.3.1.transformer_blocks.0.attn1.to_q";
    let (work, config) = (tempfile::tempdir().unwrap(), fixtures().join("tiny-a"));
    let path = work.path().join("tiny-a.safetensors");
    let mut tensors = Names::of("tiny-a").single_file(&config);
    let open = |tensors: &Tensors, loras: Vec<Lora>| {
        write(&path, tensors);
        Checkpoint::open(&path, OpenOptions { config: Some(config.clone()), loras, ..OpenOptions::default() })
    };
    let query = |checkpoint: &Checkpoint| {
        weight(checkpoint, Part::UNet, NAME, &[16, 16], DType::F32).to_f32().unwrap()
    };
    let lora = || vec![Lora::new(file("kohya"))];
    assert_eq!(query(&open(&tensors, lora()).unwrap()), query(&with(lora()).unwrap()));
    let (_, shape, bytes) = tensors[&format!("{ORIGINAL}.weight")].clone();
    let halves = bytes.as_chunks::<2>().0.iter().map(|half| half::f16::from_le_bytes(*half).to_f32());
    let (stored, values): (Vec<u8>, Vec<f32>) = halves.map(rounded).unzip();
    tensors.insert(format!("{ORIGINAL}.weight"), (Dtype::F8_E4M3, shape, stored));
    tensors.insert(format!("{ORIGINAL}.scale_weight"), (Dtype::F32, vec![1], 2f32.to_le_bytes().to_vec()));
    tensors.insert("model.diffusion_model.scaled_fp8".into(), (Dtype::F8_E4M3, vec![2], vec![0; 2]));
    let doubled: Vec<f32> = values.iter().map(|value| 2.0 * value).collect();
    assert_eq!(query(&open(&tensors, vec![]).unwrap()), doubled);
    // a scale of a weight that is not shown
    tensors.insert("model.diffusion_model.x.scale_weight".into(), (Dtype::F32, vec![1], vec![0; 4]));
    let message = open(&tensors, vec![]).unwrap_err().to_string();
    assert!(message.contains("model.diffusion_model.x.scale_weight: expected "), "{message}");
}
