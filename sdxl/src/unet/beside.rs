//! A ControlNet while an evaluation runs.
//!
//! The copy of step d runs beside step d itself, so in the same nest. A method that has a nest's output therefore saves the
//! ControlNet's part of it too. diffusers runs the whole ControlNet first and keeps all its outputs. The results are the same.

use atedm_core::{AttentionOps, Error, Result};

use super::context::ForwardContext;
use super::control::{ControlNet, Controlled};
use super::embedding::Conditions;
use super::input::UNetInput;

/// A ControlNet with its conditioning in this evaluation.
pub(super) struct Beside<'a, T> {
    net: &'a ControlNet<T>,
    picture: &'a T,
    scale: f64,
    /// Its own conditioning vector after SiLU.
    emb: T,
}

impl<'a, T: AttentionOps> Beside<'a, T> {
    /// Prepares an evaluation: its conditioning, and the latents as the ControlNet takes them.
    pub(super) fn begin(
        control: Controlled<'a, T>,
        input: &UNetInput<'_, T>,
        latents: &T,
    ) -> Result<(Self, T)> {
        let Controlled { net, picture, scale } = control;
        let half = &net.config().half;
        // An inpainting U-Net's further channels are not for the ControlNet.
        let latents = latents.narrow(1, 0, half.in_channels)?;
        let conditions = Conditions { timestep_cond: None, ..input.conditions() };
        let emb = net.embedding.forward(half, &conditions)?;
        Ok((Beside { net, picture, scale, emb }, latents))
    }

    /// Runs the copy of step `depth`. Returns its stream, and what the skip connection gets in addition.
    pub(super) fn step(
        &self,
        depth: usize,
        stream: T,
        context: &mut ForwardContext<'_, T>,
    ) -> Result<(T, T)> {
        let (step, output) = self.net.steps.get(depth).ok_or_else(|| {
            Error::config("controlnet", format!("expected a step for skip connection {depth}"))
        })?;
        let mut stream = self.within(context, |context| step.forward(stream, context))?;
        if depth == 0 {
            stream = stream.add(self.picture)?;
        }
        let added = output.forward(&stream)?.affine(self.scale, 0.0)?;
        Ok((stream, added))
    }

    /// What the middle's output gets in addition.
    pub(super) fn mid(&self, stream: T, context: &mut ForwardContext<'_, T>) -> Result<T> {
        let stream = self.within(context, |context| self.net.mid.forward(stream, context))?;
        self.net.mid_output.forward(&stream)?.affine(self.scale, 0.0)
    }

    /// Calls `run` with the ControlNet's own conditioning. Its modules have names of their own.
    fn within<R>(
        &self,
        context: &mut ForwardContext<'_, T>,
        run: impl FnOnce(&mut ForwardContext<'_, T>) -> Result<R>,
    ) -> Result<R> {
        let ForwardContext { text, step, rows, reducer, watch, .. } = context;
        run(&mut ForwardContext {
            emb: &self.emb,
            text,
            step,
            rows,
            reducer: &mut **reducer,
            watch: &mut |module, output| watch(format_args!("controlnet.{module}"), output),
        })
    }
}
