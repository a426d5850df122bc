//! Compares DiTo with plain loops.

// helpers outside `#[test]` functions belong to the tests, too
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use atedm_core::plugin::{Event, Grid, Reductions, Row, Scope, Site, Sublayer};
use atedm_core::reference::NdTensor;
use atedm_core::{DType, Indices};
use common::*;
use serde_json::{Value, json};

fn dito(more: Value) -> Method {
    let mut options = json!({"ratio": 0.5, "use_rand": false, "interval": 3, "frequency_penalty": 0.0});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    build("dito", options).unwrap()
}

/// Reports a sublayer that got `input` and gave `output`. It returns the answer before the sublayer.
fn runs(
    method: &mut Method,
    place: &Site<'_>,
    sub: Sublayer,
    [input, output]: [&NdTensor; 2],
) -> Option<Around> {
    let answer = before(method, place, sub, input).unwrap();
    method
        .on_event(place, Event::After { sub, hidden: output, output, reductions: Reductions::none() })
        .unwrap();
    answer
}

/// For each token: the lowest token whose value it shares. It applies ToMe's rule to `compared`. A token merged in
/// a share `merged[i]` of earlier matchings loses `penalty` times that share.
fn naive(compared: &[Vec<f64>], grid: Grid, r: usize, penalty: f64, merged: &[f64]) -> Vec<usize> {
    let is_destination = |i: usize| {
        let (y, x) = (i / grid.width, i % grid.width);
        y % 2 == 0 && x % 2 == 0 && y + 2 <= grid.height && x + 2 <= grid.width
    };
    let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
    for source in (0..grid.tokens()).filter(|&i| !is_destination(i)) {
        let mut best = (f64::NEG_INFINITY, 0);
        for destination in (0..grid.tokens()).filter(|&i| is_destination(i)) {
            let similarity = cosine(&compared[source], &compared[destination]);
            if similarity > best.0 {
                best = (similarity, destination);
            }
        }
        pairs.push((best.0 - penalty * merged[source], source, best.1));
    }
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut into: Vec<usize> = (0..grid.tokens()).collect();
    for &(_, source, destination) in pairs.iter().take(r) {
        into[source] = destination;
    }
    into
}

#[test]
fn steps_of_reduction_use_the_outputs_of_the_matching() {
    let grid = Grid::new(5, 6);
    let rows = Row::singles(2);
    let mut method = dito(json!({"merge_mlp": true}));
    begin(&mut method, &rows, 0).unwrap();
    let mut outputs: BTreeMap<Sublayer, NdTensor> = BTreeMap::new();
    for step in 0..8 {
        let place = at_step(&site(grid, &rows), step);
        for (number, sub) in
            [Sublayer::SelfAttention, Sublayer::CrossAttention, Sublayer::FeedForward].into_iter().enumerate()
        {
            let seed = 10 * step as u64 + number as u64;
            let input = tokens([2, 30, 4], 300 + seed, DType::F64);
            let output = tokens([2, 30, 4], 400 + seed, DType::F64);
            let answer = runs(&mut method, &place, sub, [&input, &output]);
            if step % 3 == 0 {
                assert!(answer.is_none(), "a matching runs whole");
                outputs.insert(sub, output);
                continue;
            }
            let Some((scope, by)) = answer else {
                assert_eq!(sub, Sublayer::CrossAttention, "step {step}");
                continue;
            };
            assert_eq!((scope, by.kept()), (Scope::Both, 15));
            for row in 0..2 {
                let compared = rows_of(&outputs[&sub], row);
                let expected = naive(&compared, grid, 15, 0.0, &[0.0; 30]);
                assert_eq!(labels(by.as_ref(), 2, row), lowest(&expected), "step {step} {sub:?} row {row}");
            }
        }
    }
}

