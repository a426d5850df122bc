//! The U-Net that `flops` and `bench` speak of, known by its configuration alone: SD-XL base's, or a checkpoint's.

use std::path::{Path, PathBuf};

use atedm_core::plugin::{Grid, MethodCatalogue};
use atedm_sdxl::checkpoint::identity;
use atedm_sdxl::config::{TextEncoderConfig, UNetConfig, VaeConfig};
use atedm_sdxl::flops::{self, RunCost};
use atedm_sdxl::schedulers::SchedulerConfig;

use crate::experiment::inputs::{Inputs, of_checkpoint};
use crate::failure::{Failure, Outcome};
use crate::method::{Method, Workload};
use crate::model::{Model, pixels};
use crate::prune::PruneSpec;

/// A U-Net at one size.
pub(super) struct Subject {
    /// What it is called.
    pub(super) name: String,
    /// Its configuration.
    pub(super) unet: UNetConfig,
    /// Width and height in pixels.
    pub(super) size: (usize, usize),
    /// Pixels a latent, in each direction.
    factor: usize,
    /// Text tokens.
    pub(super) text: usize,
    /// Its scheduler; SD-XL's where it names none.
    pub(super) scheduler: SchedulerConfig,
    /// The checkpoint's files, if there are any.
    files: Files,
}

/// Where a checkpoint's files are.
enum Files {
    /// There are none.
    None,
    /// In a folder, where weights may be missing.
    Folder(PathBuf),
    /// Those of a model that is unpacked or in a cache.
    Model(Box<Model>),
}

impl Subject {
    /// SD-XL base 1.0, or the checkpoint `typed`: of a folder the configurations are enough, weights need not be there.
    pub(super) fn open(typed: Option<&str>, asked: [(&str, Option<usize>); 2]) -> Outcome<Self> {
        Self::of(typed)?.sized(asked)
    }

    /// [`Subject::open`] without a size.
    pub(super) fn of(typed: Option<&str>) -> Outcome<Self> {
        Ok(match typed {
            None => Self {
                name: "SD-XL base 1.0".into(),
                unet: UNetConfig::sdxl_base(),
                size: (0, 0),
                factor: 8,
                text: 77,
                scheduler: SchedulerConfig::sdxl(),
                files: Files::None,
            },
            Some(typed) if Path::new(typed).join("unet").is_dir() => {
                let folder = Path::new(typed);
                let name = folder.file_name().unwrap_or(folder.as_os_str());
                Self::of_folder(folder, &name.to_string_lossy())?
            }
            Some(typed) => {
                let model = Model::open(Some(typed), None)?;
                let subject = Self::of_folder(model.checkpoint.root(), model.name())?;
                Self { files: Files::Model(Box::new(model)), ..subject }
            }
        })
    }

    /// At the size asked for under these names, else the checkpoint's own.
    pub(super) fn sized(mut self, asked: [(&str, Option<usize>); 2]) -> Outcome<Self> {
        let own = self.unet.sample_size.map(|latents| latents * self.factor);
        self.size = pixels(self.factor, own, asked)?;
        Ok(self)
    }

    fn of_folder(folder: &Path, name: &str) -> Outcome<Self> {
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
            size: (0, 0),
            factor,
            text,
            files: Files::Folder(folder.to_path_buf()),
        })
    }

    /// What the checkpoint is, by its content; nothing without a checkpoint whose files are all there.
    pub(super) fn inputs(&self) -> Inputs {
        of_checkpoint(match &self.files {
            Files::None => None,
            Files::Folder(folder) => identity(folder).ok(),
            Files::Model(model) => model.checkpoint.identity().ok(),
        })
    }

    /// What counts and costs depend on, over `steps` steps.
    pub(super) fn workload(&self, steps: usize) -> Workload<'_> {
        let latents = Grid::new(self.size.1 / self.factor, self.size.0 / self.factor);
        Workload {
            unet: &self.unet,
            latents,
            text: self.text,
            steps,
            scheduler: &self.scheduler,
            sampler: None,
        }
    }
}

/// A method with the cost of a run under it.
pub(super) struct Costed {
    /// The method, its budget solved.
    pub(super) method: Method,
    /// Its name and the options that were typed.
    pub(super) label: String,
    /// The run's cost; `None` where only a run tells.
    pub(super) cost: Option<RunCost>,
}

impl Costed {
    /// Checks `spec`'s options, solves its budget, and works out what every step costs.
    pub(super) fn new(spec: &PruneSpec, work: &Workload<'_>, catalogue: &MethodCatalogue) -> Outcome<Self> {
        let method = Method::resolve(spec, work, catalogue, None)?;
        Ok(Self { cost: run_cost(&method, work)?, label: label(spec), method })
    }

    /// The ratio it removes, where the method has one.
    pub(super) fn ratio(&self) -> Option<f64> {
        self.method.settings.get("ratio").and_then(serde_json::Value::as_f64)
    }
}

fn run_cost(method: &Method, work: &Workload<'_>) -> Outcome<Option<RunCost>> {
    let blocks = work.blocks();
    let mut steps = Vec::with_capacity(work.steps);
    for step in 0..work.steps {
        let mut layers = Vec::with_capacity(blocks.len());
        for block in &blocks {
            let Some(tokens) = method.tokens(block, step, work.steps)? else { return Ok(None) };
            layers.push((block.id, tokens));
        }
        steps.push(layers);
    }
    let cost = RunCost::new(work.steps, |step| {
        flops::pruned(work.unet, work.latents, work.text, |block| {
            let layers = steps.get(step).and_then(|layers| layers.iter().find(|(id, _)| *id == block.id));
            Ok(layers.map(|(_, tokens)| tokens.clone()).unwrap_or_default())
        })
    })?;
    Ok(Some(cost))
}

/// `at-edm prune_point=before_ff`: the method and its typed options.
pub(super) fn label(spec: &PruneSpec) -> String {
    let option = |(key, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::String(text) => format!(" {key}={text}"),
        other => format!(" {key}={other}"),
    };
    std::iter::once(spec.method.clone()).chain(spec.options.iter().map(option)).collect()
}
