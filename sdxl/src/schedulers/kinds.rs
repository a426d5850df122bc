//! The values of fields in a scheduler's config.

/// How training betas lie between `beta_start` and `beta_end`.
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

/// How the noise levels of a run lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Levels {
    /// The training levels at the visited timesteps.
    Training,
    /// Evenly in `σ^(1/7)` (Karras et al. 2022, equation 5).
    Karras,
    /// Evenly in `ln σ`.
    Exponential,
    /// Evenly in the quantiles of the beta distribution with α = β = 0.6 (Lee et al. 2024): close to both ends.
    Beta,
}

/// The equation that DPM-Solver++ solves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DpmAlgorithm {
    /// The ordinary one, without noise: `dpmsolver++`.
    Ode,
    /// The stochastic one, which draws noise in every step: `sde-dpmsolver++`.
    Sde,
}

/// UniPC's factor `B(h)` (Zhao et al. 2023, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UniPcFactor {
    /// `h`.
    Bh1,
    /// `eʰ − 1`.
    Bh2,
}

/// Variance of the noise that DDPM adds in a step (Ho et al. 2020, section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DdpmVariance {
    /// That of the step before, given the clean sample.
    Small,
    /// β of the step.
    Large,
}

/// Bounds of noise levels that do not follow the training ones; a bound that is absent is the one that the model was
/// trained with.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SigmaBounds {
    /// The lowest level.
    pub min: Option<f64>,
    /// The highest level.
    pub max: Option<f64>,
}
