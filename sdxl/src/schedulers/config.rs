//! `scheduler/scheduler_config.json` of a checkpoint.

use std::path::{Path, PathBuf};

use atedm_core::{Error, Result, Tensor};

use super::edm::{self, EdmConfig};
use super::fields::{one_of, parse, refuse_null};
use super::{Sampler, SamplerChoice, ancestral, ddim, dpm, euler, lcm};
use crate::config::Fields;
use crate::text_file;

/// diffusers' class names that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulerClass {
    /// `EulerDiscreteScheduler`.
    Euler,
    /// `EulerAncestralDiscreteScheduler`.
    EulerAncestral,
    /// `DDIMScheduler`.
    Ddim,
    /// `DPMSolverMultistepScheduler`.
    DpmMultistep,
    /// `LCMScheduler`.
    Lcm,
    /// `EDMEulerScheduler`.
    EdmEuler,
    /// `EDMDPMSolverMultistepScheduler`: Playground v2.5's.
    EdmDpmMultistep,
}

const CLASSES: [(&str, SchedulerClass); 7] = [
    ("EulerDiscreteScheduler", SchedulerClass::Euler),
    ("EulerAncestralDiscreteScheduler", SchedulerClass::EulerAncestral),
    ("DDIMScheduler", SchedulerClass::Ddim),
    ("DPMSolverMultistepScheduler", SchedulerClass::DpmMultistep),
    ("LCMScheduler", SchedulerClass::Lcm),
    ("EDMEulerScheduler", SchedulerClass::EdmEuler),
    ("EDMDPMSolverMultistepScheduler", SchedulerClass::EdmDpmMultistep),
];

/// What the names of diffusers' classes contain whose models predict something else than ours do: EDM's and consistency
/// models' preconditioned output, the velocity of a flow.
const OTHER_KINDS: [&str; 4] = ["EDM", "FlowMatch", "CMStochastic", "CosineDPM"];

/// How training betas lie between `beta_start` and `beta_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BetaSchedule {
    /// Evenly.
    Linear,
    /// Their square roots evenly.
    ScaledLinear,
}

/// What the U-Net predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// The noise ε.
    Epsilon,
    /// `v = √ᾱ ε − √(1 − ᾱ) x₀` (Salimans and Ho 2022).
    VPrediction,
    /// The clean sample x₀.
    Sample,
}

/// Which training timesteps are visited (Lin et al., table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// Evenly from the first to the last.
    Linspace,
    /// Multiples of `⌊train / steps⌋`, plus an offset: never the last.
    Leading,
    /// Down from the last in even strides: never the first.
    Trailing,
}

/// The noise level after the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalSigma {
    /// None.
    Zero,
    /// The lowest of training.
    SigmaMin,
}

/// A checkpoint's scheduler config. Unknown keys are ignored, as diffusers does; absent ones take the default of the
/// class that is built in the end, which differs between classes: such fields are `Option`s here.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// The file, for error messages.
    pub origin: PathBuf,
    /// The class; `None` if the file names one we do not have ([`SchedulerConfig::class_name`]).
    pub class: Option<SchedulerClass>,
    /// `_class_name` as written.
    pub class_name: String,
    /// Training timesteps.
    pub num_train_timesteps: usize,
    /// First β.
    pub beta_start: f64,
    /// Last β.
    pub beta_end: f64,
    /// β between them.
    pub beta_schedule: BetaSchedule,
    /// All β, instead of the three fields above.
    pub trained_betas: Option<Vec<f32>>,
    /// What the U-Net predicts.
    pub prediction: Prediction,
    /// Which timesteps are visited; the class's default if absent.
    pub spacing: Option<Spacing>,
    /// Added to `leading` timesteps.
    pub steps_offset: usize,
    /// Karras' noise levels instead of the training ones at the visited timesteps (Euler, DPM++).
    pub karras: bool,
    /// Bounds `(sigma_min, sigma_max)` of Karras' levels; the training ones if absent.
    pub sigma_bounds: (Option<f64>, Option<f64>),
    /// The level after the last step (Euler, DPM++).
    pub final_sigma: FinalSigma,
    /// Clip the predicted clean sample (DDIM, LCM); the class's default if absent: DDIM clips, LCM does not.
    pub clip_sample: Option<bool>,
    /// Where to clip.
    pub clip_sample_range: f64,
    /// Whether ᾱ after DDIM's last step is 1 instead of that of timestep 0; DDIM's default (it is) if absent.
    pub set_alpha_to_one: Option<bool>,
    /// Order of DPM++: 1 or 2.
    pub solver_order: usize,
    /// DPM++: first order for the last step of short runs (below 15 steps).
    pub lower_order_final: bool,
    /// DPM++: first order for the last step.
    pub euler_at_final: bool,
    /// Steps of LCM's distillation, of which a run visits some.
    pub original_inference_steps: usize,
    /// LCM's factor on timesteps in the boundary condition.
    pub timestep_scaling: f64,
    /// How the U-Net is preconditioned, where the class is one of EDM's, or unknown and names `sigma_data`.
    pub edm: Option<EdmConfig>,
}

