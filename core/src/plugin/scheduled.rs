//! A wrapper that gives any method a schedule and levels. Denoising-steps-aware pruning (DSAP, paper section 3.3) "is also
//! applicable to other methods".

use super::nest::NestSite;
use super::placed::PlacedSchedule;
use super::reducer::{Action, Event, Run, TokenReducer};
use super::site::{Row, Site, Step, Sublayer};
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
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.schedule.begin(run.steps)?;
        self.inner.begin_run(run)
    }

    fn wants_guidance(&mut self, step: &Step) -> bool {
        self.inner.wants_guidance(step)
    }

    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> Result<()> {
        self.inner.begin_step(step, rows)
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

    fn enter_nest(&mut self, site: &NestSite<'_>, hidden: &T) -> Result<Option<T>> {
        self.inner.enter_nest(site, hidden)
    }

    fn leave_nest(&mut self, site: &NestSite<'_>, output: &T) -> Result<Option<T>> {
        self.inner.leave_nest(site, output)
    }

    fn end_step(&mut self, prediction: &T) -> Result<()> {
        self.inner.end_step(prediction)
    }
}
