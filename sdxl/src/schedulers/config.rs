//! `scheduler/scheduler_config.json` of a checkpoint.

use std::path::{Path, PathBuf};

use atedm_core::{Error, Result};

use super::fields::{OVER_BETAS, levels, one_of, parse, refuse_null, refuse_unsupported};
use super::kinds::{
    BetaSchedule, DdpmVariance, DpmAlgorithm, FinalSigma, Levels, Prediction, SigmaBounds, Spacing,
    UniPcFactor,
};
use crate::config::Fields;
use crate::text_file;

/// The fields of EDM's classes besides `sigma_min`, `sigma_max` and the fields of all classes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EdmConfig {
    /// Standard deviation of the data.
    pub sigma_data: f64,
    /// ρ of Karras' levels.
    pub rho: f64,
    /// How the noise levels are spaced between the bounds.
    pub schedule: EdmSchedule,
}

/// How the noise levels are spaced between `sigma_max` and `sigma_min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EdmSchedule {
    /// Evenly in `σ^(1/ρ)` (Karras et al. 2022, equation 5).
    Karras,
    /// Evenly in `ln σ`.
    Exponential,
}

impl EdmConfig {
    pub(super) fn from_fields(fields: &Fields) -> Result<Self> {
        let schedules = [("karras", EdmSchedule::Karras), ("exponential", EdmSchedule::Exponential)];
        Ok(Self {
            sigma_data: fields.positive("sigma_data", 0.5)?,
            rho: fields.positive("rho", 7.0)?,
            schedule: one_of(fields, "sigma_schedule", &schedules)?.unwrap_or(EdmSchedule::Karras),
        })
    }
}

/// Parts of the names of diffusers' classes whose models were not trained with betas. They predict something else: the
/// preconditioned output of EDM or of consistency models, or the velocity of a flow.
const OTHER_KINDS: [&str; 4] = ["EDM", "FlowMatch", "CMStochastic", "CosineDPM"];

/// A checkpoint's scheduler config. Unknown keys are ignored, as in diffusers. Absent keys take the default of the
/// class that is built in the end. Fields whose default differs between classes are `Option`s.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SchedulerConfig {
    /// The file's path, for error messages.
    pub origin: PathBuf,
    /// `_class_name`: diffusers' class, or another that a [registry](super::SamplerRegistry) has.
    pub class_name: String,
    /// Number of training timesteps.
    pub num_train_timesteps: usize,
    /// First β.
    pub beta_start: f64,
    /// Last β.
    pub beta_end: f64,
    /// How the β are spaced between them.
    pub beta_schedule: BetaSchedule,
    /// All β. They replace the three fields above.
    pub trained_betas: Option<Vec<f32>>,
    /// Whether to rescale β so that the last training timestep is pure noise (zero terminal SNR; Lin et al., algorithm 1).
    pub rescale_betas_zero_snr: bool,
    /// The quantity that the U-Net predicts.
    pub prediction: Prediction,
    /// The choice of training timesteps; the class's default if absent.
    pub spacing: Option<Spacing>,
    /// Added to `leading` timesteps.
    pub steps_offset: usize,
    /// How noise levels are spaced (Euler, Heun, LMS, DPM++, UniPC).
    pub levels: Levels,
    /// Bounds of spaced levels other than the training levels: `sigma_min` and `sigma_max`.
    pub sigma_bounds: SigmaBounds,
    /// The noise level after the last step (Euler, DPM++, UniPC).
    pub final_sigma: FinalSigma,
    /// Whether to clip the predicted clean sample (DDIM, DDPM, LCM, Heun). If absent, the class's default applies: DDIM
    /// and DDPM clip, the others do not.
    pub clip_sample: Option<bool>,
    /// The limit of the clipping.
    pub clip_sample_range: f64,
    /// Whether ᾱ after DDIM's last step is 1; else it is that of timestep 0. If absent, DDIM's default applies (1).
    pub set_alpha_to_one: Option<bool>,
    /// Which equation DPM++ solves.
    pub algorithm: DpmAlgorithm,
    /// Order of DPM++ (1 or 2) and UniPC (1 to 3).
    pub solver_order: usize,
    /// Whether the last steps have lower orders. If absent, the class's default applies: DPM++ multistep lowers the order
    /// in short runs (below 15 steps), UniPC in all runs, DPM++ singlestep only if it must.
    pub lower_order_final: Option<bool>,
    /// DPM++: whether the last step has first order.
    pub euler_at_final: bool,
    /// UniPC's factor.
    pub unipc_factor: UniPcFactor,
    /// DDPM's variance.
    pub ddpm_variance: DdpmVariance,
    /// Number of steps in the distillation of LCM and TCD. A run uses some of them.
    pub original_inference_steps: usize,
    /// LCM's factor on timesteps in the boundary condition.
    pub timestep_scaling: f64,
    /// The U-Net's preconditioning. It is set for EDM's classes, and for an unknown class whose file has `sigma_data`.
    pub edm: Option<EdmConfig>,
}

