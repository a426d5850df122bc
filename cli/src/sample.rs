//! One sampling run for `generate` and `masks`: a plan of one point and one batch, prepared without a backend.
//! `compare` reads `--prompt`, `--latents` and similar flags with the same functions.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use atedm_core::Error;
use atedm_core::plugin::Registry;
use atedm_core::reference::NdTensor;
use atedm_experiment::budget::{Budget, Unreachable};
use atedm_experiment::config::{Sampling, noise_dtype};
use atedm_experiment::control::{ControlImage, ControlPicture};
use atedm_experiment::engine::{Batch, FinishedBatch, ImageTask, PlannedRun, Replay, Sink};
use atedm_experiment::extension::{registry, samplers};
use atedm_experiment::files::{ImageFacts, LatentsFile, Picture, read_latents, read_masks};
use atedm_experiment::grid::Point;
use atedm_experiment::init_image::{InitImage, Start, StartFrom};
use atedm_experiment::inputs::Inputs;
use atedm_experiment::method::{Method, Workload};
use atedm_experiment::model::{AskedPixels, Model, Size};
use atedm_experiment::observe::{Watch, Watched};
use atedm_experiment::parts::name_of;
use atedm_experiment::plan::{Plan, PlanInputs, PlannedPoint, RunOptions};
use atedm_experiment::platform::Platform;
use atedm_experiment::preview::Previews;
use atedm_experiment::record::{Attention, Flops, PromptLine, Times};
use atedm_experiment::spec::PruneSpec;
use atedm_sdxl::pipeline::TextEncoders;

use crate::Extension;
use crate::args::{ControlArgs, EngineArgs, SampleArgs};
use crate::dispatch::run_plan;
use crate::failure::{Failure, Outcome};
use crate::model::open_for;
use crate::progress::Progress;

/// A run after all checks that are possible before weights are read.
pub(crate) struct Job<'a> {
    engine: &'a EngineArgs,
    platform: Platform,
    model: Model,
    size: Size,
    plan: Plan,
    noise: Option<LatentsFile>,
    init: Option<InitImage>,
    control: Option<ControlImage>,
    replay: Option<Replay>,
}

/// The result of a run.
pub(crate) struct Sampled {
    pub(crate) pictures: Vec<Picture>,
    pub(crate) latents: LatentsFile,
    /// The cost of the U-Net.
    pub(crate) flops: Flops,
    pub(crate) times: Times,
    /// The data collected during the run.
    pub(crate) watched: Watched,
}

impl<'a> Job<'a> {
    /// Opens the checkpoint and the input files, and checks every setting against them.
    pub(crate) fn prepare(
        sample: &SampleArgs,
        engine: &'a EngineArgs,
        spec: PruneSpec,
        masks_in: Option<&Path>,
        extension: &impl Extension,
        progress: &Progress,
    ) -> Outcome<Self> {
        let prompt = |(index, prompt): (usize, &String)| PromptLine {
            id: index.to_string(),
            prompt: prompt.clone(),
            seed: sample.seed,
            groups: BTreeMap::new(),
        };
        let prompts = sample.prompt.iter().enumerate().map(prompt).collect();
        let control = control(sample)?;
        let options = run_options(sample, spec.method.clone(), prompts)?;
        check_sampler(extension, sample.scheduler.as_deref())?;
        let model = open_for(engine, &sample.model)?.extended(extension)?;
        let size = model.size(sample.size.asked())?;
        model.check_tiles(tiles(sample))?;
        let platform = engine.platform();
        let work = model.workload(size, sample.steps);
        let inputs = PlanInputs {
            control: control.as_ref().map(ControlPicture::used).transpose()?,
            strength: start(sample).map(|start| start.strength()),
            ..PlanInputs::of(&model, size, work, Inputs::new())
        };
        let registry: Registry<NdTensor> = registry(extension)?;
        let point = point(spec.method.clone(), spec, sample);
        let plan = Plan::single(options, &point, &inputs, &platform, &registry, progress)?;
        let noise = noise(sample, &work)?;
        let init = init_image(sample, size, progress)?;
        let control = control_image(control, size, progress)?;
        if masks_in.is_some() && plan.points[0].method.is_none() {
            return Err(Failure::usage("--masks-in: expected a pruning method, got --prune none"));
        }
        let replay = match masks_in {
            Some(path) => Some(Replay { path: path.to_path_buf(), masks: Arc::new(read_masks(path)?) }),
            None => None,
        };
        let job = Self { engine, platform, size, plan, noise, init, control, replay, model };
        job.planned_run(Watch::default(), None, progress).check()?;
        warn_of_prompts(sample, &job.model, progress)?;
        Ok(job)
    }

