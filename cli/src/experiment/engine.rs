//! Making the images of a plan, on any backend: the models are loaded once, a prompt is encoded once for all its points.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atedm_core::plugin::{BuildContext, MaskSet, Registry, SharedObserver, TokenReducer};
use atedm_core::reference::NdTensor;
use atedm_core::{Backend, DType, DeviceOf, Tensor};
use atedm_sdxl::pipeline::{
    Conditioning, InitialLatents, Pipeline, Proceed, Request, StepReport, TextEmbeddings, TextEncoders,
};

use super::plan::{Plan, PlannedPoint};
use super::record::{Attention, Flops, LevelTokens, PromptLine, Times};
use super::stored::StoredMaps;
use super::tally::Tally;
use crate::Extension;
use crate::args::EngineArgs;
use crate::dispatch::Task;
use crate::extension::registry;
use crate::failure::{Failure, Outcome};
use crate::files::{LatentsFile, Picture};
use crate::init_image::InitImage;
use crate::memory;
use crate::method::Workload;
use crate::model::Model;
use crate::progress::Progress;
use crate::sample::decoding;

/// A prompt and the points that are to be made of it, by their places in the plan.
#[derive(Debug, Clone)]
pub(crate) struct PromptWork {
    pub(crate) prompt: PromptLine,
    pub(crate) points: Vec<usize>,
    /// Standard normal noise to start from, instead of the seed's.
    pub(crate) noise: Option<LatentsFile>,
}

/// A finished image.
pub(crate) struct Made<'a> {
    pub(crate) point: &'a PlannedPoint,
    /// The point's place in the plan.
    pub(crate) place: usize,
    pub(crate) prompt: &'a PromptLine,
    pub(crate) picture: Picture,
    pub(crate) latents: LatentsFile,
    pub(crate) flops: Flops,
    pub(crate) tokens: Vec<LevelTokens>,
    pub(crate) times: Times,
    /// What was kept where, if the plan asks for it and anything was reduced.
    pub(crate) masks: Option<MaskSet>,
}

/// Who takes each image as it is finished.
pub(crate) trait Sink {
    /// The models are loaded, the first image is about to be made.
    fn begin(&mut self) -> Outcome {
        Ok(())
    }

    /// Takes an image, and the progress to tell of it.
    fn keep(&mut self, made: Made<'_>, progress: &Progress) -> Outcome;
}

impl<F: FnMut(Made<'_>, &Progress) -> Outcome> Sink for F {
    fn keep(&mut self, made: Made<'_>, progress: &Progress) -> Outcome {
        self(made, progress)
    }
}

/// What to make, and who takes each image as it is finished.
pub(crate) struct Making<'a, E, S> {
    pub(crate) plan: &'a Plan,
    pub(crate) model: &'a Model,
    pub(crate) work: Vec<PromptWork>,
    /// A picture that every image starts from.
    pub(crate) init: Option<InitImage>,
    pub(crate) extension: &'a E,
    pub(crate) progress: &'a mut Progress,
    pub(crate) sink: S,
}

/// Steps of all images of `work`.
pub(crate) fn total_steps(plan: &Plan, work: &[PromptWork]) -> usize {
    let steps = |place: &usize| plan.points.get(*place).map_or(0, |point| point.info.settings.steps);
    work.iter().flat_map(|prompt| &prompt.points).map(steps).sum()
}

impl<E, S> Task for Making<'_, E, S>
where
    E: Extension,
    S: Sink,
{
    type Output = ();

    fn run<B: Backend>(self, device: DeviceOf<B>, dtype: DType) -> Outcome {
        let Self { plan, model, work, init, extension, progress, mut sink } = self;
        let registry = registry::<B::Tensor>(extension)?;
        progress.phase("loading");
        let pipeline = Pipeline::<B>::load_with(&model.checkpoint, dtype, &device, TextEncoders::Kept)
            .map_err(Failure::run)?;
        let planned = planned_levels(plan, model)?;
        let clean = init.map(|init| init.initial(&pipeline, &model.checkpoint)).transpose()?;
        let negatives = Vec::new();
        let mut studio = Studio { plan, pipeline, registry, clean, progress, done: 0, negatives };
        sink.begin()?;
        studio.progress.start();
        for PromptWork { prompt, points, noise } in &work {
            let embeddings = studio.pipeline.encode(std::slice::from_ref(&prompt.prompt))?.0;
            for &place in points {
                let Some(point) = plan.points.get(place) else { continue };
                let levels = planned.get(place).and_then(Option::as_ref);
                let made = studio.make((place, point), (prompt, &embeddings), noise.as_ref(), levels)?;
                sink.keep(made, studio.progress)?;
            }
        }
        studio.progress.clear();
        Ok(())
    }
}

/// Refuses a plan whose images the machine cannot hold, one at a time. All points have one size.
pub(crate) fn check_memory(plan: &Plan, model: &Model, engine: &EngineArgs) -> Outcome {
    let Some(first) = plan.points.first() else { return Ok(()) };
    let scales = plan.points.iter().map(|point| point.info.settings.guidance_scale);
    let at_once = (1, scales.fold(0.0, f64::max));
    let needed = memory::workload(&workload(model, first), at_once, plan.vae_tiling, engine);
    memory::check(&model.checkpoint, &needed, engine)
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
    let work = model.workload((settings.width, settings.height), settings.steps);
    Workload { sampler: point.sampler, ..work }
}

