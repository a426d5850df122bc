//! Down, mid and up stages.

use std::fmt;

use atedm_core::backend::dims;
use atedm_core::plugin::{BlockId, Row, Stage, Step, TokenReducer};
use atedm_core::{AttentionOps, Error, Result, Weights};

use super::transformer::{Transformer, TransformerShape};
use crate::config::{DownStage, MidStage, UNetConfig, UpStage};
use crate::layers::{Conv2d, ConvShape, Resnet, ResnetShape, downsampling};

/// What every stage needs besides the stream.
pub(crate) struct Place<'a, T> {
    /// The conditioning vector after SiLU, `[b, time channels]`.
    pub(crate) emb: &'a T,
    pub(crate) text: &'a T,
    pub(crate) step: &'a Step,
    pub(crate) rows: &'a [Row],
    pub(crate) reducer: &'a mut dyn TokenReducer<T>,
    /// Shown every module's output, in the order of the pass.
    pub(crate) watch: &'a mut Watch<'a, T>,
}

/// Takes a module's name, as in a checkpoint, and its output.
pub(crate) type Watch<'a, T> = dyn FnMut(fmt::Arguments<'_>, &T) -> Result<()> + 'a;

fn resnet_shape(config: &UNetConfig, inputs: usize, outputs: usize) -> ResnetShape {
    let (groups, epsilon) = (config.norm_groups, config.norm_epsilon);
    ResnetShape { inputs, outputs, time: Some(config.time_channels), groups, epsilon, scale: 1.0 }
}

/// The attention blocks of a stage: as many as `depths`, or none.
fn attentions<T: AttentionOps>(
    weights: &Weights<T>,
    config: &UNetConfig,
    depths: &[usize],
    place: (Stage, usize, usize),
    shape: (usize, usize, usize),
) -> Result<Vec<Transformer<T>>> {
    let (stage, stage_index, level) = place;
    let (channels, heads, text_channels) = shape;
    let one = |(index, &depth): (usize, &usize)| {
        let block = BlockId { stage, stage_index, index, count: depths.len(), level };
        let shape = TransformerShape {
            block,
            channels,
            heads,
            text_channels,
            depth,
            groups: config.norm_groups,
            linear: config.linear_projection,
        };
        Transformer::load(&weights.scope("attentions").scope(index), shape)
    };
    depths.iter().enumerate().map(one).collect()
}

/// Resnets with an attention block after each (if any), then a strided convolution (if any).
#[derive(Debug)]
pub(crate) struct Down<T> {
    index: usize,
    resnets: Vec<Resnet<T>>,
    attentions: Vec<Transformer<T>>,
    downsampler: Option<Conv2d<T>>,
}

impl<T: AttentionOps> Down<T> {
    pub(crate) fn load(
        weights: &Weights<T>,
        config: &UNetConfig,
        stage: &DownStage,
        index: usize,
    ) -> Result<Self> {
        let resnet = |i: usize| {
            let inputs = if i == 0 { stage.in_channels } else { stage.channels };
            Resnet::load(&weights.scope("resnets").scope(i), resnet_shape(config, inputs, stage.channels))
        };
        let depths = stage.attention.as_deref().unwrap_or_default();
        let shape = (stage.channels, stage.heads, stage.text_channels);
        let downsampler = stage.downsample.then(|| {
            let shape = ConvShape::halving(stage.channels, downsampling(config.downsample_padding));
            Conv2d::load(&weights.scope("downsamplers.0.conv"), shape)
        });
        Ok(Self {
            index,
            resnets: (0..stage.layers).map(resnet).collect::<Result<_>>()?,
            attentions: attentions(weights, config, depths, (Stage::Down, index, index), shape)?,
            downsampler: downsampler.transpose()?,
        })
    }

