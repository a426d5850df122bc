//! Where and when in the model a plugin is asked: blocks, layers, steps, rows.

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
    /// Image and text tokens, in two streams, attend to both (FLUX's double-stream layers, SD3). The image's stream is the
    /// one that is reduced; its graph is the image part of the map, rows normalised over image keys.
    JointAttention,
    /// Per token.
    FeedForward,
    /// Attention and feed-forward at once, as one branch on one input (FLUX's single-stream layers).
    Parallel,
}

impl Sublayer {
    /// Whether image tokens attend to image tokens in it, so that its graph is square.
    pub fn has_self_graph(self) -> bool {
        matches!(self, Self::SelfAttention | Self::JointAttention | Self::Parallel)
    }

    /// Whether a layer's feed-forward is in it.
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
    /// No guidance: one row an image.
    Single,
}

/// What a batch row is: the key of any per-image state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    /// Number of the image, unique in the run.
    pub image: u64,
    /// Which guidance half.
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
    /// 0-based index in the *full* schedule (an img2img run starts above 0).
    pub index: usize,
    /// Steps of the full schedule.
    pub total: usize,
    /// 0-based number of this U-Net evaluation (differs from `index` for samplers that evaluate twice a step).
    pub evaluation: usize,
    /// Noise level σ.
    pub sigma: f64,
    /// The time step that the model is told: in SD-XL 999 (noise) to 0 (the image); fractions where a sampler has them.
    pub timestep: f64,
}

/// A token grid: frames of `height x width` tokens. Tokens are row-major, frame after frame; a picture is one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Frames; 1 for a picture.
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

    /// A video of so many frames.
    pub const fn of_frames(frames: usize, height: usize, width: usize) -> Self {
        Self { frames, height, width }
    }

    /// `frames * height * width`.
    pub const fn tokens(&self) -> usize {
        self.frames * self.height * self.width
    }
}

/// Everything a plugin is told about the place it is asked at.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The attention block.
    pub block: BlockId,
    /// 0-based transformer layer within the block.
    pub layer: usize,
    /// Layers of the block.
    pub depth: usize,
    /// The denoising step.
    pub step: Step,
    /// The block's full token grid (before any reduction).
    pub grid: Grid,
    /// Tokens in the residual stream now.
    pub tokens: usize,
    /// Tokens that must never be removed or merged (text or register tokens of joint sequences).
    pub protected: (usize, usize),
    /// What each batch row is.
    pub rows: &'a [Row],
}

impl Site<'_> {
    /// Whether this is the block's last layer.
    pub fn is_last_layer(&self) -> bool {
        self.layer + 1 == self.depth
    }
}
