//! A ControlNet and its embedded picture, for the evaluations of a run.

use atedm_core::{Backend, Error, Result};

use super::Pipeline;
use super::control::{Control, ControlSpan};
use super::request::PixelSize;
use super::size::{Sizes, given};
use crate::unet::{ControlNet, Controlled};

/// A ControlNet with its embedded picture.
pub(super) struct Steering<'a, T> {
    net: &'a ControlNet<T>,
    picture: T,
    scale: f64,
    span: ControlSpan,
}

impl<T> Steering<'_, T> {
    /// The ControlNet at step `index`, if it runs there.
    pub(super) fn at(&self, index: usize, first: usize, total: usize) -> Option<Controlled<'_, T>> {
        let Self { net, picture, scale, span } = self;
        span.covers(index, first, total).then_some(Controlled { net, picture, scale: *scale })
    }
}

/// Checks what a request asks of the pipeline's ControlNet, and embeds the picture.
///
/// # Errors
/// [`Error::Config`] naming `control` if only one of ControlNet and picture is there, or for a picture of another size.
pub(super) fn steering<'a, B: Backend>(
    pipeline: &'a Pipeline<B>,
    control: Option<&Control<B::Tensor>>,
    sizes: &Sizes,
) -> Result<Option<Steering<'a, B::Tensor>>> {
    let (net, control) = match (&pipeline.control, control) {
        (None, None) => return Ok(None),
        (Some(net), Some(control)) => (net, control),
        (Some(_), None) => return Err(Error::config("control", "expected a picture for the ControlNet")),
        (None, Some(_)) => {
            return Err(Error::config("control", "expected a checkpoint that was opened with a ControlNet"));
        }
    };
    let Control { picture, scale, span } = control;
    if !scale.is_finite() {
        return Err(Error::config("control-scale", format!("expected a finite number, got {scale}")));
    }
    let PixelSize { height, width } = sizes.pixels;
    let shape = [1, 3, height, width];
    let picture = given::<B>("control", picture, shape, pipeline.dtype, &pipeline.device)?;
    Ok(Some(Steering { net, picture: net.embed(&picture)?, scale: *scale, span: *span }))
}
