//! Observers of every method, on layers of every kind.

// helpers outside `#[test]` functions are tests, too
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};

use atedm_core::plugin::{
    BuildContext, Event, Grid, PruneObserver, PruneRecord, Reductions, Registry, Row, Site, Sublayer,
};
use atedm_core::reference::NdTensor;
use atedm_core::{DType, Indices, Result};
use common::*;
use serde_json::{Value, json};

/// The tokens that stayed, for each time that it was told.
#[derive(Debug, Default)]
struct Told(Vec<Vec<Vec<u32>>>);

impl PruneObserver<NdTensor> for Told {
    fn pruned(&mut self, _site: &Site<'_>, record: &PruneRecord<'_, NdTensor>) -> Result<()> {
        self.0.push(record.kept.to_host()?);
        Ok(())
    }
}

/// What an observer is told in two steps of one layer, and what the first reduced sublayer of each kept.
fn watch(name: &str, options: &Value, layer: &[Sublayer]) -> [Vec<Vec<Vec<u32>>>; 2] {
    let told = Arc::new(Mutex::new(Told::default()));
    let context = BuildContext::<NdTensor> { observer: Some(told.clone()), ..BuildContext::default() };
    let mut registry = Registry::with_builtins();
    atedm_tomerge::register(&mut registry).unwrap();
    let mut method = registry.build(name, options, &context).unwrap();
    let (grid, rows) = (Grid::new(8, 8), Row::singles(2));
    begin(&mut method, &rows, 0).unwrap();
    let mut kept = Vec::new();
    for index in 0..2 {
        let place = at_step(&site(grid, &rows), index);
        let hidden = tokens([2, 64, 4], 800 + index as u64, DType::F32);
        enter(&mut method, &place, &hidden).unwrap();
        let mut first = None;
        for &sub in layer {
            let answer = before(&mut method, &place, sub, &hidden).unwrap();
            first = first.or(answer.map(|(_, by)| by.places()));
            let after =
                Event::After { sub, hidden: &hidden, output: &hidden, reductions: Reductions::none() };
            method.on_event(&place, after).unwrap();
        }
        method.on_event(&place, Event::BlockExit { hidden: &hidden }).unwrap();
        kept.extend(first.map(|mut rows| {
            rows.iter_mut().for_each(|row| row.sort_unstable());
            rows
        }));
    }
    let told = std::mem::take(&mut told.lock().unwrap().0);
    [told, kept]
}

#[test]
fn an_observer_is_told_once_a_layer_whatever_its_sublayers() {
    use Sublayer::{CrossAttention, FeedForward, JointAttention, Parallel, SelfAttention};
    let layers: [&[Sublayer]; 3] =
        [&[SelfAttention, CrossAttention, FeedForward], &[JointAttention, FeedForward], &[Parallel]];
    for (name, options) in [
        ("tome", plain(json!({}))),
        ("tome", plain(json!({"merge_mlp": true}))),
        ("tome-comfy", json!({"max_downsample": 8})),
        ("todo", json!({"downsample_factor_level_2": 2})),
        ("toma", json!({})),
        ("sito", json!({})),
        ("ibtm", json!({})),
        ("dito", json!({})),
        ("dito", json!({"merge_mlp": true})),
    ] {
        for layer in layers {
            let [told, kept] = watch(name, &options, layer);
            assert_eq!(told, kept, "{name} {options} on {layer:?}");
            // DiTo reduces nothing at the step of its matching
            let steps = if name == "dito" { 1 } else { 2 };
            assert_eq!(told.len(), steps, "{name} {options} on {layer:?}");
        }
    }
}

/// A layer in which nothing is reduced is nothing to tell of.
#[test]
fn an_observer_is_not_told_of_a_layer_that_runs_whole() {
    for (name, options) in [
        ("tome", plain(json!({"merge_attn": false, "merge_mlp": true}))),
        ("sito", json!({"merge_attn": false, "merge_mlp": true})),
        ("dito", json!({"merge_attn": false, "merge_mlp": true})),
    ] {
        let joint = watch(name, &options, &[Sublayer::JointAttention, Sublayer::FeedForward]);
        assert!(!joint[0].is_empty() && joint[0] == joint[1], "{name}: {joint:?}");
        let [told, kept] = watch(name, &options, &[Sublayer::Parallel]);
        assert!(told.is_empty() && kept.is_empty(), "{name}: {told:?}");
    }
}
