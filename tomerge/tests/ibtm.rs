//! Compares IBTM with plain loops and with results of its authors' program.

// helpers outside `#[test]` functions belong to the tests, too
#![allow(clippy::unwrap_used)]

mod common;

use atedm_core::plugin::{BlockId, Branch, Grid, Row, Scope, Site, Step};
use atedm_core::reference::NdTensor;
use atedm_core::{DType, Indices, Tensor};
use common::*;
use serde_json::{Value, json};

/// The rows of two images with guidance, as a pipeline orders them.
const ROWS: [Row; 4] = [
    Row { image: 0, branch: Branch::Uncond },
    Row { image: 1, branch: Branch::Uncond },
    Row { image: 0, branch: Branch::Cond },
    Row { image: 1, branch: Branch::Cond },
];

/// The method after its first two steps. The second step ended with `prediction`.
fn after_two_steps(options: Value, rows: &[Row], prediction: &NdTensor, seed: u64) -> Method {
    let mut method = build("ibtm", options).unwrap();
    begin(&mut method, rows, seed).unwrap();
    for index in 0..2 {
        let step = Step { index, total: 10, evaluation: index, sigma: 1.0, timestep: 900.0 };
        method.begin_step(&step, rows).unwrap();
        method.end_step(prediction).unwrap();
    }
    method
}

/// For each token: the lowest token that shares its value, in plain loops with given `destinations`.
fn naive(rows: &[Vec<f64>], heat: &[f64], destinations: &[usize], pool: usize, r: usize) -> Vec<usize> {
    let mut sorted = heat.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let least = sorted[pool - 1];
    let mut sources: Vec<(bool, f64, usize, usize)> = Vec::new();
    for source in (0..rows.len()).filter(|i| !destinations.contains(i)) {
        let mut best = (f64::NEG_INFINITY, 0);
        for &destination in destinations {
            let similarity = cosine(&rows[source], &rows[destination]);
            if similarity > best.0 {
                best = (similarity, destination);
            }
        }
        sources.push((heat[source] >= least, best.0, source, best.1));
    }
    // unimportant sources first, then by similarity
    sources.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut into: Vec<usize> = (0..rows.len()).collect();
    for &(.., source, destination) in sources.iter().take(r) {
        into[source] = destination;
    }
    lowest(&into)
}

/// The mean over channels of the difference of two rows, then the mean over each token's places.
fn heat(prediction: &NdTensor, [cond, uncond]: [usize; 2], grid: Grid) -> Vec<f64> {
    let [_, channels, height, width] = <[usize; 4]>::try_from(prediction.shape()).unwrap();
    let values: Vec<f64> = prediction.to_f32().unwrap().into_iter().map(f64::from).collect();
    let at =
        |row: usize, c: usize, y: usize, x: usize| values[((row * channels + c) * height + y) * width + x];
    let (down, right) = (height / grid.height, width / grid.width);
    let of = |token: usize| {
        let (top, left) = (token / grid.width * down, token % grid.width * right);
        let mut sum = 0.0;
        for c in 0..channels {
            for y in top..top + down {
                for x in left..left + right {
                    sum += (at(cond, c, y, x) - at(uncond, c, y, x)).abs();
                }
            }
        }
        sum / (channels * down * right) as f64
    };
    (0..grid.tokens()).map(of).collect()
}

#[test]
fn unimportant_tokens_are_merged_first() {
    for (case, (height, width)) in [(4, 6), (6, 4), (8, 8)].into_iter().enumerate() {
        for (ratio, dst_share, pool_size) in
            [(0.5, 0.25, 1.4), (0.7, 0.25, 1.4), (0.3, 0.1, 2.0), (0.6, 0.3, 1.0)]
        {
            let grid = Grid::new(height, width);
            let n = grid.tokens();
            let prediction = tokens([4, 3, 4 * n], 80 + case as u64, DType::F64);
            let prediction = prediction.reshape(&[4, 3, 2 * height, 2 * width]).unwrap();
            let options = json!({
                "ratio": ratio, "dst_share": dst_share, "pool_size": pool_size, "dst_mode": "top_k"
            });
            let mut method = after_two_steps(options, &ROWS, &prediction, 0);
            let hidden = tokens([4, n, 5], 60 + case as u64, DType::F64);
            let place = at_step(&site(grid, &ROWS), 2);
            let (scope, by) = plan(&mut method, &place, &hidden).unwrap().unwrap();
            let destinations = (dst_share * n as f64) as usize;
            let r = ((ratio * n as f64) as usize).min(n - destinations.max(n / 4));
            let pool = (((n - r) as f64 * pool_size) as usize).min(n);
            assert_eq!((scope, by.kept()), (Scope::Both, n - r));
            for (row, of) in [[2, 0], [3, 1], [2, 0], [3, 1]].into_iter().enumerate() {
                let heat = heat(&prediction, of, grid);
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|&i, &j| heat[j].total_cmp(&heat[i]));
                let expected = naive(&rows_of(&hidden, row), &heat, &order[..destinations], pool, r);
                assert_eq!(labels(by.as_ref(), 4, row), expected, "{grid:?} {ratio} row {row}");
            }
            // both halves of an image are merged into the same tokens, and a group becomes its members' mean
            let small = rows_of(&by.shrink(&hidden).unwrap(), 3);
            let whole = rows_of(&by.restore(&by.shrink(&hidden).unwrap()).unwrap(), 3);
            let (full, of) = (rows_of(&hidden, 3), labels(by.as_ref(), 4, 3));
            assert_eq!(small.len(), n - r);
            for (token, value) in whole.iter().enumerate() {
                let members: Vec<usize> = (0..n).filter(|&i| of[i] == of[token]).collect();
                let mean: Vec<f64> = (0..5)
                    .map(|c| members.iter().map(|&i| full[i][c]).sum::<f64>() / members.len() as f64)
                    .collect();
                near(value, &mean, true);
            }
        }
    }
}

