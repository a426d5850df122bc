//! `scheduler/scheduler_config.json` of a checkpoint.

use std::path::{Path, PathBuf};

use atedm_core::{Error, Result};

use super::fields::{one_of, parse, refuse_null};
use super::kinds::{BetaSchedule, CLASSES, FinalSigma, Prediction, SchedulerClass, SigmaBounds, Spacing};
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

/// A checkpoint's scheduler config. Unknown keys are ignored, as in diffusers. Absent keys take the default of the
/// class that is built in the end. Fields whose default differs between classes are `Option`s.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SchedulerConfig {
    /// The file's path, for error messages.
    pub origin: PathBuf,
    /// The class; `None` if the file names one that we do not have ([`SchedulerConfig::class_name`]).
    pub class: Option<SchedulerClass>,
    /// `_class_name` as the file has it.
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
    /// The quantity that the U-Net predicts.
    pub prediction: Prediction,
    /// The choice of training timesteps; the class's default if absent.
    pub spacing: Option<Spacing>,
    /// Added to `leading` timesteps.
    pub steps_offset: usize,
    /// Whether to use Karras' noise levels, not the training levels at the chosen timesteps (Euler, DPM++).
    pub karras: bool,
    /// Bounds of Karras' levels: `sigma_min` and `sigma_max`.
    pub sigma_bounds: SigmaBounds,
    /// The noise level after the last step (Euler, DPM++).
    pub final_sigma: FinalSigma,
    /// Whether to clip the predicted clean sample (DDIM, LCM). If absent, the class's default applies: DDIM clips, LCM
    /// does not.
    pub clip_sample: Option<bool>,
    /// The limit of the clipping.
    pub clip_sample_range: f64,
    /// Whether ᾱ after DDIM's last step is 1; else it is that of timestep 0. If absent, DDIM's default applies (1).
    pub set_alpha_to_one: Option<bool>,
    /// Order of DPM++: 1 or 2.
    pub solver_order: usize,
    /// DPM++: whether the last step of short runs (below 15 steps) has first order.
    pub lower_order_final: bool,
    /// DPM++: whether the last step has first order.
    pub euler_at_final: bool,
    /// Number of steps in LCM's distillation. A run uses some of them.
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
        let class = CLASSES.iter().find(|(name, _)| *name == class_name).map(|&(_, class)| class);
        refuse_null(&fields, class)?;
        // LCM is the only class with different training betas.
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
            sigma_bounds: SigmaBounds {
                min: fields.optional_number("sigma_min")?,
                max: fields.optional_number("sigma_max")?,
            },
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

    /// SD-XL's config: Euler discrete, scaled-linear betas 0.00085 to 0.012, leading spacing with offset 1.
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
            sigma_bounds: SigmaBounds::default(),
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
        for (name, value) in [("sigma_min", self.sigma_bounds.min), ("sigma_max", self.sigma_bounds.max)] {
            if value.is_some_and(|sigma| sigma <= 0.0) {
                return Err(fields.error(name, "expected a number above 0"));
            }
        }
        Ok(())
    }

    /// An error about a field of this file.
    pub(super) fn error(&self, field: &str, reason: impl Into<String>) -> Error {
        Error::config(format!("{}: {field}", self.origin.display()), reason)
    }
}

/// Refuses values that diffusers knows and we do not. To ignore them would be worse.
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
    // diffusers reads the last three, which belong to other solvers, as midpoint.
    one_of(fields, "solver_type", &[("midpoint", ()), ("logrho", ()), ("bh1", ()), ("bh2", ())])?;
    let continuous = fields.text("timestep_type")? == Some("continuous");
    if continuous && fields.text("prediction_type")? == Some("v_prediction") {
        return Err(fields.error("timestep_type", "expected discrete with v_prediction, got continuous"));
    }
    Ok(())
}
