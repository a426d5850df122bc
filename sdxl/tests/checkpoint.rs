//! Reads diffusers folders: variants, shards, names, and all kinds of errors.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use atedm_core::reference::{NdDevice, Reference32};
use atedm_core::{DType, Error, Result, Tensor, Weights};
use atedm_sdxl::checkpoint::{Checkpoint, OpenOptions, Part};
use atedm_sdxl::config::VaeConfig;
use atedm_sdxl::text::TextEncoder;
use atedm_sdxl::unet::UNet;
use atedm_sdxl::vae::Vae;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use support::{T, Tensors, checkpoint, tensors_of, weight_file, write_json, write_tensors};

fn open(root: &Path) -> Result<Checkpoint> {
    Checkpoint::open(root, OpenOptions::default())
}

fn weights(checkpoint: &Checkpoint, part: Part) -> Result<Weights<T>> {
    checkpoint.weights(part, DType::F32, &NdDevice)
}

/// Loads every part.
fn load(root: &Path) -> Result<()> {
    let checkpoint = open(root)?;
    let [first, second] = checkpoint.text_encoders();
    TextEncoder::<Reference32>::load(&weights(&checkpoint, Part::TextEncoder)?, first)?;
    TextEncoder::<Reference32>::load(&weights(&checkpoint, Part::TextEncoder2)?, second)?;
    UNet::<Reference32>::load(&weights(&checkpoint, Part::UNet)?, checkpoint.unet())?;
    Vae::<Reference32>::load(&weights(&checkpoint, Part::Vae)?, checkpoint.vae())?;
    checkpoint.tokenizers().map(drop)
}

/// The message of loading `root`: one line that names every one of `parts`.
#[track_caller]
fn fails(root: &Path, parts: &[&str]) -> Error {
    let error = load(root).expect_err("it must not load");
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    for part in parts {
        assert!(message.contains(part), "{message:?} does not name {part:?}");
    }
    error
}

fn edit(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    change(&mut value);
    write_json(file, &value);
}

fn first_value(root: &Path, options: OpenOptions) -> f32 {
    let checkpoint = Checkpoint::open(root, options).unwrap();
    let bias = weights(&checkpoint, Part::UNet).unwrap().tensor("conv_in.bias", &[8]).unwrap();
    bias.to_f32().unwrap()[0]
}

/// The U-Net's tensors with `conv_in.bias` all `value`.
fn marked(value: f32) -> Tensors {
    let mut tensors = tensors_of(Part::UNet);
    tensors.insert("conv_in.bias".into(), (vec![8], vec![value; 8]));
    tensors
}

#[test]
fn a_whole_folder_loads() {
    let folder = checkpoint();
    load(folder.path()).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(checkpoint.default_size(), Some(16));
    assert!(checkpoint.force_zeros_for_empty_prompt());
    assert_eq!(checkpoint.tokenizers().unwrap()[0].length(), 6);
}

#[test]
fn plain_files_come_before_variants() {
    let folder = checkpoint();
    let unet = folder.path().join("unet");
    let fp16 = unet.join("diffusion_pytorch_model.fp16.safetensors");
    write_tensors(&fp16, &marked(2.0), Dtype::F16);
    let variant = OpenOptions { variant: Some("fp16".into()), ..OpenOptions::default() };
    assert_eq!(first_value(folder.path(), OpenOptions::default()), 0.0);
    let error = Checkpoint::open(folder.path(), variant.clone()).unwrap_err().to_string();
    assert!(error.contains(".fp16.safetensors: no such file"), "{error}");

    for part in [Part::TextEncoder, Part::TextEncoder2, Part::Vae] {
        let plain = weight_file(folder.path(), part);
        let stem = plain.with_extension("");
        std::fs::copy(&plain, format!("{}.fp16.safetensors", stem.display())).unwrap();
    }
    assert_eq!(first_value(folder.path(), variant), 2.0);
    std::fs::remove_file(weight_file(folder.path(), Part::UNet)).unwrap();
    assert_eq!(first_value(folder.path(), OpenOptions::default()), 2.0);

    std::fs::remove_file(fp16).unwrap();
    std::fs::write(unet.join("diffusion_pytorch_model.bin"), b"x").unwrap();
    fails(folder.path(), &["unet", "diffusion_pytorch_model.safetensors", "only safetensors"]);
    let odd = OpenOptions { variant: Some("../x".into()), ..OpenOptions::default() };
    assert!(Checkpoint::open(folder.path(), odd).unwrap_err().to_string().starts_with("variant: "));
}

