//! ToDo, ToMA and SiTo against the same in plain loops.

// helpers outside `#[test]` functions are tests, too
#![allow(clippy::unwrap_used)]

mod common;

use atedm_core::plugin::{BlockId, Branch, Grid, Row, Scope, Site, Sublayer};
use atedm_core::{DType, Tensor};
use common::*;
use serde_json::json;

#[test]
fn todo_takes_keys_and_values_from_a_coarser_grid() {
    let rows = Row::singles(2);
    // torch's interpolate from 5 x 7 to 2 x 3: rows floor((i + 1/2) 5/2), columns floor((i + 1/2) 7/3); nearest without 1/2
    for (method, expected) in [
        ("nearest-exact", [[1, 1], [1, 3], [1, 5], [3, 1], [3, 3], [3, 5]]),
        ("nearest", [[0, 0], [0, 2], [0, 4], [2, 0], [2, 2], [2, 4]]),
    ] {
        let grid = Grid { height: 5, width: 7 };
        let hidden = tokens([2, 35, 3], 1, DType::F32);
        let options = json!({"downsample_factor_level_2": 2, "downsample_method": method});
        let mut todo = build("todo", options).unwrap();
        let (scope, by) = plan(&mut todo, &site(grid, &rows), &hidden).unwrap().unwrap();
        let expected: Vec<u32> = expected.iter().map(|[y, x]| y * 7 + x).collect();
        assert_eq!(scope, Scope::KeysValues);
        assert_eq!(by.positions().unwrap().unwrap(), vec![expected.clone(); 2]);
        let small = by.shrink(&hidden).unwrap();
        for (row, &place) in rows_of(&small, 1).iter().zip(&expected) {
            assert_eq!(row, &rows_of(&hidden, 1)[place as usize]);
        }
        // kept tokens come back as themselves
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
    let grid = Grid { height: 8, width: 8 };
    let hidden = tokens([1, 64, 2], 2, DType::F32);
    let kept = |options, level: usize, step: usize| {
        let mut todo = build("todo", options).unwrap();
        let place = at_step(&site(grid, &rows), step);
        let place = Site { block: BlockId { level, ..place.block }, ..place };
        plan(&mut todo, &place, &hidden).unwrap().map(|(_, by)| by.kept())
    };
    let factors = json!({"downsample_factor": 4, "downsample_factor_level_2": 2});
    assert_eq!([0, 1, 2, 3].map(|level| kept(factors.clone(), level, 0)), [Some(4), Some(16), None, None]);
    let stop = json!({"downsample_factor": 2, "timestep_threshold_stop": 0.35});
    assert_eq!([5, 6, 7, 9].map(|step| kept(stop.clone(), 0, step)), [Some(16), Some(16), None, None]);
    // protected tokens stay
    let joint = Site { tokens: 66, protected: (64, 66), ..site(grid, &rows) };
    let mut todo = build("todo-sdxl", json!({})).unwrap();
    let by = plan(&mut todo, &joint, &tokens([1, 66, 2], 3, DType::F32)).unwrap().unwrap().1;
    assert_eq!(by.positions().unwrap().unwrap()[0][16..], [64, 65]);
}

/// ToMA's weights of one tile in plain loops: destinations and `A[d][i]`.
fn naive_toma(tile: &[Vec<f64>], kept: usize, scale: f64) -> (Vec<usize>, Vec<Vec<f64>>) {
    let n = tile.len();
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < kept {
        let near = |i: usize| chosen.iter().map(|&d| cosine(&tile[d], &tile[i])).fold(-1.0, f64::max);
        let gain = |j: usize| (0..n).map(|i| (cosine(&tile[j], &tile[i]) - near(i)).max(0.0)).sum::<f64>();
        let most = (0..n).filter(|j| !chosen.contains(j)).map(gain).fold(-1.0, f64::max);
        // two that only gain from each other gain the same: the lower is taken
        let best = (0..n).find(|j| !chosen.contains(j) && gain(*j) >= most - 1e-7);
        chosen.push(best.unwrap());
    }
    chosen.sort_unstable();
    let mut shares = vec![vec![0.0; n]; kept];
    for i in 0..n {
        let raised: Vec<f64> =
            chosen.iter().map(|&d| (scale * (cosine(&tile[d], &tile[i]) - 1.0)).exp()).collect();
        let sum: f64 = raised.iter().sum();
        raised.iter().enumerate().for_each(|(d, value)| shares[d][i] = value / sum);
    }
    (chosen, shares)
}

#[test]
fn toma_merges_and_unmerges_by_products() {
    for (height, width, num_tiles, tile_grid) in [(4, 6, 4, (2, 3)), (4, 6, 1, (4, 6)), (5, 4, 4, (5, 2))] {
        let grid = Grid { height, width };
        let n = grid.tokens();
        let rows = Row::singles(2);
        let hidden = tokens([2, n, 5], n as u64 + num_tiles, DType::F64);
        let options = json!({"ratio": 0.5, "num_tiles": num_tiles, "attention_scale": 4.0});
        let mut toma = build("toma", options).unwrap();
        let (scope, by) = plan(&mut toma, &site(grid, &rows), &hidden).unwrap().unwrap();
        let (tile_height, tile_width) = tile_grid;
        let size = tile_height * tile_width;
        let kept = size - size / 2;
        let tiles = n / size;
        assert_eq!((scope, by.kept()), (Scope::Both, tiles * kept));
        let small = by.shrink(&hidden).unwrap();
        let whole = by.restore(&small).unwrap();
        let positions = by.positions().unwrap().unwrap();
        for (b, places_of_row) in positions.iter().enumerate() {
            let full = rows_of(&hidden, b);
            for tile in 0..tiles {
                let across = width / tile_width;
                let places: Vec<usize> = (0..size)
                    .map(|i| {
                        let y = tile / across * tile_height + i / tile_width;
                        y * width + tile % across * tile_width + i % tile_width
                    })
                    .collect();
                let members: Vec<Vec<f64>> = places.iter().map(|&i| full[i].clone()).collect();
                let (chosen, shares) = naive_toma(&members, kept, 4.0);
                let standing: Vec<u32> = chosen.iter().map(|&i| places[i] as u32).collect();
                assert_eq!(places_of_row[tile * kept..][..kept], standing, "{grid:?} tile {tile}");
                let merged: Vec<Vec<f64>> = shares
                    .iter()
                    .map(|share| {
                        let sum: f64 = share.iter().sum();
                        (0..5)
                            .map(|c| share.iter().zip(&members).map(|(s, x)| s * x[c]).sum::<f64>() / sum)
                            .collect()
                    })
                    .collect();
                for (row, expected) in rows_of(&small, b)[tile * kept..].iter().zip(&merged) {
                    // destinations are chosen in f32, weights are not
                    near(row, expected, true);
                }
                let restored = rows_of(&whole, b);
                for (i, &place) in places.iter().enumerate() {
                    let expected: Vec<f64> =
                        (0..5).map(|c| (0..kept).map(|d| shares[d][i] * merged[d][c]).sum()).collect();
                    near(&restored[place], &expected, true);
                }
            }
        }
    }
}

#[test]
fn toma_uses_plans_again() {
    let grid = Grid { height: 4, width: 4 };
    let rows = Row::singles(1);
    let mut toma = build("toma", json!({"ratio": 0.5, "num_tiles": 1, "reuse": {"layers": 2}})).unwrap();
    begin(&mut toma, &rows, 0).unwrap();
    let mut standing = |step: usize, layer: usize, seed: u64| {
        let place = Site { layer, ..at_step(&site(grid, &rows), step) };
        let by = plan(&mut toma, &place, &tokens([1, 16, 4], seed, DType::F32)).unwrap().unwrap().1;
        by.positions().unwrap().unwrap()
    };
    let first = standing(0, 0, 1);
    assert_eq!(standing(0, 1, 2), first, "a layer of the same pair");
    let third = standing(0, 2, 3);
    assert_ne!(third, first);
    assert_eq!(standing(4, 0, 4), first, "plans last 5 steps");
    assert_eq!(standing(4, 3, 5), third);
    assert_ne!(standing(5, 0, 6), first, "then they are made anew");
}

/// SiTo in plain loops, without noise: for each token the one whose output it takes.
fn naive_sito(rows: &[Vec<f64>], grid: Grid, r: usize) -> Vec<usize> {
    let n = rows.len();
    let score = |i: usize| (0..n).map(|j| cosine(&rows[i], &rows[j])).sum::<f64>();
    let mut bases = Vec::new();
    for y in (0..grid.height / 2).map(|y| 2 * y) {
        for x in (0..grid.width / 2).map(|x| 2 * x) {
            let cell = [(y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)].map(|(y, x)| y * grid.width + x);
            bases.push(cell.into_iter().max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap());
        }
    }
    let mut others: Vec<(f64, usize)> = (0..n)
        .filter(|i| !bases.contains(i))
        .map(|i| (bases.iter().map(|&b| cosine(&rows[i], &rows[b])).fold(-1.0, f64::max), i))
        .collect();
    others.sort_by(|a, b| b.0.total_cmp(&a.0));
    let pruned: Vec<usize> = others.iter().take(r).map(|&(_, i)| i).collect();
    let from = |i: usize| {
        let kept = (0..n).filter(|j| !pruned.contains(j));
        let like = |j: &usize| cosine(&rows[i], &rows[*j]);
        kept.max_by(|a, b| like(a).total_cmp(&like(b))).unwrap()
    };
    (0..n).map(|i| if pruned.contains(&i) { from(i) } else { i }).collect()
}

#[test]
fn sito_keeps_bases_and_copies_from_the_most_similar() {
    for (case, (height, width)) in [(4, 4), (5, 7), (6, 4), (2, 9)].into_iter().enumerate() {
        for ratio in [0.3, 0.6, 0.9] {
            let grid = Grid { height, width };
            let n = grid.tokens();
            let rows = Row::singles(2);
            let hidden = tokens([2, n, 6], case as u64 + 40, DType::F64);
            let mut sito = build("sito", json!({"ratio": ratio, "noise_alpha": 0})).unwrap();
            let (scope, by) = plan(&mut sito, &site(grid, &rows), &hidden).unwrap().unwrap();
            let r = ((ratio * n as f64) as usize).min(n - height / 2 * (width / 2));
            assert_eq!((scope, by.kept()), (Scope::Both, n - r));
            let restored = by.restore(&by.shrink(&hidden).unwrap()).unwrap();
            for b in 0..2 {
                let full = rows_of(&hidden, b);
                let from = naive_sito(&full, grid, r);
                let expected: Vec<Vec<f64>> = from.iter().map(|&i| full[i].clone()).collect();
                assert_eq!(rows_of(&restored, b), expected, "{grid:?} {ratio} row {b}");
            }
        }
    }
}

#[test]
fn sito_draws_its_noise_from_the_seed() {
    let grid = Grid { height: 6, width: 6 };
    let rows = Row::singles(1);
    let hidden = tokens([1, 36, 3], 50, DType::F32);
    let kept = |seed: u64, alpha: f64| {
        let mut sito = build("sito", json!({"ratio": 0.5, "noise_alpha": alpha})).unwrap();
        begin(&mut sito, &rows, seed).unwrap();
        plan(&mut sito, &site(grid, &rows), &hidden).unwrap().unwrap().1.positions().unwrap().unwrap()
    };
    assert_eq!(kept(1, 100.0), kept(1, 100.0));
    assert_ne!(kept(1, 100.0), kept(2, 100.0));
    assert_eq!(kept(1, 0.0), kept(2, 0.0));
}

#[test]
fn halves_of_guidance_share_one_plan_if_asked() {
    let grid = Grid { height: 4, width: 4 };
    let rows = [Row { image: 3, branch: Branch::Uncond }, Row { image: 3, branch: Branch::Cond }];
    let hidden = tokens([2, 16, 4], 60, DType::F64);
    let alone = hidden.narrow(0, 1, 1).unwrap();
    let single = Row::singles(1);
    for name in ["toma", "sito", "tome"] {
        let positions = |guidance: &str, rows: &[Row], hidden| {
            let mut options = json!({"ratio": 0.5, "guidance": guidance});
            match name {
                "tome" => options = plain(options),
                "toma" => options["num_tiles"] = 4.into(),
                _ => {}
            }
            let mut method = build(name, options).unwrap();
            let by = plan(&mut method, &site(grid, rows), hidden).unwrap().unwrap().1;
            by.positions().unwrap().unwrap()
        };
        let [first, second] = <[_; 2]>::try_from(positions("cond", &rows, &hidden)).unwrap();
        assert_eq!(first, second, "{name}");
        assert_eq!(first, positions("per_row", &single, &alone)[0], "{name}: the prompt's");
        let [first, second] = <[_; 2]>::try_from(positions("mean", &rows, &hidden)).unwrap();
        assert_eq!(first, second, "{name}");
    }
}
