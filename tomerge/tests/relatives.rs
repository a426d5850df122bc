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
    let kept = |options, level: usize, timestep: f64| {
        let mut todo = build("todo", options).unwrap();
        let place = at_time(&site(grid, &rows), timestep);
        let place = Site { block: BlockId { level, ..place.block }, ..place };
        plan(&mut todo, &place, &hidden).unwrap().map(|(_, by)| by.kept())
    };
    let factors = json!({"downsample_factor": 4, "downsample_factor_level_2": 2});
    assert_eq!([0, 1, 2, 3].map(|level| kept(factors.clone(), level, 999.0)), [Some(4), Some(16), None, None]);
    let stop = json!({"downsample_factor": 2, "timestep_threshold_stop": 0.35});
    let times = [351.0, 350.5, 350.0, 349.0, 0.0];
    assert_eq!(times.map(|time| kept(stop.clone(), 0, time)), [Some(16), Some(16), None, None, None]);
    // the defaults: a quarter stays, from 200 on half (of level 1, too), and at 0 all
    let times = [999.0, 200.5, 200.0, 1.0, 0.0];
    let expected = [Some(16), Some(16), Some(32), Some(32), None];
    assert_eq!(times.map(|time| kept(json!({}), 0, time)), expected);
    assert_eq!(times.map(|time| kept(json!({}), 1, time)), [None, None, Some(32), Some(32), None]);
    assert_eq!(times.map(|time| kept(json!({}), 2, time)), [None; 5]);
    let ratios = json!({"ratio": 0.25, "ratio_level_2": 0.375});
    assert_eq!([0, 1, 2].map(|level| kept(ratios.clone(), level, 100.0)), [Some(48), Some(40), None]);
    // no more than a destination a cell stays
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
    assert_eq!(by.positions().unwrap().unwrap()[0][16..], [64, 65]);
}

