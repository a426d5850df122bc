//! One sampling run, as `generate` and `masks` share it: prepared without a backend, then run on any.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atedm_core::plugin::{BuildContext, MaskSet, SharedObserver};
use atedm_core::reference::NdTensor;
use atedm_core::{Backend, DType, DeviceOf, Error, Tensor};
use atedm_sdxl::pipeline::{
    Conditioning, Decoding, InitialLatents, Pipeline, Proceed, Request, StepReport, TextEncoders,
};
use atedm_sdxl::rng::{NoiseDType, RngKind};
use atedm_sdxl::vae::TileOptions;

use crate::Extension;
use crate::args::{EngineArgs, SampleArgs};
use crate::dispatch::{Task, dispatch};
use crate::extension::registry;
use crate::failure::{Failure, Outcome};
use crate::files::{ImageFacts, LatentsFile, Picture, read_latents, read_masks};
use crate::init_image::InitImage;
use crate::memory;
use crate::method::{Method, Workload};
use crate::model::Model;
use crate::observe::Watcher;
use crate::progress::Progress;
use crate::prune::PruneSpec;

/// Whole, or in tiles of this many pixels, which overlap as the autoencoder's `own` ones do.
pub(crate) fn decoding(tiles: Option<usize>, own: TileOptions) -> Decoding {
    match tiles {
        Some(size) => Decoding::Tiled(Some(TileOptions { size, ..own })),
        None => Decoding::Whole,
    }
}

/// A run with everything checked that can be checked before weights are read.
pub(crate) struct Job<'a> {
    sample: &'a SampleArgs,
    engine: &'a EngineArgs,
    model: Model,
    size: (usize, usize),
    pub(crate) method: Method,
    noise: Option<LatentsFile>,
    noise_dtype: NoiseDType,
    init: Option<InitImage>,
    replay: Option<(PathBuf, Arc<MaskSet>)>,
}

/// What a run gives.
pub(crate) struct Sampled {
    pub(crate) pictures: Vec<Picture>,
    pub(crate) latents: LatentsFile,
    pub(crate) seconds_a_step: f64,
    /// Mean cost of an evaluation as it really ran, in TFLOP (2 × MAC, one sample).
    pub(crate) mean_tflop: f64,
}

impl<'a> Job<'a> {
    /// Opens the checkpoint and the input files and checks every setting against them.
    pub(crate) fn prepare(
        sample: &'a SampleArgs,
        engine: &'a EngineArgs,
        spec: &PruneSpec,
        masks_in: Option<&Path>,
        extension: &impl Extension,
    ) -> Outcome<Self> {
        let noise_dtype = sample.rng.drawing(sample.rng_dtype, "--rng-dtype")?;
        let half = DType::from(engine.dtype).size_in_bytes() == 2;
        let model = Model::open(sample.model.as_deref(), half.then_some("fp16"))?;
        let size = model.size(sample.width, sample.height)?;
        model.check_tiles(("--vae-tiling", sample.vae_tiling))?;
        model.checkpoint.scheduler().build::<NdTensor>(sample.scheduler, sample.steps)?;
        let work = Workload { sampler: sample.scheduler, ..model.workload(size, sample.steps) };
        let registry = registry::<NdTensor>(extension)?;
        let method = Method::resolve(spec, &work, registry.catalogue(), Some(sample.rng))?;
        method.check(&registry)?;
        let shape = [sample.prompt.len(), work.unet.in_channels, work.latents.height, work.latents.width];
        let noise = sample.latents.as_deref().map(|path| read_latents(path, shape)).transpose()?;
        let init = InitImage::from_args(sample, size)?;
        if masks_in.is_some() && method.is_none() {
            return Err(Failure::usage("--masks-in: expected a pruning method, got --prune none"));
        }
        let replay = match masks_in {
            Some(path) => Some((path.to_path_buf(), Arc::new(read_masks(path)?))),
            None => None,
        };
        let at_once = (sample.prompt.len(), sample.guidance_scale);
        let memory = memory::workload(&work, at_once, sample.vae_tiling, engine);
        memory::check(&model.checkpoint, &memory, engine)?;
        model.warn_of_long_prompts(sample.prompt.iter().chain(&sample.negative_prompt))?;
        Ok(Self { sample, engine, size, method, noise, noise_dtype, init, replay, model })
    }

