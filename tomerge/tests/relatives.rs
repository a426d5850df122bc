//! Compares ToMA and SiTo with the same methods in plain loops.

// helpers outside `#[test]` functions belong to the tests, too
#![allow(clippy::unwrap_used)]

mod common;

use atedm_core::plugin::{Branch, Grid, Row, Scope, Site, Sublayer};
use atedm_core::{DType, Tensor};
use common::*;
use serde_json::json;

/// ToMA's destinations of one tile in plain loops.
fn naive_destinations(tile: &[Vec<f64>], kept: usize) -> Vec<usize> {
    let n = tile.len();
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < kept {
        let near = |i: usize| chosen.iter().map(|&d| cosine(&tile[d], &tile[i])).fold(-1.0, f64::max);
        let gain = |j: usize| (0..n).map(|i| (cosine(&tile[j], &tile[i]) - near(i)).max(0.0)).sum::<f64>();
        let most = (0..n).filter(|j| !chosen.contains(j)).map(gain).fold(-1.0, f64::max);
        // two tokens that gain only from each other have equal gains, and the lower one is taken
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
    // the authors' program: a tile keeps its part of all tokens that stay, and the first row chooses for the batch
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
        let grid = Grid::new(height, width);
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
        let positions = by.places();
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
                    // destinations are chosen in f32, but weights are not
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
    let grid = Grid::new(4, 4);
    let rows = Row::singles(1);
    let (hidden, normed) = (tokens([1, 16, 4], 71, DType::F64), tokens([1, 16, 4], 72, DType::F64));
    for (compare, compared) in [(json!("layer_input"), &hidden), (json!("normalised"), &normed)] {
        let mut toma = build("toma", json!({"num_tiles": 1, "compare": compare})).unwrap();
        let site = site(grid, &rows);
        enter(&mut toma, &site, &hidden).unwrap();
        let by = before(&mut toma, &site, Sublayer::SelfAttention, &normed).unwrap().unwrap().1;
        let expected = naive_destinations(&rows_of(compared, 0), 8);
        let standing = &by.places()[0];
        assert_eq!(standing.iter().map(|&i| i as usize).collect::<Vec<_>>(), expected, "{compare}");
    }
}

#[test]
fn toma_uses_plans_again() {
    let grid = Grid::new(4, 4);
    let rows = Row::singles(1);
    let mut toma = build("toma", json!({"ratio": 0.5, "num_tiles": 1, "reuse": {"layers": 2}})).unwrap();
    begin(&mut toma, &rows, 0).unwrap();
    let mut standing = |step: usize, layer: usize, seed: u64| {
        let place = Site { layer, ..at_step(&site(grid, &rows), step) };
        let by = plan(&mut toma, &place, &tokens([1, 16, 4], seed, DType::F32)).unwrap().unwrap().1;
        by.places()
    };
    let first = standing(0, 0, 1);
    assert_eq!(standing(0, 1, 2), first, "a layer of the same pair");
    let third = standing(0, 2, 3);
    assert_ne!(third, first);
    assert_eq!(standing(4, 0, 4), first, "plans last 5 steps");
    assert_eq!(standing(4, 3, 5), third);
    assert_ne!(standing(5, 0, 6), first, "then they are made anew");
}

/// SiTo in plain loops, without noise. For each token: the token whose output it takes.
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
            let grid = Grid::new(height, width);
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
    let grid = Grid::new(6, 6);
    let rows = Row::singles(1);
    let hidden = tokens([1, 36, 3], 50, DType::F32);
    let kept = |seed: u64, alpha: f64| {
        let mut sito = build("sito", json!({"ratio": 0.5, "noise_alpha": alpha})).unwrap();
        begin(&mut sito, &rows, seed).unwrap();
        plan(&mut sito, &site(grid, &rows), &hidden).unwrap().unwrap().1.places()
    };
    assert_eq!(kept(1, 100.0), kept(1, 100.0));
    assert_ne!(kept(1, 100.0), kept(2, 100.0));
    assert_eq!(kept(1, 0.0), kept(2, 0.0));
}

/// `torch.manual_seed(7); torch.randn(2, 16)` of torch 2.11. With noise alone a base is the highest of its cell.
#[test]
fn sito_has_noise_of_its_own_for_every_row() {
    const NOISE: [[f64; 16]; 2] = [
        [
            -0.820135, 0.395631, 0.898908, -1.388404, -0.166996, 0.28515, -0.641092, -0.893655, 0.926543,
            -0.535512, -1.15972, -0.460157, 0.708539, 1.012755, 0.230397, 1.090165,
        ],
        [
            -1.582665, -0.324567, 1.926368, -0.330012, 0.198445, 0.782073, 1.039108, -0.724511, -0.20934,
            -0.215342, -1.815729, -0.345242, -2.061478, 0.674101, -1.323346, -1.359769,
        ],
    ];
    let grid = Grid::new(4, 4);
    let rows = Row::singles(2);
    let hidden = tokens([2, 16, 3], 51, DType::F32);
    let bases = |noise: &[f64; 16]| {
        let cell = |corner: usize| [0, 1, 4, 5].map(|i| corner + i);
        let best =
            |corner| cell(corner).into_iter().max_by(|&a, &b| noise[a].total_cmp(&noise[b])).unwrap() as u32;
        let mut bases = [0, 2, 8, 10].map(best).to_vec();
        bases.sort_unstable();
        bases
    };
    assert_ne!(bases(&NOISE[0]), bases(&NOISE[1]));
    for (noise, of) in [("per_row", [0, 1]), ("shared", [0, 0])] {
        // all tokens except the bases are pruned
        let options = json!({"ratio": 0.75, "noise_alpha": 1.0, "sim_beta": 0.0, "noise": noise});
        let mut sito = build("sito", options).unwrap();
        begin(&mut sito, &rows, 7).unwrap();
        let kept = plan(&mut sito, &site(grid, &rows), &hidden).unwrap().unwrap().1;
        let expected = of.map(|row| bases(&NOISE[row]));
        assert_eq!(kept.places(), expected, "{noise}");
    }
}

#[test]
fn halves_of_guidance_share_one_plan_if_asked() {
    let grid = Grid::new(4, 4);
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
            by.places()
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
