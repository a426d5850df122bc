//! How images are sampled.

use atedm_core::{DType, Error};
use atedm_sdxl::rng::{NoiseDType, RngKind};
use atedm_sdxl::schedulers::SamplerChoice;

use crate::failure::{Failure, Outcome};
use crate::prompts::check_length;
use crate::record::Attention;

/// How an image is sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Denoising steps.
    pub steps: usize,
    /// Classifier-free guidance.
    pub guidance_scale: f64,
    /// Sampler instead of the checkpoint's.
    pub scheduler: Option<SamplerChoice>,
    /// What is steered away from.
    pub negative_prompt: Option<String>,
    /// How attention is computed.
    pub attention: Attention,
}

impl Sampling {
    /// The same, if every number is in range.
    pub fn checked(self) -> Outcome<Self> {
        if let Some(text) = &self.negative_prompt {
            check_length(text).map_err(|reason| Failure::usage(format!("negative_prompt: {reason}")))?;
        }
        if self.steps == 0 {
            return Err(Failure::usage("steps: expected at least 1, got 0"));
        }
        if !self.guidance_scale.is_finite() {
            return Err(Failure::usage(format!(
                "guidance_scale: expected a finite number, got {}",
                self.guidance_scale
            )));
        }
        Ok(self)
    }
}

/// A sampler by its name.
pub(crate) fn sampler(name: &str) -> Outcome<SamplerChoice> {
    Ok(name.parse()?)
}

/// The element type of noise by its name.
pub(crate) fn dtype(name: &str) -> Outcome<DType> {
    let reason = |error| match error {
        Error::Config { reason, .. } => Failure::usage(reason),
        other => other.into(),
    };
    name.parse().map_err(|error| reason(error).within("rng_dtype"))
}

/// What a generator draws in, if `asked` for that; `key` is what asked, for the message.
///
/// # Errors
/// [`Failure::Usage`] for a generator that draws in one type alone.
pub fn noise_dtype(rng: RngKind, asked: Option<DType>, key: &str) -> Outcome<NoiseDType> {
    match (rng, asked) {
        (_, None) => Ok(NoiseDType::OfModel),
        (RngKind::ChaCha, Some(dtype)) if dtype != DType::F32 => {
            Err(Failure::usage(format!("{key}: expected f32, which chacha always draws in, got {dtype}")))
        }
        (_, Some(dtype)) => Ok(NoiseDType::Always(dtype)),
    }
}
