//! `attention = "stored"` and `atedm bench --unfused`: every attention stores its map, as without a fused kernel.

use atedm_core::plugin::{Action, Event, Row, Run, Site, Step, Sublayer, TokenReducer};
use atedm_core::{AttentionOps, GraphRequest, Result};

/// Asks for a stored map at every attention; `inner` is shown those that it asked for.
pub(crate) struct StoredMaps<T: AttentionOps> {
    inner: Box<dyn TokenReducer<T>>,
    wanted: bool,
}

impl<T: AttentionOps> StoredMaps<T> {
    /// `inner` without fused attention.
    pub(crate) fn new(inner: Box<dyn TokenReducer<T>>) -> Self {
        Self { inner, wanted: false }
    }
}

impl<T: AttentionOps> TokenReducer<T> for StoredMaps<T> {
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.inner.begin_run(run)
    }

    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> Result<()> {
        self.inner.begin_step(step, rows)
    }

    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<T>> {
        self.wanted = !matches!(self.inner.wants(site, sub)?, GraphRequest::None);
        Ok(GraphRequest::Stored)
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        match event {
            Event::Attended { sub, values, .. } if !self.wanted => {
                self.inner.on_event(site, Event::Attended { sub, graph: None, first_vote: None, values })
            }
            other => self.inner.on_event(site, other),
        }
    }

    fn end_step(&mut self, prediction: &T) -> Result<()> {
        self.inner.end_step(prediction)
    }
}
