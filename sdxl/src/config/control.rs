//! The configuration of a ControlNet for SD-XL: diffusers' `ControlNetModel`.

use std::path::Path;

use atedm_core::Result;
use atedm_core::plugin::Stage;
use serde_json::{Value, json};

use super::Fields;
use super::layout::BlockInfo;
use super::limits::{self, at_most};
use super::unet::{ControlNetConfig, DownStage, UNetConfig};

const EXPECTED: &str = "expected a ControlNetModel of SD-XL";

/// Classes of diffusers that are taken for a ControlNet, and what they are.
const OTHERS: [(&str, &str); 5] = [
    ("Union", UNION),
    ("SparseControlNet", "a sparse ControlNet, for videos"),
    ("ControlNetXS", "a ControlNet-XS"),
    ("T2IAdapter", "a T2I adapter"),
    ("UNet2DConditionModel", "a U-Net"),
];

const UNION: &str = "a union ControlNet, which takes pictures of several kinds";

/// The channels of the picture's embedding if a configuration names none.
const PICTURE_CHANNELS: [usize; 4] = [16, 32, 96, 256];

impl ControlNetConfig {
    /// Reads a ControlNet's `config.json`.
    ///
    /// # Errors
    /// [`atedm_core::Error::Io`], or [`atedm_core::Error::Config`] naming the file and the field. The message says what a network of
    /// another kind is.
    pub fn read(file: &Path) -> Result<Self> {
        Self::from_fields(Fields::read(file)?)
    }

    /// Parses a JSON object with diffusers' keys. `file` is used in messages.
    ///
    /// # Errors
    /// The errors of [`ControlNetConfig::read`].
    pub fn from_json(file: &Path, value: Value) -> Result<Self> {
        Self::from_fields(Fields::new(file, value)?)
    }

    fn from_fields(fields: Fields) -> Result<Self> {
        expect_control_net(&fields)?;
        fields.expect("controlnet_conditioning_channel_order", &[json!("rgb")])?;
        fields.expect("conditioning_channels", &[json!(3)])?;
        fields.expect("global_pool_conditions", &[json!(false)])?;
        let picture_channels =
            fields.counts("conditioning_embedding_out_channels")?.unwrap_or(PICTURE_CHANNELS.to_vec());
        at_most(&fields, "conditioning_embedding_out_channels", &picture_channels, limits::CHANNELS)?;
        if !(1..=limits::LAYERS).contains(&picture_channels.len()) {
            return Err(fields.error("conditioning_embedding_out_channels", "expected a list of channels"));
        }
        // The reader of U-Nets wants stages up. Those of this name have no attention.
        let stages = fields.texts("down_block_types")?.map_or(0, |stages| stages.len());
        let whole = fields
            .with("up_block_types", json!(vec!["UpBlock2D"; stages]))
            .with("reverse_transformer_layers_per_block", json!(1));
        let read = UNetConfig::from_fields(&whole)?;
        if read.mid.is_none() {
            return Err(whole.error("mid_block_type", "expected a middle, got null"));
        }
        Ok(Self { half: UNetConfig { up: Vec::new(), ..read }, picture_channels })
    }

    /// How many pixels one latent stands for, in each direction.
    pub fn factor(&self) -> usize {
        1 << self.picture_channels.len().saturating_sub(1).min(usize::BITS as usize - 1)
    }

    /// Every attention block for latents of `height` × `width`, in the order of a forward pass. A block is in the nest of the
    /// U-Net's block whose copy it is.
    pub fn blocks(&self, height: usize, width: usize) -> Vec<BlockInfo> {
        let mut blocks = self.half.blocks(height, width);
        for block in &mut blocks {
            block.id.stage = match block.id.stage {
                Stage::Down => Stage::ControlDown,
                Stage::Mid => Stage::ControlMid,
                other => other,
            };
        }
        blocks
    }

