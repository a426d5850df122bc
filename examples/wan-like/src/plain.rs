//! The unchanged forward pass.

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

        let attention = &block.self_attention;
        let normed = block.modulated_norm(&x, &first)?;
        let [q, k, values] = attention.project(&normed, &normed, Some([&rope, &rope]))?;
        let options = attention.options();
        let attended = T::attention(&q, &k, &values, options)?;
        let hidden = attention.output(&attended.hidden)?.mul(&first.gate)?;
        x = x.add(&hidden)?;

        let attention = &block.cross_attention;
        let normed = block.norm2(&x)?;
        let [q, k, values] = attention.project(&normed, &text, None)?;
        let options = attention.options();
        let attended = T::attention(&q, &k, &values, options)?;
        let hidden = attention.output(&attended.hidden)?;
        x = x.add(&hidden)?;

        let normed = block.modulated_norm(&x, &last)?;
        x = x.add(&block.feed_forward(&normed)?.mul(&last.gate)?)?;
    }
    model.head.forward(&x, &time, grid)
}
