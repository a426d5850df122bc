//! Making the images of a plan, on any backend: the models are loaded once, and where they stay in memory, a prompt is
//! encoded once for all its points. `generate` is a plan of one point and one batch, on this same way.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atedm_core::plugin::{BuildContext, MaskSet, Registry, SharedObserver, TokenReducer};
use atedm_core::{Backend, DeviceOf, Error, Tensor};
use atedm_sdxl::pipeline::{
    Conditioning, InitialLatents, Pipeline, Proceed, Request, StepReport, TextEmbeddings, TextEncoders,
};

use super::plan::{Plan, PlannedPoint};
use super::record::{Attention, Flops, LevelTokens, PromptLine, Times};
use super::stored::StoredMaps;
use super::tally::Tally;
use crate::failure::{Failure, Outcome};
use crate::files::{LatentsFile, Picture};
use crate::init_image::InitImage;
use crate::listener::{Listener, Phase};
use crate::memory::{self, AtOnce};
use crate::method::Workload;
use crate::model::{Model, Size, decoding};
use crate::observe::{Watch, Watched, Watcher};
use crate::platform::Platform;

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

/// A finished batch of images.
#[derive(Debug)]
pub struct FinishedBatch<'a> {
    /// What was to be made.
    pub task: ImageTask<'a>,
    /// A picture a prompt.
    pub pictures: Vec<Picture>,
    /// The final latents `[prompts, channels, height, width]`.
    pub latents: LatentsFile,
    /// What the U-Net cost.
    pub flops: Flops,
    /// What was left of the tokens, if the run counts them.
    pub tokens: Vec<LevelTokens>,
    /// How long it took.
    pub times: Times,
    /// What else was seen of it.
    pub watched: Watched,
}

/// A finished image, alone in its batch.
#[derive(Debug)]
pub struct FinishedImage<'a> {
    /// The point.
    pub point: &'a PlannedPoint,
    /// The point's place in the plan.
    pub place: usize,
    /// The prompt.
    pub prompt: &'a PromptLine,
    /// The picture.
    pub picture: Picture,
    /// The final latents `[1, channels, height, width]`.
    pub latents: LatentsFile,
    /// What the U-Net cost.
    pub flops: Flops,
    /// What was left of the tokens where the method reduced them.
    pub tokens: Vec<LevelTokens>,
    /// How long it took.
    pub times: Times,
    /// What was kept where, if the plan asks for it and anything was reduced.
    pub masks: Option<MaskSet>,
}

impl FinishedImage<'_> {
    /// Unique in a run: `POINT/PROMPT`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.point.info.id, self.prompt.id)
    }
}

impl<'a> FinishedBatch<'a> {
    /// The image of a batch of one.
    ///
    /// # Errors
    /// [`Failure::Run`] if there are more.
    pub fn into_image(self) -> Outcome<FinishedImage<'a>> {
        let Self { task, mut pictures, latents, flops, tokens, times, watched } = self;
        let ImageTask { point, place, prompts } = task;
        let ([prompt], Some(picture)) = (prompts, pictures.pop()) else {
            return Err(Failure::run(format!("expected a batch of one image, got {}", prompts.len())));
        };
        let masks = watched.masks.filter(|masks| !masks.is_empty());
        Ok(FinishedImage { point, place, prompt, picture, latents, flops, tokens, times, masks })
    }
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

    /// Makes the images. `registry` builds the methods that the plan was checked against.
    ///
    /// # Errors
    /// What reading the weights, the backend, a method or `sink` reports.
    pub fn make<B: Backend>(
        self,
        device: &DeviceOf<B>,
        registry: Registry<B::Tensor>,
        sink: &mut dyn Sink,
    ) -> Outcome {
        self.listener.begin(self.total_steps());
        let made = self.make_all::<B>(device, registry, sink);
        self.listener.end();
        made
    }

    fn make_all<B: Backend>(
        &self,
        device: &DeviceOf<B>,
        registry: Registry<B::Tensor>,
        sink: &mut dyn Sink,
    ) -> Outcome {
        self.listener.phase(Phase::Loading);
        let checkpoint = &self.model.checkpoint;
        let pipeline = Pipeline::<B>::load_with(checkpoint, self.platform.dtype, device, self.encoders)
            .map_err(Failure::run)?;
        let planned = if self.watch.tokens { planned_levels(self.plan, self.model)? } else { Vec::new() };
        let clean = self.init.as_ref().map(|init| init.initial(&pipeline, checkpoint)).transpose()?;
        let negatives = Vec::new();
        let mut models = LoadedModels { run: self, pipeline, registry, clean, done: 0, negatives };
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

fn workload<'a>(model: &'a Model, point: &PlannedPoint) -> Workload<'a> {
    let settings = &point.info.settings;
    let size = Size { width: settings.width, height: settings.height };
    Workload { sampler: point.sampler, ..model.workload(size, settings.steps) }
}