/// The results of `matching_by_heat_map` of the authors' program (commit 4c2c319) in f64 with torch 2.11, after
/// `torch.manual_seed(11)`, for the same numbers in three consecutive layers.
#[test]
fn groups_are_those_of_the_authors_program() {
    const LAYERS: [(f64, u64, [[usize; 24]; 4]); 3] = [
        (
            0.5,
            91,
            [
                [0, 1, 2, 3, 3, 5, 1, 7, 5, 9, 10, 11, 0, 2, 3, 0, 16, 17, 5, 0, 0, 21, 16, 16],
                [0, 1, 2, 3, 4, 5, 5, 0, 8, 9, 9, 11, 9, 5, 9, 8, 16, 16, 16, 19, 5, 16, 22, 16],
                [0, 1, 2, 3, 3, 5, 6, 7, 5, 2, 10, 11, 5, 0, 6, 3, 16, 17, 6, 2, 5, 21, 6, 5],
                [0, 1, 2, 3, 4, 2, 6, 7, 3, 0, 0, 11, 0, 13, 7, 3, 4, 3, 18, 19, 13, 21, 3, 2],
            ],
        ),
        (
            0.5,
            92,
            [
                [0, 1, 0, 3, 4, 5, 6, 7, 6, 5, 10, 7, 12, 13, 7, 1, 13, 17, 5, 19, 5, 6, 1, 5],
                [0, 1, 2, 3, 4, 4, 6, 7, 0, 2, 10, 11, 10, 2, 0, 4, 16, 4, 18, 19, 16, 6, 10, 6],
                [0, 1, 2, 3, 4, 3, 2, 7, 1, 3, 10, 11, 12, 11, 1, 3, 16, 17, 16, 11, 3, 21, 1, 16],
                [0, 1, 2, 3, 4, 0, 6, 7, 8, 4, 4, 11, 12, 13, 2, 2, 4, 3, 18, 3, 3, 0, 4, 12],
            ],
        ),
        (
            0.7,
            93,
            [
                [0, 1, 2, 3, 4, 5, 4, 0, 0, 0, 5, 5, 0, 2, 5, 15, 15, 2, 15, 15, 0, 21, 4, 4],
                [0, 1, 2, 3, 4, 3, 1, 1, 8, 3, 2, 11, 12, 2, 3, 2, 3, 4, 0, 8, 4, 4, 3, 1],
                [0, 1, 2, 3, 3, 5, 6, 6, 5, 9, 9, 5, 3, 1, 5, 5, 5, 1, 5, 5, 9, 21, 6, 0],
                [0, 1, 1, 3, 1, 5, 0, 0, 5, 9, 1, 5, 1, 9, 1, 9, 1, 1, 18, 19, 20, 1, 20, 5],
            ],
        ),
    ];
    let grid = Grid::new(4, 6);
    let prediction = tokens([4, 3, 96], 90, DType::F64).reshape(&[4, 3, 8, 12]).unwrap();
    // a schedule gives the third layer, in its own block, another ratio
    let table = json!({"entries": [{"blocks": ["mid.1"], "ratio": 0.7}]});
    let options = json!({"ratio": 0.5, "schedule": "table", "table": table});
    let mut method = after_two_steps(options, &ROWS, &prediction, 11);
    for (layer, (ratio, seed, groups)) in LAYERS.iter().enumerate() {
        let place = Site { layer, ..at_step(&site(grid, &ROWS), 2) };
        let block = BlockId { index: usize::from(*ratio == 0.7), ..place.block };
        let hidden = tokens([4, 24, 5], *seed, DType::F64);
        let by = plan(&mut method, &Site { block, ..place }, &hidden).unwrap().unwrap().1;
        for (row, expected) in groups.iter().enumerate() {
            assert_eq!(labels(by.as_ref(), 4, row), expected, "layer {layer} row {row}");
        }
    }
}

