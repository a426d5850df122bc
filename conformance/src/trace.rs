//! What each sublayer runs on, written down while a model runs.

use std::collections::BTreeMap;

use atedm_core::plugin::{
    Action, BlockId, Event, LayerTokens, Row, Scope, Site, Step, Sublayer, TokenReducer,
};
use atedm_core::{AttentionOps, Result, Tensor};

/// The tokens of every layer of every block.
pub type TokenTrace = BTreeMap<BlockId, Vec<LayerTokens>>;

/// Writes down what `sub` runs on after the answer to its [`Event::Before`].
pub(crate) fn note<T: Tensor>(trace: &mut TokenTrace, site: &Site<'_>, sub: Sublayer, answer: &Action<T>) {
    let (queries, keys) = match answer {
        Action::Around { scope: Scope::Queries, by } => (by.kept(), site.tokens),
        Action::Around { scope: Scope::KeysValues, by } => (site.tokens, by.kept()),
        Action::Around { scope: Scope::Both, by } => (by.kept(), by.kept()),
        Action::Replace(_) => (0, 0),
        _ => (site.tokens, site.tokens),
    };
    let layers = trace.entry(site.block).or_default();
    if layers.len() <= site.layer {
        layers.resize(site.layer + 1, LayerTokens::of(&[], 0));
    }
    layers[site.layer].set(sub, queries, keys);
}

// ANCHOR: wrapper
/// A reducer that is watched: the tokens that each sublayer runs on are written down.
#[derive(Debug)]
pub struct Tracing<R> {
    inner: R,
    trace: TokenTrace,
}

impl<R> Tracing<R> {
    /// Watches `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, trace: TokenTrace::new() }
    }

    /// What was seen.
    pub fn trace(&self) -> &TokenTrace {
        &self.trace
    }
}

impl<T: AttentionOps, R: TokenReducer<T>> TokenReducer<T> for Tracing<R> {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<T>> {
        Some(&mut self.inner)
    }

    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> Result<()> {
        self.trace.clear();
        self.inner.begin_step(step, rows)
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        let before = if let Event::Before { sub, .. } = &event { Some(*sub) } else { None };
        let answer = self.inner.on_event(site, event)?;
        if let Some(sub) = before {
            note(&mut self.trace, site, sub, &answer);
        }
        Ok(answer)
    }
}
// ANCHOR_END: wrapper
