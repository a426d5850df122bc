//! From a configuration to a plan.

use atedm_core::AttentionOps;
use atedm_core::plugin::Registry;

use crate::config::{Config, Origin};
use crate::failure::Outcome;
use crate::grid::points;
use crate::listener::Listener;
use crate::model::{AskedPixels, AskedSize, Model};
use crate::plan::{Plan, PlanInputs, RunOptions};
use crate::platform::Platform;
use crate::prompts::seed_of;
use crate::record::PromptLine;
use crate::subject::Subject;

/// A configuration, and who wrote it.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Its text, as the run's folder keeps it.
    pub text: &'a str,
    /// Who wrote it.
    pub origin: Origin<'a>,
}

impl Written<'_> {
    /// The plan for a U-Net of which no weights need be there.
    ///
    /// # Errors
    /// What is wrong with the configuration, its writer in front.
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
            size: subject.size,
            work: subject.workload(self.config.sampling.steps),
            hashes: subject.inputs(),
        };
        self.planned(inputs, platform, registry, listener)
    }

    /// The plan for an opened model, with warnings of prompts that do not fit it.
    ///
    /// # Errors
    /// As [`Written::plan`], and what reading the checkpoint's files reports.
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
            size,
            work: model.workload(size, config.sampling.steps),
            hashes: model.inputs()?,
        };
        let plan = self.planned(inputs, platform, registry, listener)?;
        model.warn_of_long_prompts(config.prompts.iter().map(|prompt| &prompt.text), listener)?;
        Ok(plan)
    }

    /// Gives `of` the size that the configuration asks for, under the names of its keys.
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

/// What all points of a configuration have in common.
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