impl SchedulerConfig {
    /// Reads the file `path`.
    ///
    /// # Errors
    /// [`Error::Io`]. [`Error::Config`] naming file and field for broken JSON and for values that we do not support.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_json(&text_file::read(path)?, path)
    }

    /// Reads the file `path` of a checkpoint whose `model_index.json` names `class`.
    ///
    /// # Errors
    /// The errors of [`SchedulerConfig::from_file`].
    pub(crate) fn from_file_as(path: &Path, class: &str) -> Result<Self> {
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
        refuse_null(&fields, &class_name)?;
        let (start, end, schedule) = match class_name.as_str() {
            "LCMScheduler" | "TCDScheduler" => (0.00085, 0.012, BetaSchedule::ScaledLinear),
            "HeunDiscreteScheduler" => (0.00085, 0.012, BetaSchedule::Linear),
            _ => (0.0001, 0.02, BetaSchedule::Linear),
        };
        let schedules = [("linear", BetaSchedule::Linear), ("scaled_linear", BetaSchedule::ScaledLinear)];
        let predictions = [
            ("epsilon", Prediction::Epsilon),
            ("v_prediction", Prediction::VPrediction),
            ("sample", Prediction::Sample),
        ];
        let spacings =
            [("linspace", Spacing::Linspace), ("leading", Spacing::Leading), ("trailing", Spacing::Trailing)];
        let algorithms = [
            ("dpmsolver++", DpmAlgorithm::Ode),
            ("deis", DpmAlgorithm::Ode),
            ("sde-dpmsolver++", DpmAlgorithm::Sde),
        ];
        // diffusers reads the types of other solvers as the default.
        let factors = [
            ("bh1", UniPcFactor::Bh1),
            ("bh2", UniPcFactor::Bh2),
            ("midpoint", UniPcFactor::Bh2),
            ("logrho", UniPcFactor::Bh2),
        ];
        let variances = [
            ("fixed_small", DdpmVariance::Small),
            ("fixed_small_log", DdpmVariance::Small),
            ("fixed_large", DdpmVariance::Large),
        ];
        let finals = [("zero", FinalSigma::Zero), ("sigma_min", FinalSigma::SigmaMin)];
        let optional_flag = |name| match fields.names(name) {
            true => fields.flag(name, false).map(Some),
            false => Ok(None),
        };
        let is_edm = match class_name.as_str() {
            "EDMEulerScheduler" | "EDMDPMSolverMultistepScheduler" => true,
            other => !OVER_BETAS.contains(&other) && fields.names("sigma_data"),
        };
        let betas = fields.numbers("trained_betas")?;
        let betas = betas.map(|betas| betas.into_iter().map(|beta| beta as f32).collect());
        let config = Self {
            num_train_timesteps: fields.count("num_train_timesteps", 1000)?,
            beta_start: fields.number("beta_start", start)?,
            beta_end: fields.number("beta_end", end)?,
            beta_schedule: one_of(&fields, "beta_schedule", &schedules)?.unwrap_or(schedule),
            trained_betas: betas,
            rescale_betas_zero_snr: fields.flag("rescale_betas_zero_snr", false)?,
            prediction: one_of(&fields, "prediction_type", &predictions)?.unwrap_or(Prediction::Epsilon),
            spacing: one_of(&fields, "timestep_spacing", &spacings)?,
            steps_offset: fields.index("steps_offset", 0)?,
            levels: levels(&fields)?,
            sigma_bounds: SigmaBounds {
                min: fields.optional_number("sigma_min")?,
                max: fields.optional_number("sigma_max")?,
            },
            final_sigma: one_of(&fields, "final_sigmas_type", &finals)?.unwrap_or(FinalSigma::Zero),
            clip_sample: optional_flag("clip_sample")?,
            clip_sample_range: fields.number("clip_sample_range", 1.0)?,
            set_alpha_to_one: optional_flag("set_alpha_to_one")?,
            algorithm: one_of(&fields, "algorithm_type", &algorithms)?.unwrap_or(DpmAlgorithm::Ode),
            solver_order: fields.count("solver_order", 2)?,
            lower_order_final: optional_flag("lower_order_final")?,
            euler_at_final: fields.flag("euler_at_final", false)?,
            unipc_factor: one_of(&fields, "solver_type", &factors)?.unwrap_or(UniPcFactor::Bh2),
            ddpm_variance: one_of(&fields, "variance_type", &variances)?.unwrap_or(DdpmVariance::Small),
            original_inference_steps: fields.count("original_inference_steps", 50)?,
            timestep_scaling: fields.number("timestep_scaling", 10.0)?,
            edm: is_edm.then(|| EdmConfig::from_fields(&fields)).transpose()?,
            origin: origin.to_path_buf(),
            class_name,
        };
        config.validate(&fields)?;
        Ok(config)
    }

    /// SD-XL's config: Euler discrete, scaled-linear betas 0.00085 to 0.012, leading spacing with offset 1.
    pub fn sdxl() -> Self {
        Self {
            origin: PathBuf::from("scheduler_config.json"),
            class_name: "EulerDiscreteScheduler".to_string(),
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            trained_betas: None,
            rescale_betas_zero_snr: false,
            prediction: Prediction::Epsilon,
            spacing: Some(Spacing::Leading),
            steps_offset: 1,
            levels: Levels::Training,
            sigma_bounds: SigmaBounds::default(),
            final_sigma: FinalSigma::Zero,
            clip_sample: Some(false),
            clip_sample_range: 1.0,
            set_alpha_to_one: Some(false),
            algorithm: DpmAlgorithm::Ode,
            solver_order: 2,
            lower_order_final: None,
            euler_at_final: false,
            unipc_factor: UniPcFactor::Bh2,
            ddpm_variance: DdpmVariance::Small,
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
        if !(1..=3).contains(&self.solver_order) {
            return Err(fields.error("solver_order", format!("expected 1 to 3, got {}", self.solver_order)));
        }
        for (name, value) in [("sigma_min", self.sigma_bounds.min), ("sigma_max", self.sigma_bounds.max)] {
            if value.is_some_and(|sigma| sigma <= 0.0) {
                return Err(fields.error(name, "expected a number above 0"));
            }
        }
        Ok(())
    }

    /// The same with other noise levels.
    pub(super) fn with_levels(&self, levels: Levels) -> Self {
        Self { levels, ..self.clone() }
    }

    /// The same for a class that clips by default. Over another class's config it takes SD-XL's published `clip_sample` and
    /// `set_alpha_to_one`, false, where the config has none: the defaults are those of models of pixels, and clipped latents
    /// are spoilt pictures. This departs from diffusers.
    pub(super) fn unclipped(&self, class: &str) -> Self {
        let mut config = self.clone();
        if self.class_name != class {
            config.clip_sample = config.clip_sample.or(Some(false));
            config.set_alpha_to_one = config.set_alpha_to_one.or(Some(false));
        }
        config
    }

    /// `solver_order`, for DPM++, which is here up to the second.
    pub(super) fn expect_low_order(&self) -> Result<usize> {
        match self.solver_order {
            order @ (1 | 2) => Ok(order),
            order => Err(self.error("solver_order", format!("expected 1 or 2 for DPM++, got {order}"))),
        }
    }

    /// Checks that the U-Net was trained for noise over betas. Samplers over betas read others wrongly: those of EDM, of
    /// consistency models, of flows.
    pub(super) fn expect_betas(&self) -> Result<()> {
        let is_other = OTHER_KINDS.iter().any(|kind| self.class_name.contains(kind));
        if self.edm.is_none() && !is_other {
            return Ok(());
        }
        let reason = format!(
            "expected no --scheduler: a U-Net trained for {} is read wrongly by every sampler of another kind",
            self.class_name
        );
        Err(self.error("_class_name", reason))
    }

    /// An error about a field of this file.
    pub(super) fn error(&self, field: &str, reason: impl Into<String>) -> Error {
        Error::config(format!("{}: {field}", self.origin.display()), reason)
    }
}
