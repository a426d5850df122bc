//! Compares ToDo with the same method in plain loops, and tests its time steps.

// helpers outside `#[test]` functions belong to the tests, too
#![allow(clippy::unwrap_used)]

mod common;

use atedm_core::DType;
use atedm_core::plugin::{BlockId, Grid, Row, Scope, Site, Sublayer};
use common::*;
use serde_json::json;

/// Every frame of a video is downsampled separately.
#[test]
fn todo_keeps_the_frames_of_a_video() {
    let rows = Row::singles(1);
    let picture = Grid::new(5, 7);
    let video = Grid::of_frames(3, 5, 7);
    let kept = |grid: Grid| {
        let mut todo = build("todo", json!({"downsample_factor_level_2": 2})).unwrap();
        let hidden = tokens([1, grid.tokens(), 3], 1, DType::F32);
        plan(&mut todo, &site(grid, &rows), &hidden).unwrap().unwrap().1.places().remove(0)
    };
    let one = kept(picture);
    let expected: Vec<u32> = (0..3).flat_map(|frame| one.iter().map(move |i| i + 35 * frame)).collect();
    assert_eq!(kept(video), expected);
}

#[test]
fn todo_takes_keys_and_values_from_a_coarser_grid() {
    let rows = Row::singles(2);
    // torch's interpolate from 5 x 7 to 2 x 3: rows floor((i + 1/2) 5/2), columns floor((i + 1/2) 7/3); nearest without 1/2
    for (method, expected) in [
        ("nearest-exact", [[1, 1], [1, 3], [1, 5], [3, 1], [3, 3], [3, 5]]),
        ("nearest", [[0, 0], [0, 2], [0, 4], [2, 0], [2, 2], [2, 4]]),
    ] {
        let grid = Grid::new(5, 7);
        let hidden = tokens([2, 35, 3], 1, DType::F32);
        let options = json!({"downsample_factor_level_2": 2, "downsample_method": method});
        let mut todo = build("todo", options).unwrap();
        let (scope, by) = plan(&mut todo, &site(grid, &rows), &hidden).unwrap().unwrap();
        let expected: Vec<u32> = expected.iter().map(|[y, x]| y * 7 + x).collect();
        assert_eq!(scope, Scope::KeysValues);
        assert_eq!(by.places(), vec![expected.clone(); 2]);
        let small = by.shrink(&hidden).unwrap();
        for (row, &place) in rows_of(&small, 1).iter().zip(&expected) {
            assert_eq!(row, &rows_of(&hidden, 1)[place as usize]);
        }
        // kept tokens return unchanged
        let restored = rows_of(&by.restore(&small).unwrap(), 0);
        for &place in &expected {
            assert_eq!(restored[place as usize], rows_of(&hidden, 0)[place as usize]);
        }
        for sub in [Sublayer::CrossAttention, Sublayer::FeedForward] {
            assert!(before(&mut todo, &site(grid, &rows), sub, &hidden).unwrap().is_none());
        }
    }
}

