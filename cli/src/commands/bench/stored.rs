//! `--unfused`: every attention stores its map.

use atedm_core::plugin::{Action, Event, Row, Run, Site, Step, Sublayer, TokenReducer, Wants};
use atedm_core::{AttentionOps, Result};

/// Asks for a stored map at every attention, and shows it to `inner` where `inner` asked for a graph.
pub(super) struct StoredMaps<T: AttentionOps> {
    inner: Box<dyn TokenReducer<T>>,
    shown: bool,
}

impl<T: AttentionOps> StoredMaps<T> {
    /// `inner` without fused attention.
    pub(super) fn new(inner: Box<dyn TokenReducer<T>>) -> Self {
        Self { inner, shown: false }
    }
}

impl<T: AttentionOps> TokenReducer<T> for StoredMaps<T> {
    fn begin_image(&mut self, run: &Run<'_>) -> Result<()> {
        self.inner.begin_image(run)
    }

    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> Result<()> {
        self.inner.begin_step(step, rows)
    }

    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<Wants<T>> {
        self.shown = !matches!(self.inner.wants(site, sub)?, Wants::Nothing);
        Ok(Wants::Stored)
    }

    fn at(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        let event = match event {
            Event::Attended { sub, values, .. } if !self.shown => {
                Event::Attended { sub, graph: None, values }
            }
            other => other,
        };
        self.inner.at(site, event)
    }

    fn end_step(&mut self, prediction: &T) -> Result<()> {
        self.inner.end_step(prediction)
    }
}
