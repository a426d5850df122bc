//! The steps down and up, loaded from the stages of a checkpoint, and the middle.

use atedm_core::backend::dims;
use atedm_core::plugin::{BlockId, Stage};
use atedm_core::{AttentionOps, Error, Result, Weights};

use super::context::ForwardContext;
use super::transformer::{Transformer, TransformerShape};
use crate::config::{DownStage, MidStage, UNetConfig, UpStage};
use crate::layers::{Conv2d, ConvShape, Resnet, ResnetShape, downsampling};

fn resnet_shape(config: &UNetConfig, inputs: usize, outputs: usize) -> ResnetShape {
    let (groups, epsilon) = (config.norm_groups, config.norm_epsilon);
    ResnetShape { inputs, outputs, time: Some(config.time_channels), groups, epsilon, scale: 1.0 }
}

/// A stage and its resolution level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StagePlace {
    pub(crate) stage: Stage,
    pub(crate) index: usize,
    pub(crate) level: usize,
}

/// Sizes that all attention blocks of a stage share.
#[derive(Debug, Clone, Copy)]
struct AttentionShape {
    channels: usize,
    heads: usize,
    text_channels: usize,
}

/// The attention blocks of a stage: one per entry of `depths`, or none.
fn attentions<T: AttentionOps>(
    weights: &Weights<T>,
    config: &UNetConfig,
    depths: &[usize],
    place: StagePlace,
    shape: AttentionShape,
) -> Result<Vec<Transformer<T>>> {
    let StagePlace { stage, index: stage_index, level } = place;
    let AttentionShape { channels, heads, text_channels } = shape;
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

/// A resnet, followed by an attention block if there is one.
#[derive(Debug)]
struct Layer<T> {
    /// The stage's name in a checkpoint.
    path: &'static str,
    stage: usize,
    index: usize,
    resnet: Resnet<T>,
    attention: Option<Transformer<T>>,
}

impl<T: AttentionOps> Layer<T> {
    fn forward(&self, mut hidden: T, context: &mut ForwardContext<'_, T>) -> Result<T> {
        let Self { path, stage, index, .. } = self;
        hidden = self.resnet.forward(&hidden, Some(context.emb))?;
        (context.watch)(format_args!("{path}.{stage}.resnets.{index}"), &hidden)?;
        if let Some(attention) = &self.attention {
            hidden = attention.forward(hidden, context)?;
            (context.watch)(format_args!("{path}.{stage}.attentions.{index}"), &hidden)?;
        }
        Ok(hidden)
    }
}

/// A step on the way down. Its output becomes a skip connection.
#[derive(Debug)]
pub(crate) struct DownStep<T>(Down<T>);

#[derive(Debug)]
enum Down<T> {
    /// The U-Net's first convolution.
    First(Conv2d<T>),
    Layer(Box<Layer<T>>),
    /// The strided convolution at the end of a stage.
    Halving {
        stage: usize,
        conv: Conv2d<T>,
    },
}

impl<T: AttentionOps> DownStep<T> {
    /// The U-Net's first convolution.
    pub(crate) fn first(conv: Conv2d<T>) -> Self {
        Self(Down::First(conv))
    }

    /// Loads resnets, each followed by an attention block (if any), then a strided convolution (if any).
    pub(crate) fn load_stage(
        weights: &Weights<T>,
        config: &UNetConfig,
        stage: &DownStage,
        place: StagePlace,
    ) -> Result<Vec<Self>> {
        let index = place.index;
        let DownStage { channels, heads, text_channels, .. } = *stage;
        let shape = AttentionShape { channels, heads, text_channels };
        let depths = stage.attention.as_deref().unwrap_or_default();
        let mut attentions = attentions(weights, config, depths, place, shape)?.into_iter();
        let layer = |i: usize| {
            let inputs = if i == 0 { stage.in_channels } else { channels };
            let weights = weights.scope("resnets").scope(i);
            let resnet = Resnet::load(&weights, resnet_shape(config, inputs, channels))?;
            let attention = attentions.next();
            let layer = Layer { path: "down_blocks", stage: index, index: i, resnet, attention };
            Ok(Self(Down::Layer(Box::new(layer))))
        };
        let mut steps = (0..stage.layers).map(layer).collect::<Result<Vec<_>>>()?;
        if stage.downsample {
            let shape = ConvShape::halving(channels, downsampling(config.downsample_padding));
            let conv = Conv2d::load(&weights.scope("downsamplers.0.conv"), shape)?;
            steps.push(Self(Down::Halving { stage: index, conv }));
        }
        Ok(steps)
    }

    pub(crate) fn forward(&self, hidden: T, context: &mut ForwardContext<'_, T>) -> Result<T> {
        match &self.0 {
            Down::First(conv) => {
                let hidden = conv.forward(&hidden)?;
                (context.watch)(format_args!("conv_in"), &hidden)?;
                Ok(hidden)
            }
            Down::Layer(layer) => layer.forward(hidden, context),
            Down::Halving { stage, conv } => {
                let hidden = conv.forward(&hidden)?;
                (context.watch)(format_args!("down_blocks.{stage}.downsamplers.0"), &hidden)?;
                Ok(hidden)
            }
        }
    }
}

/// A resnet, an attention block and a resnet; or a single resnet.
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
        place: StagePlace,
    ) -> Result<Self> {
        let MidStage { channels, heads, text_channels, .. } = *mid;
        let shape = ResnetShape { scale: config.mid_scale, ..resnet_shape(config, channels, channels) };
        let resnet = |i: usize| Resnet::load(&weights.scope("resnets").scope(i), shape);
        let shape = AttentionShape { channels, heads, text_channels };
        let blocks = attentions(weights, config, mid.attention.as_slice(), place, shape)?;
        let rest = blocks.into_iter().next().map(|block| Ok::<_, Error>((block, resnet(1)?)));
        Ok(Self { first: resnet(0)?, rest: rest.transpose()? })
    }

    pub(crate) fn forward(&self, mut hidden: T, context: &mut ForwardContext<'_, T>) -> Result<T> {
        hidden = self.first.forward(&hidden, Some(context.emb))?;
        (context.watch)(format_args!("mid_block.resnets.0"), &hidden)?;
        if let Some((attention, resnet)) = &self.rest {
            hidden = attention.forward(hidden, context)?;
            (context.watch)(format_args!("mid_block.attentions.0"), &hidden)?;
            hidden = resnet.forward(&hidden, Some(context.emb))?;
            (context.watch)(format_args!("mid_block.resnets.1"), &hidden)?;
        }
        Ok(hidden)
    }
}

