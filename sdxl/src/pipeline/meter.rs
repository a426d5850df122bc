//! Counts the tokens that really ran, whatever the method: FLOPs as they happened.

use std::collections::BTreeMap;

use atedm_core::plugin::{
    Action, BlockId, Event, Grid, LayerTokens, NestId, NestSite, Run, Scope, Site, Sublayer, TokenReducer,
};
use atedm_core::{AttentionOps, Result};

use super::request::StepCost;
use crate::config::UNetConfig;
use crate::flops;

/// What was evaluated.
pub(super) struct Evaluation {
    /// The step of the run.
    pub(super) step: usize,
    /// Entries of the batch.
    pub(super) rows: usize,
    /// Entries of the run's batch, with both halves of guidance.
    pub(super) run_rows: usize,
}

/// Passes everything on to `inner`, and notes each sublayer's tokens.
pub(super) struct Metered<'a, T: AttentionOps> {
    inner: &'a mut dyn TokenReducer<T>,
    counts: BTreeMap<(BlockId, usize), LayerTokens>,
    /// The outermost nest that did not run.
    replaced: Option<NestId>,
}

impl<'a, T: AttentionOps> Metered<'a, T> {
    pub(super) fn new(inner: &'a mut dyn TokenReducer<T>) -> Self {
        Self { inner, counts: BTreeMap::new(), replaced: None }
    }

    /// The cost of the evaluation since the last call, and a clean slate.
    pub(super) fn take(
        &mut self,
        config: &UNetConfig,
        latents: Grid,
        text: usize,
        Evaluation { step, rows, run_rows }: Evaluation,
    ) -> Result<StepCost> {
        let (counts, replaced) = (std::mem::take(&mut self.counts), self.replaced.take());
        let layers = |block: &crate::config::BlockInfo| {
            let whole = LayerTokens::whole(block.grid.tokens());
            Ok((0..block.depth)
                .map(|layer| counts.get(&(block.id, layer)).copied().unwrap_or(whole))
                .collect())
        };
        let macs = flops::pruned(config, latents, text, replaced, layers)?.sum();
        Ok(StepCost { step, rows, run_rows, macs })
    }
}

impl<T: AttentionOps> TokenReducer<T> for Metered<'_, T> {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<T>> {
        Some(self.inner)
    }

    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.counts.clear();
        self.replaced = None;
        self.inner.begin_run(run)
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
                Action::Replace(_) => (0, 0),
                _ => (site.tokens, site.tokens),
            };
            let whole = LayerTokens::whole(site.tokens);
            let layer = self.counts.entry((site.block, site.layer)).or_insert(whole);
            let queries = if sub == Sublayer::FeedForward { queries.min(keys) } else { queries };
            layer.set(sub, queries, keys);
        }
        Ok(action)
    }

    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &T) -> Result<Option<T>> {
        let output = self.inner.enter_nest(site, hidden)?;
        if output.is_some() {
            self.replaced = Some(self.replaced.map_or(site.nest, |outer| outer.min(site.nest)));
        }
        Ok(output)
    }
}
