//! A whole training in a folder: the autoencoder, then U-Net and text encoders, resumed where it was left.

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atedm_core::{Backend, DType, Error, Result, Weights};
use atedm_tch::{Device, OrBackend, TchTensor, Torch};
use tch::Kind;

use super::autoencoder::{AutoencoderWorker, pictures};
use super::course::{Progress, Worker};
use super::diffusion::DiffusionWorker;
use super::optimizer::Course;
use super::parameters::Parameters;
use super::recipe::{Part, Recipe};
use super::scenes::vocabulary_captions;
use super::state::{self, Belonging};
use crate::architecture::{Architecture, Role, Vocabulary};
use crate::checkpoint::Part as Folder;
use crate::config::{KlConfig, TextEncoderConfig, UNetConfig, VaeConfig};
use crate::schedulers::{SchedulerConfig, TrainingNoise};
use crate::tokenizer::ClipTokenizer;
use crate::vae::Vae;
use crate::weights::random_values;

/// Merges that the vocabulary may take; every word of the captions is one token long before.
const MERGES: usize = 4096;
/// Scenes whose latents' standard deviation decides the scaling factor.
const MEASURED: u64 = 256;

/// Where and how a recipe runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The training's own folder.
    pub folder: PathBuf,
    /// Where it computes.
    pub device: Device,
    /// Type of activations; weights and moments are f32.
    pub dtype: DType,
    /// Time between two states on disk.
    pub save_every: Duration,
}

/// Told of every step.
pub trait Observer {
    /// After step `done` of `steps`. Breaking saves the state and ends the training without an error.
    fn step(&mut self, part: Part, done: u64, steps: u64, loss: f64) -> ControlFlow<()>;

    /// After a state of the diffusion part was written; `trained` can be exported.
    ///
    /// # Errors
    /// Whatever the observer fails with ends the training.
    fn saved(&mut self, trained: &Trained) -> Result<()>;
}

/// A model during or after its training: averaged weights of all parts.
#[derive(Debug, Clone)]
pub struct Trained {
    /// Its sizes, with the measured scaling factor.
    pub model: Architecture,
    /// Its tokens.
    pub vocabulary: Vocabulary,
    /// Each part's tensors: name, shape, values.
    pub weights: Vec<(Folder, Vec<(String, Vec<usize>, Vec<f32>)>)>,
    /// Steps of the diffusion part done.
    pub steps: u64,
}

/// Trains, from where the folder's states are. Gives the model, or nothing if the observer ended it.
///
/// The same recipe, device and dtype give the same losses and weights, interrupted or not.
///
/// # Errors
/// [`Error::Config`] naming a field of the recipe, [`Error::Io`] and [`Error::Weights`] for the folder's files,
/// [`Error::NotFinite`] if the training diverges.
pub fn train(recipe: &Recipe, options: &Options, observer: &mut dyn Observer) -> Result<Option<Trained>> {
    recipe.check()?;
    std::fs::create_dir_all(&options.folder).map_err(|source| Error::io(&options.folder, source))?;
    // Workers are the threads; libtorch's own pools below them would fight for the cores.
    atedm_tch::device::set_threads(1)?;
    let captions: Vec<String> = vocabulary_captions().collect();
    let vocabulary = Vocabulary::learn(captions.iter().map(String::as_str), MERGES)?;
    let mut training = Training { recipe, options, observer, vocabulary };
    let Some(autoencoder) = training.autoencoder()? else { return Ok(None) };
    training.diffusion(&autoencoder)
}

struct Training<'a> {
    recipe: &'a Recipe,
    options: &'a Options,
    observer: &'a mut dyn Observer,
    vocabulary: Vocabulary,
}

/// Tensors of a part below its folder's name, or below nothing for the autoencoder alone.
fn named(recipe: &Recipe, vocabulary: &Vocabulary, parts: &[Folder]) -> Vec<(String, Vec<usize>, Role)> {
    let list = parts.iter().flat_map(|part| {
        recipe.model.parameters(vocabulary, *part).into_iter().map(|parameter| {
            let name = format!("{}.{}", part.folder(), parameter.name);
            (name, parameter.shape, parameter.role)
        })
    });
    list.collect()
}

/// The first values of a tensor. What a residual branch ends in is zero in the U-Net, so that every block begins as the identity.
fn initial(seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    let last = ["conv2.weight", "proj_out.weight", "conv_out.weight"].iter().any(|end| name.ends_with(end));
    if last && name.starts_with(Folder::UNet.folder()) {
        return vec![0.0; shape.iter().product()];
    }
    random_values(seed, name, shape)
}

