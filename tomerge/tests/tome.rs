//! Compares ToMe with the same method in plain loops, and tests its options.

// helpers outside `#[test]` functions belong to the tests, too
#![allow(clippy::unwrap_used)]

mod common;

use atedm_core::plugin::{Branch, Grid, Row, Scope, Site, Sublayer};
use atedm_core::{DType, Error, Tensor};
use common::*;
use serde_json::json;

const GRIDS: [(usize, usize); 7] = [(4, 4), (6, 5), (5, 7), (3, 8), (2, 2), (9, 2), (7, 7)];

#[test]
fn sets_means_and_restoring_against_plain_loops() {
    for (case, (height, width)) in GRIDS.into_iter().enumerate() {
        for (sx, sy, ratio, dtype) in [
            (2, 2, 0.5, DType::F64),
            (2, 2, 0.3, DType::F32),
            (1, 2, 0.4, DType::F64),
            (2, 2, 0.95, DType::F64),
        ] {
            let grid = Grid::new(height, width);
            let n = grid.tokens();
            let batch = 1 + case % 3;
            let rows = Row::singles(batch);
            let hidden = tokens([batch, n, 8], case as u64 * 7 + 1, dtype);
            let mut method = build("tome", plain(json!({"ratio": ratio, "sx": sx, "sy": sy}))).unwrap();
            begin(&mut method, &rows, 0).unwrap();
            let site = site(grid, &rows);
            let r = ((ratio * n as f64) as usize).min(n - (height / sy) * (width / sx));
            let (scope, by) = plan(&mut method, &site, &hidden).unwrap().unwrap();
            assert_eq!((scope, by.kept()), (Scope::Both, n - r), "{grid:?} {sx} {sy} {ratio}");
            let small = by.shrink(&hidden).unwrap();
            let whole = by.restore(&small).unwrap();
            assert_eq!((small.shape(), small.dtype()), (vec![batch, n - r, 8], dtype));
            let positions = by.places();
            for (b, places) in positions.iter().enumerate() {
                let full = rows_of(&hidden, b);
                let into = naive_tome(&full, grid, (sx, sy), r);
                assert_eq!(labels(by.as_ref(), batch, b), lowest(&into), "{grid:?} row {b}");
                let restored = rows_of(&whole, b);
                for (i, &goal) in into.iter().enumerate() {
                    let group: Vec<&Vec<f64>> =
                        (0..n).filter(|&j| into[j] == goal).map(|j| &full[j]).collect();
                    let mean: Vec<f64> = (0..8)
                        .map(|c| group.iter().map(|row| row[c]).sum::<f64>() / group.len() as f64)
                        .collect();
                    near(&restored[i], &mean, dtype == DType::F64);
                }
                // reduced tokens represent the tokens alone and the destinations, each once
                let mut standing = places.clone();
                standing.sort_unstable();
                let expected: Vec<u32> = (0..n).filter(|&i| into[i] == i).map(|i| i as u32).collect();
                assert_eq!(standing, expected);
                let reduced = rows_of(&small, b);
                for (row, &place) in reduced.iter().zip(places) {
                    near(row, &restored[place as usize], true);
                }
            }
        }
    }
}

#[test]
fn kernels() {
    let grid = Grid::new(4, 4);
    let rows = Row::singles(2);
    let hidden = tokens([2, 16, 5], 3, DType::F64);
    let of = |kernel: &str| {
        let mut method = build("tome", plain(json!({"ratio": 0.6, "merge": kernel}))).unwrap();
        let by = plan(&mut method, &site(grid, &rows), &hidden).unwrap().unwrap().1;
        by.restore(&by.shrink(&hidden).unwrap()).unwrap()
    };
    let (mean, mlerp, pruned) = (of("mean"), of("mlerp"), of("prune"));
    let length = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
    for b in 0..2 {
        let full = rows_of(&hidden, b);
        let into = naive_tome(&full, grid, (2, 2), 9);
        for i in 0..16 {
            let longest =
                (0..16).filter(|&j| into[j] == into[i]).map(|j| length(&full[j])).fold(0.0, f64::max);
            let mean = &rows_of(&mean, b)[i];
            let scaled: Vec<f64> = mean.iter().map(|x| x / length(mean) * longest).collect();
            // lengths are stored as f32
            near(&rows_of(&mlerp, b)[i], &scaled, false);
            near(&rows_of(&pruned, b)[i], &full[into[i]], true);
        }
    }
}

