//! Turns a configuration into a plan.

use atedm_core::AttentionOps;
use atedm_core::plugin::Registry;

use crate::config::{Config, Origin};
use crate::control::{ControlImage, ControlPicture};
use crate::failure::Outcome;
use crate::grid::points;
use crate::init_image::{InitImage, Start};
use crate::inputs::Inputs;
use crate::listener::Listener;
use crate::model::{AskedPixels, AskedSize, Model};
use crate::plan::{Plan, PlanInputs, RunOptions};
use crate::platform::Platform;
use crate::prompts::seed_of;
use crate::record::{PromptLine, UsedControl};
use crate::subject::Subject;

/// A configuration and its origin.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The text of the configuration. The run's folder stores it.
    pub text: &'a str,
    /// The origin of the configuration.
    pub origin: Origin<'a>,
}

impl Written<'_> {
    /// Makes the plan for a U-Net. Weights need not exist.
    ///
    /// # Errors
    /// The errors of the configuration; the message begins with its origin.
    pub fn plan<T: AttentionOps>(
        &self,
        subject: Subject,
        platform: &Platform,
        registry: &Registry<T>,
        listener: &dyn Listener,
    ) -> Outcome<Plan> {
        let subject = self.sized(|asked| subject.sized(asked))?;
        let inputs = PlanInputs {
            model: &subject.name,
            parts: subject.parts(),
            size: subject.size,
            work: subject.workload(self.config.sampling.steps),
            texts: subject.texts(),
            embeddings: subject.embeddings(),
            hashes: self.inputs(subject.inputs())?,
            loras: subject.loras(),
            control: self.used_control()?,
            strength: self.config.start.as_ref().map(Start::strength),
        };
        self.planned(inputs, platform, registry, listener)
    }

    /// Makes the plan for an opened model. Warns of prompts that do not fit it.
    ///
    /// # Errors
    /// The errors of [`Written::plan`], and of reading the checkpoint's files.
    pub fn plan_for<T: AttentionOps>(
        &self,
        model: &Model,
        platform: &Platform,
        registry: &Registry<T>,
        listener: &dyn Listener,
    ) -> Outcome<Plan> {
        let Self { config, origin, .. } = self;
        let size = self.sized(|asked| model.size(asked))?;
        let tiles = AskedPixels { key: &origin.key("vae_tiling"), pixels: config.vae_tiling };
        model.check_tiles(tiles).map_err(|failure| origin.blamed(failure))?;
        let work = model.workload(size, config.sampling.steps);
        let inputs = PlanInputs {
            control: self.used_control()?,
            strength: config.start.as_ref().map(Start::strength),
            ..PlanInputs::of(model, size, work, self.inputs(model.inputs()?)?)
        };
        let plan = self.planned(inputs, platform, registry, listener)?;
        let mut warned: Vec<String> = Vec::new();
        for options in plan.points.iter().map(|point| point.info.settings.text()) {
            if !warned.contains(&options.syntax) {
                let prompts = config.prompts.iter().map(|prompt| prompt.text.as_str());
                model.texts().warn(prompts, &options, &origin.key("prompt_syntax"), listener)?;
                warned.push(options.syntax);
            }
        }
        Ok(plan)
    }

    /// The picture from which every image starts, fitted to the images' size.
    ///
    /// # Errors
    /// [`Failure::Run`](crate::Failure::Run) naming the file that cannot be read.
    pub fn init_image(&self, model: &Model, listener: &dyn Listener) -> Outcome<Option<InitImage>> {
        let Some(start) = self.config.start.clone() else { return Ok(None) };
        let size = self.sized(|asked| model.size(asked))?;
        let init = start.read(size).map_err(|failure| self.origin.blamed(failure))?;
        if let Some(note) = init.note() {
            listener.note(&note);
        }
        Ok(Some(init))
    }

    /// The picture that the ControlNet follows, fitted to the images' size.
    ///
    /// # Errors
    /// The errors of [`Written::init_image`].
    pub fn control_image(&self, model: &Model, listener: &dyn Listener) -> Outcome<Option<ControlImage>> {
        let Some(chosen) = self.config.control.clone() else { return Ok(None) };
        let size = self.sized(|asked| model.size(asked))?;
        let image = chosen.read(size).map_err(|failure| self.origin.blamed(failure))?;
        if let Some(note) = image.note() {
            listener.note(&note);
        }
        Ok(Some(image))
    }

    /// What the ControlNet follows, as records name it.
    fn used_control(&self) -> Outcome<Option<UsedControl>> {
        let used = self.config.control.as_ref().map(ControlPicture::used).transpose();
        used.map_err(|failure| self.origin.blamed(failure))
    }

    /// The hashes of a model's files, with those of the configuration's pictures.
    fn inputs(&self, mut inputs: Inputs) -> Outcome<Inputs> {
        if let Some(start) = &self.config.start {
            start.add_to(&mut inputs).map_err(|failure| self.origin.blamed(failure))?;
        }
        Ok(inputs)
    }

    /// Calls `of` with the size that the configuration asks for, named by its keys.
    fn sized<R>(&self, of: impl FnOnce(AskedSize<'_>) -> Outcome<R>) -> Outcome<R> {
        let [wide, high] = ["width", "height"].map(|key| self.origin.key(key));
        let asked = AskedSize {
            width: AskedPixels { key: &wide, pixels: self.config.width },
            height: AskedPixels { key: &high, pixels: self.config.height },
        };
        of(asked).map_err(|failure| self.origin.blamed(failure))
    }

    fn planned<T: AttentionOps>(
        &self,
        inputs: PlanInputs<'_>,
        platform: &Platform,
        registry: &Registry<T>,
        listener: &dyn Listener,
    ) -> Outcome<Plan> {
        if let Some(remark) = &self.config.remark {
            listener.warning(remark);
        }
        let plan = || {
            let points = points(self.config)?;
            let plan = Plan::new(options(self.config), points, &inputs, platform, registry, listener)?;
            plan.check_each_once()?;
            Ok(plan)
        };
        plan().map_err(|failure| self.origin.blamed(failure))
    }
}

/// The options that all points of a configuration share.
fn options(config: &Config) -> RunOptions {
    let prompts = config.prompts.iter().map(|prompt| PromptLine {
        id: prompt.id.clone(),
        prompt: prompt.text.clone(),
        seed: prompt.seed.unwrap_or_else(|| seed_of(config.seed, &prompt.id)),
        groups: prompt.groups.clone(),
    });
    RunOptions {
        title: config.title.clone(),
        prompts: prompts.collect(),
        rng: config.rng,
        noise_dtype: config.noise_dtype,
        vae_tiling: config.vae_tiling,
        masks: config.masks.clone(),
        distances: config.distances,
        unreachable: config.unreachable,
    }
}
