//! The models of a run, and a batch made by them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atedm_core::plugin::{BuildContext, Registry, SharedObserver, TokenReducer};
use atedm_core::{Backend, Tensor};
use atedm_sdxl::pipeline::{
    Conditioning, Control, InitialLatents, Pipeline, Proceed, Request, StepReport, TextEmbeddings,
    TextEncoders,
};
use atedm_sdxl::preview::Previewer;

use super::encoded::Encoded;
use super::finished::FinishedBatch;
use super::run::PlannedRun;
use super::sink::Sink;
use super::task::{Batch, ImageTask};
use crate::failure::{Failure, Outcome};
use crate::files::LatentsFile;
use crate::init_image::EncodedImage;
use crate::listener::Phase;
use crate::method::Workload;
use crate::model::decoding;
use crate::observe::{Watch, Watched, Watcher};
use crate::plan::PlannedPoint;
use crate::preview::{Preview, pictures_of};
use crate::record::{Attention, Flops, LevelTokens, PromptLine, Times};
use crate::stored::StoredMaps;

/// What a batch starts from.
pub(super) struct BatchStart<'a, T> {
    /// Its encoded prompts, if they are encoded once for all points.
    pub(super) embeddings: Option<TextEmbeddings<T>>,
    /// Its noise, if the caller gave it.
    pub(super) noise: Option<&'a LatentsFile>,
    /// The point's token counts, if they are known and slow to watch.
    pub(super) planned: Option<&'a Vec<LevelTokens>>,
}

/// What all images of a run start from and are shown by.
pub(super) struct RunStart<B: Backend> {
    /// The picture from which every image starts instead of noise.
    pub(super) picture: Option<EncodedImage<B::Tensor>>,
    /// What the ControlNet follows.
    pub(super) control: Option<Control<B::Tensor>>,
    /// Shows unfinished images, if the run wants it.
    pub(super) previewer: Option<Previewer<B>>,
}

/// The loaded models.
pub(super) struct LoadedModels<'a, B: Backend> {
    run: &'a PlannedRun<'a>,
    pipeline: Pipeline<B>,
    registry: &'a Registry<B::Tensor>,
    /// The picture from which every image starts instead of noise.
    picture: Option<EncodedImage<B::Tensor>>,
    /// What the ControlNet follows.
    control: Option<Control<B::Tensor>>,
    /// Shows unfinished images, if the run wants it.
    previewer: Option<Previewer<B>>,
    /// The steps done so far, of all images.
    done: usize,
    /// The negative prompts that are encoded already.
    negatives: Encoded<B>,
}

impl<'a, B: Backend> LoadedModels<'a, B> {
    /// The models of a run that has made no image yet.
    pub(super) fn new(
        run: &'a PlannedRun<'a>,
        pipeline: Pipeline<B>,
        registry: &'a Registry<B::Tensor>,
        start: RunStart<B>,
    ) -> Self {
        let RunStart { picture, control, previewer } = start;
        Self { run, pipeline, registry, picture, control, previewer, done: 0, negatives: Encoded::default() }
    }

