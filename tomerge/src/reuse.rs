//! Plans that serve several steps and layers.

use std::collections::BTreeMap;

use atedm_core::plugin::{BlockId, Reduction, Row, Site};
use atedm_core::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

/// How long a plan is reused (CA-ToMe, arXiv 2501.00946; ToMA).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reuse {
    /// A new plan is made every `steps` steps. 1 means at every step. Default 1.
    pub steps: usize,
    /// Alternative to `steps`: the steps, in the full schedule, at which new plans are made. Default: none.
    pub at: Option<Vec<usize>>,
    /// The number of layers of a block that share a plan. 1 means no sharing. Default 1.
    pub layers: usize,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { steps: 1, at: None, layers: 1 }
    }
}

impl Reuse {
    /// Checks that every value is in range.
    ///
    /// # Errors
    /// [`Error::Config`] with the field and the expected value.
    pub fn validate(&self) -> Result<()> {
        for (field, every) in [("reuse.steps", self.steps), ("reuse.layers", self.layers)] {
            if every == 0 {
                return Err(Error::config(field, "expected at least 1, got 0"));
            }
        }
        if self.at.is_some() && self.steps != 1 {
            return Err(Error::config("reuse.at", "takes the place of reuse.steps: give one of them"));
        }
        Ok(())
    }

    /// Whether step `step` makes new plans, even if earlier plans exist.
    pub(crate) fn is_fresh(&self, step: usize) -> bool {
        match &self.at {
            Some(steps) => steps.contains(&step),
            None => step.is_multiple_of(self.steps),
        }
    }

    /// Whether no plan is ever reused.
    pub(crate) fn is_off(&self) -> bool {
        self.steps == 1 && self.at.is_none() && self.layers == 1
    }
}

/// A plan, and the conditions for which it was made.
struct Stored<T: Tensor> {
    evaluation: usize,
    tokens: usize,
    ratio: f64,
    plan: Option<Box<dyn Reduction<T>>>,
}

/// Plans by block, group of layers, and rows of the batch. Images that are evaluated one after the other have separate plans.
pub(crate) struct PlanStore<T: Tensor> {
    reuse: Reuse,
    plans: BTreeMap<(BlockId, usize, Vec<Row>), Stored<T>>,
}

impl<T: Tensor> PlanStore<T> {
    pub(crate) fn new(reuse: Reuse) -> Self {
        Self { reuse, plans: BTreeMap::new() }
    }

    pub(crate) fn clear(&mut self) {
        self.plans.clear();
    }

    /// The plan for `site` at `ratio`. It is an earlier plan if one fits, or else the result of `make`. A plan for
    /// other tokens, other rows or another ratio does not fit.
    pub(crate) fn plan(
        &mut self,
        site: &Site<'_>,
        ratio: f64,
        make: impl FnOnce() -> Result<Option<Box<dyn Reduction<T>>>>,
    ) -> Result<Option<Box<dyn Reduction<T>>>> {
        if self.reuse.is_off() {
            return make();
        }
        let fresh = self.reuse.is_fresh(site.step.index);
        let key = (site.block, site.layer / self.reuse.layers.max(1), site.rows.to_vec());
        let (tokens, evaluation) = (site.tokens, site.step.evaluation);
        if let Some(stored) = self.plans.get(&key)
            && (stored.tokens, stored.ratio) == (tokens, ratio)
            && (!fresh || (self.reuse.layers > 1 && stored.evaluation == evaluation))
        {
            return Ok(stored.plan.as_ref().map(|plan| plan.clone_box()));
        }
        let plan = make()?;
        let copy = plan.as_ref().map(|plan| plan.clone_box());
        self.plans.insert(key, Stored { evaluation, tokens, ratio, plan: copy });
        Ok(plan)
    }
}
