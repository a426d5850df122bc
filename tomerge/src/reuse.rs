//! Plans that are used again over steps and layers.

use std::collections::BTreeMap;

use atedm_core::plugin::{BlockId, Reduction, Row, Site};
use atedm_core::{Error, Result, Tensor};
use serde::{Deserialize, Serialize};

/// How long a plan is used again (CA-ToMe, arXiv 2501.00946; ToMA).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reuse {
    /// A plan is made anew at every so many-th step: 1 is every step. Default 1.
    pub steps: usize,
    /// Instead: the steps, in the full schedule, at which plans are made anew. Default: none.
    pub at: Option<Vec<usize>>,
    /// Layers of a block that share a plan: 1 is none. Default 1.
    pub layers: usize,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { steps: 1, at: None, layers: 1 }
    }
}

impl Reuse {
    /// That every value is in range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field and what was expected.
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

    /// Whether plans of `step` are made anew, whatever there is.
    pub fn is_fresh(&self, step: usize) -> bool {
        match &self.at {
            Some(steps) => steps.contains(&step),
            None => step.is_multiple_of(self.steps),
        }
    }

    /// Whether nothing is ever used again.
    pub fn is_off(&self) -> bool {
        self.steps == 1 && self.at.is_none() && self.layers == 1
    }
}

/// A plan and what it was made for.
struct Stored<T: Tensor> {
    evaluation: usize,
    tokens: usize,
    ratio: f64,
    plan: Option<Box<dyn Reduction<T>>>,
}

/// Plans by block, group of layers, and the rows of the batch: images that are evaluated one after the other have plans
/// of their own.
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

    /// The plan for `site` at `ratio`: one made before, or else what `make` gives. A plan for other tokens, rows or
    /// another ratio is never used again.
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
