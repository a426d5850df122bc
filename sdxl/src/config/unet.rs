//! The configuration of an SD-XL U-Net: diffusers' `UNet2DConditionModel`.

/// One stage of the down path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DownStage {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the stage.
    pub channels: usize,
    /// Resnets.
    pub layers: usize,
    /// Transformer layers of each attention block (one block per resnet); `None` for a stage without attention.
    pub attention: Option<Vec<usize>>,
    /// Attention heads.
    pub heads: usize,
    /// Channels of the text tokens.
    pub text_channels: usize,
    /// Whether a strided convolution at the end halves the grid.
    pub downsample: bool,
}

/// The middle.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MidStage {
    /// Channels.
    pub channels: usize,
    /// Transformer layers of the attention block between the two resnets; `None` for a single resnet.
    pub attention: Option<usize>,
    /// Attention heads.
    pub heads: usize,
    /// Channels of the text tokens.
    pub text_channels: usize,
}

/// One stage of the up path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpStage {
    /// Channels of the input from the stage below.
    pub previous_channels: usize,
    /// Channels of the last skip connection, which are those of the next stage up.
    pub skip_channels: usize,
    /// Channels of the stage.
    pub channels: usize,
    /// Resnets.
    pub layers: usize,
    /// Transformer layers of each attention block (one block per resnet); `None` for a stage without attention.
    pub attention: Option<Vec<usize>>,
    /// Attention heads.
    pub heads: usize,
    /// Channels of the text tokens.
    pub text_channels: usize,
    /// Whether the grid is enlarged at the end to the size of the next skip connection.
    pub upsample: bool,
}

impl UpStage {
    /// The channels that resnet `layer` gets.
    pub(crate) fn resnet_inputs(&self, layer: usize) -> ResnetInputs {
        ResnetInputs {
            stream: if layer == 0 { self.previous_channels } else { self.channels },
            skip: if layer + 1 == self.layers { self.skip_channels } else { self.channels },
        }
    }
}

/// The channels of the two inputs of a resnet on the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResnetInputs {
    /// Channels of the stream.
    pub(crate) stream: usize,
    /// Channels of the skip connection.
    pub(crate) skip: usize,
}

impl ResnetInputs {
    /// The channels of both inputs, one behind the other.
    pub(crate) fn joined(self) -> usize {
        self.stream + self.skip
    }
}

/// The configuration of an SD-XL U-Net: everything that its weights depend on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct UNetConfig {
    /// Channels of the input: those of the latents, and in an inpainting U-Net those of the mask and the masked picture.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Width and height of the latents from which diffusers computes its default image size.
    pub sample_size: Option<usize>,
    /// The stages down.
    pub down: Vec<DownStage>,
    /// The middle, if there is one.
    pub mid: Option<MidStage>,
    /// The stages up.
    pub up: Vec<UpStage>,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// Epsilon of the resnets' norms and of the last one.
    pub norm_epsilon: f64,
    /// The divisor of the outputs of the middle's resnets.
    pub mid_scale: f64,
    /// Padding of the downsampling convolutions: 1, or 0. With 0, one row and one column are added at the end only.
    pub downsample_padding: usize,
    /// Whether `proj_in` and `proj_out` are stored as matrices (`[c, c]`), not as convolutions (`[c, c, 1, 1]`).
    pub linear_projection: bool,
    /// Order of the sinusoidal embeddings: `true` puts cosines first.
    pub flip_sin_to_cos: bool,
    /// Shift of the sinusoidal embeddings' frequencies.
    pub frequency_shift: f64,
    /// Channels of the time embedding.
    pub time_channels: usize,
    /// Sinusoidal channels of each of the six sizes and crops.
    pub size_channels: usize,
    /// Channels of the pooled text and the size embeddings together.
    pub added_channels: usize,
    /// Channels of the guidance embedding of a consistency-distilled U-Net (LCM).
    pub guidance_channels: Option<usize>,
    /// Kernel of the first convolution.
    pub conv_in_kernel: usize,
    /// Kernel of the last convolution.
    pub conv_out_kernel: usize,
    /// The ControlNet that runs beside it. Blocks, nests and costs include it. The weights and the `config.json` of the U-Net
    /// do not depend on it.
    pub control: Option<Box<ControlNetConfig>>,
}

