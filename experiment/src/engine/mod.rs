//! Making the images of a plan, on any backend: the models are loaded once, and where they stay in memory, a prompt is
//! encoded once for all its points. `generate` is a plan of one point and one batch, on this same way.

mod finished;
mod models;

use std::path::PathBuf;
use std::sync::Arc;

use atedm_core::plugin::{MaskSet, Registry};
use atedm_core::{AttentionOps, Backend, DeviceOf, Error};
use atedm_sdxl::pipeline::{Pipeline, TextEncoders};
use atedm_sdxl::schedulers::SamplerRegistry;

pub use finished::{FinishedBatch, FinishedImage};

use crate::failure::{Failure, Outcome};
use crate::files::LatentsFile;
use crate::init_image::InitImage;
use crate::listener::{Listener, Phase};
use crate::memory::{self, AtOnce};
use crate::method::Workload;
use crate::model::{Model, Size};
use crate::observe::Watch;
use crate::plan::{Plan, PlannedPoint};
use crate::platform::Platform;
use crate::record::{LevelTokens, PromptLine};
use crate::tally::Tally;
use models::{BatchStart, LoadedModels};

/// Prompts that are made in one batch, and the points that are to be made of it, by their places in the plan.
#[derive(Debug, Clone)]
pub struct Batch {
    /// At least one; the first one's seed draws the noise of all.
    pub prompts: Vec<PromptLine>,
    /// Places in [`Plan::points`].
    pub points: Vec<usize>,
    /// Standard normal noise to start from, instead of the seed's: an image a prompt.
    pub noise: Option<LatentsFile>,
}

/// Kept sets of an earlier run, which are used instead of scoring.
#[derive(Debug, Clone)]
pub struct Replay {
    /// The file that they are from, for messages.
    pub path: PathBuf,
    /// The kept sets.
    pub masks: Arc<MaskSet>,
}

/// A batch of images that is being made, and what they have in common.
#[derive(Debug, Clone, Copy)]
pub struct ImageTask<'a> {
    /// The point.
    pub point: &'a PlannedPoint,
    /// The point's place in the plan.
    pub place: usize,
    /// The prompts of the batch.
    pub prompts: &'a [PromptLine],
}

/// Who takes images as they are finished.
pub trait Sink {
    /// The models are loaded, the first image is about to be made.
    ///
    /// # Errors
    /// Whatever stands in the way of keeping images; none is made then.
    fn begin(&mut self) -> Outcome {
        Ok(())
    }

    /// Takes a batch.
    ///
    /// # Errors
    /// Whatever stands in the way of keeping it; no other is made then.
    fn keep(&mut self, finished: FinishedBatch<'_>) -> Outcome;

    /// How an error of the run reads that stopped a batch: with prompt and point in front.
    fn blame(&self, error: Error, task: &ImageTask<'_>) -> Failure {
        let prompt = task.prompts.first().map_or("", |prompt| prompt.id.as_str());
        Failure::from(error).within(format!("{prompt} {}", task.point.info.label))
    }
}

impl<F: FnMut(FinishedBatch<'_>) -> Outcome> Sink for F {
    fn keep(&mut self, finished: FinishedBatch<'_>) -> Outcome {
        self(finished)
    }
}

/// What the names in a plan stand for, on one backend.
pub struct Plugins<T: AttentionOps> {
    /// Methods.
    pub methods: Registry<T>,
    /// Samplers.
    pub samplers: SamplerRegistry<T>,
}

/// A plan with all that its images are made of: ready to run on a backend.
pub struct PlannedRun<'a> {
    /// What is to be made.
    pub plan: &'a Plan,
    /// The checkpoint.
    pub model: &'a Model,
    /// What computes.
    pub platform: &'a Platform,
    /// The images, in the order in which they are made.
    pub batches: Vec<Batch>,
    /// A picture that every image starts from.
    pub init: Option<InitImage>,
    /// Kept sets to use.
    pub replay: Option<Replay>,
    /// What is noted beside the images.
    pub watch: Watch,
    /// What becomes of the text encoders: kept for many batches, freed before the first step of a single one.
    pub encoders: TextEncoders,
    /// Who hears how it goes on.
    pub listener: &'a dyn Listener,
}