#[test]
fn tokens_that_were_merged_often_are_merged_less() {
    let grid = Grid::new(6, 6);
    let rows = Row::singles(2);
    for penalty in [0.0, 0.3, 5.0] {
        let mut method = dito(json!({"ratio": 0.4, "interval": 2, "frequency_penalty": penalty}));
        begin(&mut method, &rows, 0).unwrap();
        let mut times = [[0usize; 36]; 2];
        for matching in 0..4 {
            let output = tokens([2, 36, 4], 500 + matching as u64, DType::F64);
            for step in [2 * matching, 2 * matching + 1] {
                let place = at_step(&site(grid, &rows), step);
                let Some((_, by)) = runs(&mut method, &place, Sublayer::SelfAttention, [&output, &output])
                else {
                    continue;
                };
                for row in 0..2 {
                    let shares = times[row].map(|times| times as f64 / matching.max(1) as f64);
                    let into = naive(&rows_of(&output, row), grid, 14, penalty, &shares);
                    let what = format!("λ {penalty} matching {matching} row {row}");
                    assert_eq!(labels(by.as_ref(), 2, row), lowest(&into), "{what}");
                    (0..36).filter(|&i| into[i] != i).for_each(|i| times[row][i] += 1);
                }
            }
        }
        let spread = |times: &[usize; 36]| {
            times.iter().max().unwrap() - times.iter().filter(|t| **t > 0).min().unwrap()
        };
        if penalty == 5.0 {
            // 27 sources, 14 of them merged each time: no source is merged three times before all were merged once
            assert!(times.iter().all(|times| spread(times) <= 2), "{times:?}");
        }
    }
}

#[test]
fn a_step_without_a_matching_compares_inputs() {
    let grid = Grid::new(4, 6);
    let rows = Row::singles(1);
    let mut method = dito(json!({}));
    begin(&mut method, &rows, 0).unwrap();
    let [first, second] = [600, 601].map(|seed| tokens([1, 24, 4], seed, DType::F64));
    let of = |method: &mut Method, step: usize, input: &NdTensor| {
        let by = before(method, &at_step(&site(grid, &rows), step), Sublayer::SelfAttention, input);
        by.unwrap().map(|(_, by)| labels(by.as_ref(), 1, 0))
    };
    let expected = lowest(&naive(&rows_of(&first, 0), grid, 12, 0.0, &[0.0; 24]));
    assert_eq!(of(&mut method, 4, &first), Some(expected.clone()));
    assert_eq!(of(&mut method, 5, &second), Some(expected), "it serves until the next matching");
    assert_eq!(of(&mut method, 6, &second), None);
    let expected = lowest(&naive(&rows_of(&second, 0), grid, 12, 0.0, &[0.0; 24]));
    assert_eq!(of(&mut method, 7, &second), Some(expected), "the matching told of no output");
    begin(&mut method, &rows, 0).unwrap();
    let expected = lowest(&naive(&rows_of(&first, 0), grid, 12, 0.0, &[0.0; 24]));
    assert_eq!(of(&mut method, 7, &first), Some(expected), "a new run has forgotten the last");
}

#[test]
fn destinations_are_drawn_anew_at_every_matching() {
    let grid = Grid::new(6, 6);
    let rows = Row::singles(2);
    let output = tokens([2, 36, 4], 700, DType::F64);
    let standing = |seed: u64, matching: usize| {
        let mut method = dito(json!({"use_rand": true, "ratio": 0.75, "interval": 2}));
        begin(&mut method, &rows, seed).unwrap();
        let place = |step| at_step(&site(grid, &rows), step);
        runs(&mut method, &place(2 * matching), Sublayer::SelfAttention, [&output, &output]);
        let answer = runs(&mut method, &place(2 * matching + 1), Sublayer::SelfAttention, [&output, &output]);
        let mut standing = answer.unwrap().1.positions().unwrap().unwrap().to_host().unwrap();
        standing.iter_mut().for_each(|row| row.sort_unstable());
        standing
    };
    assert_eq!(standing(3, 0), standing(3, 0));
    assert_ne!(standing(3, 0), standing(3, 1));
    assert_ne!(standing(3, 0), standing(4, 0));
    assert_eq!(standing(3, 0)[0], standing(3, 0)[1], "one draw for the whole batch");
}
