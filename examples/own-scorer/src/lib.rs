//! A scorer of your own: the more a token differs from the average token, the higher its score.
//!
//! It needs no attention map, so it is cheaper than G-WPR. You select it in the same way:
//!
//! ```text
//! own-scorer generate --model DIR --prompt P --prune at-edm --prune-opt scorer=contrast,scorer_options.power=2 …
//! ```

use atedm::Extension;
use atedm_core::at_edm::{Parts, ScoreInput, Scores, TokenScorer};
use atedm_core::{AttentionOps, DType, Error, Result};
use serde::Deserialize;

// ANCHOR: scorer
/// `‖h_i − mean(h)‖^power` over the channels of the residual stream.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Contrast {
    /// 1 or 2: the distance or its square. The kept set is the same; the recorded scores differ. Default 2.
    pub power: u8,
}

impl Default for Contrast {
    fn default() -> Self {
        Self { power: 2 }
    }
}

impl<T: AttentionOps> TokenScorer<T> for Contrast {
    fn score(&mut self, input: &ScoreInput<'_, T>) -> Result<Scores<T>> {
        let hidden = input.hidden.cast(DType::F32)?;
        let away = hidden.sub(&hidden.mean(1)?)?;
        let squared = away.mul(&away)?.sum(2)?.reshape(&hidden.shape()[..2])?;
        let tokens = if self.power == 1 { squared.sqrt()? } else { squared };
        Ok(Scores { tokens, votes: 0 })
    }
}

/// Everything this crate adds to the program.
pub struct Mine;

impl Extension for Mine {
    fn parts<T: AttentionOps>(&self, parts: &mut Parts<T>) -> Result<()> {
        parts.register_scorer("contrast", |spec| {
            let contrast: Contrast = spec.parse()?;
            if !matches!(contrast.power, 1 | 2) {
                return Err(Error::config(
                    "scorer_options.power",
                    format!("expected 1 or 2, got {}", contrast.power),
                ));
            }
            Ok(Box::new(contrast))
        })
    }
}
// ANCHOR_END: scorer