impl PlannedRun<'_> {
    /// Steps of all images.
    fn total_steps(&self) -> usize {
        let points = &self.plan.points;
        let steps = |place: &usize| points.get(*place).map_or(0, |point| point.info.settings.steps);
        self.batches.iter().flat_map(|batch| &batch.points).map(steps).sum()
    }

    /// Refuses a plan whose images the machine cannot hold, a batch at a time. All points have one size.
    ///
    /// # Errors
    /// [`Failure::Run`] with what is needed and what is there.
    pub fn check_memory(&self) -> Outcome {
        let Some(first) = self.plan.points.first() else { return Ok(()) };
        let scales = self.plan.points.iter().map(|point| point.info.settings.guidance_scale);
        let at_once = AtOnce {
            images: self.batches.iter().map(|batch| batch.prompts.len()).max().unwrap_or(1),
            guidance_scale: scales.fold(0.0, f64::max),
            tile: self.plan.vae_tiling,
            dtype: self.platform.dtype,
        };
        let needed = memory::workload(&workload(self.model, first), at_once);
        memory::check(&self.model.checkpoint, &needed, self.platform)
    }

    /// Makes the images. `plugins` builds the methods and samplers that the plan was checked against.
    ///
    /// # Errors
    /// What reading the weights, the backend, a method or `sink` reports; [`Failure::Usage`] for another backend than the plan's.
    pub fn make<B: Backend>(
        self,
        device: &DeviceOf<B>,
        plugins: &Plugins<B::Tensor>,
        sink: &mut dyn Sink,
    ) -> Outcome {
        if self.platform.backend != B::NAME {
            let planned = &self.platform.backend;
            return Err(Failure::usage(format!("backend: the plan is for {planned}, got {}", B::NAME)));
        }
        self.listener.begin(self.total_steps());
        let made = self.make_all::<B>(device, plugins, sink);
        self.listener.end();
        made
    }

    fn make_all<B: Backend>(
        &self,
        device: &DeviceOf<B>,
        plugins: &Plugins<B::Tensor>,
        sink: &mut dyn Sink,
    ) -> Outcome {
        self.listener.phase(Phase::Loading);
        let checkpoint = &self.model.checkpoint;
        let pipeline = Pipeline::<B>::load_with(checkpoint, self.platform.dtype, device, self.encoders)
            .map_err(Failure::run)?
            .with_samplers(plugins.samplers.clone());
        let planned = if self.watch.tokens { planned_levels(self.plan, self.model)? } else { Vec::new() };
        let clean = self.init.as_ref().map(|init| init.initial(&pipeline, checkpoint)).transpose()?;
        let mut models = LoadedModels::new(self, pipeline, &plugins.methods, clean);
        sink.begin()?;
        self.listener.ready();
        for batch in &self.batches {
            let embeddings = models.embeddings(batch)?;
            for &place in &batch.points {
                let Some(point) = self.plan.points.get(place) else { continue };
                let task = ImageTask { point, place, prompts: &batch.prompts };
                let start = BatchStart {
                    embeddings: embeddings.as_ref(),
                    noise: batch.noise.as_ref(),
                    planned: planned.get(place).and_then(Option::as_ref),
                };
                let finished = models.make(task, start, sink)?;
                sink.keep(finished)?;
            }
        }
        Ok(())
    }
}

/// Token counts of the points whose method knows them and is slow to show them.
fn planned_levels(plan: &Plan, model: &Model) -> Outcome<Vec<Option<Vec<LevelTokens>>>> {
    let of = |point: &PlannedPoint| -> Outcome<Option<Vec<LevelTokens>>> {
        if !point.method.plan().is_slow_to_watch() {
            return Ok(None);
        }
        let work = workload(model, point);
        Ok(Tally::planned(&point.method, &work)?.map(|tally| tally.levels()))
    };
    plan.points.iter().map(of).collect()
}

fn workload<'a>(model: &'a Model, point: &'a PlannedPoint) -> Workload<'a> {
    let settings = &point.info.settings;
    let size = Size { width: settings.width, height: settings.height };
    let work = model.workload(size, settings.steps);
    let guided = work.unet.is_guided(settings.guidance_scale);
    Workload { sampler: point.sampler.as_deref(), guided, ..work }
}