/// The configuration of a ControlNet: everything that its weights depend on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ControlNetConfig {
    /// The U-Net whose first half it copies: the stages down and the middle. It has no stages up.
    pub half: UNetConfig,
    /// Channels of the convolutions that embed the picture. Each entry after the first halves the picture's sides.
    pub picture_channels: Vec<usize>,
}

impl UNetConfig {
    /// Whether the U-Net also takes a mask and the latents of a masked picture (inpainting): nine input channels for four of
    /// latents.
    pub fn is_inpainting(&self) -> bool {
        self.in_channels == 2 * self.out_channels + 1
    }

    /// SD-XL base 1.0: 2,567,463,684 parameters.
    ///
    /// Source: `unet/config.json` of `stabilityai/stable-diffusion-xl-base-1.0`.
    pub fn sdxl_base() -> Self {
        let channels = [320, 640, 1280];
        let depths = [1, 2, 10];
        let heads = [5, 10, 20];
        let down = (0..3).map(|i: usize| DownStage {
            in_channels: channels[i.saturating_sub(1)],
            channels: channels[i],
            layers: 2,
            attention: (i > 0).then(|| vec![depths[i]; 2]),
            heads: heads[i],
            text_channels: 2048,
            downsample: i != 2,
        });
        let up = (0..3).map(|i: usize| UpStage {
            previous_channels: channels[2 - i.saturating_sub(1)],
            skip_channels: channels[2_usize.saturating_sub(i + 1)],
            channels: channels[2 - i],
            layers: 3,
            attention: (i < 2).then(|| vec![depths[2 - i]; 3]),
            heads: heads[2 - i],
            text_channels: 2048,
            upsample: i != 2,
        });
        Self {
            in_channels: 4,
            out_channels: 4,
            sample_size: Some(128),
            down: down.collect(),
            mid: Some(MidStage { channels: 1280, attention: Some(10), heads: 20, text_channels: 2048 }),
            up: up.collect(),
            norm_groups: 32,
            norm_epsilon: 1e-5,
            mid_scale: 1.0,
            downsample_padding: 1,
            linear_projection: true,
            flip_sin_to_cos: true,
            frequency_shift: 0.0,
            time_channels: 1280,
            size_channels: 256,
            added_channels: 2816,
            guidance_channels: None,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            control: None,
        }
    }

    /// The same U-Net without a ControlNet.
    #[must_use]
    pub fn alone(&self) -> Self {
        Self { control: None, ..self.clone() }
    }

    /// Whether an image has two rows at this guidance scale, one for each prompt. A U-Net that takes the scale as an input
    /// is never guided so.
    pub fn is_guided(&self, guidance_scale: f64) -> bool {
        guidance_scale > 1.0 && self.guidance_channels.is_none()
    }

    /// Channels of the pooled text.
    pub fn pooled_channels(&self) -> usize {
        self.added_channels.saturating_sub(6 * self.size_channels)
    }

    /// Channels of the text tokens, from the first stage with attention.
    pub fn text_channels(&self) -> usize {
        let down = self.down.iter().find(|stage| stage.attention.is_some()).map(|stage| stage.text_channels);
        down.or(self.mid.as_ref().map(|mid| mid.text_channels)).unwrap_or(0)
    }

    /// Whether the way down or the middle has attention.
    pub(crate) fn has_attention(&self) -> bool {
        self.down.iter().any(|stage| stage.attention.is_some())
            || self.mid.as_ref().is_some_and(|mid| mid.attention.is_some())
    }

    /// Channels of the first and the last stage.
    pub(crate) fn base_channels(&self) -> usize {
        self.down.first().map_or(0, |stage| stage.channels)
    }
}