/// A step on the way up. It takes a skip connection.
#[derive(Debug)]
pub(crate) struct UpStep<T> {
    layer: Layer<T>,
    /// The convolution after a resize, at the end of a stage.
    upsampler: Option<Conv2d<T>>,
}

impl<T: AttentionOps> UpStep<T> {
    /// Loads resnets, each of which takes the stream and a skip connection and is followed by an attention block (if
    /// any). The last step also has a resize with a convolution (if any).
    pub(crate) fn load_stage(
        weights: &Weights<T>,
        config: &UNetConfig,
        stage: &UpStage,
        place: StagePlace,
    ) -> Result<Vec<Self>> {
        let UpStage { channels, heads, text_channels, .. } = *stage;
        let shape = AttentionShape { channels, heads, text_channels };
        let depths = stage.attention.as_deref().unwrap_or_default();
        let mut attentions = attentions(weights, config, depths, place, shape)?.into_iter();
        let step = |i: usize| {
            let shape = resnet_shape(config, stage.resnet_inputs(i).joined(), channels);
            let resnet = Resnet::load(&weights.scope("resnets").scope(i), shape)?;
            let attention = attentions.next();
            let upsampler = (stage.upsample && i + 1 == stage.layers).then(|| {
                let shape = ConvShape::same(channels, channels, 3);
                Conv2d::load(&weights.scope("upsamplers.0.conv"), shape)
            });
            let layer = Layer { path: "up_blocks", stage: place.index, index: i, resnet, attention };
            Ok(Self { layer, upsampler: upsampler.transpose()? })
        };
        (0..stage.layers).map(step).collect()
    }

    /// `[hidden, skip]` → the stream. A resize goes to `size`, the height and width of the skip connection that is
    /// popped next. That is twice the stream's size, or one less if the way down had an odd size (diffusers'
    /// `forward_upsample_size`).
    pub(crate) fn forward(
        &self,
        hidden: T,
        skip: T,
        size: [usize; 2],
        context: &mut ForwardContext<'_, T>,
    ) -> Result<T> {
        let joined = T::concat(&[&hidden, &skip], 1)?;
        drop((hidden, skip));
        let mut hidden = self.layer.forward(joined, context)?;
        if let Some(upsampler) = &self.upsampler {
            let [height, width] = size;
            hidden = upsampler.forward(&hidden.upsample_nearest(height, width)?)?;
            let stage = self.layer.stage;
            (context.watch)(format_args!("up_blocks.{stage}.upsamplers.0"), &hidden)?;
        }
        Ok(hidden)
    }
}

/// The height and width of an image `[b, c, h, w]`.
pub(crate) fn size<T: AttentionOps>(image: &T) -> Result<[usize; 2]> {
    let [_, _, height, width] = dims(image, "U-Net")?;
    Ok([height, width])
}