    pub(crate) fn forward(&self, mut hidden: T, skips: &mut Vec<T>, place: &mut Place<'_, T>) -> Result<T> {
        let stage = self.index;
        for (i, resnet) in self.resnets.iter().enumerate() {
            hidden = resnet.forward(&hidden, Some(place.emb))?;
            (place.watch)(format_args!("down_blocks.{stage}.resnets.{i}"), &hidden)?;
            if let Some(attention) = self.attentions.get(i) {
                hidden = attention.forward(hidden, place)?;
                (place.watch)(format_args!("down_blocks.{stage}.attentions.{i}"), &hidden)?;
            }
            skips.push(hidden.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            hidden = downsampler.forward(&hidden)?;
            (place.watch)(format_args!("down_blocks.{stage}.downsamplers.0"), &hidden)?;
            skips.push(hidden.clone());
        }
        Ok(hidden)
    }
}

/// Resnet, attention block, resnet; or a single resnet.
#[derive(Debug)]
pub(crate) struct Mid<T> {
    first: Resnet<T>,
    rest: Option<(Transformer<T>, Resnet<T>)>,
}

impl<T: AttentionOps> Mid<T> {
    pub(crate) fn load(
        weights: &Weights<T>,
        config: &UNetConfig,
        mid: &MidStage,
        level: usize,
    ) -> Result<Self> {
        let shape =
            ResnetShape { scale: config.mid_scale, ..resnet_shape(config, mid.channels, mid.channels) };
        let resnet = |i: usize| Resnet::load(&weights.scope("resnets").scope(i), shape);
        let depths = mid.attention.as_slice();
        let place = (Stage::Mid, 0, level);
        let blocks =
            attentions(weights, config, depths, place, (mid.channels, mid.heads, mid.text_channels))?;
        let rest = blocks.into_iter().next().map(|block| Ok::<_, Error>((block, resnet(1)?)));
        Ok(Self { first: resnet(0)?, rest: rest.transpose()? })
    }

    pub(crate) fn forward(&self, hidden: T, place: &mut Place<'_, T>) -> Result<T> {
        let mut hidden = self.first.forward(&hidden, Some(place.emb))?;
        (place.watch)(format_args!("mid_block.resnets.0"), &hidden)?;
        if let Some((attention, resnet)) = &self.rest {
            hidden = attention.forward(hidden, place)?;
            (place.watch)(format_args!("mid_block.attentions.0"), &hidden)?;
            hidden = resnet.forward(&hidden, Some(place.emb))?;
            (place.watch)(format_args!("mid_block.resnets.1"), &hidden)?;
        }
        Ok(hidden)
    }
}

/// Resnets on the stream and a skip connection each, with an attention block after each (if any), then a resize to the
/// next skip connection's size with a convolution (if any).
#[derive(Debug)]
pub(crate) struct Up<T> {
    index: usize,
    resnets: Vec<Resnet<T>>,
    attentions: Vec<Transformer<T>>,
    upsampler: Option<Conv2d<T>>,
}

impl<T: AttentionOps> Up<T> {
    pub(crate) fn load(
        weights: &Weights<T>,
        config: &UNetConfig,
        stage: &UpStage,
        (index, level): (usize, usize),
    ) -> Result<Self> {
        let resnet = |i: usize| {
            let (stream, skip) = stage.resnet_inputs(i);
            Resnet::load(
                &weights.scope("resnets").scope(i),
                resnet_shape(config, stream + skip, stage.channels),
            )
        };
        let depths = stage.attention.as_deref().unwrap_or_default();
        let shape = (stage.channels, stage.heads, stage.text_channels);
        let upsampler = stage.upsample.then(|| {
            Conv2d::load(
                &weights.scope("upsamplers.0.conv"),
                ConvShape::same(stage.channels, stage.channels, 3),
            )
        });
        Ok(Self {
            index,
            resnets: (0..stage.layers).map(resnet).collect::<Result<_>>()?,
            attentions: attentions(weights, config, depths, (Stage::Up, index, level), shape)?,
            upsampler: upsampler.transpose()?,
        })
    }

    pub(crate) fn forward(&self, mut hidden: T, skips: &mut Vec<T>, place: &mut Place<'_, T>) -> Result<T> {
        let stage = self.index;
        for (i, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.pop().ok_or_else(no_skip)?;
            let joined = T::concat(&[&hidden, &skip], 1)?;
            drop((hidden, skip));
            hidden = resnet.forward(&joined, Some(place.emb))?;
            (place.watch)(format_args!("up_blocks.{stage}.resnets.{i}"), &hidden)?;
            if let Some(attention) = self.attentions.get(i) {
                hidden = attention.forward(hidden, place)?;
                (place.watch)(format_args!("up_blocks.{stage}.attentions.{i}"), &hidden)?;
            }
        }
        if let Some(upsampler) = &self.upsampler {
            // Twice the size, or one less where the way down had an odd size (diffusers' `forward_upsample_size`).
            let [_, _, height, width] = dims(skips.last().ok_or_else(no_skip)?, "upsampling")?;
            hidden = upsampler.forward(&hidden.upsample_nearest(height, width)?)?;
            (place.watch)(format_args!("up_blocks.{stage}.upsamplers.0"), &hidden)?;
        }
        Ok(hidden)
    }
}

fn no_skip() -> Error {
    Error::config("unet/config.json", "the up path has more resnets than the down path has outputs")
}