    /// Makes a batch under one point.
    pub(super) fn make<'p>(
        &mut self,
        task: ImageTask<'p>,
        start: BatchStart<'_, B::Tensor>,
        sink: &dyn Sink,
    ) -> Outcome<FinishedBatch<'p>> {
        let ImageTask { point, prompts, .. } = task;
        let settings = &point.info.settings;
        let whole = self.run.workload(point)?;
        let watch = self.watch(prompts);
        // known counts need no watching
        let counted = Watch { tokens: watch.tokens && start.planned.is_none(), ..watch };
        let watcher = (!counted.is_nothing()).then(|| Arc::new(Mutex::new(Watcher::new(counted))));
        let mut reducer = self.reducer(point, prompts, watcher.clone())?;
        let request = self.request(point, prompts, &start)?;
        let mut ends: Vec<Instant> = Vec::with_capacity(settings.steps);
        let (before, listener) = (self.done, self.run.listener);
        listener.phase(Phase::Denoising);
        let began = Instant::now();
        let mut unseen = None;
        let mut report = |report: &StepReport<'_, B::Tensor>| {
            ends.push(Instant::now());
            listener.steps_done(before + report.index + 1);
            if report.index + 1 == report.total {
                listener.phase(Phase::Decoding);
            }
            match self.show(report) {
                Ok(()) => Proceed::Continue(()),
                Err(failure) => {
                    unseen = Some(failure);
                    Proceed::Break(())
                }
            }
        };
        let output = self.pipeline.generate(&request, reducer.as_mut(), &mut report);
        if let Some(failure) = unseen {
            return Err(failure);
        }
        let output = output.map_err(|error| sink.blame(error, &task))?;
        let seconds = began.elapsed().as_secs_f64();
        self.done += settings.steps;
        let values = output.latents.to_f32()?;
        let shape = atedm_core::backend::dims(&output.latents, "final latents")?;
        let images = output.images.ok_or_else(|| Failure::run("the run decoded no image"))?;
        let evaluations = output.costs.len();
        let sum: f64 = output.costs.iter().map(|cost| cost.tflop()).sum();
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
            pictures: pictures_of(&images)?,
            latents: LatentsFile { shape, values },
            flops: Flops {
                mean_tflop: sum / evaluations.max(1) as f64,
                whole_tflop: Workload { text: output.text_length, ..whole }.whole_tflop()?,
                evaluations,
            },
            tokens,
            times: Times { seconds_per_step: pace(began, &ends), seconds, finished_at: now() },
            watched,
        })
    }

    /// Shows a picture of the unfinished images, if one follows this step.
    fn show(&self, report: &StepReport<'_, B::Tensor>) -> Outcome {
        let (Some(previews), Some(previewer)) = (&self.run.previews, &self.previewer) else { return Ok(()) };
        if !previews.follows(report.index, report.total) {
            return Ok(());
        }
        let images = previewer.images(&report.denoised()?)?;
        (previews.show)(Preview { steps: report.index + 1, pictures: pictures_of(&images)? })
    }

    /// What to note of a batch. Masks are also noted if the plan names one of its prompts.
    fn watch(&self, prompts: &[PromptLine]) -> Watch {
        let named = prompts.iter().any(|prompt| self.run.plan.masks.contains(&prompt.id));
        Watch { masks: self.run.watch.masks || named, ..self.run.watch }
    }

    /// A new reducer, since no batch may depend on another.
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
        let reducer = point.method.build(self.registry, &context)?;
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
        request.text = settings.text();
        request.conditioning = match &start.embeddings {
            Some(embeddings) => Conditioning::Embeddings {
                prompt: embeddings.clone(),
                negative: match &settings.negative_prompt {
                    Some(text) => {
                        let texts = vec![text.clone(); prompts.len()];
                        Some(self.negatives.get(&self.pipeline, &texts, &settings.text().for_negative())?)
                    }
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
        request.guidance_rescale = settings.guidance_rescale;
        request.seed = seed_of(prompts);
        request.rng = self.run.plan.rng;
        request.noise_dtype = self.run.plan.noise_dtype;
        (request.width, request.height) = (Some(settings.width), Some(settings.height));
        request.scheduler = point.sampler.clone();
        if let Some(picture) = &self.picture {
            request.initial = picture.initial(settings.steps)?;
        }
        if let Some(noise) = start.noise {
            let dtype = self.pipeline.dtype().accumulator();
            let noise = B::Tensor::from_f32(&noise.values, &noise.shape, dtype, self.pipeline.device())?;
            request.initial = InitialLatents::Noise(noise);
        }
        request.control = self.control.clone();
        request.decoding = decoding(self.run.plan.vae_tiling, self.pipeline.vae().tiles());
        Ok(request)
    }

    /// A batch's prompts under a point, encoded once for all points that read them alike; `None` where each run encodes its own.
    pub(super) fn prompts(
        &self,
        encoded: &mut Encoded<B>,
        batch: &Batch,
        point: &PlannedPoint,
    ) -> Outcome<Option<TextEmbeddings<B::Tensor>>> {
        if self.run.encoders == TextEncoders::PerRun {
            return Ok(None);
        }
        let texts: Vec<String> = batch.prompts.iter().map(|prompt| prompt.prompt.clone()).collect();
        encoded.get(&self.pipeline, &texts, &point.info.settings.text()).map(Some)
    }
}

/// The seed of a batch.
fn seed_of(prompts: &[PromptLine]) -> u64 {
    prompts.first().map_or(0, |prompt| prompt.seed)
}

/// The mean seconds of a step. The first step counts only if it is alone, since it fills caches and may wait for the text
/// encoders.
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
