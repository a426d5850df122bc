//! The forward pass before.

use atedm_core::{AttentionOps, Result};

use crate::model::{Embedded, Input, Wan};

/// The prediction `[b, c, frames, height, width]` of the whole model.
///
/// # Errors
/// As the backend's operations.
pub fn forward<T: AttentionOps>(model: &Wan<T>, input: &Input<'_, T>) -> Result<T> {
    let Embedded { tokens: mut x, grid, rope, time, modulation, text } = model.embed(input)?;
    for block in &model.blocks {
        let [first, last] = block.modulations(&modulation)?;
        let normed = block.modulated_norm(&x, &first)?;
        let attention = &block.self_attention;
        let (q, k) = (attention.queries(&normed, Some(&rope))?, attention.keys(&normed, Some(&rope))?);
        let (attended, _) = T::attention(&q, &k, &attention.values(&normed)?, attention.options())?;
        x = x.add(&attention.output(&attended)?.mul(&first.gate)?)?;

        let attention = &block.cross_attention;
        let (q, k) = (attention.queries(&block.norm2(&x)?, None)?, attention.keys(&text, None)?);
        let (attended, _) = T::attention(&q, &k, &attention.values(&text)?, attention.options())?;
        x = x.add(&attention.output(&attended)?)?;

        let normed = block.modulated_norm(&x, &last)?;
        x = x.add(&block.feed_forward(&normed)?.mul(&last.gate)?)?;
    }
    model.head.forward(&x, &time, grid)
}