/// Splits the U-Net into two files and writes an index of this name.
fn shard(root: &Path, index: &str) -> [std::path::PathBuf; 2] {
    let all = marked(3.0);
    let (odd, even): (Vec<_>, Vec<_>) = all.into_iter().enumerate().partition(|(i, _)| i % 2 == 1);
    let halves = [odd, even].map(|half| half.into_iter().map(|(_, tensor)| tensor).collect::<Tensors>());
    let names = [
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
    ];
    let files = names.map(|name| root.join("unet").join(name));
    let mut map = serde_json::Map::new();
    for ((half, file), name) in halves.iter().zip(&files).zip(names) {
        write_tensors(file, half, Dtype::F32);
        map.extend(half.keys().map(|tensor| (tensor.clone(), json!(name))));
    }
    let _ = std::fs::remove_file(weight_file(root, Part::UNet));
    write_json(&root.join("unet").join(index), &json!({"metadata": {"total_size": 1}, "weight_map": map}));
    files
}

#[test]
fn shards_are_read() {
    let folder = checkpoint();
    let [first, _] = shard(folder.path(), "diffusion_pytorch_model.safetensors.index.json");
    load(folder.path()).unwrap();
    assert_eq!(first_value(folder.path(), OpenOptions::default()), 3.0);
    std::fs::remove_file(first).unwrap();
    fails(folder.path(), &["unet", "00001-of-00002.safetensors"]);
}

#[test]
fn shards_of_a_variant_are_read() {
    for index in [
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
    ] {
        let folder = checkpoint();
        shard(folder.path(), index);
        assert_eq!(first_value(folder.path(), OpenOptions::default()), 3.0, "{index}");
    }
}

#[test]
fn an_index_is_not_believed() {
    let name = "diffusion_pytorch_model.safetensors.index.json";
    let folder = checkpoint();
    let [first, second] = shard(folder.path(), name);
    let index = folder.path().join("unet").join(name);
    for bad in [json!("../vae/x.safetensors"), json!("/etc/passwd"), json!(3), json!("")] {
        edit(&index, |value| value["weight_map"]["conv_in.bias"] = bad);
        fails(folder.path(), &["unet", name, "weight_map", "conv_in.bias"]);
    }
    edit(&index, |value| value["weight_map"] = json!({}));
    fails(folder.path(), &[name, "weight_map"]);
    edit(&index, |value| value["weight_map"] = json!([]));
    fails(folder.path(), &[name, "weight_map"]);

    shard(folder.path(), name);
    std::fs::copy(first, second).unwrap();
    fails(folder.path(), &["00002-of-00002", "is also in"]);
}

