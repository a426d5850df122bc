//! Runs a whole training in a folder: first the autoencoder, then U-Net and text encoders. It resumes from the last
//! state.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atedm_core::{Backend, DType, Error, Result, Weights};
use atedm_tch::{Device, OrBackend, TchTensor, Torch, TorchResult};
use tch::Kind;

use super::autoencoder::{AutoencoderWorker, pictures};
use super::course::{Progress, Worker};
use super::diffusion::DiffusionWorker;
use super::init::{Init, ends_branch};
use super::losses::Losses;
use super::optimizer::Course;
use super::parameters::Parameters;
use super::recipe::{Part, Recipe};
use super::state::{self, Belonging};
use super::trained::{Export, Trained, averages};
use crate::scenes::{SceneSource, Split};
use atedm_sdxl::architecture::{NamedTensor, Vocabulary};
use atedm_sdxl::checkpoint::Part as Folder;
use atedm_sdxl::config::{KlConfig, TextEncoderConfig, UNetConfig, VaeConfig};
use atedm_sdxl::output::remove_unfinished;
use atedm_sdxl::schedulers::{SchedulerConfig, TrainingNoise};
use atedm_sdxl::tokenizer::ClipTokenizer;
use atedm_sdxl::vae::Vae;
use atedm_sdxl::weights::random_values;

/// The maximum number of merges of the vocabulary. Every word of the captions is one token long before that.
const MERGES: usize = 4096;
/// Scenes from which the scaling factor is measured: it follows from the standard deviation of their latents.
const MEASURED: u64 = 256;

/// The folder and device of a training, and how to run it.
#[derive(Debug, Clone)]
pub struct Options {
    /// The training's own folder.
    pub folder: PathBuf,
    /// The device.
    pub device: Device,
    /// Type of activations; weights and moments are f32.
    pub dtype: DType,
    /// Time between two states on the disk.
    pub save_every: Duration,
}

/// Observes every step.
pub trait Observer {
    /// Called after step `done` of `steps`. If it breaks, the training saves its state and ends without an error.
    fn step(&mut self, part: Part, done: u64, steps: u64, loss: f64) -> ControlFlow<()>;

    /// Called after each state of the diffusion part but the last. `trained` can then be exported.
    ///
    /// # Errors
    /// An error of the observer ends the training.
    fn saved(&mut self, trained: &Trained) -> Result<()>;
}

/// Trains, starting from the folder's states. Gives the model, or `None` if the observer ended the training.
///
/// The same recipe, device and dtype give the same losses and weights, also if the training was interrupted.
///
/// # Errors
/// [`Error::Config`] naming a field of the recipe, [`Error::Io`] and [`Error::Weights`] for the folder's files,
/// [`Error::NotFinite`] if the training diverges.
pub fn train(recipe: &Recipe, options: &Options, observer: &mut dyn Observer) -> Result<Option<Trained>> {
    recipe.check()?;
    std::fs::create_dir_all(&options.folder).map_err(|source| Error::io(&options.folder, source))?;
    // The workers are the threads. Libtorch's own pools would compete with them for the cores.
    atedm_tch::device::set_threads(1)?;
    let source = recipe.data.source(recipe.seed)?;
    let captions: Vec<String> = source.vocabulary_captions().collect();
    let vocabulary = Vocabulary::learn(captions.iter().map(String::as_str), MERGES)?;
    let init = match &recipe.init {
        Some(folder) => Init::open(folder, &recipe.model, &vocabulary)?,
        None => Init::default(),
    };
    let mut training = Training { recipe, options, observer, source, vocabulary, init };
    let Some(autoencoder) = training.autoencoder()? else { return Ok(None) };
    training.diffusion(&autoencoder)
}

struct Training<'a> {
    recipe: &'a Recipe,
    options: &'a Options,
    observer: &'a mut dyn Observer,
    source: Arc<dyn SceneSource>,
    vocabulary: Vocabulary,
    init: Init,
}

/// The initial values of a tensor. The last layer of each residual branch is zero in the U-Net, so that every block
/// begins as the identity.
fn initial(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let last = ["conv2.weight", "proj_out.weight", "conv_out.weight"].iter().any(|end| name.ends_with(end));
    if last && name.starts_with(Folder::UNet.folder()) {
        return vec![0.0; shape.iter().product()];
    }
    random_values(seed, name, shape)
}

