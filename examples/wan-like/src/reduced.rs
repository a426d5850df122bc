//! The forward pass with token reduction.

use atedm_core::backend::AttentionOptions;
use atedm_core::plugin::{AttentionOutput, BlockId, BlockPass, Grid, Row, Step, Sublayer, TokenReducer};
use atedm_core::{AttentionOps, Result};

use crate::model::{Embedded, Input, Wan};

/// A method, the step that it is in, and what each row of the batch is.
pub type By<'a, T> = (&'a mut dyn TokenReducer<T>, &'a Step, &'a [Row]);

/// The prediction `[b, c, frames, height, width]` of the whole model.
///
/// # Errors
/// As the backend's operations and the method.
pub fn forward<T: AttentionOps>(model: &Wan<T>, input: &Input<'_, T>, by: By<'_, T>) -> Result<T> {
    let Embedded { tokens: mut x, grid, rope, time, modulation, text } = model.embed(input)?;
    let places = Grid::of_frames(grid[0], grid[1], grid[2]);
    // ANCHOR: pass
    let mut pass = BlockPass::enter(by.0, by.1, by.2, BlockId::whole(), model.blocks.len(), places);
    for (index, block) in model.blocks.iter().enumerate() {
        let [first, last] = block.modulations(&modulation)?;
        x = pass.layer(index, x)?;

        let attention = &block.self_attention;
        let norm = |x: &T| block.modulated_norm(x, &first);
        // ANCHOR: self_attention
        x = pass.attention(Sublayer::SelfAttention, x, norm, |input| {
            let rope = [&input.query_rows(&rope)?, &input.key_rows(&rope)?];
            let [q, k, values] = attention.project(input.queries, input.keys_values, Some(rope))?;
            let options = AttentionOptions { graph: input.graph, ..attention.options() };
            let attended = T::attention(&q, &k, &values, options)?;
            let hidden = attention.output(&attended.hidden)?.mul(&first.gate)?;
            Ok(AttentionOutput { hidden, graph: attended.graph, first_vote: attended.first_vote, values })
        })?;
        // ANCHOR_END: self_attention

        let attention = &block.cross_attention;
        let norm = |x: &T| block.norm2(x);
        x = pass.attention(Sublayer::CrossAttention, x, norm, |input| {
            let [q, k, values] = attention.project(input.queries, &text, None)?;
            let options = AttentionOptions { graph: input.graph, ..attention.options() };
            let attended = T::attention(&q, &k, &values, options)?;
            let hidden = attention.output(&attended.hidden)?;
            Ok(AttentionOutput { hidden, graph: attended.graph, first_vote: attended.first_vote, values })
        })?;

        let norm = |x: &T| block.modulated_norm(x, &last);
        x = pass.feed_forward(x, norm, |input| block.feed_forward(input.tokens)?.mul(&last.gate))?;
    }
    // ANCHOR_END: pass
    model.head.forward(&pass.exit(x)?, &time, grid)
}