#[test]
fn files_that_lie_or_end_early_are_named() {
    let folder = checkpoint();
    let file = weight_file(folder.path(), Part::UNet);
    let whole = std::fs::read(&file).unwrap();
    let name = "diffusion_pytorch_model.safetensors";
    for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&file, &whole[..length]).unwrap();
        assert!(matches!(fails(folder.path(), &["unet", name]), Error::Weights { .. }));
    }
    let mut longer = whole.clone();
    longer.push(0);
    std::fs::write(&file, &longer).unwrap();
    fails(folder.path(), &[name, "another size"]);

    for size in [u64::MAX, 1 << 40, 50_000_000, whole.len() as u64] {
        let mut lying = whole.clone();
        lying[..8].copy_from_slice(&size.to_le_bytes());
        std::fs::write(&file, &lying).unwrap();
        fails(folder.path(), &[name]);
    }
    let headers = [
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}}"#,
        r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"X32","shape":[2],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#,
        "[1, 2]",
        "{",
    ];
    for header in headers {
        let mut lying = (header.len() as u64).to_le_bytes().to_vec();
        lying.extend_from_slice(header.as_bytes());
        lying.extend_from_slice(&[0; 8]);
        std::fs::write(&file, &lying).unwrap();
        assert!(matches!(fails(folder.path(), &["unet", name]), Error::Weights { .. }), "{header}");
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    fails(folder.path(), &[name]);
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let folder = checkpoint();
    let file = weight_file(folder.path(), Part::UNet);
    let mut tensors = tensors_of(Part::UNet);
    let missing = tensors.remove("mid_block.attentions.0.proj_out.bias").unwrap();
    write_tensors(&file, &tensors, Dtype::F32);
    fails(
        folder.path(),
        &["diffusion_pytorch_model.safetensors: mid_block.attentions.0.proj_out.bias", "missing"],
    );

    tensors.insert("mid_block.attentions.0.proj_out.bias".into(), (vec![1, 16], missing.1));
    write_tensors(&file, &tensors, Dtype::F32);
    fails(folder.path(), &["mid_block.attentions.0.proj_out.bias", "expected shape [16], got [1, 16]"]);

    write_tensors(&file, &tensors_of(Part::UNet), Dtype::I64);
    fails(folder.path(), &["diffusion_pytorch_model.safetensors: ", "expected dtype", "I64"]);
}

#[test]
fn broken_and_missing_configurations_are_named() {
    let files = [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "text_encoder_2/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer_2/tokenizer_config.json",
    ];
    for name in files {
        let folder = checkpoint();
        let file = folder.path().join(name);
        for broken in ["", "{\"a\": ", "[]", "\u{0}"] {
            // A tokenizer's settings are looked up by key, so an empty list counts as none.
            if broken != "[]" || !name.starts_with("tokenizer") {
                std::fs::write(&file, broken).unwrap();
                fails(folder.path(), &[name]);
            }
        }
        std::fs::remove_file(&file).unwrap();
        if !name.starts_with("tokenizer") {
            assert!(matches!(fails(folder.path(), &[name]), Error::Io { .. }));
        }
    }
    assert!(matches!(open(Path::new("/no/such/folder")), Err(Error::Io { .. })));
}

#[test]
fn parts_must_fit_each_other() {
    let cases: [(&str, &str, Value, &[&str]); 9] = [
        (
            "model_index.json",
            "_class_name",
            json!("FluxPipeline"),
            &["model_index.json: _class_name", "FluxPipeline"],
        ),
        ("model_index.json", "text_encoder", json!([null, null]), &["model_index.json: text_encoder"]),
        (
            "unet/config.json",
            "cross_attention_dim",
            json!(32),
            &["unet/config.json: cross_attention_dim", "24"],
        ),
        (
            "unet/config.json",
            "projection_class_embeddings_input_dim",
            json!(40),
            &["projection_class_embeddings_input_dim", "36"],
        ),
        ("unet/config.json", "in_channels", json!(8), &["unet/config.json: in_channels", "8"]),
        (
            "model_index.json",
            "text_encoder_2",
            json!(["transformers", "CLIPTextModel"]),
            &["model_index.json: text_encoder_2", "CLIPTextModelWithProjection"],
        ),
        (
            "model_index.json",
            "text_encoder",
            json!(["transformers", "T5EncoderModel"]),
            &["model_index.json: text_encoder", "CLIPTextModel", "T5EncoderModel"],
        ),
        (
            "model_index.json",
            "unet",
            json!(["diffusers", "UNetMotionModel"]),
            &["model_index.json: unet", "UNet2DConditionModel", "UNetMotionModel"],
        ),
        ("model_index.json", "vae", json!(["diffusers", "AutoencoderTiny"]), &["vae/"]),
    ];
    for (file, key, value, named) in cases {
        let folder = checkpoint();
        edit(&folder.path().join(file), |json| json[key] = value);
        fails(folder.path(), named);
    }
}

