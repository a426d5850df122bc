//! The values of fields in a scheduler's config.

/// The class names of diffusers that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
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
    /// `EDMDPMSolverMultistepScheduler`, the class of Playground v2.5.
    EdmDpmMultistep,
}

/// The class names.
pub(super) const CLASSES: [(&str, SchedulerClass); 7] = [
    ("EulerDiscreteScheduler", SchedulerClass::Euler),
    ("EulerAncestralDiscreteScheduler", SchedulerClass::EulerAncestral),
    ("DDIMScheduler", SchedulerClass::Ddim),
    ("DPMSolverMultistepScheduler", SchedulerClass::DpmMultistep),
    ("LCMScheduler", SchedulerClass::Lcm),
    ("EDMEulerScheduler", SchedulerClass::EdmEuler),
    ("EDMDPMSolverMultistepScheduler", SchedulerClass::EdmDpmMultistep),
];

/// How training betas are spaced between `beta_start` and `beta_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BetaSchedule {
    /// Evenly spaced.
    Linear,
    /// With evenly spaced square roots.
    ScaledLinear,
}

/// The quantity that the U-Net predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prediction {
    /// The noise ε.
    Epsilon,
    /// `v = √ᾱ ε − √(1 − ᾱ) x₀` (Salimans and Ho 2022).
    VPrediction,
    /// The clean sample x₀.
    Sample,
}

/// Which training timesteps a run uses (Lin et al., table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spacing {
    /// Evenly spaced from the first to the last.
    Linspace,
    /// Multiples of `⌊train / steps⌋` plus an offset. The last timestep is never used.
    Leading,
    /// Evenly spaced downwards from the last. The first timestep is never used.
    Trailing,
}

/// The noise level after the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinalSigma {
    /// Zero.
    Zero,
    /// The lowest training level.
    SigmaMin,
}

/// The bounds of Karras' noise levels. An absent bound is the model's training bound.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SigmaBounds {
    /// The lowest level.
    pub min: Option<f64>,
    /// The highest level.
    pub max: Option<f64>,
}