#[test]
fn without_importance_sources_of_cells_are_pruned() {
    let grid = Grid::new(4, 6);
    let hidden = tokens([2, 24, 5], 70, DType::F64);
    let prediction = tokens([2, 3, 96], 71, DType::F64).reshape(&[2, 3, 8, 12]).unwrap();
    let guided = [Row { image: 4, branch: Branch::Uncond }, Row { image: 4, branch: Branch::Cond }];
    let single = Row::singles(2);
    for (rows, step, important) in
        [(&guided[..], 0, false), (&guided, 1, false), (&guided, 2, true), (&single, 2, false)]
    {
        let mut method = after_two_steps(json!({"ratio": 0.5, "rng": "chacha"}), rows, &prediction, 5);
        let by = plan(&mut method, &at_step(&site(grid, rows), step), &hidden).unwrap().unwrap().1;
        assert_eq!(by.kept(), 12);
        let full = rows_of(&hidden, 0);
        let small = rows_of(&by.shrink(&hidden).unwrap(), 0);
        // pruned: every remaining token is one of the stream's tokens
        assert_eq!(small.iter().all(|token| full.contains(token)), !important, "{rows:?} step {step}");
        if !important {
            let standing = &by.positions().unwrap().unwrap().to_host().unwrap()[0];
            for cell in 0..6 {
                let corner = cell / 3 * 12 + cell % 3 * 2;
                let of = [corner, corner + 1, corner + 6, corner + 7];
                assert!(
                    of.iter().any(|&at| standing.contains(&(at as u32))),
                    "cell {cell} has a destination"
                );
            }
        }
    }
}

#[test]
fn importance_is_of_the_run_and_of_predictions_that_fit() {
    let grid = Grid::new(4, 4);
    let rows = [Row { image: 0, branch: Branch::Uncond }, Row { image: 0, branch: Branch::Cond }];
    let prediction = tokens([2, 3, 64], 75, DType::F64).reshape(&[2, 3, 8, 8]).unwrap();
    let mut method = after_two_steps(json!({"dst_mode": "top_k"}), &rows, &prediction, 1);
    let hidden = tokens([2, 16, 5], 76, DType::F64);
    let place = at_step(&site(grid, &rows), 2);
    let important = plan(&mut method, &place, &hidden)
        .unwrap()
        .unwrap()
        .1
        .positions()
        .unwrap()
        .unwrap()
        .to_host()
        .unwrap();
    let other = prediction.permute(&[0, 1, 3, 2]).unwrap();
    let mut turned = after_two_steps(json!({"dst_mode": "top_k"}), &rows, &other, 1);
    let turned = plan(&mut turned, &place, &hidden)
        .unwrap()
        .unwrap()
        .1
        .positions()
        .unwrap()
        .unwrap()
        .to_host()
        .unwrap();
    assert_ne!(important, turned, "importance decides");
    begin(&mut method, &rows, 1).unwrap();
    let forgotten = plan(&mut method, &place, &hidden)
        .unwrap()
        .unwrap()
        .1
        .positions()
        .unwrap()
        .unwrap()
        .to_host()
        .unwrap();
    let mut fresh = build("ibtm", json!({"dst_mode": "top_k"})).unwrap();
    begin(&mut fresh, &rows, 1).unwrap();
    let fresh = plan(&mut fresh, &place, &hidden)
        .unwrap()
        .unwrap()
        .1
        .positions()
        .unwrap()
        .unwrap()
        .to_host()
        .unwrap();
    assert_eq!(forgotten, fresh, "a new run knows nothing of the last");
    let step = Step { index: 0, total: 10, evaluation: 0, sigma: 1.0, timestep: 900.0 };
    method.begin_step(&step, &rows).unwrap();
    for bad in [prediction.narrow(0, 0, 1).unwrap(), prediction.reshape(&[2, 3, 64]).unwrap()] {
        assert!(method.end_step(&bad).is_err());
    }
    let nan = NdTensor::full(f64::NAN, &[2, 3, 8, 8], DType::F64, &prediction.device()).unwrap();
    assert!(method.end_step(&nan).is_err());
}