    fn work(&self) -> Workload<'_> {
        Workload { sampler: self.sample.scheduler, ..self.model.workload(self.size, self.sample.steps) }
    }

    /// TFLOPs of an evaluation with nothing pruned.
    pub(crate) fn whole_tflop(&self) -> Outcome<f64> {
        self.work().whole_tflop()
    }

    /// The attention blocks' names, in the order of a forward pass.
    pub(crate) fn block_names(&self) -> Vec<String> {
        self.work().blocks().iter().map(|block| block.id.name()).collect()
    }

    /// Runs it on the backend that the user asked for.
    pub(crate) fn run(
        &self,
        extension: &impl Extension,
        watcher: Option<Arc<Mutex<Watcher>>>,
        progress: &mut Progress,
    ) -> Outcome<Sampled> {
        let outcome = dispatch(self.engine, Sampling { job: self, extension, watcher, progress });
        progress.clear();
        outcome
    }

    /// What the picture of prompt `index` says of itself.
    pub(crate) fn facts(&self, index: usize, sampled: &Sampled) -> Outcome<ImageFacts> {
        let sample = self.sample;
        let sampler = match sample.scheduler {
            Some(choice) => choice.name().to_string(),
            None => self.model.checkpoint.scheduler().class_name.clone(),
        };
        Ok(ImageFacts {
            prompt: sample.prompt.get(index).cloned().unwrap_or_default(),
            negative_prompt: sample.negative_prompt.clone(),
            steps: sample.steps,
            sampler,
            guidance_scale: sample.guidance_scale,
            strength: self.init.as_ref().map(|init| init.strength),
            seed: sample.seed,
            batch: (index, sample.prompt.len()),
            width: self.size.0,
            height: self.size.1,
            model: self.model.name().to_string(),
            rng: sample.rng.name().to_string(),
            rng_dtype: RngKind::from(sample.rng)
                .dtype(self.noise_dtype.beside(self.engine.dtype.into()))
                .to_string(),
            method: self.method.name.clone(),
            options: self.method.settings.clone(),
            flops: (sampled.mean_tflop * 1e12, self.whole_tflop()? * 1e12),
            backend: self.engine.backend.name().to_string(),
            device: self.engine.device.to_string(),
            dtype: DType::from(self.engine.dtype).to_string(),
        })
    }

    fn request<T: Tensor>(&self, initial: InitialLatents<T>, tiles: TileOptions) -> Request<T> {
        let sample = self.sample;
        let negative = sample.negative_prompt.clone().map(|negative| vec![negative]);
        let mut request = Request::new(sample.prompt.clone());
        request.conditioning = Conditioning::Prompts { prompts: sample.prompt.clone(), negative };
        request.steps = sample.steps;
        request.guidance_scale = sample.guidance_scale;
        request.seed = sample.seed;
        request.rng = sample.rng.into();
        request.noise_dtype = self.noise_dtype;
        (request.width, request.height) = (Some(self.size.0), Some(self.size.1));
        request.scheduler = sample.scheduler;
        request.initial = initial;
        request.decoding = decoding(sample.vae_tiling, tiles);
        request
    }

    /// Kept sets that do not fit are the mask file's fault.
    fn blame(&self, error: Error) -> Failure {
        match (&self.replay, error) {
            (Some((path, _)), Error::Config { field, reason }) if field == "masks" => {
                Failure::file(path, reason)
            }
            (_, error) => error.into(),
        }
    }
}

/// The run on one backend.
struct Sampling<'a, E> {
    job: &'a Job<'a>,
    extension: &'a E,
    watcher: Option<Arc<Mutex<Watcher>>>,
    progress: &'a mut Progress,
}