/// The loaded models.
struct Studio<'a, B: Backend> {
    plan: &'a Plan,
    pipeline: Pipeline<B>,
    registry: Registry<B::Tensor>,
    /// What every image starts from, instead of noise.
    clean: Option<InitialLatents<B::Tensor>>,
    progress: &'a mut Progress,
    /// Steps done, of all images.
    done: usize,
    /// Negative prompts, encoded.
    negatives: Vec<(String, TextEmbeddings<B::Tensor>)>,
}

impl<B: Backend> Studio<'_, B> {
    fn make<'p>(
        &mut self,
        (place, point): (usize, &'p PlannedPoint),
        (prompt, embeddings): (&'p PromptLine, &TextEmbeddings<B::Tensor>),
        noise: Option<&LatentsFile>,
        planned: Option<&Vec<LevelTokens>>,
    ) -> Outcome<Made<'p>> {
        let settings = &point.info.settings;
        let tally = match (self.plan.masks.contains(&prompt.id), planned) {
            (true, _) => Some(Tally::recording()),
            (false, None) => Some(Tally::default()),
            (false, Some(_)) => None,
        };
        let tally = tally.map(|tally| Arc::new(Mutex::new(tally)));
        let mut reducer = self.reducer(point, prompt.seed, tally.clone())?;
        let request = self.request(point, prompt, embeddings, noise)?;
        let mut ends: Vec<Instant> = Vec::with_capacity(settings.steps);
        let (before, progress) = (self.done, &*self.progress);
        progress.phase("denoising");
        let began = Instant::now();
        let mut report = |report: &StepReport<'_, B::Tensor>| {
            ends.push(Instant::now());
            progress.done(before + report.index + 1);
            Proceed::Continue(())
        };
        let name = format!("{} {}", prompt.id, point.info.label);
        let output = self
            .pipeline
            .generate(&request, reducer.as_mut(), &mut report)
            .map_err(|error| Failure::from(error).within(name))?;
        let seconds = began.elapsed().as_secs_f64();
        self.done += settings.steps;
        let values = output.latents.to_f32()?;
        let shape = atedm_core::backend::dims(&output.latents, "final latents")?;
        let images = output.images.ok_or_else(|| Failure::run("the run decoded no image"))?;
        let rgb = images.rgb8(0).ok_or_else(|| Failure::run("the run decoded no image"))?;
        let evaluations = output.costs.len();
        let sum: f64 = output.costs.iter().map(|cost| cost.macs.tflop()).sum();
        let (mut counted, mut masks) = (None, None);
        if let Some(mut tally) = tally.as_ref().and_then(|tally| tally.lock().ok()) {
            counted = planned.is_none().then(|| tally.levels());
            masks = tally.take_masks().filter(|masks| !masks.is_empty());
        }
        Ok(Made {
            point,
            place,
            prompt,
            picture: Picture { width: images.width, height: images.height, rgb },
            latents: LatentsFile { shape, values },
            flops: Flops {
                mean_tflop: sum / evaluations.max(1) as f64,
                whole_tflop: point.info.whole_tflop,
                evaluations,
            },
            tokens: counted.or_else(|| planned.cloned()).unwrap_or_default(),
            times: Times { seconds_per_step: pace(began, &ends), seconds, finished_at: now() },
            masks,
        })
    }

    /// A fresh reducer: no image knows of another.
    fn reducer(
        &self,
        point: &PlannedPoint,
        seed: u64,
        tally: Option<Arc<Mutex<Tally>>>,
    ) -> Outcome<Box<dyn TokenReducer<B::Tensor>>> {
        let context = BuildContext::<B::Tensor> {
            seed,
            observer: tally.map(|tally| tally as SharedObserver<B::Tensor>),
            ..BuildContext::default()
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
        prompt: &PromptLine,
        embeddings: &TextEmbeddings<B::Tensor>,
        noise: Option<&LatentsFile>,
    ) -> Outcome<Request<B::Tensor>> {
        let settings = &point.info.settings;
        let negative = settings.negative_prompt.as_deref().map(|text| self.negative(text)).transpose()?;
        let mut request = Request::new([prompt.prompt.as_str()]);
        request.conditioning = Conditioning::Embeddings { prompt: embeddings.clone(), negative };
        request.steps = settings.steps;
        request.guidance_scale = settings.guidance_scale;
        request.seed = prompt.seed;
        request.rng = self.plan.rng.into();
        request.noise_dtype = self.plan.noise_dtype;
        (request.width, request.height) = (Some(settings.width), Some(settings.height));
        request.scheduler = point.sampler;
        if let Some(clean) = &self.clean {
            request.initial = clean.clone();
        }
        if let Some(noise) = noise {
            let dtype = self.pipeline.dtype().accumulator();
            let noise = B::Tensor::from_f32(&noise.values, &noise.shape, dtype, self.pipeline.device())?;
            request.initial = InitialLatents::Noise(noise);
        }
        request.decoding = decoding(self.plan.vae_tiling, self.pipeline.vae().tiles());
        Ok(request)
    }

    /// A negative prompt, encoded once.
    fn negative(&mut self, text: &str) -> Outcome<TextEmbeddings<B::Tensor>> {
        if let Some((_, known)) = self.negatives.iter().find(|(known, _)| known == text) {
            return Ok(known.clone());
        }
        let encoded = self.pipeline.encode(&[text.to_string()])?.0;
        self.negatives.push((text.to_string(), encoded.clone()));
        Ok(encoded)
    }
}

/// Seconds a step: the mean without the first one, which warms caches up, where there are more.
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

/// The registry that plans are checked against.
pub(crate) fn plan_registry(extension: &impl Extension) -> Outcome<Registry<NdTensor>> {
    Ok(registry::<NdTensor>(extension)?)
}