impl Training<'_> {
    fn parameters(&self, parts: &[Folder]) -> Result<Parameters> {
        let list = named(self.recipe, &self.vocabulary, parts);
        let list = list.into_iter().map(|(name, shape, _)| (name, shape));
        let seed = self.recipe.seed;
        Parameters::new(list, |name, shape| initial(seed, name, shape), self.options.device)
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
        // the small autoencoder is trained in f32 everywhere
        let finished = self.course(Part::Autoencoder, &mut progress, &mut workers, Kind::Float, None)?;
        Ok(finished.then_some(progress))
    }

    fn diffusion(&mut self, autoencoder: &Progress) -> Result<Option<Trained>> {
        let recipe = self.recipe;
        let course = &recipe.diffusion.training;
        let averaged = averages(autoencoder)?;
        let mut model = recipe.model.clone();
        model.vae.scaling_factor = recipe.autoencoder.latent_deviation / self.deviation(&averaged)?;
        let config = VaeConfig::Kl(KlConfig { scaling_factor: model.vae.scaling_factor, ..self.kl()? });
        let mut workers = Vec::with_capacity(course.workers);
        for share in Self::shares(course) {
            let weights = self.stored(&averaged)?;
            workers.push(DiffusionWorker {
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
        let export = Export { model, vocabulary: self.vocabulary.clone(), autoencoder: averaged };
        let finished = self.course(Part::Diffusion, &mut progress, &mut workers, kind, Some(&export))?;
        if finished { export.of(&progress).map(Some) } else { Ok(None) }
    }

    /// Runs a course to its end, from where the folder's state is. Gives whether the end was reached.
    fn course<W: Worker>(
        &mut self,
        part: Part,
        progress: &mut Progress,
        workers: &mut [W],
        kind: Kind,
        export: Option<&Export>,
    ) -> Result<bool> {
        let course = match part {
            Part::Autoencoder => &self.recipe.autoencoder.training,
            Part::Diffusion => &self.recipe.diffusion.training,
        };
        let folder = self.options.folder.join(part.name());
        std::fs::create_dir_all(&folder).map_err(|source| Error::io(&folder, source))?;
        let file = folder.join("state.safetensors");
        let belonging =
            Belonging { recipe: self.recipe.identity(part)?, length: [course.steps, course.cooldown] };
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
                if let Some(export) = export {
                    self.observer.saved(&export.of(progress)?)?;
                }
                saved = Instant::now();
            }
            if flow.is_break() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn stored(&self, tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Result<Weights<TchTensor>> {
        let list = tensors.iter().map(|(name, shape, _)| (name.clone(), shape.clone()));
        let values = |name: &str, _: &[usize]| {
            let found = tensors.iter().find(|(other, ..)| other == name);
            found.map(|(_, _, values)| values.clone()).unwrap_or_default()
        };
        Parameters::new(list, values, self.options.device)?.handles().weights(Kind::Float)
    }

    /// Standard deviation of the autoencoder's latents over the first training scenes.
    fn deviation(&self, averaged: &[(String, Vec<usize>, Vec<f32>)]) -> Result<f64> {
        let weights = self.stored(averaged)?.scope(Folder::Vae.folder());
        let vae = Vae::<Torch>::load(&weights, &VaeConfig::Kl(self.kl()?))?;
        let size = self.recipe.model.size;
        Torch::inference(|| {
            let images = pictures(self.recipe.seed, 0..MEASURED, size, self.options.device)?;
            let latents = vae.encode(&images)?;
            let deviation = latents.as_ref().f_std(false).and_then(|std| std.f_double_value(&[]));
            deviation.or_backend("latents")
        })
    }

    /// The tokenizers, through files as a user's are read.
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

/// The averaged weights of a course: name, shape, values.
fn averages(progress: &Progress) -> Result<Vec<(String, Vec<usize>, Vec<f32>)>> {
    let values = state::to_host(&progress.optimizer.average)?;
    let slots = progress.parameters.slots().iter();
    Ok(slots.map(|slot| (slot.name.clone(), slot.shape.clone(), values[slot.range.clone()].to_vec())).collect())
}

/// What, with the diffusion part's weights, is a whole model.
struct Export {
    model: Architecture,
    vocabulary: Vocabulary,
    autoencoder: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl Export {
    fn of(&self, progress: &Progress) -> Result<Trained> {
        let mut all = self.autoencoder.clone();
        all.extend(averages(progress)?);
        let part = |part: &Folder| {
            let prefix = format!("{}.", part.folder());
            let below = all.iter().filter_map(|(name, shape, values)| {
                let name = name.strip_prefix(&prefix)?;
                Some((name.to_string(), shape.clone(), values.clone()))
            });
            (*part, below.collect())
        };
        Ok(Trained {
            model: self.model.clone(),
            vocabulary: self.vocabulary.clone(),
            weights: Folder::ALL.iter().map(part).collect(),
            steps: progress.done,
        })
    }
}

/// The loss of every step, as a file that a spreadsheet reads.
struct Losses {
    file: File,
    path: PathBuf,
}

impl Losses {
    /// Opens the file and drops what was written after step `done`: those steps will be done again.
    fn open(path: &Path, done: u64) -> Result<Self> {
        let io = |source| Error::io(path, source);
        let old = match std::fs::read_to_string(path) {
            Ok(old) => old,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(io(source)),
        };
        let counted = |line: &&str| {
            let step = line.split_once(',').and_then(|(step, _)| step.parse::<u64>().ok());
            step.is_some_and(|step| step <= done)
        };
        let mut text = String::from("step,loss\n");
        for line in old.lines().filter(counted) {
            text.push_str(line);
            text.push('\n');
        }
        let mut file = File::create(path).map_err(io)?;
        file.write_all(text.as_bytes()).map_err(io)?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    fn add(&mut self, step: u64, loss: f64) -> Result<()> {
        writeln!(self.file, "{step},{loss}").map_err(|source| Error::io(&self.path, source))
    }
}
