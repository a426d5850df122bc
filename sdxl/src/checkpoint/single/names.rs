//! Makes the rules from the original code's names to the names in a diffusers folder, out of the configurations.
//!
//! ```text
//! model.diffusion_model.             the U-Net; input_blocks and output_blocks are counted through all levels
//! first_stage_model.                 the autoencoder; the decoder's levels are numbered as the encoder's
//! conditioner.embedders.0.           the first text encoder, named as in transformers
//! conditioner.embedders.1.model.     the second one, named as in OpenCLIP: fused projections, a turned pooled projection
//! ```
//! Source: sgm's modules, and diffusers' `loaders/single_file_utils.py`.

use atedm_core::{Error, Result};

use crate::checkpoint::{Configurations, Part};
use crate::config::{KlConfig, TextEncoderConfig, UNetConfig, VaeConfig};
use crate::weights::{Renames, Target};

/// The beginning of the names of a part's tensors.
pub(super) const fn root(part: Part) -> &'static str {
    match part {
        Part::TextEncoder => "conditioner.embedders.0.transformer.",
        Part::TextEncoder2 => "conditioner.embedders.1.model.",
        Part::UNet => "model.diffusion_model.",
        Part::Vae => "first_stage_model.",
    }
}

/// A list of rules: an original module or tensor, and its place in a folder.
#[derive(Default)]
struct Rules(Vec<(String, Target)>);

impl Rules {
    fn add(&mut self, original: impl Into<String>, name: impl Into<String>) {
        self.0.push((original.into(), Target::Name(name.into())));
    }

    /// Adds rules for modules within a module.
    fn within(&mut self, original: &str, name: &str, inner: &[(&str, &str)]) {
        for (from, to) in inner {
            self.add(format!("{original}.{from}"), format!("{name}.{to}"));
        }
    }

    fn of(self, part: Part) -> Renames {
        Renames::new(root(part), self.0)
    }
}

/// Rules for the first text encoder. Its original names are those of transformers.
fn first_text_encoder() -> Renames {
    let mut rules = Rules::default();
    let modules =
        ["embeddings.token_embedding", "embeddings.position_embedding", "encoder", "final_layer_norm"];
    rules.within("text_model", "text_model", &modules.map(|module| (module, module)));
    rules.of(Part::TextEncoder)
}

/// Rules for the second text encoder, whose original names are those of OpenCLIP.
fn second_text_encoder(config: &TextEncoderConfig) -> Renames {
    let mut rules = Rules::default();
    rules.add("token_embedding", "text_model.embeddings.token_embedding");
    rules.add("positional_embedding", "text_model.embeddings.position_embedding.weight");
    rules.add("ln_final", "text_model.final_layer_norm");
    rules.0.push(("text_projection".into(), Target::Turned("text_projection.weight".into())));
    for layer in 0..config.layers {
        let original = format!("transformer.resblocks.{layer}");
        let name = format!("text_model.encoder.layers.{layer}");
        let inner = [
            ("ln_1", "layer_norm1"),
            ("attn.out_proj", "self_attn.out_proj"),
            ("ln_2", "layer_norm2"),
            ("mlp.c_fc", "mlp.fc1"),
            ("mlp.c_proj", "mlp.fc2"),
        ];
        rules.within(&original, &name, &inner);
        for leaf in ["weight", "bias"] {
            let fused = Target::Fused { module: format!("{name}.self_attn"), leaf };
            rules.0.push((format!("{original}.attn.in_proj_{leaf}"), fused));
        }
    }
    rules.of(Part::TextEncoder2)
}