/// What a batch starts from.
struct BatchStart<'a, T> {
    /// Its prompts, if they are encoded once for all points.
    embeddings: Option<&'a TextEmbeddings<T>>,
    /// Its noise, if that is given.
    noise: Option<&'a LatentsFile>,
    /// The point's token counts, if they are known and slow to watch.
    planned: Option<&'a Vec<LevelTokens>>,
}

/// A negative prompt, encoded.
struct Negative<T> {
    text: String,
    rows: usize,
    embeddings: TextEmbeddings<T>,
}

/// The loaded models.
struct LoadedModels<'a, B: Backend> {
    run: &'a PlannedRun<'a>,
    pipeline: Pipeline<B>,
    registry: Registry<B::Tensor>,
    /// What every image starts from, instead of noise.
    clean: Option<InitialLatents<B::Tensor>>,
    /// Steps done, of all images.
    done: usize,
    /// Negative prompts that are encoded.
    negatives: Vec<Negative<B::Tensor>>,
}

impl<B: Backend> LoadedModels<'_, B> {
    fn make<'p>(
        &mut self,
        task: ImageTask<'p>,
        start: BatchStart<'_, B::Tensor>,
        sink: &dyn Sink,
    ) -> Outcome<FinishedBatch<'p>> {
        let ImageTask { point, prompts, .. } = task;
        let settings = &point.info.settings;
        let watch = self.watch(prompts);
        // what is known need not be counted
        let counted = Watch { tokens: watch.tokens && start.planned.is_none(), ..watch };
        let watcher = (!counted.is_nothing()).then(|| Arc::new(Mutex::new(Watcher::new(counted))));
        let mut reducer = self.reducer(point, prompts, watcher.clone())?;
        let request = self.request(point, prompts, &start)?;
        let mut ends: Vec<Instant> = Vec::with_capacity(settings.steps);
        let (before, listener) = (self.done, self.run.listener);
        listener.phase(Phase::Denoising);
        let began = Instant::now();
        let mut report = |report: &StepReport<'_, B::Tensor>| {
            ends.push(Instant::now());
            listener.steps_done(before + report.index + 1);
            if report.index + 1 == report.total {
                listener.phase(Phase::Decoding);
            }
            Proceed::Continue(())
        };
        let output = self.pipeline.generate(&request, reducer.as_mut(), &mut report);
        let output = output.map_err(|error| sink.blame(error, &task))?;
        let seconds = began.elapsed().as_secs_f64();
        self.done += settings.steps;
        let values = output.latents.to_f32()?;
        let shape = atedm_core::backend::dims(&output.latents, "final latents")?;
        let images = output.images.ok_or_else(|| Failure::run("the run decoded no image"))?;
        let picture = |index: usize| {
            let rgb = images.rgb8(index).ok_or_else(|| Failure::run("the run decoded no image"))?;
            Ok(Picture { width: images.width, height: images.height, rgb })
        };
        let evaluations = output.costs.len();
        let sum: f64 = output.costs.iter().map(|cost| cost.macs.tflop()).sum();
        let mut watched = Watched::default();
        let mut tokens = start.planned.cloned().unwrap_or_default();
        if let Some(mut watcher) = watcher.as_ref().and_then(|watcher| watcher.lock().ok()) {
            if counted.tokens {
                tokens = watcher.levels();
            }
            watched = watcher.take();
        }
        Ok(FinishedBatch {
            task,
            pictures: (0..prompts.len()).map(picture).collect::<Outcome<_>>()?,
            latents: LatentsFile { shape, values },
            flops: Flops {
                mean_tflop: sum / evaluations.max(1) as f64,
                whole_tflop: point.info.whole_tflop,
                evaluations,
            },
            tokens,
            times: Times { seconds_per_step: pace(began, &ends), seconds, finished_at: now() },
            watched,
        })
    }

    /// What is noted of a batch: masks also where the plan names its prompt.
    fn watch(&self, prompts: &[PromptLine]) -> Watch {
        let named = prompts.iter().any(|prompt| self.run.plan.masks.contains(&prompt.id));
        Watch { masks: self.run.watch.masks || named, ..self.run.watch }
    }

    /// A fresh reducer: no image knows of another.
    fn reducer(
        &self,
        point: &PlannedPoint,
        prompts: &[PromptLine],
        watcher: Option<Arc<Mutex<Watcher>>>,
    ) -> Outcome<Box<dyn TokenReducer<B::Tensor>>> {
        let context = BuildContext::<B::Tensor> {
            seed: seed_of(prompts),
            observer: watcher.map(|watcher| watcher as SharedObserver<B::Tensor>),
            replay: self.run.replay.as_ref().map(|replay| replay.masks.clone()),
        };
        let reducer = point.method.build(&self.registry, &context)?;
        Ok(match point.info.settings.attention {
            Attention::Fused => reducer,
            Attention::Stored => Box::new(StoredMaps::new(reducer)),
        })
    }

    fn request(
        &mut self,
        point: &PlannedPoint,
        prompts: &[PromptLine],
        start: &BatchStart<'_, B::Tensor>,
    ) -> Outcome<Request<B::Tensor>> {
        let settings = &point.info.settings;
        let mut request = Request::new(prompts.iter().map(|prompt| prompt.prompt.as_str()));
        request.conditioning = match start.embeddings {
            Some(embeddings) => Conditioning::Embeddings {
                prompt: embeddings.clone(),
                negative: match &settings.negative_prompt {
                    Some(text) => Some(self.negative(text, prompts.len())?),
                    None => None,
                },
            },
            None => Conditioning::Prompts {
                prompts: prompts.iter().map(|prompt| prompt.prompt.clone()).collect(),
                negative: settings.negative_prompt.clone().map(|negative| vec![negative]),
            },
        };
        request.steps = settings.steps;
        request.guidance_scale = settings.guidance_scale;
        request.seed = seed_of(prompts);
        request.rng = self.run.plan.rng;
        request.noise_dtype = self.run.plan.noise_dtype;
        (request.width, request.height) = (Some(settings.width), Some(settings.height));
        request.scheduler = point.sampler;
        if let Some(clean) = &self.clean {
            request.initial = clean.clone();
        }
        if let Some(noise) = start.noise {
            let dtype = self.pipeline.dtype().accumulator();
            let noise = B::Tensor::from_f32(&noise.values, &noise.shape, dtype, self.pipeline.device())?;
            request.initial = InitialLatents::Noise(noise);
        }
        request.decoding = decoding(self.run.plan.vae_tiling, self.pipeline.vae().tiles());
        Ok(request)
    }

    /// A batch's prompts, encoded once for all its points; `None` where each run encodes its own.
    fn embeddings(&self, batch: &Batch) -> Outcome<Option<TextEmbeddings<B::Tensor>>> {
        if self.run.encoders == TextEncoders::PerRun {
            return Ok(None);
        }
        let texts: Vec<String> = batch.prompts.iter().map(|prompt| prompt.prompt.clone()).collect();
        Ok(Some(self.pipeline.encode(&texts)?.0))
    }

    /// A negative prompt for so many rows, encoded once.
    fn negative(&mut self, text: &str, rows: usize) -> Outcome<TextEmbeddings<B::Tensor>> {
        let known = |negative: &&Negative<B::Tensor>| negative.text == text && negative.rows == rows;
        if let Some(known) = self.negatives.iter().find(known) {
            return Ok(known.embeddings.clone());
        }
        let embeddings = self.pipeline.encode(&vec![text.to_string(); rows])?.0;
        self.negatives.push(Negative { text: text.to_string(), rows, embeddings: embeddings.clone() });
        Ok(embeddings)
    }
}

/// The seed of a batch.
fn seed_of(prompts: &[PromptLine]) -> u64 {
    prompts.first().map_or(0, |prompt| prompt.seed)
}

/// Seconds a step: the mean without the first one, which warms caches up and may wait for the text encoders, where there are
/// more.
fn pace(began: Instant, ends: &[Instant]) -> f64 {
    let between = |from: Instant, to: Instant| to.duration_since(from);
    let (elapsed, steps) = match ends {
        [] => (Duration::ZERO, 1),
        [only] => (between(began, *only), 1),
        [first, .., last] => (between(*first, *last), ends.len() - 1),
    };
    elapsed.as_secs_f64() / steps as f64
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_counts_only_alone() {
        let began = Instant::now();
        let ends = [9, 11, 14].map(|seconds| began + Duration::from_secs(seconds));
        assert_eq!(pace(began, &ends[..1]), 9.0);
        assert_eq!(pace(began, &ends), 2.5);
        assert_eq!(pace(began, &[]), 0.0);
    }
}
