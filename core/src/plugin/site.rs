//! Where and when in the model a plugin is asked: blocks, layers, steps, rows.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One attention block of a U-Net-shaped model: a run of transformer layers between convolutions.
///
/// Written `down.1.0`, `mid.0`, `up.0.2`: stage, index of the stage, index of the block in it (diffusers'
/// `down_blocks.1.attentions.0`). A plain transformer is one `mid` block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId {
    /// Down, mid or up path.
    pub stage: Stage,
    /// Which down or up stage, from the input (0 for mid).
    pub stage_index: usize,
    /// Which attention block within the stage.
    pub index: usize,
    /// How many attention blocks the stage has.
    pub count: usize,
    /// Resolution level: 0 is the full latent size, each downsampling adds one.
    pub level: usize,
}

/// The part of the U-Net.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Before the middle, resolution falling.
    Down,
    /// The bottom.
    Mid,
    /// After the middle, resolution rising.
    Up,
}

impl BlockId {
    /// A model that is one run of transformer layers: `mid.0` at level 0.
    pub fn whole() -> Self {
        Self { stage: Stage::Mid, stage_index: 0, index: 0, count: 1, level: 0 }
    }

    /// Whether the prune-less schedule spares this block: the first of a down-stage or the last of an up-stage (paper, section 3.3).
    pub fn is_stage_edge(&self) -> bool {
        match self.stage {
            Stage::Down => self.index == 0,
            Stage::Mid => false,
            Stage::Up => self.index + 1 == self.count,
        }
    }

    /// The name: `down.1.0`, `mid.0`, `up.0.2`.
    pub fn name(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            Stage::Down => write!(f, "down.{}.{}", self.stage_index, self.index),
            Stage::Mid => write!(f, "mid.{}", self.index),
            Stage::Up => write!(f, "up.{}.{}", self.stage_index, self.index),
        }
    }
}

/// The sublayers of a transformer layer, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sublayer {
    /// Image tokens attend to image tokens.
    SelfAttention,
    /// Image tokens attend to text tokens.
    CrossAttention,
    /// Per token.
    FeedForward,
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

impl Serialize for BlockId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A block's name without the facts that only the model knows: what configs and mask files hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockName(pub String);

impl FromStr for BlockName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('.').collect();
        let numbers = |from: usize| parts[from..].iter().all(|p| p.parse::<usize>().is_ok());
        let ok = match parts.first() {
            Some(&"down") | Some(&"up") => parts.len() == 3 && numbers(1),
            Some(&"mid") => parts.len() == 2 && numbers(1),
            _ => false,
        };
        if ok {
            Ok(Self(text.to_string()))
        } else {
            Err(Error::config("block", format!("expected down.S.I, mid.I or up.S.I, got {text:?}")))
        }
    }
}
