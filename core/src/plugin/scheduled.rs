//! A wrapper that gives any method a schedule and levels. Denoising-steps-aware pruning (DSAP, paper section 3.3) "is also
//! applicable to other methods".

use super::placed::PlacedSchedule;
use super::reducer::{Action, Event, Run, TokenReducer};
use super::site::{Site, Sublayer};
use crate::Result;
use crate::backend::{AttentionOps, GraphRequest};

/// A method whose strength can change from site to site, so that a schedule can set it.
pub trait WithRatio {
    /// The fraction of tokens that the next site removes.
    fn set_ratio(&mut self, ratio: f64);
}

/// Any method under a schedule, confined to some levels: where the schedule says 0 the method is not asked at all.
#[derive(Debug)]
pub struct Scheduled<R> {
    inner: R,
    schedule: PlacedSchedule,
}

impl<R: WithRatio> Scheduled<R> {
    /// `inner` under `schedule`.
    pub fn new(inner: R, schedule: PlacedSchedule) -> Self {
        Self { inner, schedule }
    }

    /// The method, set to this site's strength, or `None` where it rests.
    fn awake(&mut self, site: &Site<'_>) -> Result<Option<&mut R>> {
        let ratio = self.schedule.ratio(site.block, site.step.index, site.step.total)?;
        if ratio == 0.0 {
            return Ok(None);
        }
        self.inner.set_ratio(ratio);
        Ok(Some(&mut self.inner))
    }
}

impl<T: AttentionOps, R: TokenReducer<T> + WithRatio> TokenReducer<T> for Scheduled<R> {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<T>> {
        Some(&mut self.inner)
    }

    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.schedule.begin(run.steps)?;
        self.inner.begin_run(run)
    }

    fn wants(&mut self, site: &Site<'_>, sub: Sublayer) -> Result<GraphRequest<T>> {
        match self.awake(site)? {
            Some(inner) => inner.wants(site, sub),
            None => Ok(GraphRequest::None),
        }
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        match self.awake(site)? {
            Some(inner) => inner.on_event(site, event),
            None => Ok(Action::Continue),
        }
    }
}