    /// The first field in which it does not fit a U-Net, and the reason; `None` if it fits. Its outputs are added to the U-Net's,
    /// so their numbers and channels must agree. The depths of attention blocks may differ.
    pub(crate) fn misfit(&self, unet: &UNetConfig) -> Option<(&'static str, String)> {
        let of = |config: &UNetConfig| -> [(&'static str, Vec<usize>); 6] {
            let stages = |of: fn(&DownStage) -> usize| config.down.iter().map(of).collect();
            [
                ("block_out_channels", stages(|stage| stage.channels)),
                ("layers_per_block", stages(|stage| stage.layers)),
                ("downsample_padding", vec![config.downsample_padding]),
                ("cross_attention_dim", vec![config.text_channels()]),
                ("addition_time_embed_dim", vec![config.size_channels]),
                ("projection_class_embeddings_input_dim", vec![config.added_channels]),
            ]
        };
        let (own, wanted) = (of(&self.half), of(unet));
        let differing = own.into_iter().zip(wanted).find(|((name, own), (_, wanted))| match *name {
            // A ControlNet without attention reads no text.
            "cross_attention_dim" if !self.half.has_attention() => false,
            _ => own != wanted,
        });
        if let Some(((name, own), (_, wanted))) = differing {
            return Some((name, format!("expected {wanted:?}, as the U-Net has, got {own:?}")));
        }
        let (inputs, latents) = (self.half.in_channels, unet.out_channels);
        (inputs != latents)
            .then(|| ("in_channels", format!("expected {latents} (the latents), got {inputs}")))
    }
}

/// Refuses what is no ControlNet of SD-XL, in one line that says what it is.
fn expect_control_net(fields: &Fields) -> Result<()> {
    let is = |name: &str, what: &str| Err(fields.error(name, format!("is {what}: {EXPECTED}")));
    match fields.text("_class_name")? {
        Some("ControlNetModel") => {}
        Some(class) => {
            let known = OTHERS.iter().find(|(part, _)| class.contains(part));
            return is("_class_name", known.map_or(&format!("a {class}"), |(_, what)| what));
        }
        None => return is("_class_name", "no model of diffusers"),
    }
    if fields.get("num_control_type").is_some() {
        return is("num_control_type", UNION);
    }
    if fields.get("addition_embed_type").is_none() {
        return match fields.get("cross_attention_dim").and_then(Value::as_u64) {
            Some(768) => is("cross_attention_dim", "a ControlNet of Stable Diffusion 1 (768)"),
            Some(1024) => is("cross_attention_dim", "a ControlNet of Stable Diffusion 2 (1024)"),
            _ => is("addition_embed_type", "a ControlNet without inputs for sizes and pooled text (null)"),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `config.json` of `diffusers/controlnet-canny-sdxl-1.0`.
    #[test]
    fn the_published_control_net_copies_sdxls_first_half() {
        let published = json!({
            "_class_name": "ControlNetModel", "_diffusers_version": "0.20.0.dev0", "act_fn": "silu",
            "addition_embed_type": "text_time", "addition_embed_type_num_heads": 64, "addition_time_embed_dim": 256,
            "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280], "class_embed_type": null,
            "conditioning_channels": 3, "conditioning_embedding_out_channels": [16, 32, 96, 256],
            "controlnet_conditioning_channel_order": "rgb", "cross_attention_dim": 2048,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"], "downsample_padding": 1,
            "encoder_hid_dim": null, "encoder_hid_dim_type": null, "flip_sin_to_cos": true, "freq_shift": 0,
            "global_pool_conditions": false, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1,
            "norm_eps": 1e-05, "norm_num_groups": 32, "num_attention_heads": null, "num_class_embeds": null,
            "only_cross_attention": false, "projection_class_embeddings_input_dim": 2816,
            "resnet_time_scale_shift": "default", "transformer_layers_per_block": [1, 2, 10], "upcast_attention": null,
            "use_linear_projection": true
        });
        let config = ControlNetConfig::from_json(Path::new("config.json"), published).unwrap();
        let base = UNetConfig::sdxl_base();
        let half = UNetConfig { up: Vec::new(), sample_size: None, ..base.clone() };
        assert_eq!((&config.half, config.factor()), (&half, 8));
        assert_eq!(config.misfit(&base), None);
        // blocks of other depths fit, stages of other widths do not
        let mut other = base.clone();
        other.down[2].attention = Some(vec![4, 4]);
        assert_eq!(config.misfit(&other), None);
        other.down[2].channels = 1024;
        let reason = "expected [320, 640, 1024], as the U-Net has, got [320, 640, 1280]".to_string();
        assert_eq!(config.misfit(&other), Some(("block_out_channels", reason)));
    }
}
