//! The U-Net of `flops` and `bench`: SD-XL base's, or a checkpoint's. Only its configuration is needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atedm_core::Error;
use atedm_core::plugin::MethodCatalogue;
use atedm_core::reference::NdTensor;
use atedm_sdxl::checkpoint::{Checkpoint, identity};
use atedm_sdxl::config::{TextEncoderConfig, UNetConfig, VaeConfig};
use atedm_sdxl::flops::RunCost;
use atedm_sdxl::schedulers::{SamplerRegistry, SchedulerConfig};

use crate::extension::Extension;
use crate::failure::{Failure, Outcome};
use crate::inputs::{Inputs, of_checkpoint};
use crate::loras::used;
use crate::method::{ControlSteps, GUIDANCE_SCALE, Method, Workload};
use crate::model::{AskedSize, Model, Size};
use crate::parts::{Parts, name_of};
use crate::record::UsedLora;
use crate::spec::PruneSpec;
use crate::texts::Texts;

/// A U-Net at one size.
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Its configuration.
    pub unet: UNetConfig,
    /// Its size in pixels. It is unset before [`Subject::sized`].
    pub size: Size,
    /// Pixels per latent, in each direction.
    factor: usize,
    /// Number of text tokens.
    pub text: usize,
    /// Its scheduler; SD-XL's if it names none.
    pub scheduler: SchedulerConfig,
    samplers: SamplerRegistry<NdTensor>,
    /// What reads prompts, if there are tokenizers.
    texts: Option<Texts>,
    /// The checkpoint's files, if there are any.
    files: Files,
}

/// The placeholder for an unknown size.
const NO_SIZE: Size = Size { width: 0, height: 0 };

/// The location of a checkpoint's files.
enum Files {
    /// There are none.
    None,
    /// Files in a folder. Weights may be missing.
    Folder(PathBuf),
    /// Files of an opened checkpoint.
    Checkpoint(Box<Checkpoint>),
    /// Files of a model that is unpacked or in a cache.
    Model(Box<Model>),
}

impl Subject {
    /// SD-XL base 1.0. It needs no files.
    pub fn sdxl_base() -> Self {
        Self {
            name: "SD-XL base 1.0".into(),
            unet: UNetConfig::sdxl_base(),
            size: NO_SIZE,
            factor: 8,
            text: 77,
            scheduler: SchedulerConfig::sdxl(),
            samplers: SamplerRegistry::with_builtins(),
            texts: None,
            files: Files::None,
        }
    }

    /// The checkpoint in a folder. Its configurations suffice; weights may be missing.
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
            samplers: SamplerRegistry::with_builtins(),
            texts: Texts::of(checkpoint).ok(),
            files: Files::Checkpoint(Box::new(checkpoint.clone())),
        }
    }

    /// Adds an extension's samplers and prompt syntaxes to the known ones.
    ///
    /// # Errors
    /// [`Failure::Usage`] if a name is taken.
    pub fn extended(mut self, extension: &impl Extension) -> Outcome<Self> {
        extension.samplers(&mut self.samplers)?;
        self.texts = self.texts.map(|texts| texts.extended(extension)).transpose()?;
        Ok(self)
    }

    /// What reads prompts, if there are tokenizers.
    pub fn texts(&self) -> Option<&Texts> {
        self.texts.as_ref()
    }

    /// The words of its textual inversions, each with the hash of its file.
    pub fn embeddings(&self) -> BTreeMap<String, String> {
        match &self.files {
            Files::Model(model) => model.embeddings(),
            _ => BTreeMap::new(),
        }
    }

    /// The subject at the requested size, or the checkpoint's own size.
    ///
    /// # Errors
    /// The errors of [`AskedSize::or_own`].
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
            samplers: SamplerRegistry::with_builtins(),
            unet: UNetConfig::read(&at("unet")).map_err(Failure::run)?,
            size: NO_SIZE,
            factor,
            text,
            texts: None,
            files: Files::Folder(folder.to_path_buf()),
        })
    }

    /// The hash of the checkpoint's content. Empty without a checkpoint, or if files are missing.
    pub fn inputs(&self) -> Inputs {
        of_checkpoint(match &self.files {
            Files::None => None,
            Files::Folder(folder) => identity(folder).ok(),
            Files::Checkpoint(checkpoint) => checkpoint.identity().ok(),
            Files::Model(model) => model.checkpoint.identity().ok(),
        })
    }

    /// The files that replace parts of the checkpoint.
    pub fn parts(&self) -> &Parts {
        static NONE: Parts = Parts::NONE;
        match &self.files {
            Files::Model(model) => model.parts(),
            Files::None | Files::Folder(_) | Files::Checkpoint(_) => &NONE,
        }
    }

    /// The LoRAs that change the checkpoint's weights.
    pub fn loras(&self) -> Vec<UsedLora> {
        match &self.files {
            Files::None | Files::Folder(_) => Vec::new(),
            Files::Checkpoint(checkpoint) => used(checkpoint),
            Files::Model(model) => used(&model.checkpoint),
        }
    }

    /// The properties that token counts and costs depend on, over `steps` steps. The run is guided if the U-Net allows it.
    pub fn workload(&self, steps: usize) -> Workload<'_> {
        Workload {
            unet: &self.unet,
            latents: self.size.latents(self.factor),
            text: self.text,
            steps,
            scheduler: &self.scheduler,
            samplers: &self.samplers,
            sampler: None,
            guided: self.unet.is_guided(GUIDANCE_SCALE),
            control: ControlSteps::ALL,
        }
    }
}

/// A method with the cost of a run.
pub struct Costed {
    /// The method, with its budget solved.
    pub method: Method,
    /// The method's name and the options from the user.
    pub label: String,
    /// The cost of the run; `None` if only a run can tell.
    pub cost: Option<RunCost>,
}

impl Costed {
    /// Checks `spec`'s options, solves its budget, and computes the cost of every step.
    pub fn new(spec: &PruneSpec, work: &Workload<'_>, catalogue: &MethodCatalogue) -> Outcome<Self> {
        let method = Method::resolve(spec, work, catalogue, None)?;
        Ok(Self { cost: run_cost(&method, work)?, label: spec.label(), method })
    }

    /// The ratio of removed tokens, if the method has one.
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
