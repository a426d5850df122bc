//! The names of samplers.

use std::fmt;
use std::str::FromStr;

use atedm_core::{Error, Result};

use super::kinds::SchedulerClass;

/// A sampler chosen by name. It uses the checkpoint's training noise levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SamplerChoice {
    /// `euler`: diffusers' Euler discrete with the checkpoint's spacing, without Karras' levels.
    Euler,
    /// `euler-karras`: Euler with Karras' levels.
    EulerKarras,
    /// `euler-trailing`: Euler with trailing spacing.
    EulerTrailing,
    /// `euler-sgm`: the paper's sampler, which is `EulerEDMSampler` over `LegacyDDPMDiscretization` in the original
    /// SD-XL code (`sgm`). It is for models that predict noise over training betas. Despite its name, it does not
    /// sample EDM checkpoints.
    EulerSgm,
    /// `euler-a`: Euler ancestral.
    EulerAncestral,
    /// `ddim`: DDIM with η = 0.
    Ddim,
    /// `dpm++2m`: DPM-Solver++, second order multistep.
    DpmMultistep,
    /// `dpm++2m-karras`: DPM-Solver++ with Karras' levels.
    DpmMultistepKarras,
    /// `lcm`: latent consistency.
    Lcm,
}

impl SamplerChoice {
    /// All choices.
    pub const ALL: [Self; 9] = [
        Self::Euler,
        Self::EulerKarras,
        Self::EulerTrailing,
        Self::EulerSgm,
        Self::EulerAncestral,
        Self::Ddim,
        Self::DpmMultistep,
        Self::DpmMultistepKarras,
        Self::Lcm,
    ];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Euler => "euler",
            Self::EulerKarras => "euler-karras",
            Self::EulerTrailing => "euler-trailing",
            Self::EulerSgm => "euler-sgm",
            Self::EulerAncestral => "euler-a",
            Self::Ddim => "ddim",
            Self::DpmMultistep => "dpm++2m",
            Self::DpmMultistepKarras => "dpm++2m-karras",
            Self::Lcm => "lcm",
        }
    }

    /// The class that computes it.
    pub fn class(self) -> SchedulerClass {
        match self {
            Self::Euler | Self::EulerKarras | Self::EulerTrailing | Self::EulerSgm => SchedulerClass::Euler,
            Self::EulerAncestral => SchedulerClass::EulerAncestral,
            Self::Ddim => SchedulerClass::Ddim,
            Self::DpmMultistep | Self::DpmMultistepKarras => SchedulerClass::DpmMultistep,
            Self::Lcm => SchedulerClass::Lcm,
        }
    }
}

impl fmt::Display for SamplerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SamplerChoice {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        if name == "euler-edm" {
            let reason = "expected euler-sgm, as \"euler-edm\" is called now: sgm's sampler, not that of EDM checkpoints";
            return Err(Error::config("scheduler", reason));
        }
        Self::ALL.into_iter().find(|choice| choice.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::config("scheduler", format!("expected one of {names}, got {name:?}"))
        })
    }
}