#[test]
fn todo_has_a_factor_for_each_level_and_stops_in_time() {
    let rows = Row::singles(1);
    let grid = Grid::new(8, 8);
    let hidden = tokens([1, 64, 2], 2, DType::F32);
    let kept = |options, level: usize, timestep: f64| {
        let mut todo = build("todo", options).unwrap();
        let place = at_time(&site(grid, &rows), timestep);
        let place = Site { block: BlockId { level, ..place.block }, ..place };
        plan(&mut todo, &place, &hidden).unwrap().map(|(_, by)| by.kept())
    };
    let factors = json!({"downsample_factor": 4, "downsample_factor_level_2": 2});
    assert_eq!(
        [0, 1, 2, 3].map(|level| kept(factors.clone(), level, 999.0)),
        [Some(4), Some(16), None, None]
    );
    let stop = json!({"downsample_factor": 2, "timestep_threshold_stop": 0.35});
    let times = [351.0, 350.5, 350.0, 349.0, 0.0];
    assert_eq!(times.map(|time| kept(stop.clone(), 0, time)), [Some(16), Some(16), None, None, None]);
    // the defaults: a quarter stays; from 200 on half stays, at level 1 too; at 0 all stay
    let times = [999.0, 200.5, 200.0, 1.0, 0.0];
    let expected = [Some(16), Some(16), Some(32), Some(32), None];
    assert_eq!(times.map(|time| kept(json!({}), 0, time)), expected);
    assert_eq!(times.map(|time| kept(json!({}), 1, time)), [None, None, Some(32), Some(32), None]);
    assert_eq!(times.map(|time| kept(json!({}), 2, time)), [None; 5]);
    let ratios = json!({"ratio": 0.25, "ratio_level_2": 0.375});
    assert_eq!([0, 1, 2].map(|level| kept(ratios.clone(), level, 100.0)), [Some(48), Some(40), None]);
    // at most one destination for each cell stays
    assert_eq!(kept(json!({"ratio_level_2": 0.9, "sx": 4}), 1, 100.0), Some(8));
    // either method at either time
    let swapped = json!({"merge_method": "similarity", "secondary_merge_method": "downsample",
        "timestep_threshold_switch": 0.7, "ratio_level_2": 0.25, "downsample_factor_level_2": 4});
    assert_eq!([701.0, 700.0].map(|time| kept(swapped.clone(), 1, time)), [Some(48), Some(4)]);
    let once = json!({"secondary_merge_method": "none"});
    assert_eq!([201.0, 200.0].map(|time| kept(once.clone(), 0, time)), [Some(16), None]);
    // protected tokens stay
    let joint = Site { tokens: 66, protected: (64, 66), ..site(grid, &rows) };
    let mut todo = build("todo-sdxl", json!({})).unwrap();
    let by = plan(&mut todo, &joint, &tokens([1, 66, 2], 3, DType::F32)).unwrap().unwrap().1;
    assert_eq!(by.places()[0][16..], [64, 65]);
}

#[test]
fn todo_merges_keys_and_values_by_similarity_in_the_end() {
    for (height, width) in [(6, 6), (5, 7), (4, 9)] {
        let grid = Grid::new(height, width);
        let n = grid.tokens();
        let rows = Row::singles(2);
        let (hidden, normed) = (tokens([2, n, 5], n as u64, DType::F64), tokens([2, n, 5], 9, DType::F64));
        let mut todo = build("todo", json!({"use_rand": false, "ratio_level_2": 0.4})).unwrap();
        let site = at_time(&site(grid, &rows), 150.0);
        enter(&mut todo, &site, &hidden).unwrap();
        let (scope, by) = before(&mut todo, &site, Sublayer::SelfAttention, &normed).unwrap().unwrap();
        let r = (0.4 * n as f64) as usize;
        assert_eq!((scope, by.kept()), (Scope::KeysValues, n - r));
        let small = by.shrink(&normed).unwrap();
        let places = by.places();
        for (b, places) in places.iter().enumerate() {
            // the method compares keys and values as their projections get them
            let full = rows_of(&normed, b);
            let into = naive_tome(&full, grid, (2, 2), r);
            assert_eq!(labels(by.as_ref(), 2, b), lowest(&into), "{grid:?} row {b}");
            for (row, &place) in rows_of(&small, b).iter().zip(places) {
                let group: Vec<_> = (0..n).filter(|&j| into[j] == place as usize).collect();
                let mean: Vec<f64> = (0..5)
                    .map(|c| group.iter().map(|&j| full[j][c]).sum::<f64>() / group.len() as f64)
                    .collect();
                near(row, &mean, true);
            }
        }
        for sub in [Sublayer::CrossAttention, Sublayer::FeedForward] {
            assert!(before(&mut todo, &site, sub, &normed).unwrap().is_none());
        }
    }
    // destinations are drawn as in ToMe, and only for similarity
    let grid = Grid::new(6, 6);
    let rows = Row::singles(2);
    let hidden = tokens([2, 36, 5], 4, DType::F32);
    let at = |name: &str, options, times: &[f64]| {
        let mut method = build(name, options).unwrap();
        begin(&mut method, &rows, 3).unwrap();
        let last = times.iter().map(|&time| {
            let by = plan(&mut method, &at_time(&site(grid, &rows), time), &hidden).unwrap().unwrap().1;
            by.places()
        });
        last.last().unwrap()
    };
    let tome = at("tome", json!({"ratio": 0.5, "max_downsample": 8}), &[999.0]);
    assert_eq!(at("todo-sdxl", json!({}), &[999.0, 500.0, 100.0]), tome);
    assert_ne!(at("todo-sdxl", json!({"use_rand": false}), &[100.0]), tome);
}