/// As in diffusers, `model_index.json` decides the class of a part. The class in the part's own file is ignored.
#[test]
fn the_index_names_the_classes() {
    for own in [json!(null), json!([]), json!(["CLIPModel"]), json!(["CLIPTextModel"])] {
        let folder = checkpoint();
        let file = folder.path().join("text_encoder_2/config.json");
        edit(&file, |json| json["architectures"] = own.clone());
        load(folder.path()).unwrap();
        edit(&file, |json| drop(json.as_object_mut().unwrap().remove("architectures")));
        load(folder.path()).unwrap();
    }
    let folder = checkpoint();
    for (file, own) in
        [("vae/config.json", "AutoencoderTiny"), ("scheduler/scheduler_config.json", "LCMScheduler")]
    {
        edit(&folder.path().join(file), |json| json["_class_name"] = json!(own));
    }
    let opened = open(folder.path()).unwrap();
    assert!(matches!(opened.vae(), VaeConfig::Kl(_)));
    assert_eq!(opened.scheduler().class_name, "EulerDiscreteScheduler");
    edit(&folder.path().join("model_index.json"), |json| json["scheduler"][1] = json!("DDIMScheduler"));
    assert_eq!(open(folder.path()).unwrap().scheduler().class_name, "DDIMScheduler");
    // an autoencoder that does not run here does not matter if another is given
    let index = folder.path().join("model_index.json");
    edit(&index, |json| json["vae"][1] = json!("ConsistencyDecoderVAE"));
    fails(folder.path(), &["model_index.json: vae", "AutoencoderKL", "ConsistencyDecoderVAE"]);
    edit(&folder.path().join("vae/config.json"), |json| json["_class_name"] = json!("AutoencoderKL"));
    let options = OpenOptions { vae: Some(folder.path().join("vae")), ..OpenOptions::default() };
    assert!(matches!(Checkpoint::open(folder.path(), options).unwrap().vae(), VaeConfig::Kl(_)));
}

#[test]
fn a_byte_order_mark_is_accepted_in_every_file_of_text() {
    let folder = checkpoint();
    let whole = open(folder.path()).unwrap();
    for name in [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "text_encoder_2/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    ] {
        let file = folder.path().join(name);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("\u{feff}{text}")).unwrap();
    }
    load(folder.path()).unwrap();
    let marked = open(folder.path()).unwrap();
    assert_eq!((marked.unet(), marked.vae()), (whole.unet(), whole.vae()));
    assert_eq!(marked.scheduler(), whole.scheduler());
    let [tokens, marked] = [whole, marked].map(|c| c.tokenizers().unwrap()[0].encode("ab a").unwrap());
    assert_eq!(tokens, marked);
}

/// An absent negative prompt is all zeros by default, but not if the file says `null`.
#[test]
fn null_counts_as_false_in_the_index() {
    let folder = checkpoint();
    let file = folder.path().join("model_index.json");
    edit(&file, |json| json["force_zeros_for_empty_prompt"] = json!(null));
    assert!(!open(folder.path()).unwrap().force_zeros_for_empty_prompt());
    edit(&file, |json| drop(json.as_object_mut().unwrap().remove("force_zeros_for_empty_prompt")));
    assert!(open(folder.path()).unwrap().force_zeros_for_empty_prompt());
}

