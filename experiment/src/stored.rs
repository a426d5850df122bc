//! `attention = "stored"` and `atedm bench --unfused`: every attention stores its map, as without a fused kernel.

use atedm_core::plugin::{Action, Event, Site, Sublayer, TokenReducer};
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
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<T>> {
        Some(self.inner.as_mut())
    }

    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<T>> {
        self.wanted = !matches!(self.inner.wants(site, sub)?, GraphRequest::None);
        Ok(GraphRequest::Stored)
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        match event {
            Event::Attended { sub, values, output, .. } if !self.wanted => {
                let event = Event::Attended { sub, graph: None, first_vote: None, values, output };
                self.inner.on_event(site, event)
            }
            other => self.inner.on_event(site, other),
        }
    }
}