/// Rules for the U-Net.
pub(crate) fn unet(config: &UNetConfig) -> Renames {
    const RESNET: [(&str, &str); 6] = [
        ("in_layers.0", "norm1"),
        ("in_layers.2", "conv1"),
        ("emb_layers.1", "time_emb_proj"),
        ("out_layers.0", "norm2"),
        ("out_layers.3", "conv2"),
        ("skip_connection", "conv_shortcut"),
    ];
    let mut rules = Rules::default();
    for (original, name) in [
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("label_emb.0.0", "add_embedding.linear_1"),
        ("label_emb.0.2", "add_embedding.linear_2"),
        ("input_blocks.0.0", "conv_in"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
    ] {
        rules.add(original, name);
    }
    let mut blocks = (1..).map(|number| format!("input_blocks.{number}"));
    for (level, stage) in config.down.iter().enumerate() {
        let name = format!("down_blocks.{level}");
        for (layer, block) in (0..stage.layers).zip(blocks.by_ref()) {
            rules.within(&format!("{block}.0"), &format!("{name}.resnets.{layer}"), &RESNET);
            if stage.attention.is_some() {
                rules.add(format!("{block}.1"), format!("{name}.attentions.{layer}"));
            }
        }
        if let Some(block) = stage.downsample.then(|| blocks.next()).flatten() {
            rules.add(format!("{block}.0.op"), format!("{name}.downsamplers.0.conv"));
        }
    }
    if let Some(mid) = &config.mid {
        rules.within("middle_block.0", "mid_block.resnets.0", &RESNET);
        if mid.attention.is_some() {
            rules.add("middle_block.1", "mid_block.attentions.0");
            rules.within("middle_block.2", "mid_block.resnets.1", &RESNET);
        }
    }
    let mut blocks = (0..).map(|number| format!("output_blocks.{number}"));
    for (index, stage) in config.up.iter().enumerate() {
        let name = format!("up_blocks.{index}");
        for (layer, block) in (0..stage.layers).zip(blocks.by_ref()) {
            rules.within(&format!("{block}.0"), &format!("{name}.resnets.{layer}"), &RESNET);
            let attention = stage.attention.is_some();
            if attention {
                rules.add(format!("{block}.1"), format!("{name}.attentions.{layer}"));
            }
            if stage.upsample && layer + 1 == stage.layers {
                let place = if attention { 2 } else { 1 };
                rules.add(format!("{block}.{place}.conv"), format!("{name}.upsamplers.0.conv"));
            }
        }
    }
    rules.of(Part::UNet)
}

/// Rules for the autoencoder.
fn vae(config: &KlConfig) -> Renames {
    const RESNET: [(&str, &str); 5] = [
        ("norm1", "norm1"),
        ("conv1", "conv1"),
        ("norm2", "norm2"),
        ("conv2", "conv2"),
        ("nin_shortcut", "conv_shortcut"),
    ];
    const ATTENTION: [(&str, &str); 4] =
        [("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];
    let mut rules = Rules::default();
    for convolution in ["quant_conv", "post_quant_conv"] {
        rules.add(convolution, convolution);
    }
    let last = config.channels.len().saturating_sub(1);
    for side in ["encoder", "decoder"] {
        let within = [("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")];
        rules.within(side, side, &within);
        let (original, name) = (format!("{side}.mid"), format!("{side}.mid_block"));
        rules.within(&format!("{original}.block_1"), &format!("{name}.resnets.0"), &RESNET);
        rules.within(&format!("{original}.block_2"), &format!("{name}.resnets.1"), &RESNET);
        let attention = format!("{name}.attentions.0");
        rules.add(format!("{original}.attn_1.norm"), format!("{attention}.group_norm"));
        for (from, to) in ATTENTION {
            let target = Target::Pointwise(format!("{attention}.{to}"));
            rules.0.push((format!("{original}.attn_1.{from}"), target));
        }
    }
    for level in 0..=last {
        let (original, name) = (format!("encoder.down.{level}"), format!("encoder.down_blocks.{level}"));
        for layer in 0..config.layers {
            rules.within(&format!("{original}.block.{layer}"), &format!("{name}.resnets.{layer}"), &RESNET);
        }
        rules.add(format!("{original}.downsample.conv"), format!("{name}.downsamplers.0.conv"));
        let (original, name) = (format!("decoder.up.{level}"), format!("decoder.up_blocks.{}", last - level));
        for layer in 0..=config.layers {
            rules.within(&format!("{original}.block.{layer}"), &format!("{name}.resnets.{layer}"), &RESNET);
        }
        rules.add(format!("{original}.upsample.conv"), format!("{name}.upsamplers.0.conv"));
    }
    rules.of(Part::Vae)
}

/// The rules for `part` of a checkpoint with these configurations.
pub(super) fn of_part(part: Part, configurations: &Configurations) -> Result<Renames> {
    let [_, second] = &configurations.text_encoders;
    match (part, &configurations.vae) {
        (Part::TextEncoder, _) => Ok(first_text_encoder()),
        (Part::TextEncoder2, _) => Ok(second_text_encoder(second)),
        (Part::UNet, _) => Ok(unet(&configurations.unet)),
        (Part::Vae, VaeConfig::Kl(config)) => Ok(vae(config)),
        (Part::Vae, VaeConfig::Tiny(_)) => {
            Err(Error::config("vae: _class_name", "expected AutoencoderKL, as a single file has it"))
        }
    }
}
