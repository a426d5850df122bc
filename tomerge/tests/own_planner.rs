//! A user's own method of merging, as the guide shows it.

// Helpers outside `#[test]` functions belong to the tests, too.
#![allow(clippy::unwrap_used)]

// ANCHOR: planner
use atedm_core::backend::dims;
use atedm_core::plugin::{IndexPlan, Reduction, RunTells, Scope, Site, Sublayer};
use atedm_core::{AttentionOps, Indices, Partition, Result, Tensor};
use atedm_tomerge::Planner;
use atedm_tomerge::around::AroundSublayers;
use atedm_tomerge::reuse::Reuse;

/// Self-attention runs on every second token, and the token after it gets the same output.
struct Pairs;

impl<T: AttentionOps> Planner<T> for Pairs {
    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        (sub == Sublayer::SelfAttention).then_some(Scope::Both)
    }

    fn plan(&mut self, _: &Site<'_>, metric: &T, _ratio: f64) -> Result<Option<Box<dyn Reduction<T>>>> {
        let [batch, tokens, _] = dims(metric, "pairs")?;
        let even: Vec<u32> = (0..tokens as u32).step_by(2).collect();
        let partition = Partition::from_kept(&vec![even; batch], tokens, &metric.device())?;
        // what follows token 2i gets back what token 2i, the i-th that is kept, became
        let donors: Vec<u32> = (0..tokens as u32 / 2).collect();
        let donors = T::Indices::from_host(&vec![donors; batch], &metric.device())?;
        Ok(Some(Box::new(IndexPlan::new(&partition, &donors)?)))
    }
}
// ANCHOR_END: planner

use atedm_core::DType;
use atedm_core::backend::AttentionOptions;
use atedm_core::plugin::{
    AttentionInput, AttentionOutput, BlockId, BlockPass, BuildContext, Grid, Registry, Row, Step,
};
use atedm_core::reference::{NdDevice, NdTensor};
use serde_json::json;

fn registry() -> Result<Registry<NdTensor>> {
    let mut registry = Registry::of_identity();
    // ANCHOR: register
    registry.register_method(
        "pairs",
        |options, _facts| Ok(RunTells { options: options.clone() }),
        |_plan: &RunTells, context| {
            let observer = context.observer.clone();
            Ok(Box::new(AroundSublayers::new(Box::new(Pairs), 0.5, Reuse::default(), observer)))
        },
    )?;
    // ANCHOR_END: register
    Ok(registry)
}

#[test]
fn the_guides_planner_halves_self_attention() {
    let mut method = registry().unwrap().build("pairs", &json!({}), &BuildContext::default()).unwrap();
    let values: Vec<f32> = (0..10).map(|value| value as f32).collect();
    let hidden = NdTensor::from_f32(&values, &[1, 5, 2], DType::F32, &NdDevice).unwrap();
    let rows = Row::singles(1);
    let step = Step { index: 0, total: 1, evaluation: 0, sigma: 1.0, timestep: 999.0 };
    let mut pass = BlockPass::enter(method.as_mut(), &step, &rows, BlockId::whole(), 1, Grid::new(1, 5));
    let x = pass.layer(0, hidden.clone()).unwrap();
    let mut seen = 0;
    let sum = |input: AttentionInput<'_, NdTensor>| {
        seen = input.queries.shape()[1];
        let heads = input.queries.reshape(&[1, 1, seen, 2])?;
        let options = AttentionOptions { graph: input.graph, ..AttentionOptions::for_dim(2) };
        let attended = NdTensor::attention(&heads, &heads, &heads, options)?;
        Ok(AttentionOutput {
            hidden: input.queries.clone(),
            graph: attended.graph,
            first_vote: attended.first_vote,
            values: heads,
        })
    };
    let x = pass.attention(Sublayer::SelfAttention, x, |x| Ok(x.clone()), sum).unwrap();
    let x = pass.exit(x).unwrap();
    assert_eq!(seen, 3);
    // every token, plus the even token at or before it
    assert_eq!(x.to_f32().unwrap(), [0., 2., 2., 4., 8., 10., 10., 12., 16., 18.]);
}
