//! Random scores: the baseline that every other scorer must beat.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{ScoreInput, Scores, TokenScorer};
use crate::backend::{AttentionOps, dims};
use crate::plugin::{Branch, Row, Site};
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
            let mut rng = ChaCha8Rng::from_seed(key(input.seed, row, input.site));
            // 24 bits fill an f32's mantissa, so every value is exact and below 1.
            values.extend((0..tokens).map(|_| (rng.next_u32() >> 8) as f32 / (1 << 24) as f32));
        }
        let (dtype, device) = (input.hidden.dtype().accumulator(), input.hidden.device());
        Ok(Scores { tokens: T::from_f32(&values, &[batch, tokens], dtype, &device)?, votes: 0 })
    }
}

/// Everything on which a draw depends, as the generator's 32-byte key.
fn key(seed: u64, row: &Row, site: &Site<'_>) -> [u8; 32] {
    let [part, stage, index] = site.block.numbers();
    let branch: u8 = match row.branch {
        Branch::Single => 0,
        Branch::Cond => 1,
        Branch::Uncond => 2,
    };
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&row.image.to_le_bytes());
    key[16..20].copy_from_slice(&(site.step.evaluation as u32).to_le_bytes());
    key[20..22].copy_from_slice(&[part as u8, branch]);
    key[22..26].copy_from_slice(&(site.layer as u32).to_le_bytes());
    key[26..28].copy_from_slice(&(stage as u16).to_le_bytes());
    key[28..30].copy_from_slice(&(index as u16).to_le_bytes());
    key[30..32].copy_from_slice(&((stage >> 16) as u16).to_le_bytes());
    key
}
