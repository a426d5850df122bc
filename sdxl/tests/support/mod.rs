//! A tiny checkpoint with random weights, in the form that diffusers writes.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use atedm_core::reference::{NdDevice, Reference32};
use atedm_core::{Backend, DType, Weights};
use atedm_sdxl::checkpoint::Part;
use atedm_sdxl::config::{TextEncoderConfig, UNetConfig, VaeConfig};
use atedm_sdxl::text::TextEncoder;
use atedm_sdxl::unet::UNet;
use atedm_sdxl::vae::Vae;
use atedm_sdxl::weights::{RandomSource, Recorder, random_values};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

pub(crate) type T = <Reference32 as Backend>::Tensor;

/// Shapes and f32 values by name.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub(crate) fn unet_json() -> Value {
    json!({
        "_class_name": "UNet2DConditionModel", "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
        "attention_head_dim": [1, 2, 2], "block_out_channels": [8, 16, 16], "cross_attention_dim": 24,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "layers_per_block": 1, "norm_num_groups": 4, "projection_class_embeddings_input_dim": 36,
        "sample_size": 8, "transformer_layers_per_block": [1, 1, 2],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "use_linear_projection": true
    })
}

pub(crate) fn text_json(class: &str, channels: usize) -> Value {
    json!({
        "architectures": [class], "vocab_size": 9, "hidden_size": channels, "intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 6, "eos_token_id": 8,
        "projection_dim": 12
    })
}

pub(crate) fn vae_json() -> Value {
    json!({
        "_class_name": "AutoencoderKL", "block_out_channels": [4, 8], "norm_num_groups": 2, "sample_size": 16,
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]
    })
}

pub(crate) fn config_of(part: Part) -> Value {
    match part {
        Part::TextEncoder => text_json("CLIPTextModel", 8),
        Part::TextEncoder2 => text_json("CLIPTextModelWithProjection", 16),
        Part::UNet => unet_json(),
        Part::Vae => vae_json(),
    }
}

/// The tensors that a part requests, with random values.
pub(crate) fn tensors_of(part: Part) -> Tensors {
    let (source, list) = Recorder::new(RandomSource::new(1, DType::F32, NdDevice));
    let weights: Weights<T> = Weights::new(source);
    let (file, json) = (Path::new("config.json"), config_of(part));
    match part {
        Part::TextEncoder | Part::TextEncoder2 => {
            let config = TextEncoderConfig::from_json(file, json).unwrap();
            TextEncoder::<Reference32>::load(&weights, &config).map(drop).unwrap();
        }
        Part::UNet => {
            let config = UNetConfig::from_json(file, json).unwrap();
            UNet::<Reference32>::load(&weights, &config).map(drop).unwrap();
        }
        Part::Vae => {
            let config = VaeConfig::from_json(file, json).unwrap();
            Vae::<Reference32>::load(&weights, &config).map(drop).unwrap();
        }
    }
    let list = list.borrow();
    list.iter().map(|(name, shape)| (name.clone(), (shape.clone(), random_values(1, name, shape)))).collect()
}

/// Writes tensors in f32, or in f16.
pub(crate) fn write_tensors(file: &Path, tensors: &Tensors, stored: Dtype) {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            let bytes = match stored {
                Dtype::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
                Dtype::I64 => values.iter().flat_map(|v| (*v as i64).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            };
            (name.clone(), shape.clone(), bytes)
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(stored, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, file).unwrap();
}

pub(crate) fn write_json(file: &Path, value: &Value) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, serde_json::to_vec_pretty(value).unwrap()).unwrap();
}

/// The weight file of a part, without variant.
pub(crate) fn weight_file(root: &Path, part: Part) -> std::path::PathBuf {
    root.join(part.folder()).join(format!("{}.safetensors", part.stem()))
}

/// A whole checkpoint in a temporary folder.
pub(crate) fn checkpoint() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let clip = json!(["transformers", "CLIPTokenizer"]);
    let index = json!({
        "_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": true,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "tokenizer": clip, "tokenizer_2": clip,
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]
    });
    write_json(&root.join("model_index.json"), &index);
    for part in Part::ALL {
        write_json(&root.join(part.folder()).join("config.json"), &config_of(part));
        write_tensors(&weight_file(root, part), &tensors_of(part), Dtype::F32);
    }
    let scheduler = json!({
        "_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "num_train_timesteps": 1000, "steps_offset": 1, "timestep_spacing": "leading"
    });
    write_json(&root.join("scheduler/scheduler_config.json"), &scheduler);
    let vocabulary = json!({
        "a": 0, "b": 1, "!": 2, "a</w>": 3, "b</w>": 4, "!</w>": 5, "ab</w>": 6, "<|startoftext|>": 7,
        "<|endoftext|>": 8
    });
    for name in ["tokenizer", "tokenizer_2"] {
        write_json(&root.join(name).join("vocab.json"), &vocabulary);
        std::fs::write(root.join(name).join("merges.txt"), "#version: 0.2\na b</w>\n").unwrap();
        write_json(&root.join(name).join("tokenizer_config.json"), &json!({"model_max_length": 6}));
    }
    folder
}