impl Training<'_> {
    fn parameters(&self, parts: &[Folder]) -> Result<Parameters> {
        let list = parts.iter().flat_map(|part| {
            let parameters = self.recipe.model.parameters(&self.vocabulary, *part).into_iter();
            parameters.map(|parameter| (format!("{}.{}", part.folder(), parameter.name), parameter.shape))
        });
        let seed = self.recipe.seed;
        let grown = self.recipe.init.is_some();
        let first = |name: &str, shape: &[usize]| match self.init.values(name) {
            Some(values) => values,
            None if grown && ends_branch(name) => vec![0.0; shape.iter().product()],
            None => initial(seed, name, shape),
        };
        Parameters::new(list, first, self.options.device)
    }

    fn kind(&self) -> Kind {
        match self.options.dtype {
            DType::BF16 => Kind::BFloat16,
            DType::F16 => Kind::Half,
            DType::F64 => Kind::Double,
            DType::F32 => Kind::Float,
        }
    }

    /// Each worker's share of a batch.
    fn shares(course: &Course) -> Vec<std::ops::Range<u64>> {
        let share = (course.batch / course.workers) as u64;
        (0..course.workers as u64).map(|worker| worker * share..(worker + 1) * share).collect()
    }

    fn config<T>(&self, part: Folder, read: impl Fn(&Path, serde_json::Value) -> Result<T>) -> Result<T> {
        let file = PathBuf::from(format!("{}/config.json", part.folder()));
        read(&file, self.recipe.model.config(&self.vocabulary, part))
    }

    fn kl(&self) -> Result<KlConfig> {
        match self.config(Folder::Vae, VaeConfig::from_json)? {
            VaeConfig::Kl(config) => Ok(config),
            VaeConfig::Tiny(_) => Err(Error::config("model.vae", "expected an AutoencoderKL")),
        }
    }

    fn autoencoder(&mut self) -> Result<Option<Progress>> {
        let course = &self.recipe.autoencoder.training;
        let config = self.kl()?;
        let worker = |share| AutoencoderWorker {
            source: self.source.clone(),
            config: config.clone(),
            seed: self.recipe.seed,
            size: self.recipe.model.size,
            batch: course.batch as u64,
            share,
            pull: self.recipe.autoencoder.pull,
            device: self.options.device,
        };
        let mut workers: Vec<_> = Self::shares(course).into_iter().map(worker).collect();
        let mut progress = Progress::new(self.parameters(&[Folder::Vae])?)?;
        // The small autoencoder is always trained in f32.
        let losses = self.course(Part::Autoencoder, &mut progress, &mut workers, Kind::Float, None)?;
        Ok(losses.map(|_| progress))
    }

    fn diffusion(&mut self, autoencoder: &Progress) -> Result<Option<Trained>> {
        let recipe = self.recipe;
        let course = &recipe.diffusion.training;
        let averaged = averages(autoencoder)?;
        let mut model = recipe.model.clone();
        let (deviation, vae_psnr) = self.measure(&averaged)?;
        model.vae.scaling_factor = recipe.autoencoder.latent_deviation / deviation;
        let config = VaeConfig::Kl(KlConfig { scaling_factor: model.vae.scaling_factor, ..self.kl()? });
        let mut workers = Vec::with_capacity(course.workers);
        for share in Self::shares(course) {
            let weights = self.stored(&averaged)?;
            workers.push(DiffusionWorker {
                source: self.source.clone(),
                unet: self.config(Folder::UNet, UNetConfig::from_json)?,
                text: [
                    self.config(Folder::TextEncoder, TextEncoderConfig::from_json)?,
                    self.config(Folder::TextEncoder2, TextEncoderConfig::from_json)?,
                ],
                tokenizers: self.tokenizers()?,
                vae: Vae::load(&weights.scope(Folder::Vae.folder()), &config)?,
                levels: TrainingNoise::new(&SchedulerConfig::sdxl()),
                seed: recipe.seed,
                size: recipe.model.size,
                batch: course.batch as u64,
                share,
                gamma: recipe.diffusion.min_snr_gamma,
                dropout: recipe.diffusion.caption_dropout,
                device: self.options.device,
                dtype: self.options.dtype,
            });
        }
        let parts = [Folder::UNet, Folder::TextEncoder, Folder::TextEncoder2];
        let mut progress = Progress::new(self.parameters(&parts)?)?;
        let kind = self.kind();
        let export = Export { model, vocabulary: self.vocabulary.clone(), autoencoder: averaged, vae_psnr };
        let losses = self.course(Part::Diffusion, &mut progress, &mut workers, kind, Some(&export))?;
        losses.map(|losses| export.of(&progress, &losses)).transpose()
    }

    /// Runs a course to its end, starting from the folder's state. Gives its losses, or `None` if the observer ended it.
    fn course<W: Worker>(
        &mut self,
        part: Part,
        progress: &mut Progress,
        workers: &mut [W],
        kind: Kind,
        export: Option<&Export>,
    ) -> Result<Option<Losses>> {
        let course = match part {
            Part::Autoencoder => &self.recipe.autoencoder.training,
            Part::Diffusion => &self.recipe.diffusion.training,
        };
        let folder = self.options.folder.join(part.name());
        std::fs::create_dir_all(&folder).map_err(|source| Error::io(&folder, source))?;
        let file = folder.join("state.safetensors");
        let belonging =
            Belonging { recipe: self.recipe.identity(part)?, length: [course.steps, course.cooldown] };
        remove_unfinished(&folder)?;
        state::restore(progress, &belonging, &file)?;
        let mut losses = Losses::open(&folder.join("loss.csv"), progress.done)?;
        let mut saved = Instant::now();
        while progress.done < course.steps {
            let loss = progress.step(workers, course, kind)?;
            losses.add(progress.done, loss)?;
            let flow = self.observer.step(part, progress.done, course.steps, loss);
            let ended = progress.done == course.steps || flow.is_break();
            if ended || saved.elapsed() >= self.options.save_every {
                state::save(progress, &belonging, &file)?;
                if let Some(export) = export.filter(|_| progress.done < course.steps) {
                    self.observer.saved(&export.of(progress, &losses)?)?;
                }
                saved = Instant::now();
            }
            if flow.is_break() {
                return Ok(None);
            }
        }
        Ok(Some(losses))
    }

    fn stored(&self, tensors: &[NamedTensor]) -> Result<Weights<TchTensor>> {
        let list = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone()));
        let values = |name: &str, _: &[usize]| {
            let found = tensors.iter().find(|tensor| tensor.name == name);
            found.map(|tensor| tensor.values.clone()).unwrap_or_default()
        };
        Parameters::new(list, values, self.options.device)?.handles().weights(Kind::Float)
    }

    /// The standard deviation of the autoencoder's latents over the first training scenes, and its peak signal-to-noise
    /// ratio on held-out scenes, in decibels.
    fn measure(&self, averaged: &[NamedTensor]) -> Result<(f64, f64)> {
        let weights = self.stored(averaged)?.scope(Folder::Vae.folder());
        let vae = Vae::<Torch>::load(&weights, &VaeConfig::Kl(self.kl()?))?;
        let (source, size, device) = (&*self.source, self.recipe.model.size, self.options.device);
        Torch::inference(|| {
            let latents = vae.encode(&pictures(source, Split::Train, 0..MEASURED, size, device)?)?;
            let deviation = latents.as_ref().f_std(false).and_then(|std| std.f_double_value(&[]));
            let images = pictures(source, Split::HeldOut, 0..MEASURED, size, device)?;
            let decoded = vae.decode(&vae.encode(&images)?)?;
            let error = || -> TorchResult<f64> {
                let inside = decoded.as_ref().f_clamp(-1.0, 1.0)?;
                inside.f_sub(images.as_ref())?.f_square()?.f_mean(Kind::Double)?.f_double_value(&[])
            };
            // Values are in -1..=1, so the square of their range is 4.
            let psnr = 10.0 * (4.0 / error().or_backend("autoencoder")?.max(1e-12)).log10();
            Ok((deviation.or_backend("latents")?, psnr))
        })
    }

    /// Writes the tokenizers to files and reads them as a user's files are read.
    fn tokenizers(&self) -> Result<[ClipTokenizer; 2]> {
        let context = self.recipe.model.context;
        let open = |name: &str, pad: &str| {
            let folder = self.options.folder.join(name);
            std::fs::create_dir_all(&folder).map_err(|source| Error::io(&folder, source))?;
            for (file, content) in self.vocabulary.files(pad, context)? {
                let path = folder.join(file);
                std::fs::write(&path, content).map_err(|source| Error::io(&path, source))?;
            }
            ClipTokenizer::open(&folder, context)
        };
        Ok([open("tokenizer", Vocabulary::END)?, open("tokenizer_2", Vocabulary::SIGN)?])
    }
}
