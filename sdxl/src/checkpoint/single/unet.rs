//! Finds the U-Net's configuration from the shapes of a file's tensors.

use atedm_core::{Error, Result};

use super::names::root;
use super::shapes::Shapes;
use crate::checkpoint::Part;
use crate::config::{DownStage, MidStage, UNetConfig, UpStage};

/// Channels of an attention head in both text encoders and the U-Net.
const HEAD: usize = 64;
/// Groups of every group norm.
pub(super) const GROUPS: usize = 32;

/// A residual block with its transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    channels: usize,
    /// Layers of the transformer, if there is one.
    depth: Option<usize>,
}

/// The blocks of one resolution on the way down or up.
#[derive(Debug, Default)]
struct Stage {
    channels: usize,
    layers: usize,
    attention: Option<Vec<usize>>,
}

/// The heads of a module with this number of channels. `name` is for the message.
pub(super) fn heads(shapes: &Shapes, name: &str, channels: usize) -> Result<usize> {
    if channels.is_multiple_of(HEAD) {
        return Ok(channels / HEAD);
    }
    Err(shapes.error(name, format!("expected a multiple of {HEAD} channels (SD-XL's heads), got {channels}")))
}

/// Finds the configuration. The pooled text has `pooled` channels, and an image of the default size has `sample_size`
/// latents a side.
pub(crate) fn derive(shapes: &Shapes, pooled: usize, sample_size: Option<usize>) -> Result<UNetConfig> {
    let name = |name: &str| format!("{}{name}", root(Part::UNet));
    let (down, up) = (stages(shapes, "input_blocks", 1)?, stages(shapes, "output_blocks", 0)?);
    if up.len() != down.len() {
        let reason = format!("expected {} stages on the way up, got {}", down.len(), up.len());
        return Err(shapes.error(root(Part::UNet), reason));
    }
    let text_channels = text_channels(shapes)?;
    let heads = |stage: &Stage| match stage.attention {
        Some(_) => heads(shapes, root(Part::UNet), stage.channels),
        None => Ok((stage.channels / HEAD).max(1)),
    };
    let channels: Vec<usize> = down.iter().map(|stage| stage.channels).collect();
    let last = channels.len().saturating_sub(1);
    let down = down.into_iter().enumerate().map(|(level, stage)| {
        Ok(DownStage {
            in_channels: channels[level.saturating_sub(1)],
            channels: stage.channels,
            layers: stage.layers,
            heads: heads(&stage)?,
            attention: stage.attention,
            text_channels,
            downsample: level != last,
        })
    });
    let up = up.into_iter().enumerate().map(|(index, stage)| {
        Ok(UpStage {
            previous_channels: channels[last - index.saturating_sub(1)],
            skip_channels: channels[last.saturating_sub(index + 1)],
            channels: stage.channels,
            layers: stage.layers,
            heads: heads(&stage)?,
            attention: stage.attention,
            text_channels,
            upsample: index != last,
        })
    });
    let mid = block(shapes, &name("middle_block.0"), &name("middle_block.1"));
    let mid = mid.map(|Block { channels, depth }| {
        let stage = Stage { channels, layers: 1, attention: depth.map(|depth| vec![depth]) };
        Ok::<_, Error>(MidStage { channels, attention: depth, heads: heads(&stage)?, text_channels })
    });
    let (conv_in, conv_out) = (name("input_blocks.0.0.weight"), name("out.2.weight"));
    let added_channels = shapes.axis(&name("label_emb.0.0.weight"), 1)?;
    let matrix = |name: &str| shapes.get(name).is_some_and(|shape| shape.len() == 2);
    let config = UNetConfig {
        in_channels: shapes.axis(&conv_in, 1)?,
        out_channels: shapes.axis(&conv_out, 0)?,
        sample_size,
        down: down.collect::<Result<_>>()?,
        mid: mid.transpose()?,
        up: up.collect::<Result<_>>()?,
        norm_groups: GROUPS,
        norm_epsilon: 1e-5,
        mid_scale: 1.0,
        downsample_padding: 1,
        linear_projection: shapes.names().any(|name| name.ends_with(".1.proj_in.weight") && matrix(name)),
        flip_sin_to_cos: true,
        frequency_shift: 0.0,
        time_channels: shapes.axis(&name("time_embed.0.weight"), 0)?,
        size_channels: added_channels.saturating_sub(pooled) / 6,
        added_channels,
        guidance_channels: None,
        conv_in_kernel: shapes.axis(&conv_in, 2)?,
        conv_out_kernel: shapes.axis(&conv_out, 2)?,
        control: None,
    };
    // Some layouts have no configuration. A folder's reader must find this one again.
    let read = UNetConfig::from_json(&shapes.file().join("unet/config.json"), config.to_json())?;
    if read != config {
        let reason = "expected stages like those of SD-XL: on the way up one layer more than on the way down, in reverse";
        return Err(shapes.error(root(Part::UNet), reason));
    }
    Ok(config)
}

/// Channels of the text, by the keys of the first cross-attention. Loading checks the others.
fn text_channels(shapes: &Shapes) -> Result<usize> {
    let keys = |name: &&str| name.starts_with(root(Part::UNet)) && name.ends_with(".attn2.to_k.weight");
    match shapes.names().find(keys) {
        Some(name) => shapes.axis(name, 1),
        None => Err(shapes.error(root(Part::UNet), "expected attention to the text, got none")),
    }
}

/// The block that these two modules make, if there is a residual block.
fn block(shapes: &Shapes, resnet: &str, transformer: &str) -> Option<Block> {
    let channels = shapes.axis_of(&format!("{resnet}.in_layers.2.weight"), 0)?;
    let layer = |number| format!("{transformer}.transformer_blocks.{number}.norm1.weight");
    let depth = shapes.get(&format!("{transformer}.proj_in.weight")).map(|_| shapes.count(layer));
    Some(Block { channels, depth })
}

/// Groups the blocks from `blocks.first` on into stages. A convolution that changes the grid's size ends a stage.
fn stages(shapes: &Shapes, blocks: &str, first: usize) -> Result<Vec<Stage>> {
    let mut stages = Vec::new();
    let mut open = Vec::new();
    for number in first.. {
        let name = format!("{}{blocks}.{number}", root(Part::UNet));
        let found = block(shapes, &format!("{name}.0"), &format!("{name}.1"));
        let resizes = ["0.op", "1.conv", "2.conv"].map(|resize| format!("{name}.{resize}.weight"));
        let resized = resizes.iter().any(|name| shapes.get(name).is_some());
        if found.is_none() && !resized {
            break;
        }
        open.extend(found);
        if resized {
            stages.push(stage(shapes, &std::mem::take(&mut open))?);
        }
    }
    stages.push(stage(shapes, &open)?);
    Ok(stages)
}

fn stage(shapes: &Shapes, blocks: &[Block]) -> Result<Stage> {
    let depths: Vec<usize> = blocks.iter().filter_map(|block| block.depth).collect();
    let alike = blocks.windows(2).all(|pair| pair[0].channels == pair[1].channels);
    match blocks.first() {
        Some(first) if alike && (depths.is_empty() || depths.len() == blocks.len()) => Ok(Stage {
            channels: first.channels,
            layers: blocks.len(),
            attention: (!depths.is_empty()).then_some(depths),
        }),
        _ => Err(shapes.error(
            root(Part::UNet),
            "expected blocks of one resolution to have the same channels, and attention in all or none of them",
        )),
    }
}
