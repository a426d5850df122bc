//! One pruning decision for both halves of classifier-free guidance, or for a whole batch.

use serde::{Deserialize, Serialize};

use super::site::{Branch, Row};
use crate::{Error, Result, Tensor};

/// The scores that decide in each half of classifier-free guidance. Without guidance there is one half, so only
/// [`GuidanceMasks::First`] has an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuidanceMasks {
    /// Every batch row uses its own scores.
    #[default]
    #[serde(alias = "per-row")]
    PerRow,
    /// Both halves of an image use the prompt's scores.
    Cond,
    /// Both halves of an image use the mean of their scores.
    Mean,
    /// Every row of the batch uses the first row's scores, as in the ToMA authors' program. An image then depends
    /// on the other images of its batch.
    First,
}

impl GuidanceMasks {
    /// Whether some rows of this batch share a decision.
    pub fn is_shared(self, rows: &[Row]) -> bool {
        match self {
            Self::PerRow => false,
            Self::Cond | Self::Mean => rows.iter().any(|row| row.branch != Branch::Single),
            Self::First => rows.len() > 1,
        }
    }

    /// The scores `[b, n]` with which each row decides. `rows` describes the `b` rows.
    ///
    /// # Errors
    /// [`Error::Config`] when the batch lacks a row's other half. [`Error::Shape`] when `rows` does not have length `b`.
    pub fn share<T: Tensor>(self, scores: T, rows: &[Row]) -> Result<T> {
        if !self.is_shared(rows) {
            return Ok(scores);
        }
        let shape = scores.shape();
        if shape.first() != Some(&rows.len()) {
            return Err(Error::shape("sharing scores", format!("[{}, tokens]", rows.len()), shape));
        }
        let decided = rows.iter().map(|row| self.decide(&scores, rows, row)).collect::<Result<Vec<T>>>()?;
        T::concat(&decided.iter().collect::<Vec<_>>(), 0)
    }

    /// The scores `[1, n]` with which one row decides.
    fn decide<T: Tensor>(self, scores: &T, rows: &[Row], row: &Row) -> Result<T> {
        let of = |branch: Branch| {
            let wanted = Row { image: row.image, branch };
            let at = rows.iter().position(|other| *other == wanted).ok_or_else(|| {
                let reason = format!(
                    "sharing one set between the two halves needs both in one batch; image {} has one",
                    row.image
                );
                Error::config("guidance", reason)
            })?;
            scores.narrow(0, at, 1)
        };
        match (self, row.branch) {
            (Self::First, _) => scores.narrow(0, 0, 1),
            (Self::PerRow, branch) | (_, branch @ Branch::Single) => of(branch),
            (Self::Cond, _) => of(Branch::Cond),
            (Self::Mean, _) => of(Branch::Cond)?.add(&of(Branch::Uncond)?)?.affine(0.5, 0.0),
        }
    }
}
