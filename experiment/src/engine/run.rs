//! A run as it is planned, and the memory that it needs.

use atedm_sdxl::pipeline::TextEncoders;

use super::task::{Batch, Replay};
use crate::control::{self, ControlImage};
use crate::failure::{Failure, Outcome};
use crate::init_image::InitImage;
use crate::listener::Listener;
use crate::memory::{self, AtOnce};
use crate::method::Workload;
use crate::model::{Model, Size};
use crate::observe::Watch;
use crate::plan::{Plan, PlannedPoint};
use crate::platform::Platform;
use crate::preview::Previews;

/// A plan with everything that a run on a backend needs.
pub struct PlannedRun<'a> {
    /// The points, the prompts and their settings.
    pub plan: &'a Plan,
    /// The checkpoint.
    pub model: &'a Model,
    /// The backend, the dtype and the machine.
    pub platform: &'a Platform,
    /// The images, in the order in which they are made.
    pub batches: Vec<Batch>,
    /// The picture from which every image starts, if any.
    pub init: Option<InitImage>,
    /// The picture that the model's ControlNet follows.
    pub control: Option<ControlImage>,
    /// Pictures of unfinished images, if any.
    pub previews: Option<Previews<'a>>,
    /// Kept sets that take the place of scoring, if any.
    pub replay: Option<Replay>,
    /// What the run notes beside the images.
    pub watch: Watch,
    /// Whether text encoders stay in memory. A run of one batch frees them before its first step.
    pub encoders: TextEncoders,
    /// Gets warnings, progress and finished images.
    pub listener: &'a dyn Listener,
}

impl PlannedRun<'_> {
    /// Steps of all images.
    pub(super) fn total_steps(&self) -> usize {
        let points = &self.plan.points;
        let steps = |place: &usize| points.get(*place).map_or(0, |point| point.info.settings.steps);
        self.batches.iter().flat_map(|batch| &batch.points).map(steps).sum()
    }

    /// Checks that the run starts from what the U-Net takes, at a step that each point has. Also checks that the machine has
    /// the memory for the largest batch. All points have the same size.
    ///
    /// # Errors
    /// [`Failure::Usage`] naming the picture, the mask or the strength. [`Failure::Run`] with the memory that is needed and the
    /// memory that is there.
    pub fn check(&self) -> Outcome {
        let masked = self.init.as_ref().is_some_and(|init| init.chosen().mask.is_some());
        if self.model.checkpoint.unet().is_inpainting() && !masked {
            return Err(Failure::usage(
                "mask-image: expected a picture and a mask, as the checkpoint's U-Net takes both (it inpaints)",
            ));
        }
        if let Some(init) = &self.init {
            for point in &self.plan.points {
                let strength = init.chosen().strength();
                strength.start(point.info.settings.steps).map_err(|failure| failure.within("strength"))?;
            }
        }
        self.check_memory()
    }

    fn check_memory(&self) -> Outcome {
        let Some(first) = self.plan.points.first() else { return Ok(()) };
        let scales = self.plan.points.iter().map(|point| point.info.settings.guidance_scale);
        let at_once = AtOnce {
            images: self.batches.iter().map(|batch| batch.prompts.len()).max().unwrap_or(1),
            guidance_scale: scales.fold(0.0, f64::max),
            tile: self.plan.vae_tiling,
            dtype: self.platform.dtype,
        };
        let needed = memory::workload(&self.workload(first)?, at_once);
        memory::check(&self.model.checkpoint, &needed, self.platform)
    }

    /// What an evaluation under `point` works on.
    pub(super) fn workload<'a>(&'a self, point: &'a PlannedPoint) -> Outcome<Workload<'a>> {
        let settings = &point.info.settings;
        let size = Size { width: settings.width, height: settings.height };
        let work = self.model.workload(size, settings.steps);
        let guided = work.unet.is_guided(settings.guidance_scale);
        let strength = self.init.as_ref().map(|init| init.chosen().strength());
        let control = control::steps(settings.control.as_ref(), strength, settings.steps)?;
        Ok(Workload { sampler: point.sampler.as_deref(), guided, control, ..work })
    }
}