#[test]
fn every_sublayer_takes_the_layers_plan() {
    let grid = Grid::new(4, 6);
    let rows = Row::singles(2);
    let hidden = tokens([2, 24, 4], 4, DType::F32);
    let later = tokens([2, 24, 4], 5, DType::F32);
    let options = json!({"ratio": 0.5, "merge_attn": false, "merge_crossattn": true, "merge_mlp": true});
    let mut method = build("tome", plain(options)).unwrap();
    let site = site(grid, &rows);
    enter(&mut method, &site, &hidden).unwrap();
    assert!(before(&mut method, &site, Sublayer::SelfAttention, &hidden).unwrap().is_none());
    // the stream has changed by then, but the plan has not
    for sub in [Sublayer::CrossAttention, Sublayer::FeedForward] {
        let (_, by) = before(&mut method, &site, sub, &later).unwrap().unwrap();
        let expected = lowest(&naive_tome(&rows_of(&hidden, 1), grid, (2, 2), 12));
        assert_eq!(labels(by.as_ref(), 2, 1), expected, "{sub:?}");
    }
}

#[test]
fn a_zero_token_is_no_nan_and_a_nan_is_an_error() {
    let grid = Grid::new(4, 4);
    let rows = Row::singles(1);
    let mut values = noise(64, 6);
    values[..8].fill(0.0);
    values[20..24].fill(0.0);
    let mut method = build("tome", plain(json!({"ratio": 0.75}))).unwrap();
    let hidden = tensor(&values, &[1, 16, 4], DType::F32);
    let by = plan(&mut method, &site(grid, &rows), &hidden).unwrap().unwrap().1;
    let restored = by.restore(&by.shrink(&hidden).unwrap()).unwrap();
    assert!(restored.to_f32().unwrap().iter().all(|x| x.is_finite()));
    assert_eq!(labels(by.as_ref(), 1, 0), lowest(&naive_tome(&rows_of(&hidden, 0), grid, (2, 2), 12)));
    values[30] = f32::NAN;
    let hidden = tensor(&values, &[1, 16, 4], DType::F32);
    let error = plan(&mut method, &site(grid, &rows), &hidden).unwrap_err();
    assert!(matches!(error, Error::NotFinite { .. }), "{error}");
}