impl SchedulerConfig {
    /// Reads the file `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Config`] naming file and field for broken JSON and for values we do not support.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_json(&text_file::read(path)?, path)
    }

    /// Reads the file `path` of a checkpoint whose `model_index.json` names `class`.
    ///
    /// # Errors
    /// As [`SchedulerConfig::from_file`].
    pub fn from_file_as(path: &Path, class: &str) -> Result<Self> {
        Self::from_fields(parse(&text_file::read(path)?, path)?.with("_class_name", class.into()), path)
    }

    /// Parses the text of a config; `origin` names it in errors.
    ///
    /// # Errors
    /// [`Error::Config`] naming `origin` and the field.
    pub fn from_json(text: &str, origin: &Path) -> Result<Self> {
        Self::from_fields(parse(text, origin)?, origin)
    }

    fn from_fields(fields: Fields, origin: &Path) -> Result<Self> {
        refuse_unsupported(&fields)?;
        let class_name = fields.text("_class_name")?.unwrap_or_default().to_string();
        let class = CLASSES.iter().find(|(name, _)| *name == class_name).map(|&(_, class)| class);
        refuse_null(&fields, class)?;
        // LCM is the one class whose training betas differ.
        let lcm = class == Some(SchedulerClass::Lcm);
        let (start, end, schedule) = match lcm {
            true => (0.00085, 0.012, BetaSchedule::ScaledLinear),
            false => (0.0001, 0.02, BetaSchedule::Linear),
        };
        let schedules = [("linear", BetaSchedule::Linear), ("scaled_linear", BetaSchedule::ScaledLinear)];
        let predictions = [
            ("epsilon", Prediction::Epsilon),
            ("v_prediction", Prediction::VPrediction),
            ("sample", Prediction::Sample),
        ];
        let spacings =
            [("linspace", Spacing::Linspace), ("leading", Spacing::Leading), ("trailing", Spacing::Trailing)];
        let finals = [("zero", FinalSigma::Zero), ("sigma_min", FinalSigma::SigmaMin)];
        let optional_flag = |name| match fields.names(name) {
            true => fields.flag(name, false).map(Some),
            false => Ok(None),
        };
        let is_edm = match class {
            Some(class) => matches!(class, SchedulerClass::EdmEuler | SchedulerClass::EdmDpmMultistep),
            None => fields.names("sigma_data"),
        };
        let betas = fields.numbers("trained_betas")?;
        let betas = betas.map(|betas| betas.into_iter().map(|beta| beta as f32).collect());
        let config = Self {
            class,
            num_train_timesteps: fields.count("num_train_timesteps", 1000)?,
            beta_start: fields.number("beta_start", start)?,
            beta_end: fields.number("beta_end", end)?,
            beta_schedule: one_of(&fields, "beta_schedule", &schedules)?.unwrap_or(schedule),
            trained_betas: betas,
            prediction: one_of(&fields, "prediction_type", &predictions)?.unwrap_or(Prediction::Epsilon),
            spacing: one_of(&fields, "timestep_spacing", &spacings)?,
            steps_offset: fields.index("steps_offset", 0)?,
            karras: fields.flag("use_karras_sigmas", false)?,
            sigma_bounds: (fields.optional_number("sigma_min")?, fields.optional_number("sigma_max")?),
            final_sigma: one_of(&fields, "final_sigmas_type", &finals)?.unwrap_or(FinalSigma::Zero),
            clip_sample: optional_flag("clip_sample")?,
            clip_sample_range: fields.number("clip_sample_range", 1.0)?,
            set_alpha_to_one: optional_flag("set_alpha_to_one")?,
            solver_order: fields.count("solver_order", 2)?,
            lower_order_final: fields.flag("lower_order_final", true)?,
            euler_at_final: fields.flag("euler_at_final", false)?,
            original_inference_steps: fields.count("original_inference_steps", 50)?,
            timestep_scaling: fields.number("timestep_scaling", 10.0)?,
            edm: is_edm.then(|| EdmConfig::from_fields(&fields)).transpose()?,
            origin: origin.to_path_buf(),
            class_name,
        };
        config.validate(&fields)?;
        Ok(config)
    }

    /// SD-XL's: Euler discrete, scaled-linear betas 0.00085 to 0.012, leading with offset 1.
    pub fn sdxl() -> Self {
        Self {
            origin: PathBuf::from("scheduler_config.json"),
            class: Some(SchedulerClass::Euler),
            class_name: "EulerDiscreteScheduler".to_string(),
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            trained_betas: None,
            prediction: Prediction::Epsilon,
            spacing: Some(Spacing::Leading),
            steps_offset: 1,
            karras: false,
            sigma_bounds: (None, None),
            final_sigma: FinalSigma::Zero,
            clip_sample: Some(false),
            clip_sample_range: 1.0,
            set_alpha_to_one: Some(false),
            solver_order: 2,
            lower_order_final: true,
            euler_at_final: false,
            original_inference_steps: 50,
            timestep_scaling: 10.0,
            edm: None,
        }
    }

    fn validate(&self, fields: &Fields) -> Result<()> {
        let beta = |name: &str, value: f64| match value > 0.0 && value < 1.0 {
            true => Ok(()),
            false => Err(fields.error(name, format!("expected a number between 0 and 1, got {value}"))),
        };
        beta("beta_start", self.beta_start)?;
        beta("beta_end", self.beta_end)?;
        if !(2..=1_000_000).contains(&self.num_train_timesteps) {
            let got = self.num_train_timesteps;
            return Err(fields.error("num_train_timesteps", format!("expected 2 to 1000000, got {got}")));
        }
        if self.steps_offset >= self.num_train_timesteps {
            let reason = format!("expected below num_train_timesteps, got {}", self.steps_offset);
            return Err(fields.error("steps_offset", reason));
        }
        if let Some(betas) = &self.trained_betas {
            let good = betas.iter().all(|&beta| beta > 0.0 && beta < 1.0);
            if betas.len() != self.num_train_timesteps || !good {
                let reason = format!("expected {} numbers between 0 and 1", self.num_train_timesteps);
                return Err(fields.error("trained_betas", reason));
            }
        }
        if !(1..=2).contains(&self.solver_order) {
            return Err(fields.error("solver_order", format!("expected 1 or 2, got {}", self.solver_order)));
        }
        for (name, value) in [("sigma_min", self.sigma_bounds.0), ("sigma_max", self.sigma_bounds.1)] {
            if value.is_some_and(|sigma| sigma <= 0.0) {
                return Err(fields.error(name, "expected a number above 0"));
            }
        }
        Ok(())
    }

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
            return Ok(Box::new(euler::Euler::sgm(&config, steps)));
        }
        Ok(match config.class {
            Some(SchedulerClass::Euler) => Box::new(euler::Euler::new(&config, steps)),
            Some(SchedulerClass::EdmEuler) => Box::new(edm::EdmEuler::new(&config, steps)?),
            Some(SchedulerClass::EulerAncestral) => Box::new(ancestral::EulerAncestral::new(&config, steps)?),
            Some(SchedulerClass::Ddim) => Box::new(ddim::Ddim::new(&config, steps)?),
            Some(SchedulerClass::DpmMultistep) => Box::new(dpm::DpmMultistep::new(&config, steps)),
            Some(SchedulerClass::EdmDpmMultistep) => Box::new(dpm::DpmMultistep::edm(&config, steps)?),
            Some(SchedulerClass::Lcm) => Box::new(lcm::Lcm::new(&config, steps)?),
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

    /// An error about a field of this file.
    pub(super) fn error(&self, field: &str, reason: impl Into<String>) -> Error {
        Error::config(format!("{}: {field}", self.origin.display()), reason)
    }
}

/// Values that diffusers knows and we do not: better refused than ignored.
fn refuse_unsupported(fields: &Fields) -> Result<()> {
    for field in [
        "rescale_betas_zero_snr",
        "thresholding",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "use_lu_lambdas",
        "use_flow_sigmas",
        "use_dynamic_shifting",
    ] {
        if fields.flag(field, false)? {
            return Err(fields.error(field, "expected false, true is not supported"));
        }
    }
    if let Some(value) = fields.optional_number("lambda_min_clipped")? {
        return Err(fields.error("lambda_min_clipped", format!("expected -Infinity, got {value}")));
    }
    one_of(fields, "interpolation_type", &[("linear", ())])?;
    one_of(fields, "algorithm_type", &[("dpmsolver++", ()), ("deis", ())])?;
    // diffusers reads the last three, of other solvers, as midpoint.
    one_of(fields, "solver_type", &[("midpoint", ()), ("logrho", ()), ("bh1", ()), ("bh2", ())])?;
    let continuous = fields.text("timestep_type")? == Some("continuous");
    if continuous && fields.text("prediction_type")? == Some("v_prediction") {
        return Err(fields.error("timestep_type", "expected discrete with v_prediction, got continuous"));
    }
    Ok(())
}
