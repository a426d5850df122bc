//! Turns a configuration into a plan.

use atedm_core::AttentionOps;
use atedm_core::plugin::Registry;

use crate::config::{Config, Origin};
use crate::failure::Outcome;
use crate::grid::points;
use crate::listener::Listener;
use crate::loras::used;
use crate::model::{AskedPixels, AskedSize, Model};
use crate::plan::{Plan, PlanInputs, RunOptions};
use crate::platform::Platform;
use crate::prompts::seed_of;
use crate::record::PromptLine;
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
            hashes: subject.inputs(),
            loras: subject.loras(),
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
        let inputs = PlanInputs {
            model: model.name(),
            parts: model.parts(),
            size,
            work: model.workload(size, config.sampling.steps),
            texts: Some(model.texts()),
            embeddings: model.embeddings(),
            hashes: model.inputs()?,
            loras: used(&model.checkpoint),
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
    });
    RunOptions {
        title: config.title.clone(),
        prompts: prompts.collect(),
        rng: config.rng,
        noise_dtype: config.noise_dtype,
        vae_tiling: config.vae_tiling,
        masks: config.masks.clone(),
        distances: config.distances,
    }
}
