//! Counts the tokens that really ran, whatever the method: FLOPs as they happened.

use std::collections::BTreeMap;

use atedm_core::plugin::{
    Action, BlockId, Event, Grid, LayerTokens, Row, Run, Scope, Site, Step, Sublayer, TokenReducer,
};
use atedm_core::{AttentionOps, GraphRequest, Result};

use super::request::StepCost;
use crate::config::UNetConfig;
use crate::flops;

/// Passes everything on to `inner`, and notes each sublayer's tokens.
pub(super) struct Metered<'a, T: AttentionOps> {
    inner: &'a mut dyn TokenReducer<T>,
    counts: BTreeMap<(BlockId, usize), LayerTokens>,
}

impl<'a, T: AttentionOps> Metered<'a, T> {
    pub(super) fn new(inner: &'a mut dyn TokenReducer<T>) -> Self {
        Self { inner, counts: BTreeMap::new() }
    }

    /// The cost of the evaluation since the last call, and a clean slate.
    pub(super) fn take(
        &mut self,
        config: &UNetConfig,
        latents: Grid,
        text: usize,
        (step, rows): (usize, usize),
    ) -> Result<StepCost> {
        let counts = std::mem::take(&mut self.counts);
        let layers = |block: &crate::config::BlockInfo| {
            let whole = LayerTokens::whole(block.grid.tokens());
            Ok((0..block.depth)
                .map(|layer| counts.get(&(block.id, layer)).copied().unwrap_or(whole))
                .collect())
        };
        let macs = flops::pruned(config, latents, text, layers)?.sum();
        Ok(StepCost { step, rows, macs })
    }
}

impl<T: AttentionOps> TokenReducer<T> for Metered<'_, T> {
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.counts.clear();
        self.inner.begin_run(run)
    }

    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> Result<()> {
        self.inner.begin_step(step, rows)
    }

    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<T>> {
        self.inner.wants(site, sub)
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        let before = match &event {
            Event::Before { sub, .. } => Some(*sub),
            _ => None,
        };
        let action = self.inner.on_event(site, event)?;
        if let Some(sub) = before {
            // what keys and values alone run on is their own business: the text's are never reduced
            let (queries, keys) = match &action {
                Action::Around { scope: Scope::Queries, by } => (by.kept(), site.tokens),
                Action::Around { scope: Scope::KeysValues, by } => (site.tokens, by.kept()),
                Action::Around { scope: Scope::Both, by } => (by.kept(), by.kept()),
                _ => (site.tokens, site.tokens),
            };
            let whole = LayerTokens::whole(site.tokens);
            let layer = self.counts.entry((site.block, site.layer)).or_insert(whole);
            let queries = if sub == Sublayer::FeedForward { queries.min(keys) } else { queries };
            layer.set(sub, queries, keys);
        }
        Ok(action)
    }

    fn end_step(&mut self, prediction: &T) -> Result<()> {
        self.inner.end_step(prediction)
    }
}