impl<E: Extension> Task for Sampling<'_, E> {
    type Output = Sampled;

    fn run<B: Backend>(self, device: DeviceOf<B>, dtype: DType) -> Outcome<Sampled> {
        let Self { job, extension, watcher, progress } = self;
        let context = BuildContext::<B::Tensor> {
            seed: job.sample.seed,
            observer: watcher.map(|watcher| watcher as SharedObserver<B::Tensor>),
            replay: job.replay.as_ref().map(|(_, masks)| masks.clone()),
        };
        let mut reducer = job.method.build(&registry::<B::Tensor>(extension)?, &context)?;

        progress.phase("loading");
        let pipeline = Pipeline::<B>::load_with(&job.model.checkpoint, dtype, &device, TextEncoders::PerRun)
            .map_err(Failure::run)?;
        let initial = match (&job.noise, &job.init) {
            (Some(noise), _) => InitialLatents::Noise(B::Tensor::from_f32(
                &noise.values,
                &noise.shape,
                dtype.accumulator(),
                &device,
            )?),
            (None, Some(init)) => init.initial(&pipeline, &job.model.checkpoint)?,
            (None, None) => InitialLatents::Drawn,
        };
        progress.start();
        let mut pace = Pace::default();
        let mut report = |report: &StepReport<'_, B::Tensor>| {
            progress.done(report.index + 1);
            pace.step(progress.elapsed());
            if report.index + 1 == report.total {
                progress.phase("decoding");
            }
            Proceed::Continue(())
        };
        let request = job.request(initial, pipeline.vae().tiles());
        let output =
            pipeline.generate(&request, reducer.as_mut(), &mut report).map_err(|error| job.blame(error))?;
        let values = output.latents.to_f32()?;
        let shape = atedm_core::backend::dims(&output.latents, "final latents")?;
        let images = output.images.ok_or_else(|| Failure::run("the run decoded no image"))?;
        let pictures = (0..images.count).filter_map(|index| {
            Some(Picture { width: images.width, height: images.height, rgb: images.rgb8(index)? })
        });
        let evaluations = output.costs.len().max(1) as f64;
        let mean_tflop = output.costs.iter().map(|cost| cost.macs.tflop()).sum::<f64>() / evaluations;
        Ok(Sampled {
            pictures: pictures.collect(),
            latents: LatentsFile { shape, values },
            seconds_a_step: pace.seconds_a_step(),
            mean_tflop,
        })
    }
}

/// How fast steps follow each other. The first also waits for the text encoders, so it counts only where it is alone.
#[derive(Debug, Default)]
struct Pace {
    first: Option<Duration>,
    last: Duration,
    steps: u32,
}

impl Pace {
    /// A step ended this long after the start.
    fn step(&mut self, elapsed: Duration) {
        self.first.get_or_insert(elapsed);
        self.last = elapsed;
        self.steps += 1;
    }

    fn seconds_a_step(&self) -> f64 {
        let first = self.first.unwrap_or_default();
        match self.steps {
            0 | 1 => first.as_secs_f64(),
            steps => (self.last - first).as_secs_f64() / f64::from(steps - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_overlap_as_the_autoencoders_own() {
        for overlap in [0.25, 0.125] {
            let tiles = decoding(Some(64), TileOptions { size: 512, overlap });
            assert_eq!(tiles, Decoding::Tiled(Some(TileOptions { size: 64, overlap })));
        }
        assert_eq!(decoding(None, TileOptions { size: 512, overlap: 0.25 }), Decoding::Whole);
    }

    #[test]
    fn the_first_step_counts_only_alone() {
        let mut pace = Pace::default();
        pace.step(Duration::from_secs(9));
        assert_eq!(pace.seconds_a_step(), 9.0);
        pace.step(Duration::from_secs(11));
        pace.step(Duration::from_secs(14));
        assert_eq!(pace.seconds_a_step(), 2.5);
    }
}
