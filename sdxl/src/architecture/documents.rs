//! An [`Architecture`]'s JSON files, with diffusers' and transformers' keys.

use serde_json::{Value, json};

use super::{Architecture, Vocabulary};
use crate::checkpoint::Part;

/// The diffusers release that these keys come from.
const DIFFUSERS: &str = "0.30.0";

impl Architecture {
    /// Every JSON file of the folder except the tokenizers': path in the folder, and content.
    pub fn documents(&self, vocabulary: &Vocabulary) -> Vec<(&'static str, Value)> {
        vec![
            ("model_index.json", model_index()),
            ("scheduler/scheduler_config.json", scheduler()),
            ("text_encoder/config.json", self.config(vocabulary, Part::TextEncoder)),
            ("text_encoder_2/config.json", self.config(vocabulary, Part::TextEncoder2)),
            ("unet/config.json", self.config(vocabulary, Part::UNet)),
            ("vae/config.json", self.config(vocabulary, Part::Vae)),
        ]
    }

    /// The `config.json` of one part.
    pub fn config(&self, vocabulary: &Vocabulary, part: Part) -> Value {
        match part {
            // Each encoder pads as its tokenizer does: the first with the end token, the second with "!" (token 0).
            Part::TextEncoder => self.text_encoder(0, vocabulary, vocabulary.end()),
            Part::TextEncoder2 => self.text_encoder(1, vocabulary, 0),
            Part::UNet => self.unet_config(),
            Part::Vae => self.vae_config(),
        }
    }

    fn text_encoder(&self, which: usize, vocabulary: &Vocabulary, pad: u32) -> Value {
        let (class, activation) =
            [("CLIPTextModel", "quick_gelu"), ("CLIPTextModelWithProjection", "gelu")][which];
        let channels = self.text.channels[which];
        json!({
            "architectures": [class],
            "model_type": "clip_text_model",
            "vocab_size": vocabulary.len(),
            "hidden_size": channels,
            "intermediate_size": self.text.expansion * channels,
            "projection_dim": self.text.projection,
            "num_hidden_layers": self.text.layers[which],
            "num_attention_heads": self.text.heads[which],
            "max_position_embeddings": self.context,
            "hidden_act": activation,
            "layer_norm_eps": 1e-5,
            "attention_dropout": 0.0,
            "bos_token_id": vocabulary.start(),
            "eos_token_id": vocabulary.end(),
            "pad_token_id": pad,
            // The dtype that transformers loads it in if the caller names none. diffusers loads the other parts in f32,
            // however they are stored.
            "torch_dtype": "float32"
        })
    }

    fn unet_config(&self) -> Value {
        let unet = &self.unet;
        let kinds = |with: &'static str, without: &'static str| {
            unet.depths.iter().map(move |&depth| if depth > 0 { with } else { without })
        };
        // diffusers does not read the entries of levels without attention. SD-XL's own file has 1 layer there.
        let depths: Vec<usize> = unet.depths.iter().map(|depth| (*depth).max(1)).collect();
        let heads: Vec<usize> = unet.channels.iter().map(|c| (c / unet.head_channels).max(1)).collect();
        json!({
            "_class_name": "UNet2DConditionModel",
            "_diffusers_version": DIFFUSERS,
            "sample_size": self.latent_size(),
            "in_channels": self.vae.latent_channels,
            "out_channels": self.vae.latent_channels,
            "block_out_channels": unet.channels,
            "layers_per_block": unet.layers,
            "down_block_types": kinds("CrossAttnDownBlock2D", "DownBlock2D").collect::<Vec<_>>(),
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "up_block_types": kinds("CrossAttnUpBlock2D", "UpBlock2D").rev().collect::<Vec<_>>(),
            "transformer_layers_per_block": depths,
            // diffusers' misnomer: this key holds the number of heads
            "attention_head_dim": heads,
            "cross_attention_dim": self.text_channels(),
            "use_linear_projection": true,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": unet.size_channels,
            "projection_class_embeddings_input_dim": self.added_channels(),
            "act_fn": "silu",
            "norm_num_groups": unet.groups,
            "norm_eps": 1e-5,
            "flip_sin_to_cos": true,
            "freq_shift": 0,
            "downsample_padding": 1,
            "upcast_attention": false
        })
    }

    fn vae_config(&self) -> Value {
        let vae = &self.vae;
        let levels = vae.channels.len();
        let mut config = json!({
            "_class_name": "AutoencoderKL",
            "_diffusers_version": DIFFUSERS,
            "sample_size": self.size,
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": vae.latent_channels,
            "block_out_channels": vae.channels,
            "layers_per_block": vae.layers,
            "down_block_types": vec!["DownEncoderBlock2D"; levels],
            "up_block_types": vec!["UpDecoderBlock2D"; levels],
            "act_fn": "silu",
            "norm_num_groups": vae.groups,
            "scaling_factor": vae.scaling_factor,
            "force_upcast": true
        });
        if !vae.mid_attention {
            config["mid_block_add_attention"] = json!(false);
        }
        config
    }
}

/// SD-XL's pipeline and its parts.
pub(crate) fn model_index() -> Value {
    json!({
        "_class_name": "StableDiffusionXLPipeline",
        "_diffusers_version": DIFFUSERS,
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
pub(crate) fn scheduler() -> Value {
    json!({
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": DIFFUSERS,
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
