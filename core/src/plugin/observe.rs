//! Observers of a method: they see what it pruned where, with which scores.

use std::sync::{Arc, Mutex, MutexGuard};

use super::masks::{MaskEntry, MaskKey, MaskSet};
use super::reducer::{Action, Event, TokenReducer};
use super::site::{Site, Sublayer};
use crate::backend::{AttentionGraph, AttentionOps, GraphRequest};
use crate::{Error, Indices, Result, Tensor};

/// One pruning decision.
#[derive(Debug)]
pub struct PruneRecord<'a, T: Tensor> {
    /// The scores `[b, tokens]` behind the decision. `None` for a replayed kept set, or one that serves from an
    /// earlier evaluation.
    pub scores: Option<&'a T>,
    /// The kept tokens, `[b, kept]`, as positions in the stream before the decision.
    pub kept: &'a T::Indices,
    /// Grid positions `[b, tokens]` of the stream's tokens. `None` while the stream is whole.
    pub positions: Option<&'a T::Indices>,
    /// The number of votes cast. 0 for scorers that do not vote, and where there are no scores.
    pub votes: usize,
    /// The number of tokens in the stream before the decision.
    pub tokens: usize,
}

/// Hears every pruning decision. On request it also sees attention graphs.
pub trait PruneObserver<T: AttentionOps>: Send {
    /// The method is about to prune tokens at `site`.
    fn pruned(&mut self, site: &Site<'_>, record: &PruneRecord<'_, T>) -> Result<()>;

    /// Whether the observer wants this sublayer's graph. The graph is then computed even where nothing is pruned.
    fn wants_graph(&self, _site: &Site<'_>, _sub: Sublayer) -> bool {
        false
    }

    /// Shows the graph of an attention sublayer that has run.
    fn graph(&mut self, _site: &Site<'_>, _sub: Sublayer, _graph: &AttentionGraph<T>) -> Result<()> {
        Ok(())
    }
}

/// An observer that the method and its owner both hold.
pub type SharedObserver<T> = Arc<Mutex<dyn PruneObserver<T>>>;

/// Locks a shared observer.
///
/// # Errors
/// [`Error::Plugin`] when the observer panicked earlier.
pub fn lock<T: AttentionOps>(
    observer: &SharedObserver<T>,
) -> Result<MutexGuard<'_, dyn PruneObserver<T> + 'static>> {
    observer
        .lock()
        .map_err(|_| Error::Plugin { name: "observer".into(), reason: "panicked on an earlier call".into() })
}

/// Records every decision in a [`MaskSet`] on the host.
#[derive(Debug, Default)]
pub struct MaskRecorder {
    masks: MaskSet,
}

impl MaskRecorder {
    /// An empty recorder, to be shared with a [`BuildContext`](super::BuildContext).
    pub fn shared() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self::default()))
    }

    /// The decisions recorded so far.
    pub fn masks(&self) -> &MaskSet {
        &self.masks
    }

    /// Takes the recorded decisions and leaves none.
    pub fn take(&mut self) -> MaskSet {
        std::mem::take(&mut self.masks)
    }
}

impl<T: AttentionOps> PruneObserver<T> for MaskRecorder {
    fn pruned(&mut self, site: &Site<'_>, record: &PruneRecord<'_, T>) -> Result<()> {
        let scores = match record.scores {
            Some(scores) => {
                let values = scores.to_f32()?;
                values.chunks(record.tokens.max(1)).map(<[f32]>::to_vec).collect()
            }
            None => Vec::new(),
        };
        let entry = MaskEntry {
            tokens: record.tokens,
            kept: record.kept.to_host()?,
            scores,
            positions: record.positions.map(|positions| positions.to_host()).transpose()?.unwrap_or_default(),
            votes: record.votes,
            grid: (site.grid.frames * site.grid.height, site.grid.width),
        };
        self.masks.insert(MaskKey::of(site), entry);
        Ok(())
    }
}

/// The identity, which still shows attention graphs to an observer. It serves to watch the full model.
pub(crate) struct Watching<T: AttentionOps> {
    pub(crate) observer: SharedObserver<T>,
}

impl<T: AttentionOps> TokenReducer<T> for Watching<T> {
    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<T>> {
        Ok(if lock(&self.observer)?.wants_graph(site, sub) { GraphRequest::Lazy } else { GraphRequest::None })
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        if let Event::Attended { sub, graph: Some(graph), .. } = &event {
            lock(&self.observer)?.graph(site, *sub, graph)?;
        }
        Ok(Action::Continue)
    }
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;

    fn _obj_safe(_: Box<dyn PruneObserver<crate::reference::NdTensor>>) {}
}
