//! The U-Net that `flops` and `bench` speak of, known by its configuration alone: SD-XL base's, or a checkpoint's.

use std::path::{Path, PathBuf};

use atedm_core::Error;
use atedm_core::plugin::MethodCatalogue;
use atedm_sdxl::checkpoint::{Checkpoint, identity};
use atedm_sdxl::config::{TextEncoderConfig, UNetConfig, VaeConfig};
use atedm_sdxl::flops::RunCost;
use atedm_sdxl::schedulers::SchedulerConfig;

use crate::failure::{Failure, Outcome};
use crate::inputs::{Inputs, of_checkpoint};
use crate::method::{Method, Workload};
use crate::model::{AskedSize, Model, Size};
use crate::spec::PruneSpec;

/// A U-Net at one size.
pub struct Subject {
    /// What it is called.
    pub name: String,
    /// Its configuration.
    pub unet: UNetConfig,
    /// Its size in pixels; none before [`Subject::sized`].
    pub size: Size,
    /// Pixels a latent, in each direction.
    factor: usize,
    /// Text tokens.
    pub text: usize,
    /// Its scheduler; SD-XL's where it names none.
    pub scheduler: SchedulerConfig,
    /// The checkpoint's files, if there are any.
    files: Files,
}

/// Before a size is known.
const NO_SIZE: Size = Size { width: 0, height: 0 };

/// Where a checkpoint's files are.
enum Files {
    /// There are none.
    None,
    /// In a folder, where weights may be missing.
    Folder(PathBuf),
    /// Those of an opened checkpoint.
    Checkpoint(Box<Checkpoint>),
    /// Those of a model that is unpacked or in a cache.
    Model(Box<Model>),
}

impl Subject {
    /// SD-XL base 1.0, of which no file is needed.
    pub fn sdxl_base() -> Self {
        Self {
            name: "SD-XL base 1.0".into(),
            unet: UNetConfig::sdxl_base(),
            size: NO_SIZE,
            factor: 8,
            text: 77,
            scheduler: SchedulerConfig::sdxl(),
            files: Files::None,
        }
    }

    /// The checkpoint in a folder: its configurations are enough, weights need not be there.
    ///
    /// # Errors
    /// [`Failure::Run`] naming the configuration that is missing or broken.
    pub fn of_folder(folder: &Path) -> Outcome<Self> {
        Self::read(folder, &name_of(folder))
    }

    /// An opened model.
    pub fn of_model(model: Model) -> Self {
        let subject = Self::of_checkpoint(&model.checkpoint);
        Self { name: model.name().to_string(), files: Files::Model(Box::new(model)), ..subject }
    }

    /// An opened checkpoint, whose files stay where they are as long as the subject is in use.
    pub fn of_checkpoint(checkpoint: &Checkpoint) -> Self {
        Self {
            name: name_of(checkpoint.root()),
            unet: checkpoint.unet().clone(),
            size: NO_SIZE,
            factor: checkpoint.vae().factor(),
            text: checkpoint.text_encoders()[0].context,
            scheduler: checkpoint.scheduler().clone(),
            files: Files::Checkpoint(Box::new(checkpoint.clone())),
        }
    }

    /// At the size asked for under these names, else the checkpoint's own.
    ///
    /// # Errors
    /// As [`AskedSize::or_own`].
    pub fn sized(mut self, asked: AskedSize<'_>) -> Outcome<Self> {
        let own = self.unet.sample_size.map(|latents| latents * self.factor);
        self.size = asked.or_own(self.factor, own)?;
        Ok(self)
    }

    fn read(folder: &Path, name: &str) -> Outcome<Self> {
        let at = |part: &str| folder.join(part).join("config.json");
        let (vae, text) = (at("vae"), at("text_encoder"));
        let factor = if vae.exists() { VaeConfig::read(&vae).map_err(Failure::run)?.factor() } else { 8 };
        let text = if text.exists() {
            TextEncoderConfig::read(&text, "CLIPTextModel").map_err(Failure::run)?.context
        } else {
            77
        };
        let scheduler = folder.join("scheduler").join("scheduler_config.json");
        let scheduler = match scheduler.is_file() {
            true => SchedulerConfig::from_file(&scheduler).map_err(Failure::run)?,
            false => SchedulerConfig::sdxl(),
        };
        Ok(Self {
            name: name.to_string(),
            scheduler,
            unet: UNetConfig::read(&at("unet")).map_err(Failure::run)?,
            size: NO_SIZE,
            factor,
            text,
            files: Files::Folder(folder.to_path_buf()),
        })
    }

    /// What the checkpoint is, by its content; nothing without a checkpoint whose files are all there.
    pub fn inputs(&self) -> Inputs {
        of_checkpoint(match &self.files {
            Files::None => None,
            Files::Folder(folder) => identity(folder).ok(),
            Files::Checkpoint(checkpoint) => checkpoint.identity().ok(),
            Files::Model(model) => model.checkpoint.identity().ok(),
        })
    }

    /// What counts and costs depend on, over `steps` steps.
    pub fn workload(&self, steps: usize) -> Workload<'_> {
        Workload {
            unet: &self.unet,
            latents: self.size.latents(self.factor),
            text: self.text,
            steps,
            scheduler: &self.scheduler,
            sampler: None,
        }
    }
}

/// The last part of a path.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// A method with the cost of a run under it.
pub struct Costed {
    /// The method, its budget solved.
    pub method: Method,
    /// Its name and the options that were typed.
    pub label: String,
    /// The run's cost; `None` where only a run tells.
    pub cost: Option<RunCost>,
}

impl Costed {
    /// Checks `spec`'s options, solves its budget, and works out what every step costs.
    pub fn new(spec: &PruneSpec, work: &Workload<'_>, catalogue: &MethodCatalogue) -> Outcome<Self> {
        let method = Method::resolve(spec, work, catalogue, None)?;
        Ok(Self { cost: run_cost(&method, work)?, label: spec.label(), method })
    }

    /// The ratio it removes, where the method has one.
    pub fn ratio(&self) -> Option<f64> {
        self.method.settings.get("ratio").and_then(serde_json::Value::as_f64)
    }
}

fn run_cost(method: &Method, work: &Workload<'_>) -> Outcome<Option<RunCost>> {
    let Some(costs) = method.step_costs(work)? else { return Ok(None) };
    let mut costs = costs.into_iter();
    let cost = RunCost::new(work.steps, |step| {
        costs.next().ok_or_else(|| Error::config("steps", format!("step {step} has no cost")))
    })?;
    Ok(Some(cost))
}
