//! Finds configurations from the shapes of a file's tensors. SD-XL's own values fill in what shapes cannot tell.
//!
//! ```text
//! from the shapes    channels, layers, transformer depths, text channels, kernels, which parts have attention, the vocabulary
//! SD-XL's own        64 channels a head, 32 groups, the epsilons, activations, the scaling factor, 1024 pixels, the scheduler
//! ```

use atedm_core::Result;
use serde_json::{Value, json};

use super::names::root;
use super::shapes::Shapes;
use super::unet::{self, GROUPS, heads};
use crate::architecture::documents;
use crate::checkpoint::{Documents, Part};
use crate::config::{KlConfig, TextActivation, TextEncoderConfig, VaeConfig};

/// Side of the images that SD-XL is made for, in pixels.
const SIDE: usize = 1024;
/// The end token that SD-XL's configurations name. It means that the highest token ends a prompt.
const LEGACY_END: u32 = 2;
/// A tensor without values: the U-Net was trained to predict v.
const V_PREDICTION: &str = "v_pred";
/// A tensor without values: the U-Net was trained with betas that leave no signal at the last step.
const ZERO_SNR: &str = "ztsnr";

/// The JSON files that a folder with these tensors needs. The list lacks the autoencoder's file if there is no autoencoder.
pub(super) fn documents(shapes: &Shapes) -> Result<Documents> {
    let (first, second) = (first_text_encoder(shapes)?, second_text_encoder(shapes)?);
    let vae = match shapes.any(root(Part::Vae)) {
        true => Some(VaeConfig::Kl(kl(shapes, KlNames::Original)?)),
        false => None,
    };
    let latents = SIDE / vae.as_ref().map_or(8, VaeConfig::factor);
    let unet = unet::derive(shapes, second.projection.unwrap_or(0), Some(latents))?;
    let mut documents = vec![
        ("model_index.json", documents::model_index()),
        ("scheduler/scheduler_config.json", scheduler(shapes)),
        ("text_encoder/config.json", text_document(&first)),
        ("text_encoder_2/config.json", text_document(&second)),
        ("unet/config.json", unet.to_json()),
    ];
    documents.extend(vae.map(|vae| ("vae/config.json", vae.to_json())));
    Ok(documents)
}

/// SD-XL's scheduler, changed as the file's markers say.
fn scheduler(shapes: &Shapes) -> Value {
    let mut scheduler = documents::scheduler();
    // SD-XL sets these two for samplers whose defaults differ.
    scheduler["clip_sample"] = json!(false);
    scheduler["set_alpha_to_one"] = json!(false);
    if shapes.get(V_PREDICTION).is_some() {
        scheduler["prediction_type"] = json!("v_prediction");
    }
    if shapes.get(ZERO_SNR).is_some() {
        scheduler["rescale_betas_zero_snr"] = json!(true);
    }
    scheduler
}

/// A text encoder's `config.json`. It names f32, because diffusers loads the other parts in f32, however they are stored.
fn text_document(config: &TextEncoderConfig) -> Value {
    let mut document = config.to_json();
    document["torch_dtype"] = json!("float32");
    document
}

fn first_text_encoder(shapes: &Shapes) -> Result<TextEncoderConfig> {
    let name = |name: &str| format!("{}text_model.{name}", root(Part::TextEncoder));
    let layer = |layer: usize, tensor: &str| name(&format!("encoder.layers.{layer}.{tensor}"));
    let table = name("embeddings.token_embedding.weight");
    let channels = shapes.axis(&table, 1)?;
    Ok(TextEncoderConfig {
        vocabulary: shapes.axis(&table, 0)?,
        channels,
        feed_forward: shapes.axis(&layer(0, "mlp.fc1.weight"), 0)?,
        layers: shapes.count(|number| layer(number, "mlp.fc1.weight")),
        heads: heads(shapes, &table, channels)?,
        context: shapes.axis(&name("embeddings.position_embedding.weight"), 0)?,
        activation: TextActivation::QuickGelu,
        norm_epsilon: 1e-5,
        end_token: LEGACY_END,
        projection: None,
    })
}

fn second_text_encoder(shapes: &Shapes) -> Result<TextEncoderConfig> {
    let name = |name: &str| format!("{}{name}", root(Part::TextEncoder2));
    let layer = |layer: usize, tensor: &str| name(&format!("transformer.resblocks.{layer}.{tensor}"));
    let table = name("token_embedding.weight");
    let channels = shapes.axis(&table, 1)?;
    Ok(TextEncoderConfig {
        vocabulary: shapes.axis(&table, 0)?,
        channels,
        feed_forward: shapes.axis(&layer(0, "mlp.c_fc.weight"), 0)?,
        layers: shapes.count(|number| layer(number, "mlp.c_fc.weight")),
        heads: heads(shapes, &table, channels)?,
        context: shapes.axis(&name("positional_embedding"), 0)?,
        activation: TextActivation::Gelu,
        norm_epsilon: 1e-5,
        end_token: LEGACY_END,
        projection: Some(shapes.axis(&name("text_projection"), 1)?),
    })
}

/// The names of an autoencoder's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KlNames {
    /// The original ones, below `first_stage_model.`.
    Original,
    /// Those of a diffusers folder.
    Folder,
}

/// The autoencoder's configuration.
pub(crate) fn kl(shapes: &Shapes, names: KlNames) -> Result<KlConfig> {
    let (root, middle) = match names {
        KlNames::Original => (root(Part::Vae), "decoder.mid.attn_1."),
        KlNames::Folder => ("", "decoder.mid_block.attentions."),
    };
    let name = |name: &str| format!("{root}{name}");
    let block = |stage: usize, block: usize| match names {
        KlNames::Original => name(&format!("decoder.up.{stage}.block.{block}.conv1.weight")),
        KlNames::Folder => name(&format!("decoder.up_blocks.{stage}.resnets.{block}.conv1.weight")),
    };
    let stages = shapes.count(|stage| block(stage, 0));
    let channels = (0..stages).map(|stage| shapes.axis(&block(stage, 0), 0));
    let mut channels = channels.collect::<Result<Vec<usize>>>()?;
    if names == KlNames::Folder {
        // A folder numbers the decoder's stages as they run, the original names number them as the encoder's.
        channels.reverse();
    }
    let latents = name("decoder.conv_in.weight");
    let encoder = name("encoder.conv_in.weight");
    Ok(KlConfig {
        in_channels: shapes.axis_of(&encoder, 1).unwrap_or(3),
        out_channels: shapes.axis(&name("decoder.conv_out.weight"), 0)?,
        channels,
        layers: shapes.count(|layer| block(0, layer)).saturating_sub(1),
        latent_channels: shapes.axis(&latents, 1)?,
        norm_groups: GROUPS,
        sample_size: SIDE,
        mid_attention: shapes.any(&name(middle)),
        quant_conv: shapes.any(&name("quant_conv.")),
        post_quant_conv: shapes.any(&name("post_quant_conv.")),
        scaling_factor: 0.13025,
        shift_factor: None,
        latent_statistics: None,
        force_upcast: true,
    })
}
