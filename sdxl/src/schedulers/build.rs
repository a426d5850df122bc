//! A config and a number of steps become a sampler.

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

/// What the names of diffusers' classes contain whose models predict something else than ours do: EDM's and consistency
/// models' preconditioned output, the velocity of a flow.
const OTHER_KINDS: [&str; 4] = ["EDM", "FlowMatch", "CMStochastic", "CosineDPM"];

impl SchedulerConfig {
    /// The sampler for a run of `steps` steps: what the checkpoint says, or what `choice` asks for instead.
    ///
    /// As with diffusers' `from_config`, another class takes over the fields that it has too and its own default for
    /// the rest. `euler` and `dpm++2m` switch Karras' levels off, their `-karras` forms on. One departure: `ddim` over
    /// another class's config takes SD-XL's published `clip_sample` and `set_alpha_to_one`, false, where the config has
    /// none, since DDIM's own default clips latents as if they were pixels.
    ///
    /// A checkpoint whose U-Net is not one of noise over training betas (EDM's, flow matching) takes no choice: none of them
    /// would read its U-Net right.
    ///
    /// # Errors
    /// [`Error::Config`] for `steps` (0, or more than there are training steps), for `_class_name` when the file's
    /// own class is asked for and unknown or a choice cannot be right over it, and for a prediction type the class lacks.
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

    /// The config with what `choice` changes.
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
            // DDIM's own defaults are those of models of pixels; clipped latents are spoilt pictures.
            SamplerChoice::Ddim if self.class != Some(SchedulerClass::Ddim) => {
                config.clip_sample = config.clip_sample.or(Some(false));
                config.set_alpha_to_one = config.set_alpha_to_one.or(Some(false));
            }
            _ => {}
        }
        config
    }

    /// Whether the class belongs to models that are no predictors over training betas, which all choices are made for.
    fn is_of_its_own_kind(&self) -> bool {
        self.edm.is_some() || OTHER_KINDS.iter().any(|kind| self.class_name.contains(kind))
    }

    fn check_steps(&self, steps: usize) -> Result<()> {
        // DPM++ lays out one step more, and needs them all to differ.
        let most = self.num_train_timesteps - usize::from(self.class == Some(SchedulerClass::DpmMultistep));
        if steps == 0 || steps > most {
            let reason = format!("expected 1 to {most}, got {steps}");
            return Err(Error::config("steps", reason));
        }
        Ok(())
    }
}
