//! The data that every layer of an evaluation needs, besides the stream.

use std::fmt;

use atedm_core::plugin::{NestId, NestSite, Row, Step, TokenReducer, nest};
use atedm_core::{AttentionOps, Result};

/// The conditioning, the method and the listener of one evaluation.
pub(crate) struct ForwardContext<'a, T> {
    /// The conditioning vector after SiLU, `[b, time channels]`.
    pub(crate) emb: &'a T,
    /// Text tokens `[b, length, text channels]`.
    pub(crate) text: &'a T,
    pub(crate) step: &'a Step,
    pub(crate) rows: &'a [Row],
    pub(crate) reducer: &'a mut dyn TokenReducer<T>,
    /// Called with every module's output, in the order of the pass.
    pub(crate) watch: &'a mut Watch<'a, T>,
}

/// Takes a module's name in the checkpoint, and its output.
pub(crate) type Watch<'a, T> = dyn FnMut(fmt::Arguments<'_>, &T) -> Result<()> + 'a;

impl<T: AttentionOps> ForwardContext<'_, T> {
    /// Runs `inner` on `hidden` as nest `id`. If the method supplies an output for the nest, `inner` does not run.
    pub(crate) fn nest(
        &mut self,
        id: NestId,
        hidden: T,
        inner: impl FnOnce(T, &mut ForwardContext<'_, T>) -> Result<T>,
    ) -> Result<T> {
        let Self { emb, text, step, rows, reducer, watch } = self;
        let site = NestSite { nest: id, step: **step, rows };
        nest(*reducer, &site, hidden, |reducer, hidden| {
            inner(hidden, &mut ForwardContext { emb, text, step, rows, reducer, watch: &mut **watch })
        })
    }
}
