//! What the fields of a scheduler's config may say.

/// diffusers' class names that we know.
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
    /// `EDMDPMSolverMultistepScheduler`: Playground v2.5's.
    EdmDpmMultistep,
}

/// Those names.
pub(super) const CLASSES: [(&str, SchedulerClass); 7] = [
    ("EulerDiscreteScheduler", SchedulerClass::Euler),
    ("EulerAncestralDiscreteScheduler", SchedulerClass::EulerAncestral),
    ("DDIMScheduler", SchedulerClass::Ddim),
    ("DPMSolverMultistepScheduler", SchedulerClass::DpmMultistep),
    ("LCMScheduler", SchedulerClass::Lcm),
    ("EDMEulerScheduler", SchedulerClass::EdmEuler),
    ("EDMDPMSolverMultistepScheduler", SchedulerClass::EdmDpmMultistep),
];

/// How training betas lie between `beta_start` and `beta_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BetaSchedule {
    /// Evenly.
    Linear,
    /// Their square roots evenly.
    ScaledLinear,
}

/// What the U-Net predicts.
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

/// Which training timesteps are visited (Lin et al., table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
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
#[non_exhaustive]
pub enum FinalSigma {
    /// None.
    Zero,
    /// The lowest of training.
    SigmaMin,
}

/// Bounds of Karras' noise levels; a bound that is absent is the one that the model was trained with.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SigmaBounds {
    /// The lowest level.
    pub min: Option<f64>,
    /// The highest level.
    pub max: Option<f64>,
}