    fn planned_run<'r>(
        &'r self,
        watch: Watch,
        previews: Option<Previews<'r>>,
        progress: &'r Progress,
    ) -> PlannedRun<'r> {
        PlannedRun {
            plan: &self.plan,
            model: &self.model,
            platform: &self.platform,
            batches: vec![Batch {
                prompts: self.plan.prompts.clone(),
                points: vec![0],
                noise: self.noise.clone(),
            }],
            init: self.init.clone(),
            control: self.control.clone(),
            previews,
            replay: self.replay.clone(),
            watch,
            encoders: TextEncoders::PerRun,
            listener: progress,
        }
    }

    fn point(&self) -> &PlannedPoint {
        &self.plan.points[0]
    }

    /// The method.
    pub(crate) fn method(&self) -> &Method {
        &self.point().method
    }

    /// The names of the attention blocks, in the order of a forward pass.
    pub(crate) fn block_names(&self) -> Vec<String> {
        let steps = self.point().info.settings.steps;
        self.model.workload(self.size, steps).blocks().iter().map(|block| block.id.name()).collect()
    }

    /// Runs the job on the chosen backend.
    pub(crate) fn run(
        &self,
        extension: &impl Extension,
        watch: Watch,
        previews: Option<Previews<'_>>,
        progress: &Progress,
    ) -> Outcome<Sampled> {
        let mut taker = Taker { replay: self.replay.as_ref(), sampled: None };
        run_plan(self.engine, self.planned_run(watch, previews, progress), extension, &mut taker)?;
        taker.sampled.ok_or_else(|| Failure::run("the run made no image"))
    }

    /// The metadata for the picture of prompt `index`.
    pub(crate) fn facts(&self, index: usize, sampled: &Sampled) -> ImageFacts {
        let facts = ImageFacts::of(
            &self.point().info,
            &self.plan.prompts[index],
            sampled.flops,
            &self.platform.provenance(),
        );
        let start = self.init.as_ref().map(InitImage::chosen);
        ImageFacts {
            strength: start.map(|start| start.strength().share()),
            mask: start.and_then(|start| start.mask.as_deref()).map(name_of),
            batch_index: index,
            batch_images: self.plan.prompts.len(),
            ..facts
        }
    }
}

/// Takes the only batch.
struct Taker<'a> {
    replay: Option<&'a Replay>,
    sampled: Option<Sampled>,
}

impl Sink for Taker<'_> {
    fn keep(&mut self, finished: FinishedBatch<'_>) -> Outcome {
        let FinishedBatch { pictures, latents, flops, times, watched, .. } = finished;
        self.sampled = Some(Sampled { pictures, latents, flops, times, watched });
        Ok(())
    }

    /// There is only one point, so errors do not name it. If kept sets do not fit, the mask file is at fault.
    fn blame(&self, error: Error, _task: &ImageTask<'_>) -> Failure {
        match (&self.replay, error) {
            (Some(replay), Error::Config { field, reason }) if field == "masks" => {
                Failure::file(&replay.path, reason)
            }
            (_, error) => error.into(),
        }
    }
}

/// Checks that `--scheduler` names a known sampler.
pub(crate) fn check_sampler(extension: &impl Extension, name: Option<&str>) -> Outcome {
    let samplers = samplers::<NdTensor>(extension)?;
    match name.map(|name| samplers.check(name)).transpose() {
        Ok(_) => Ok(()),
        Err(Error::Config { reason, .. }) => Err(Failure::usage(format!("--scheduler: {reason}"))),
        Err(other) => Err(other.into()),
    }
}

