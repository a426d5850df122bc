//! Where and when a model asks a plugin: blocks, layers, steps, rows.

use serde::{Deserialize, Serialize};

use super::block::BlockId;

/// The sublayers of transformer layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sublayer {
    /// Image tokens attend to image tokens.
    SelfAttention,
    /// Image tokens attend to text tokens.
    CrossAttention,
    /// Image and text tokens, in two streams, attend to both (FLUX's double-stream layers, SD3). Methods reduce the
    /// image's stream. Its graph is the image part of the map, with rows normalised over image keys.
    JointAttention,
    /// A network that runs on each token separately.
    FeedForward,
    /// Attention and feed-forward at once, as one branch on one input (FLUX's single-stream layers).
    Parallel,
}

impl Sublayer {
    /// Whether image tokens attend to image tokens in it. Its graph is then square.
    pub fn has_self_graph(self) -> bool {
        matches!(self, Self::SelfAttention | Self::JointAttention | Self::Parallel)
    }

    /// Whether it contains the layer's feed-forward.
    pub fn has_feed_forward(self) -> bool {
        matches!(self, Self::FeedForward | Self::Parallel)
    }
}

/// Which half of classifier-free guidance a batch row belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Branch {
    /// The prompt.
    Cond,
    /// The negative or empty prompt.
    Uncond,
    /// No guidance: one row for each image.
    Single,
}

/// A description of a batch row. It is the key of any state that belongs to one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    /// The number of the image, unique in the run.
    pub image: u64,
    /// The half of guidance.
    pub branch: Branch,
}

impl Row {
    /// Rows of a batch without guidance: images `0..count`, one row each.
    pub fn singles(count: usize) -> Vec<Self> {
        (0..count as u64).map(|image| Self { image, branch: Branch::Single }).collect()
    }
}

/// One denoising step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// 0-based index in the *full* schedule. An img2img run starts above 0.
    pub index: usize,
    /// The number of steps in the full schedule.
    pub total: usize,
    /// 0-based number of this U-Net evaluation. It differs from `index` for samplers that evaluate twice a step.
    pub evaluation: usize,
    /// Noise level σ.
    pub sigma: f64,
    /// The time step that the model gets. In SD-XL it falls from 999 (noise) to 0 (the image). Some samplers use fractions.
    pub timestep: f64,
}

/// A token grid: frames of `height x width` tokens. Tokens are row-major, frame after frame. A picture is one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// The number of frames; 1 for a picture.
    pub frames: usize,
    /// Rows of a frame.
    pub height: usize,
    /// Columns of a frame.
    pub width: usize,
}

impl Grid {
    /// A picture: one frame.
    pub const fn new(height: usize, width: usize) -> Self {
        Self::of_frames(1, height, width)
    }

    /// A video of `frames` frames.
    pub const fn of_frames(frames: usize, height: usize, width: usize) -> Self {
        Self { frames, height, width }
    }

    /// `frames * height * width`.
    pub const fn tokens(&self) -> usize {
        self.frames * self.height * self.width
    }
}

/// Everything a plugin learns about the place where it is asked.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The attention block.
    pub block: BlockId,
    /// 0-based transformer layer within the block.
    pub layer: usize,
    /// The number of layers in the block.
    pub depth: usize,
    /// The denoising step.
    pub step: Step,
    /// The block's full token grid, before any reduction.
    pub grid: Grid,
    /// The number of tokens in the residual stream now.
    pub tokens: usize,
    /// The range of tokens that must never be removed or merged, such as text or register tokens of joint sequences.
    pub protected: (usize, usize),
    /// A description of each batch row.
    pub rows: &'a [Row],
}

impl Site<'_> {
    /// Whether this is the block's last layer.
    pub fn is_last_layer(&self) -> bool {
        self.layer + 1 == self.depth
    }
}