#[test]
fn text_encoders_have_a_prefix_or_not_and_position_ids_or_not() {
    let folder = checkpoint();
    let file = weight_file(folder.path(), Part::TextEncoder);
    let encode = || {
        let checkpoint = open(folder.path()).unwrap();
        let config = checkpoint.text_encoders()[0];
        let weights = weights(&checkpoint, Part::TextEncoder).unwrap();
        let encoder = TextEncoder::<Reference32>::load(&weights, config).unwrap();
        encoder.encode(&[vec![7, 3, 4, 8, 8, 8]], &NdDevice).unwrap().hidden.to_f32().unwrap()
    };
    let nested = tensors_of(Part::TextEncoder);
    assert!(nested.keys().all(|name| name.starts_with("text_model.")));
    let expected = encode();
    let mut bare: Tensors = nested
        .iter()
        .map(|(name, tensor)| (name.trim_start_matches("text_model.").to_string(), tensor.clone()))
        .collect();
    write_tensors(&file, &bare, Dtype::F32);
    assert_eq!(encode(), expected);
    bare.insert("embeddings.position_ids".into(), (vec![1, 6], vec![0.0; 6]));
    write_tensors(&file, &bare, Dtype::F32);
    assert_eq!(encode(), expected);
}

#[test]
fn another_autoencoder_may_be_named() {
    let folder = checkpoint();
    let tiny = tempfile::tempdir().unwrap();
    let vae = OpenOptions { vae: Some(tiny.path().to_path_buf()), ..OpenOptions::default() };
    let error = Checkpoint::open(folder.path(), vae.clone()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    write_json(&tiny.path().join("config.json"), &json!({"_class_name": "AutoencoderTiny"}));
    let error = Checkpoint::open(folder.path(), vae.clone()).unwrap_err().to_string();
    assert!(error.contains("diffusion_pytorch_model.safetensors"), "{error}");
    let source = weight_file(folder.path(), Part::Vae);
    std::fs::copy(source, tiny.path().join("diffusion_pytorch_model.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(folder.path(), vae).unwrap();
    assert_eq!(checkpoint.vae().factor(), 8);
    assert!(checkpoint.files(Part::Vae)[0].path.starts_with(tiny.path()));
}

/// Whatever a field of a configuration holds, the result is a message or a model, never a panic.
#[test]
fn any_field_may_hold_nonsense() {
    let folder = checkpoint();
    let root = folder.path();
    let nonsense = [
        json!(null),
        json!(-1),
        json!(0),
        json!(1),
        json!(3),
        json!(0.5),
        json!(1e300),
        json!(u64::MAX),
        json!(1 << 20),
        json!(true),
        json!(""),
        json!("x"),
        json!([]),
        json!([0]),
        json!([1, 1, 1]),
        json!([[1], [1], [1]]),
        json!([null, null]),
        json!({"a": 1}),
    ];
    let mut opened = 0;
    for name in [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "text_encoder_2/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
    ] {
        let file = root.join(name);
        let whole = std::fs::read(&file).unwrap();
        let object: Value = serde_json::from_slice(&whole).unwrap();
        for key in object.as_object().unwrap().keys() {
            for value in &nonsense {
                edit(&file, |json| json[key] = value.clone());
                match load(root) {
                    Ok(()) => opened += 1,
                    Err(error) => assert!(!error.to_string().contains('\n'), "{name} {key} {value}: {error}"),
                }
            }
            std::fs::write(&file, &whole).unwrap();
        }
    }
    assert!(opened > 0, "harmless values load");
}

/// A changed byte anywhere in a header gives a message or a model, never a panic.
#[test]
fn any_byte_of_a_header_may_be_wrong() {
    let folder = checkpoint();
    let file = weight_file(folder.path(), Part::Vae);
    let whole = std::fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let checkpoint = open(folder.path()).unwrap();
    for at in (0..8).chain((8..header).step_by(41)) {
        for byte in [0, b'9', b'"', 0xff] {
            let mut changed = whole.clone();
            changed[at] = byte;
            std::fs::write(&file, &changed).unwrap();
            let result = weights(&checkpoint, Part::Vae)
                .and_then(|weights| Vae::<Reference32>::load(&weights, checkpoint.vae()));
            if let Err(error) = result {
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
}