#[test]
fn equal_similarities_keep_the_lower_index() {
    let grid = Grid::new(4, 4);
    let rows = Row::singles(1);
    let hidden = tensor(&[1.0; 48], &[1, 16, 3], DType::F32);
    let mut method = build("tome", plain(json!({"ratio": 0.25}))).unwrap();
    let by = plan(&mut method, &site(grid, &rows), &hidden).unwrap().unwrap().1;
    // sources 1, 3, 4, 5 are merged into destination 0
    assert_eq!(labels(by.as_ref(), 1, 0), [0, 0, 2, 0, 0, 0, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
}

#[test]
fn protected_tokens_stay_and_a_shrunken_stream_is_left_alone() {
    let grid = Grid::new(4, 4);
    let rows = Row::singles(2);
    let mut method = build("tome", plain(json!({"ratio": 0.5}))).unwrap();
    let hidden = tokens([2, 19, 4], 7, DType::F32);
    let joint = Site { tokens: 19, protected: (0, 3), ..site(grid, &rows) };
    let by = plan(&mut method, &joint, &hidden).unwrap().unwrap().1;
    assert_eq!(by.kept(), 11);
    let expected = naive_tome(&rows_of(&hidden, 0)[3..], grid, (2, 2), 8);
    let expected: Vec<usize> = (0..3).chain(lowest(&expected).into_iter().map(|i| i + 3)).collect();
    assert_eq!(labels(by.as_ref(), 2, 0), expected);
    let fewer = tokens([2, 12, 4], 8, DType::F32);
    let shrunken = Site { tokens: 12, ..site(grid, &rows) };
    assert!(plan(&mut method, &shrunken, &fewer).unwrap().is_none());
}

#[test]
fn the_halves_of_guidance_can_share() {
    let grid = Grid::new(4, 4);
    let rows = [Row { image: 0, branch: Branch::Uncond }, Row { image: 0, branch: Branch::Cond }];
    let hidden = tokens([2, 16, 6], 9, DType::F64);
    let with = |guidance: &str| {
        let mut method = build("tome", plain(json!({"ratio": 0.5, "guidance": guidance}))).unwrap();
        let by = plan(&mut method, &site(grid, &rows), &hidden).unwrap().unwrap().1;
        [labels(by.as_ref(), 2, 0), labels(by.as_ref(), 2, 1)]
    };
    let own = [0, 1].map(|b| lowest(&naive_tome(&rows_of(&hidden, b), grid, (2, 2), 8)));
    assert_eq!(with("per_row"), own);
    assert_ne!(own[0], own[1]);
    assert_eq!(with("cond"), [own[1].clone(), own[1].clone()]);
    assert_eq!(with("first"), [own[0].clone(), own[0].clone()]);
    let mean = with("mean");
    assert_eq!(mean[0], mean[1]);
    assert!(mean[0] != own[0] || mean[0] != own[1]);
}

#[test]
fn a_threshold_merges_as_many_as_one_row_has() {
    let grid = Grid::new(6, 6);
    let rows = Row::singles(3);
    let hidden = tokens([3, 36, 3], 10, DType::F64);
    // how many sources of each row have a destination of at least this similarity
    let similar = |threshold: f64| {
        [0, 1, 2].map(|b| {
            let full = rows_of(&hidden, b);
            let into = naive_tome(&full, grid, (2, 2), 27);
            (0..36).filter(|&i| into[i] != i && cosine(&full[i], &full[into[i]]) >= threshold).count()
        })
    };
    for threshold in [0.5, 0.9, 0.97] {
        let counts = similar(threshold);
        let (most, fewest) = (*counts.iter().max().unwrap(), *counts.iter().min().unwrap());
        assert_ne!(most, fewest, "{threshold}");
        for (options, merged) in [
            (json!({"threshold": threshold}), most),
            (json!({"threshold": threshold, "threshold_count": "most"}), most),
            (json!({"threshold": threshold, "threshold_count": "fewest"}), fewest),
        ] {
            let mut method = build("tome", plain(options.clone())).unwrap();
            let by = plan(&mut method, &site(grid, &rows), &hidden).unwrap().map(|(_, by)| by);
            assert_eq!(by.as_ref().map_or(36, |by| by.kept()), 36 - merged, "{options}");
            // the most similar are merged, also in rows with fewer of them
            for b in 0..3 {
                let expected = lowest(&naive_tome(&rows_of(&hidden, b), grid, (2, 2), merged));
                if let Some(by) = &by {
                    assert_eq!(labels(by.as_ref(), 3, b), expected, "{options} row {b}");
                }
            }
        }
    }
    // at 1 not even equal tokens are merged
    let equal = tensor(&[1.0; 108], &[1, 36, 3], DType::F32);
    for (threshold, kept) in [(0.99, 9), (1.0, 36)] {
        let mut method = build("tome", plain(json!({"threshold": threshold}))).unwrap();
        let by = plan(&mut method, &Site { rows: &rows[..1], ..site(grid, &rows) }, &equal).unwrap();
        assert_eq!(by.map_or(36, |(_, by)| by.kept()), kept, "{threshold}");
    }
}

#[test]
fn comfy_reduces_queries_by_the_normalised_input() {
    let grid = Grid::new(4, 4);
    let rows = Row::singles(2);
    let hidden = tokens([2, 16, 4], 11, DType::F32);
    let normed = tokens([2, 16, 4], 12, DType::F32);
    let mut method = build("tome-comfy", plain(json!({"ratio": 0.5}))).unwrap();
    let site = site(grid, &rows);
    enter(&mut method, &site, &hidden).unwrap();
    let (scope, by) = before(&mut method, &site, Sublayer::SelfAttention, &normed).unwrap().unwrap();
    assert_eq!(scope, Scope::Queries);
    assert_eq!(labels(by.as_ref(), 2, 0), lowest(&naive_tome(&rows_of(&normed, 0), grid, (2, 2), 8)));
    assert!(before(&mut method, &site, Sublayer::CrossAttention, &normed).unwrap().is_none());
}

#[test]
fn draws_are_those_of_the_seed() {
    let grid = Grid::new(6, 6);
    let rows = Row::singles(2);
    let hidden = tokens([2, 36, 4], 13, DType::F32);
    let site = site(grid, &rows);
    let run = |rng: &str, seed: u64, rows: &[Row], hidden| {
        let options = json!({"ratio": 0.5, "use_rand": true, "rng": rng});
        let mut method = build("tome", plain(options)).unwrap();
        begin(&mut method, rows, seed).unwrap();
        let place = Site { rows, ..site };
        [0, 1].map(|_| plan(&mut method, &place, hidden).unwrap().unwrap().1.places())
    };
    for rng in ["torch", "chacha"] {
        let first = run(rng, 5, &rows, &hidden);
        assert_eq!(first, run(rng, 5, &rows, &hidden), "{rng}");
        assert_ne!(first, run(rng, 6, &rows, &hidden), "{rng}");
    }
    // torch's stream continues from draw to draw; ours depends only on the place, whatever else the batch holds
    let [first, second] = run("torch", 5, &rows, &hidden);
    assert_ne!(first, second);
    let [first, second] = run("chacha", 5, &rows, &hidden);
    assert_eq!(first, second);
    let alone = hidden.narrow(0, 0, 1).unwrap();
    assert_eq!(run("chacha", 5, &rows[..1], &alone)[0][0], first[0]);
    // as in tomesd, torch draws nothing for an odd number of rows
    let odd = run("torch", 5, &rows[..1], &alone);
    let mut undrawn = build("tome", plain(json!({"ratio": 0.5}))).unwrap();
    let place = Site { rows: &rows[..1], ..site };
    assert_eq!(odd[0], plan(&mut undrawn, &place, &alone).unwrap().unwrap().1.places());
}