#[test]
fn todo_merges_keys_and_values_by_similarity_in_the_end() {
    for (height, width) in [(6, 6), (5, 7), (4, 9)] {
        let grid = Grid { height, width };
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
        let places = by.positions().unwrap().unwrap();
        for (b, places) in places.iter().enumerate() {
            // keys and values are compared as their projections get them
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
    // destinations are drawn as ToMe draws them, and only where similarity is asked
    let grid = Grid { height: 6, width: 6 };
    let rows = Row::singles(2);
    let hidden = tokens([2, 36, 5], 4, DType::F32);
    let at = |name: &str, options, times: &[f64]| {
        let mut method = build(name, options).unwrap();
        begin(&mut method, &rows, 3).unwrap();
        let last = times.iter().map(|&time| {
            let by = plan(&mut method, &at_time(&site(grid, &rows), time), &hidden).unwrap().unwrap().1;
            by.positions().unwrap().unwrap()
        });
        last.last().unwrap()
    };
    let tome = at("tome", json!({"ratio": 0.5, "max_downsample": 8}), &[999.0]);
    assert_eq!(at("todo-sdxl", json!({}), &[999.0, 500.0, 100.0]), tome);
    assert_ne!(at("todo-sdxl", json!({"use_rand": false}), &[100.0]), tome);
}

/// ToMA's destinations of one tile in plain loops.
fn naive_destinations(tile: &[Vec<f64>], kept: usize) -> Vec<usize> {
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
    chosen
}

/// ToMA's weights `A[d][i]` of one tile with these destinations.
fn naive_shares(tile: &[Vec<f64>], chosen: &[usize], scale: f64) -> Vec<Vec<f64>> {
    let mut shares = vec![vec![0.0; tile.len()]; chosen.len()];
    for i in 0..tile.len() {
        let raised: Vec<f64> =
            chosen.iter().map(|&d| (scale * (cosine(&tile[d], &tile[i]) - 1.0)).exp()).collect();
        let sum: f64 = raised.iter().sum();
        raised.iter().enumerate().for_each(|(d, value)| shares[d][i] = value / sum);
    }
    shares
}

#[test]
fn toma_merges_and_unmerges_by_products() {
    // the authors' program: what a tile keeps is of all that stay, and the first row chooses for the batch
    for (height, width, num_tiles, tile_grid, ratio, kept, guidance) in [
        (4, 6, 4, (2, 3), 0.5, 3, "per_row"),
        (4, 6, 1, (4, 6), 0.5, 12, "per_row"),
        (5, 4, 4, (5, 2), 0.5, 5, "per_row"),
        (4, 6, 4, (2, 3), 0.5, 3, "first"),
        // 54 - 21 = 33 in 9 tiles of 6
        (6, 9, 9, (2, 3), 0.4, 3, "first"),
        // 24 - 6 = 18 in 4 tiles of 6
        (4, 6, 4, (2, 3), 0.25, 4, "first"),
    ] {
        let grid = Grid { height, width };
        let n = grid.tokens();
        let rows = Row::singles(2);
        let hidden = tokens([2, n, 5], n as u64 + num_tiles, DType::F64);
        let options =
            json!({"ratio": ratio, "num_tiles": num_tiles, "attention_scale": 4.0, "guidance": guidance});
        let mut toma = build("toma", options).unwrap();
        let (scope, by) = plan(&mut toma, &site(grid, &rows), &hidden).unwrap().unwrap();
        let (tile_height, tile_width) = tile_grid;
        let size = tile_height * tile_width;
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
                let of = |row: &[Vec<f64>]| places.iter().map(|&i| row[i].clone()).collect::<Vec<_>>();
                let members = of(&full);
                let deciding = if guidance == "first" { of(&rows_of(&hidden, 0)) } else { members.clone() };
                let chosen = naive_destinations(&deciding, kept);
                let shares = naive_shares(&members, &chosen, 4.0);
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
fn toma_compares_the_layers_input_or_the_normalised_one() {
    let grid = Grid { height: 4, width: 4 };
    let rows = Row::singles(1);
    let (hidden, normed) = (tokens([1, 16, 4], 71, DType::F64), tokens([1, 16, 4], 72, DType::F64));
    for (compare, compared) in [(json!("layer_input"), &hidden), (json!("normalised"), &normed)] {
        let mut toma = build("toma", json!({"num_tiles": 1, "compare": compare})).unwrap();
        let site = site(grid, &rows);
        enter(&mut toma, &site, &hidden).unwrap();
        let by = before(&mut toma, &site, Sublayer::SelfAttention, &normed).unwrap().unwrap().1;
        let expected = naive_destinations(&rows_of(compared, 0), 8);
        let standing = &by.positions().unwrap().unwrap()[0];
        assert_eq!(standing.iter().map(|&i| i as usize).collect::<Vec<_>>(), expected, "{compare}");
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

/// `torch.manual_seed(7); torch.randn(2, 16)` of torch 2.11: with noise alone a base is its cell's highest.
#[test]
fn sito_has_noise_of_its_own_for_every_row() {
    const NOISE: [[f64; 16]; 2] = [
        [
            -0.820135, 0.395631, 0.898908, -1.388404, -0.166996, 0.28515, -0.641092, -0.893655,
            0.926543, -0.535512, -1.15972, -0.460157, 0.708539, 1.012755, 0.230397, 1.090165,
        ],
        [
            -1.582665, -0.324567, 1.926368, -0.330012, 0.198445, 0.782073, 1.039108, -0.724511,
            -0.20934, -0.215342, -1.815729, -0.345242, -2.061478, 0.674101, -1.323346, -1.359769,
        ],
    ];
    let grid = Grid { height: 4, width: 4 };
    let rows = Row::singles(2);
    let hidden = tokens([2, 16, 3], 51, DType::F32);
    let bases = |noise: &[f64; 16]| {
        let cell = |corner: usize| [0, 1, 4, 5].map(|i| corner + i);
        let best = |corner| {
            cell(corner).into_iter().max_by(|&a, &b| noise[a].total_cmp(&noise[b])).unwrap() as u32
        };
        let mut bases = [0, 2, 8, 10].map(best).to_vec();
        bases.sort_unstable();
        bases
    };
    assert_ne!(bases(&NOISE[0]), bases(&NOISE[1]));
    for (noise, of) in [("per_row", [0, 1]), ("shared", [0, 0])] {
        // all but the bases go
        let options = json!({"ratio": 0.75, "noise_alpha": 1.0, "sim_beta": 0.0, "noise": noise});
        let mut sito = build("sito", options).unwrap();
        begin(&mut sito, &rows, 7).unwrap();
        let kept = plan(&mut sito, &site(grid, &rows), &hidden).unwrap().unwrap().1;
        let expected = of.map(|row| bases(&NOISE[row]));
        assert_eq!(kept.positions().unwrap().unwrap(), expected, "{noise}");
    }
}

#[test]
fn halves_of_guidance_share_one_plan_if_asked() {
    let grid = Grid { height: 4, width: 4 };
    let rows = [Row { image: 3, branch: Branch::Uncond }, Row { image: 3, branch: Branch::Cond }];
    let hidden = tokens([2, 16, 4], 60, DType::F64);
    let [first_alone, alone] = [0, 1].map(|row| hidden.narrow(0, row, 1).unwrap());
    let single = Row::singles(1);
    for name in ["toma", "sito", "tome"] {
        let positions = |guidance: &str, rows: &[Row], hidden| {
            let mut options = json!({"ratio": 0.5, "guidance": guidance});
            match name {
                "tome" => options = plain(options),
                "toma" => options["num_tiles"] = 4.into(),
                _ => options["noise"] = "shared".into(),
            }
            let mut method = build(name, options).unwrap();
            let by = plan(&mut method, &site(grid, rows), hidden).unwrap().unwrap().1;
            by.positions().unwrap().unwrap()
        };
        let [first, second] = <[_; 2]>::try_from(positions("cond", &rows, &hidden)).unwrap();
        assert_eq!(first, second, "{name}");
        assert_eq!(first, positions("per_row", &single, &alone)[0], "{name}: the prompt's");
        let [first, second] = <[_; 2]>::try_from(positions("first", &rows, &hidden)).unwrap();
        assert_eq!(first, second, "{name}");
        assert_eq!(first, positions("per_row", &single, &first_alone)[0], "{name}: the first row's");
        let [first, second] = <[_; 2]>::try_from(positions("mean", &rows, &hidden)).unwrap();
        assert_eq!(first, second, "{name}");
    }
}
