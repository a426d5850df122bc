//! A method that reduces sublayers one by one. It makes one plan for each layer from the layer's input, and uses it
//! around the layer's sublayers.

use atedm_core::plugin::{
    Action, Event, PruneRecord, Reduction, Row, Run, Scope, SharedObserver, Site, Step, Sublayer,
    TokenReducer, WithRatio, lock,
};
use atedm_core::{AttentionOps, Indices, Result};
use serde::{Deserialize, Serialize};

use crate::grid::is_whole;
use crate::reuse::{PlanStore, Reuse};

/// The tensor from which a plan is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Moment {
    /// The residual stream that enters the layer, before its first norm.
    #[default]
    LayerInput,
    /// The normalised input of self-attention, or of the layer's joint attention or parallel sublayer.
    Normalised,
}

/// The part in which methods differ: how to make a plan, and around which sublayers to use it.
pub trait Planner<T: AttentionOps>: Send {
    /// The tensor from which plans are made.
    fn moment(&self) -> Moment {
        Moment::LayerInput
    }

    /// The part of `sub`'s input that is reduced. `None` where the sublayer runs whole.
    fn scope(&self, sub: Sublayer) -> Option<Scope>;

    /// A run begins.
    fn begin(&mut self, _run: &Run<'_>) {}

    /// A step begins with these rows.
    fn begin_step(&mut self, _step: &Step, _rows: &[Row]) {}

    /// A step ended. `_prediction` is the model's output `[rows, channels, height, width]`.
    ///
    /// # Errors
    /// Those of the backend's operations.
    fn end_step(&mut self, _prediction: &T) -> Result<()> {
        Ok(())
    }

    /// Makes the plan for `site`. `metric` holds its tokens `[b, tokens, channels]`. `None` where nothing is reduced.
    ///
    /// # Errors
    /// Those of the backend's operations.
    fn plan(&mut self, site: &Site<'_>, metric: &T, ratio: f64) -> Result<Option<Box<dyn Reduction<T>>>>;
}

/// Makes a [`TokenReducer`] of a [`Planner`].
pub struct AroundSublayers<T: AttentionOps> {
    planner: Box<dyn Planner<T>>,
    ratio: f64,
    store: PlanStore<T>,
    observer: LayerObserver<T>,
    /// The plan of the layer that runs now.
    current: Option<Box<dyn Reduction<T>>>,
}

impl<T: AttentionOps> AroundSublayers<T> {
    /// Wraps `planner`. A schedule may replace the ratio. `reuse` says how long its plans serve.
    pub fn new(
        planner: Box<dyn Planner<T>>,
        ratio: f64,
        reuse: Reuse,
        observer: Option<SharedObserver<T>>,
    ) -> Self {
        let observer = LayerObserver::new(observer);
        Self { planner, ratio, store: PlanStore::new(reuse), observer, current: None }
    }

    /// Makes the layer's plan, or takes an earlier one.
    fn enter(&mut self, site: &Site<'_>, metric: &T) -> Result<()> {
        self.current = None;
        if is_whole(site) {
            let Self { planner, ratio, store, .. } = self;
            self.current = store.plan(site, *ratio, || planner.plan(site, metric, *ratio))?;
        }
        Ok(())
    }
}

/// An observer that is told once a layer: of the first sublayer that is reduced, whichever sublayers the layer has.
pub(crate) struct LayerObserver<T: AttentionOps> {
    observer: Option<SharedObserver<T>>,
    /// Whether it was told of the layer that runs now.
    told: bool,
}

impl<T: AttentionOps> LayerObserver<T> {
    pub(crate) fn new(observer: Option<SharedObserver<T>>) -> Self {
        Self { observer, told: false }
    }

    /// A layer begins.
    pub(crate) fn enter_layer(&mut self) {
        self.told = false;
    }

    /// A sublayer of the layer is reduced by `plan`: tells which tokens it keeps.
    pub(crate) fn tell(
        &mut self,
        site: &Site<'_>,
        plan: &dyn Reduction<T>,
        device: &T::Device,
    ) -> Result<()> {
        let Some(observer) = self.observer.as_ref().filter(|_| !self.told) else { return Ok(()) };
        self.told = true;
        let Some(representatives) = plan.representatives() else { return Ok(()) };
        let mut kept = representatives?.to_host()?;
        kept.iter_mut().for_each(|row| row.sort_unstable());
        let kept = T::Indices::from_host(&kept, device)?;
        let record =
            PruneRecord { scores: None, kept: &kept, positions: None, votes: 0, tokens: site.tokens };
        lock(observer)?.pruned(site, &record)
    }
}

impl<T: AttentionOps> WithRatio for AroundSublayers<T> {
    fn set_ratio(&mut self, ratio: f64) {
        self.ratio = ratio;
    }
}

impl<T: AttentionOps> TokenReducer<T> for AroundSublayers<T> {
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.current = None;
        self.store.clear();
        self.planner.begin(run);
        Ok(())
    }

    fn begin_step(&mut self, step: &Step, rows: &[Row]) -> Result<()> {
        self.planner.begin_step(step, rows);
        Ok(())
    }

    fn end_step(&mut self, prediction: &T) -> Result<()> {
        self.planner.end_step(prediction)
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        match event {
            Event::LayerEnter { hidden } => {
                // another method may give self-attention's output: nothing is told before it, and this layer has no plan
                self.current = None;
                self.observer.enter_layer();
                if self.planner.moment() == Moment::LayerInput {
                    self.enter(site, hidden)?;
                }
            }
            Event::Before { sub, normed, .. } => {
                if sub.has_self_graph() && self.planner.moment() == Moment::Normalised {
                    self.enter(site, normed)?;
                }
                if let (Some(scope), Some(plan)) = (self.planner.scope(sub), &self.current) {
                    self.observer.tell(site, plan.as_ref(), &normed.device())?;
                    return Ok(Action::Around { scope, by: plan.clone_box() });
                }
            }
            Event::BlockExit { .. } => self.current = None,
            _ => {}
        }
        Ok(Action::Continue)
    }
}