/// The options that all images of a command share.
pub(crate) fn run_options(
    sample: &SampleArgs,
    title: String,
    prompts: Vec<PromptLine>,
) -> Outcome<RunOptions> {
    let rng = sample.rng.into();
    Ok(RunOptions {
        title,
        prompts,
        rng,
        noise_dtype: noise_dtype(rng, sample.rng_dtype.map(Into::into), "--rng-dtype")?,
        vae_tiling: sample.vae_tiling,
        masks: Vec::new(),
        distances: false,
        unreachable: Unreachable::Error,
    })
}

/// A point with this method and the flags' sampling.
pub(crate) fn point(label: String, spec: PruneSpec, sample: &SampleArgs) -> Point {
    Point {
        label: label.clone(),
        grid: label,
        varied: spec.options.clone(),
        budget_tflops: spec.options.get("budget_tflops").and_then(|budget| Budget::of(budget).ok().flatten()),
        spec,
        sampling: Sampling {
            steps: sample.steps,
            guidance_scale: sample.guidance_scale,
            guidance_rescale: sample.guidance_rescale,
            scheduler: sample.scheduler.clone(),
            negative_prompt: sample.negative_prompt.clone(),
            text: sample.text.options(),
            attention: Attention::Fused,
        },
    }
}

/// Warns of prompts that are cut off, and of weights that are read as text.
pub(crate) fn warn_of_prompts(sample: &SampleArgs, model: &Model, progress: &Progress) -> Outcome {
    let prompts = sample.prompt.iter().chain(&sample.negative_prompt).map(String::as_str);
    model.texts().warn(prompts, &sample.text.options(), "--prompt-syntax", progress)
}

/// The tiles of `--vae-tiling`.
pub(crate) fn tiles(sample: &SampleArgs) -> AskedPixels<'static> {
    AskedPixels { key: "--vae-tiling", pixels: sample.vae_tiling }
}

/// The noise of `--latents` for every prompt.
pub(crate) fn noise(sample: &SampleArgs, work: &Workload<'_>) -> Outcome<Option<LatentsFile>> {
    let shape = [sample.prompt.len(), work.unet.out_channels, work.latents.height, work.latents.width];
    sample.latents.as_deref().map(|path| read_latents(path, shape)).transpose()
}

/// The choice of `--control-image`. It is needed beside `--controlnet`.
pub(crate) fn control(sample: &SampleArgs) -> Outcome<Option<ControlPicture>> {
    let ControlArgs { control_image, control_scale, control_start, control_end } = &sample.control;
    match (&sample.model.controlnet, control_image) {
        (Some(_), None) => {
            Err(Failure::usage("--control-image: expected a picture, as --controlnet is given"))
        }
        (_, Some(image)) => {
            ControlPicture::new(image.clone(), *control_scale, [*control_start, *control_end]).map(Some)
        }
        (None, None) => Ok(None),
    }
}

/// The picture of `--control-image`, fitted to the output's size.
pub(crate) fn control_image(
    chosen: Option<ControlPicture>,
    size: Size,
    progress: &Progress,
) -> Outcome<Option<ControlImage>> {
    let Some(chosen) = chosen else { return Ok(None) };
    let image = chosen.read(size)?;
    if let Some(note) = image.note() {
        progress.say(&note);
    }
    Ok(Some(image))
}

/// The choice of `--init-image`.
pub(crate) fn start(sample: &SampleArgs) -> Option<Start> {
    let image = sample.init_image.clone()?;
    let from = if sample.init_mean { StartFrom::Mean } else { StartFrom::Drawn };
    Some(Start { image, mask: sample.mask_image.clone(), strength: sample.strength, from })
}

/// The picture of `--init-image`, fitted to the output's size, with the mask of `--mask-image`.
pub(crate) fn init_image(sample: &SampleArgs, size: Size, progress: &Progress) -> Outcome<Option<InitImage>> {
    let Some(start) = start(sample) else { return Ok(None) };
    start.strength().start(sample.steps).map_err(|failure| failure.within("--strength"))?;
    let init = start.read(size)?;
    if let Some(note) = init.note() {
        progress.say(&note);
    }
    Ok(Some(init))
}
