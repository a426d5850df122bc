//! Sampling: a token stays with a probability that grows with its score. It is not in the paper.
//!
//! ```text
//! g_i = −ln(−ln u_i),  u_i uniform in (0, 1)        Gumbel noise, new at every evaluation, block and layer
//! the tokens with the highest  ln(s_i) / τ + g_i  stay
//! ```
//!
//! This draws without replacement; with τ = 1 each draw has probabilities proportional to the scores (Kool, van Hoof and Welling 2019,
//! "Stochastic Beams and Where to Find Them"). A low τ approaches the highest scores, a high τ an even choice. So every token is
//! there at some step, and what pruning does to a token differs from step to step.

use serde::{Deserialize, Serialize};

use super::TokenSelector;
use crate::at_edm::draws::{generator, uniform};
use crate::backend::Partition;
use crate::plugin::{Run, Site};
use crate::{Error, Result, Tensor};

/// Times this, the bonus of a protected token is above all noise, and other scores are lost in rounding.
const SHIELD: f64 = 1e-20;

/// Draws the tokens that stay. The draw depends on the run's seed, the evaluation, the block and the layer. All rows of a batch
/// have the same noise, so rows with equal scores keep equal tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sample {
    /// τ, above 0. Default 1.
    pub temperature: f64,
    /// The run's seed.
    #[serde(skip)]
    seed: u64,
}

impl Default for Sample {
    fn default() -> Self {
        Self { temperature: 1.0, seed: 0 }
    }
}

impl Sample {
    /// Draws with this temperature.
    ///
    /// # Errors
    /// [`Error::Config`] names the option if it is not a number above 0.
    pub fn new(temperature: f64) -> Result<Self> {
        if temperature > 0.0 && temperature.is_finite() {
            return Ok(Self { temperature, seed: 0 });
        }
        let reason = format!("expected a number above 0, got {temperature}");
        Err(Error::config("selector_options.temperature", reason))
    }
}

impl<T: Tensor> TokenSelector<T> for Sample {
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.seed = run.seed;
        Ok(())
    }

    /// Scores of 0 and below are equal, and lower than all others.
    fn select(&mut self, site: &Site<'_>, scores: &T, kept: usize) -> Result<Partition<T>> {
        let shape = scores.shape().to_vec();
        let mut generator = generator(self.seed, site, None);
        let row: Vec<f32> = (0..site.tokens).map(|_| gumbel(uniform(&mut generator))).collect();
        let noise = T::from_f32(&row.repeat(shape[0]), &shape, scores.dtype(), &scores.device())?;
        let logits =
            scores.clamp_min(f64::from(f32::MIN_POSITIVE))?.ln()?.affine(1.0 / self.temperature, 0.0)?;
        logits.add(&noise)?.add(&scores.affine(SHIELD, 0.0)?)?.split_top_k(kept)
    }
}

/// Gumbel noise of `uniform` in `[0, 1)`. Half a step of the generator keeps both logarithms finite.
fn gumbel(uniform: f32) -> f32 {
    let inside = f64::from(uniform) + 0.5 / f64::from(1 << 24);
    -(-inside.ln()).ln() as f32
}
