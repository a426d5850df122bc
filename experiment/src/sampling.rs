//! Sampling settings.

use atedm_core::{DType, Error};
use atedm_sdxl::prompt::TextOptions;
use atedm_sdxl::rng::{NoiseDType, RngKind};

use crate::failure::{Failure, Outcome};
use crate::prompts::check_length;
use crate::record::Attention;

/// The sampling settings of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Number of denoising steps.
    pub steps: usize,
    /// The classifier-free guidance scale.
    pub guidance_scale: f64,
    /// How far guided predictions get the standard deviation of the prompt's own prediction: 0 to 1.
    pub guidance_rescale: f64,
    /// The name of a sampler that replaces the checkpoint's.
    pub scheduler: Option<String>,
    /// The negative prompt.
    pub negative_prompt: Option<String>,
    /// How the prompt and the negative prompt are read and encoded.
    pub text: TextOptions,
    /// How attention is computed.
    pub attention: Attention,
}

impl Sampling {
    /// Returns the settings if every number is in range.
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
        if !(0.0..=1.0).contains(&self.guidance_rescale) {
            return Err(Failure::usage(format!(
                "guidance_rescale: expected a number from 0 to 1, got {}",
                self.guidance_rescale
            )));
        }
        Ok(self)
    }
}

/// Parses the name of a noise dtype.
pub(crate) fn dtype(name: &str) -> Outcome<DType> {
    let reason = |error| match error {
        Error::Config { reason, .. } => Failure::usage(reason),
        other => other.into(),
    };
    name.parse().map_err(|error| reason(error).within("rng_dtype"))
}

/// The dtype that a generator draws in, if the user `asked` for one. `key` names the option in messages.
///
/// # Errors
/// [`Failure::Usage`] for another dtype than f32 with a generator that always draws in f32.
pub fn noise_dtype(rng: RngKind, asked: Option<DType>, key: &str) -> Outcome<NoiseDType> {
    match (rng, asked) {
        (_, None) => Ok(NoiseDType::OfModel),
        (RngKind::ChaCha, Some(dtype)) if dtype != DType::F32 => {
            Err(Failure::usage(format!("{key}: expected f32, which chacha always draws in, got {dtype}")))
        }
        (_, Some(dtype)) => Ok(NoiseDType::Always(dtype)),
    }
}
