//! The tiny checkpoint's sizes and its `config.json` files.

use serde_json::{Value, json};

use super::NOTICE;

/// Text tokens, as SD-XL's.
pub(super) const CONTEXT: usize = 77;
/// Width of each text encoder, and of the second one's projection.
pub(super) const TEXT: usize = 32;
/// Layers of each text encoder.
pub(super) const TEXT_LAYERS: usize = 2;
/// Width of a text encoder's feed-forward layer.
pub(super) const TEXT_INNER: usize = 64;
/// Width of the sinusoidal embedding of each of the six size and crop numbers.
pub(super) const TIME_IDS: usize = 8;
/// Latent channels.
pub(super) const LATENTS: usize = 4;
/// Resnets a U-Net stage has on the way down.
pub(super) const LAYERS: usize = 2;

/// Widths and depths that several parts share.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    /// Entries of the tokenizers' vocabulary.
    pub(super) vocabulary: usize,
    /// U-Net channels by level.
    pub(super) channels: [usize; 3],
    /// Transformer layers by level; the first level has no attention.
    pub(super) depths: [usize; 3],
    /// Autoencoder channels by level.
    pub(super) vae_channels: [usize; 4],
}

impl Sizes {
    pub(super) fn new(vocabulary: usize) -> Self {
        Self { vocabulary, channels: [16, 32, 64], depths: [1, 2, 3], vae_channels: [8, 16, 16, 16] }
    }
}

/// Every JSON file of the folder except the tokenizers'.
pub(super) fn documents(sizes: &Sizes, seed: u64) -> Vec<(&'static str, Value)> {
    vec![
        ("model_index.json", model_index(seed)),
        ("scheduler/scheduler_config.json", scheduler()),
        (
            "text_encoder/config.json",
            text_encoder(sizes, "CLIPTextModel", "quick_gelu", sizes.vocabulary - 1),
        ),
        ("text_encoder_2/config.json", text_encoder(sizes, "CLIPTextModelWithProjection", "gelu", 0)),
        ("unet/config.json", unet(sizes)),
        ("vae/config.json", vae(sizes)),
    ]
}

fn model_index(seed: u64) -> Value {
    json!({
        "_class_name": "StableDiffusionXLPipeline",
        "_diffusers_version": "0.30.0",
        "_name_or_path": format!("atedm-tiny-{seed} ({NOTICE})"),
        "force_zeros_for_empty_prompt": true,
        "feature_extractor": [null, null],
        "image_encoder": [null, null],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"]
    })
}

/// SD-XL's own sampler settings.
fn scheduler() -> Value {
    json!({
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.30.0",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "steps_offset": 1,
        "interpolation_type": "linear",
        "use_karras_sigmas": false,
        "trained_betas": null
    })
}

fn text_encoder(sizes: &Sizes, class: &str, activation: &str, pad: usize) -> Value {
    json!({
        "architectures": [class],
        "model_type": "clip_text_model",
        "vocab_size": sizes.vocabulary,
        "hidden_size": TEXT,
        "intermediate_size": TEXT_INNER,
        "projection_dim": TEXT,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": 2,
        "max_position_embeddings": CONTEXT,
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "bos_token_id": sizes.vocabulary - 2,
        "eos_token_id": sizes.vocabulary - 1,
        "pad_token_id": pad,
        "torch_dtype": "float32"
    })
}

fn unet(sizes: &Sizes) -> Value {
    json!({
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.30.0",
        "sample_size": 32,
        "in_channels": LATENTS,
        "out_channels": LATENTS,
        "block_out_channels": sizes.channels,
        "layers_per_block": LAYERS,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": sizes.depths,
        "attention_head_dim": [1, 2, 4],
        "cross_attention_dim": 2 * TEXT,
        "use_linear_projection": true,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_IDS,
        "projection_class_embeddings_input_dim": TEXT + 6 * TIME_IDS,
        "act_fn": "silu",
        "norm_num_groups": 8,
        "norm_eps": 1e-5,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "downsample_padding": 1,
        "upcast_attention": false
    })
}

fn vae(sizes: &Sizes) -> Value {
    json!({
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.30.0",
        "sample_size": 256,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": LATENTS,
        "block_out_channels": sizes.vae_channels,
        "layers_per_block": 1,
        "down_block_types": vec!["DownEncoderBlock2D"; 4],
        "up_block_types": vec!["UpDecoderBlock2D"; 4],
        "act_fn": "silu",
        "norm_num_groups": 4,
        "scaling_factor": 0.13025,
        "force_upcast": true
    })
}
