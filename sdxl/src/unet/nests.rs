//! The steps down and up, as a recursion over their skip connections.
//!
//! ```text
//! pass(d, x):                          d counts skip connections, the first is 0
//!     skip = down[d](x)
//!     x    = nest d + 1 of skip:  pass(d + 1, skip), or the middle after the last
//!     return up[d]([x, skip])          and a resize to the size that x had as it came in
//! ```
//! A ControlNet has a stream of its own, which runs beside x as far as the middle. It adds to each `skip` as it is used, and to the
//! middle's output.

use atedm_core::plugin::NestId;
use atedm_core::{AttentionOps, Error, Result};

use super::beside::Beside;
use super::context::ForwardContext;
use super::stages::{DownStep, Mid, UpStep, size};

/// The step before a skip connection is pushed, and the step after it is popped.
#[derive(Debug)]
struct Rung<T> {
    down: DownStep<T>,
    up: UpStep<T>,
}

/// Everything between the latents and the last norm.
#[derive(Debug)]
pub(crate) struct Nests<T> {
    rungs: Vec<Rung<T>>,
    mid: Option<Mid<T>>,
}

impl<T: AttentionOps> Nests<T> {
    /// Builds the recursion from the steps down and up, in the order of a forward pass.
    ///
    /// # Errors
    /// [`Error::Config`] if the numbers of steps down and up differ.
    pub(crate) fn new(down: Vec<DownStep<T>>, mid: Option<Mid<T>>, up: Vec<UpStep<T>>) -> Result<Self> {
        if down.len() != up.len() {
            let reason = format!(
                "the down path has {} outputs and the up path has {} resnets that each take one",
                down.len(),
                up.len()
            );
            return Err(Error::config("unet/config.json", reason));
        }
        let rungs = down.into_iter().zip(up.into_iter().rev()).map(|(down, up)| Rung { down, up });
        Ok(Self { rungs: rungs.collect(), mid })
    }

    /// Latents `[b, c, h, w]` → the stream for the last norm.
    pub(crate) fn forward(
        &self,
        latents: Streams<T>,
        control: Option<&Beside<'_, T>>,
        context: &mut ForwardContext<'_, T>,
    ) -> Result<T> {
        self.after(0, latents, control, context)
    }

    /// Everything from step `depth` down to step `depth` up.
    fn after(
        &self,
        depth: usize,
        streams: Streams<T>,
        control: Option<&Beside<'_, T>>,
        context: &mut ForwardContext<'_, T>,
    ) -> Result<T> {
        let Streams { mut hidden, mut beside } = streams;
        let Some(rung) = self.rungs.get(depth) else {
            if let Some(mid) = &self.mid {
                hidden = mid.forward(hidden, context)?;
            }
            return match (control, beside) {
                (Some(control), Some(stream)) => hidden.add(&control.mid(stream, context)?),
                _ => Ok(hidden),
            };
        };
        let size = size(&hidden)?;
        hidden = rung.down.forward(hidden, context)?;
        let mut skip = hidden.clone();
        if let (Some(control), Some(stream)) = (control, beside.take()) {
            let (stream, added) = control.step(depth, stream, context)?;
            (skip, beside) = (skip.add(&added)?, Some(stream));
        }
        let inner = context.nest(NestId::after_skip(depth), hidden, |hidden, context| {
            self.after(depth + 1, Streams { hidden, beside }, control, context)
        })?;
        rung.up.forward(inner, skip, size, context)
    }
}

/// The stream on its way down, and that of a ControlNet beside it.
pub(crate) struct Streams<T> {
    pub(crate) hidden: T,
    pub(crate) beside: Option<T>,
}
