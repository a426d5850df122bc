//! Wrappings that book the time of a method and of its parts, without the model's or the method's knowing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atedm_core::at_edm::{
    FirstVoteQuery, RecoveryInput, ScoreInput, ScoreNeeds, Scores, TokenRecovery, TokenScorer,
};
use atedm_core::plugin::{
    Action, BlockId, Event, NestSite, Reduction, Registry, Row, Run, Site, Step, Sublayer, TokenReducer,
};
use atedm_core::{AttentionOps, GraphRequest, Result, Tensor};

use super::clock::{Phase, SharedClock};
use crate::Extension;
use crate::extension::{parts, registry_with};

/// What a forward pass was asked for besides its output, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// In which block.
    pub(super) block: BlockId,
    /// On how many rows.
    pub(super) rows: usize,
    /// For the graph's first vote, too.
    pub(super) vote: bool,
}

/// A method whose time is booked: its own as `own`, that of sublayers by what they are.
pub(super) struct Timed<T: AttentionOps> {
    inner: Box<dyn TokenReducer<T>>,
    clock: SharedClock,
    own: Phase,
    asked: Vec<Asked>,
}

impl<T: AttentionOps> Timed<T> {
    /// Books the time that `inner` takes besides its parts as `own`.
    pub(super) fn new(inner: Box<dyn TokenReducer<T>>, clock: SharedClock, own: Phase) -> Self {
        Self { inner, clock, own, asked: Vec::new() }
    }

    /// What was asked of forward passes since the last call.
    pub(super) fn take_asked(&mut self) -> Vec<Asked> {
        std::mem::take(&mut self.asked)
    }

    fn timed(&self, by: Box<dyn Reduction<T>>) -> Box<dyn Reduction<T>> {
        Box::new(TimedReduction { inner: by, clock: self.clock.clone() })
    }
}

impl<T: AttentionOps> TokenReducer<T> for Timed<T> {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<T>> {
        Some(self.inner.as_mut())
    }

    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> Result<()> {
        let inner = &mut self.inner;
        self.clock.during(self.own, || inner.begin_step(step, rows))
    }

    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<T>> {
        let inner = &mut self.inner;
        let wants = self.clock.during(Phase::Scoring, || inner.wants(site, sub))?;
        let vote = match &wants {
            GraphRequest::Lazy => Some(false),
            GraphRequest::FirstVote(_) => Some(true),
            GraphRequest::None | GraphRequest::Stored => None,
        };
        let asked = |vote| Asked { block: site.block, rows: site.rows.len(), vote };
        self.asked.extend(vote.map(asked));
        self.clock.turn(Phase::Attention)?;
        Ok(wants)
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        let before_feed_forward = matches!(&event, Event::Before { sub: Sublayer::FeedForward, .. });
        self.clock.turn(self.own)?;
        let action = self.inner.on_event(site, event)?;
        self.clock.turn(if before_feed_forward { Phase::FeedForward } else { Phase::Rest })?;
        Ok(match action {
            Action::Around { scope, by } => Action::Around { scope, by: self.timed(by) },
            Action::UntilExit(by) => Action::UntilExit(self.timed(by)),
            other => other,
        })
    }

    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &T) -> Result<Option<T>> {
        let inner = &mut self.inner;
        self.clock.during(self.own, || inner.enter_nest(site, hidden))
    }

    fn leave_nest(&mut self, site: &NestSite<'_>, output: &T) -> Result<Option<T>> {
        let inner = &mut self.inner;
        self.clock.during(self.own, || inner.leave_nest(site, output))
    }

    fn end_step(&mut self, prediction: &T) -> Result<()> {
        let inner = &mut self.inner;
        self.clock.during(self.own, || inner.end_step(prediction))
    }
}

#[derive(Debug)]
struct TimedReduction<T: Tensor> {
    inner: Box<dyn Reduction<T>>,
    clock: SharedClock,
}

impl<T: Tensor> Reduction<T> for TimedReduction<T> {
    fn kept(&self) -> usize {
        self.inner.kept()
    }

    fn shrink(&self, full: &T) -> Result<T> {
        self.clock.during(Phase::Gather, || self.inner.shrink(full))
    }

    fn restore(&self, reduced: &T) -> Result<T> {
        self.clock.during(Phase::Recovery, || self.inner.restore(reduced))
    }

    fn restore_added(&self, added: &T) -> Result<T> {
        self.clock.during(Phase::Recovery, || self.inner.restore_added(added))
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn positions(&self) -> Option<Result<T::Indices>> {
        self.inner.positions()
    }

    fn representatives(&self) -> Option<Result<T::Indices>> {
        self.inner.representatives()
    }

    fn clone_box(&self) -> Box<dyn Reduction<T>> {
        Box::new(Self { inner: self.inner.clone_box(), clock: self.clock.clone() })
    }
}

#[derive(Debug)]
struct TimedScorer<T> {
    inner: Box<dyn TokenScorer<T>>,
    clock: SharedClock,
}

impl<T: AttentionOps> TokenScorer<T> for TimedScorer<T> {
    fn needs(&self) -> ScoreNeeds {
        self.inner.needs()
    }

    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.inner.begin_run(run)
    }

    fn first_vote_scores(&self, query: &FirstVoteQuery<'_, T>) -> Result<Option<T>> {
        self.inner.first_vote_scores(query)
    }

    fn score(&mut self, input: &ScoreInput<'_, T>) -> Result<Scores<T>> {
        let inner = &mut self.inner;
        self.clock.during(Phase::Scoring, || inner.score(input))
    }
}

#[derive(Debug)]
struct TimedRecovery<T> {
    inner: Box<dyn TokenRecovery<T>>,
    clock: SharedClock,
}

impl<T: AttentionOps> TokenRecovery<T> for TimedRecovery<T> {
    fn needs_graph(&self) -> bool {
        self.inner.needs_graph()
    }

    fn reusable(&self) -> bool {
        self.inner.reusable()
    }

    fn plan(&self, input: RecoveryInput<'_, T>) -> Result<Box<dyn Reduction<T>>> {
        self.clock.during(Phase::Recovery, || self.inner.plan(input))
    }
}

/// A registry in which scorers and recoveries are timed, whatever they are, and whether any was built.
pub(super) fn timed_registry<T: AttentionOps>(
    extension: &impl Extension,
    clock: &SharedClock,
) -> Result<(Registry<T>, Arc<AtomicBool>)> {
    let mut parts = parts::<T>(extension)?;
    let has_parts = Arc::new(AtomicBool::new(false));
    let (of_scorers, built) = (clock.clone(), has_parts.clone());
    parts.wrap_scorers(move |inner| {
        built.store(true, Ordering::Relaxed);
        Box::new(TimedScorer { inner, clock: of_scorers.clone() })
    });
    let clock = clock.clone();
    parts.wrap_recoveries(move |inner| Box::new(TimedRecovery { inner, clock: clock.clone() }));
    Ok((registry_with(extension, parts)?, has_parts))
}
