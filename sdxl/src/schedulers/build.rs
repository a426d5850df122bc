//! Builds a sampler from a config and a number of steps.

use atedm_core::{Error, Result, Tensor};

use super::ancestral::EulerAncestral;
use super::choice::SamplerChoice;
use super::config::SchedulerConfig;
use super::ddim::Ddim;
use super::dpm::DpmMultistep;
use super::euler::Euler;
use super::kinds::{CLASSES, SchedulerClass, Spacing};
use super::lcm::Lcm;
use super::sampler::Sampler;

/// Parts of the names of diffusers' classes whose models predict something different. These are the preconditioned
/// output of EDM's and consistency models, and the velocity of a flow.
const OTHER_KINDS: [&str; 4] = ["EDM", "FlowMatch", "CMStochastic", "CosineDPM"];

impl SchedulerConfig {
    /// The sampler for a run of `steps` steps. `choice` replaces the checkpoint's sampler.
    ///
    /// As with diffusers' `from_config`, another class takes over the fields that it also has, and its own default for
    /// the rest. `euler` and `dpm++2m` switch Karras' levels off; their `-karras` forms switch them on. One departure
    /// concerns `ddim` over another class's config without `clip_sample` or `set_alpha_to_one`. It then takes SD-XL's
    /// published value, false, because DDIM's own default clips latents as if they were pixels.
    ///
    /// A checkpoint whose U-Net does not predict noise over training betas (EDM's, flow matching) accepts no choice.
    /// None of the choices would read the U-Net's output correctly.
    ///
    /// # Errors
    /// [`Error::Config`] for `steps` (0, or more than the training steps). For `_class_name` if the file's own class is
    /// unknown and no choice replaces it, or if a choice cannot be right for that class. For a prediction type that the
    /// class lacks.
    pub fn build<T: Tensor>(
        &self,
        choice: Option<SamplerChoice>,
        steps: usize,
    ) -> Result<Box<dyn Sampler<T>>> {
        if let Some(choice) = choice.filter(|_| self.is_of_its_own_kind()) {
            let reason = format!(
                "expected no --scheduler ({choice}): a U-Net trained for {} is read wrongly by every sampler of another kind",
                self.class_name
            );
            return Err(self.error("_class_name", reason));
        }
        let config = self.adapted(choice);
        config.check_steps(steps)?;
        if choice == Some(SamplerChoice::EulerSgm) {
            return Ok(Box::new(Euler::sgm(&config, steps)));
        }
        Ok(match config.class {
            Some(SchedulerClass::Euler) => Box::new(Euler::new(&config, steps)),
            Some(SchedulerClass::EdmEuler) => Box::new(Euler::edm(&config, steps)?),
            Some(SchedulerClass::EulerAncestral) => Box::new(EulerAncestral::new(&config, steps)?),
            Some(SchedulerClass::Ddim) => Box::new(Ddim::new(&config, steps)?),
            Some(SchedulerClass::DpmMultistep) => Box::new(DpmMultistep::new(&config, steps)),
            Some(SchedulerClass::EdmDpmMultistep) => Box::new(DpmMultistep::edm(&config, steps)?),
            Some(SchedulerClass::Lcm) => Box::new(Lcm::new(&config, steps)?),
            None => {
                let known: Vec<&str> = CLASSES.iter().map(|(name, _)| *name).collect();
                let reason = format!("expected {}, got {:?}", known.join(", "), self.class_name);
                return Err(self.error("_class_name", reason));
            }
        })
    }

    /// The config with the changes of `choice`.
    fn adapted(&self, choice: Option<SamplerChoice>) -> Self {
        let mut config = self.clone();
        let Some(choice) = choice else { return config };
        config.class = Some(choice.class());
        match choice {
            SamplerChoice::Euler | SamplerChoice::DpmMultistep => config.karras = false,
            SamplerChoice::EulerKarras | SamplerChoice::DpmMultistepKarras => config.karras = true,
            SamplerChoice::EulerTrailing => {
                config.karras = false;
                config.spacing = Some(Spacing::Trailing);
            }
            // DDIM's own defaults suit models of pixels. Clipping latents would spoil the picture.
            SamplerChoice::Ddim if self.class != Some(SchedulerClass::Ddim) => {
                config.clip_sample = config.clip_sample.or(Some(false));
                config.set_alpha_to_one = config.set_alpha_to_one.or(Some(false));
            }
            _ => {}
        }
        config
    }

    /// Whether the class's models are not predictors over training betas. All choices are made for such predictors.
    fn is_of_its_own_kind(&self) -> bool {
        self.edm.is_some() || OTHER_KINDS.iter().any(|kind| self.class_name.contains(kind))
    }

    fn check_steps(&self, steps: usize) -> Result<()> {
        // DPM++ computes one more step, and all steps must differ.
        let most = self.num_train_timesteps - usize::from(self.class == Some(SchedulerClass::DpmMultistep));
        if steps == 0 || steps > most {
            let reason = format!("expected 1 to {most}, got {steps}");
            return Err(Error::config("steps", reason));
        }
        Ok(())
    }
}
