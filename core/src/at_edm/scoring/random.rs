//! Random scores: the baseline that every other scorer must beat.

use super::{ScoreInput, Scores, TokenScorer};
use crate::at_edm::draws::{generator, uniform};
use crate::backend::{AttentionOps, dims};
use crate::{Error, Result};

/// Uniform scores from ChaCha8. A row's draw depends only on the seed, its image and guidance half, the U-Net
/// evaluation, the block and the layer. It does not depend on the other rows of its batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomScores;

impl<T: AttentionOps> TokenScorer<T> for RandomScores {
    fn score(&mut self, input: &ScoreInput<'_, T>) -> Result<Scores<T>> {
        let [batch, tokens, _] = dims(input.hidden, "random scores")?;
        let rows = input.site.rows;
        if rows.len() != batch {
            let reason = format!("expected {batch} batch rows to be described, got {}", rows.len());
            return Err(Error::Plugin { name: "random".into(), reason });
        }
        let mut values = Vec::with_capacity(batch * tokens);
        for row in rows {
            let mut generator = generator(input.seed, input.site, Some(row));
            values.extend((0..tokens).map(|_| uniform(&mut generator)));
        }
        let (dtype, device) = (input.hidden.dtype().accumulator(), input.hidden.device());
        Ok(Scores { tokens: T::from_f32(&values, &[batch, tokens], dtype, &device)?, votes: 0 })
    }
}
