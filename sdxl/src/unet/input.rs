//! The input of the U-Net.

use atedm_core::plugin::{Row, Step};

use super::control::Controlled;
use super::embedding::Conditions;

/// The input of one evaluation of the U-Net, for a batch of `b` rows.
#[derive(Debug, Clone, Copy)]
pub struct UNetInput<'a, T> {
    /// Noisy latents `[b, in_channels, h, w]`. The sampler has scaled them.
    pub latents: &'a T,
    /// The timestep of each row. It may be a fraction.
    pub timesteps: &'a [f64],
    /// Text tokens `[b, length, text channels]`.
    pub text: &'a T,
    /// Pooled text `[b, pooled channels]`.
    pub pooled: &'a T,
    /// Six numbers for each row: original height and width, crop top and left, target height and width.
    pub time_ids: &'a [[f32; 6]],
    /// The guidance embedding `[b, guidance channels]` of a consistency-distilled U-Net.
    pub timestep_cond: Option<&'a T>,
    /// The denoising step, for the reducer.
    pub step: &'a Step,
    /// What each row is, for the reducer.
    pub rows: &'a [Row],
    /// The ControlNet that runs beside the U-Net, if any.
    pub control: Option<Controlled<'a, T>>,
}

impl<'a, T> UNetInput<'a, T> {
    /// What the embeddings of time, guidance, sizes and pooled text take.
    pub(super) fn conditions(&self) -> Conditions<'a, T> {
        let Self { timesteps, pooled, time_ids, timestep_cond, .. } = *self;
        Conditions { timesteps, pooled, time_ids, timestep_cond }
    }
}
