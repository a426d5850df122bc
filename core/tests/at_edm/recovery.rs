//! Recoveries: kept tokens return bit by bit, and pruned tokens return as each recovery defines.

use atedm_conformance::host::Array;
use atedm_conformance::oracle;
use atedm_core::Indices;
use atedm_core::Tensor;
use atedm_core::at_edm::recovery::{
    BicubicInterpolation, DirectCopy, SimilarityCopy, SoftCopy, UpdateCopy, ZeroPadding,
};
use atedm_core::at_edm::{Bicubic, RecoveryInput, TokenRecovery};
use atedm_core::backend::{AttentionGraph, Partition};
use atedm_core::plugin::{BuildContext, Grid, IndexPlan, Reduction, Registry};
use atedm_core::reference::{NdDevice, NdIndices, NdTensor};

use serde_json::{Value, json};

use crate::support::{Matrix, Random, assert_close, batch, matrices, tensor, values};

type Recovery = Box<dyn TokenRecovery<NdTensor>>;

fn recoveries() -> Vec<Recovery> {
    vec![
        Box::new(SimilarityCopy),
        Box::new(SoftCopy::default()),
        Box::new(UpdateCopy { changes: SoftCopy::default() }),
        Box::new(UpdateCopy { changes: BicubicInterpolation { mode: Bicubic::Normalised } }),
        Box::new(DirectCopy),
        Box::new(ZeroPadding),
        Box::new(BicubicInterpolation { mode: Bicubic::Plain }),
        Box::new(BicubicInterpolation { mode: Bicubic::Normalised }),
    ]
}

fn kept_rows(random: &mut Random, rows: usize, tokens: usize, kept: usize) -> Vec<Vec<u32>> {
    let mut row = || {
        let mut row: Vec<u32> = random.permutation(tokens)[..kept].iter().map(|&i| i as u32).collect();
        row.sort_unstable();
        row
    };
    (0..rows).map(|_| row()).collect()
}

fn partition(kept: &[Vec<u32>], tokens: usize) -> Partition<NdTensor> {
    Partition::from_kept(kept, tokens, &NdDevice).unwrap()
}

fn graph(random: &mut Random, rows: usize, tokens: usize) -> AttentionGraph<NdTensor> {
    let mut draw = || tensor(&random.numbers(rows * 2 * tokens * 3), &[rows, 2, tokens, 3]);
    AttentionGraph::from_qk(&draw(), &draw(), 2.0).unwrap()
}

fn plan(
    recovery: &dyn TokenRecovery<NdTensor>,
    kept: &[Vec<u32>],
    hidden: &NdTensor,
    graph: &AttentionGraph<NdTensor>,
    grid: Grid,
) -> Box<dyn Reduction<NdTensor>> {
    let input = RecoveryInput {
        partition: partition(kept, grid.tokens()),
        graph: Some(graph),
        hidden,
        grid,
        entry_tokens: grid.tokens(),
        protected: (0, 0),
        positions: None,
    };
    recovery.plan(input).unwrap()
}

/// What a sublayer adds is restored apart from the tokens: `restore(x + a) = restore(x) + restore_added(a)`. By direct copy
/// nothing is added to a token that is gone.
#[test]
fn what_is_added_comes_back_as_part_of_the_sum() {
    let mut random = Random(21);
    let grid = Grid::new(4, 5);
    let kept = kept_rows(&mut random, 2, 20, 8);
    let graph = graph(&mut random, 2, 20);
    let hidden = tensor(&random.numbers(2 * 20 * 3), &[2, 20, 3]);
    let [x, added] = [0, 1].map(|_| tensor(&random.numbers(2 * 8 * 3), &[2, 8, 3]));
    for recovery in recoveries() {
        let plan = plan(recovery.as_ref(), &kept, &hidden, &graph, grid);
        let of_sum = plan.restore(&x.add(&added).unwrap()).unwrap();
        let apart = plan.restore_added(&added).unwrap();
        let sum = plan.restore(&x).unwrap().add(&apart).unwrap();
        let off = of_sum.sub(&sum).unwrap().to_f32().unwrap();
        assert!(off.iter().all(|off| off.abs() < 1e-4), "{recovery:?}: {off:?}");
        if plan.name() == "direct copy" {
            let gone = partition(&kept, 20).pruned;
            assert!(apart.gather(1, &gone).unwrap().to_f32().unwrap().iter().all(|x| *x == 0.0));
        }
    }
}

#[test]
fn kept_tokens_come_back_bit_by_bit() {
    let mut random = Random(20);
    for round in 0..12 {
        let grid = Grid::new(2 + round % 4, 3 + round % 3);
        let tokens = grid.tokens();
        let kept = kept_rows(&mut random, 2, tokens, 1 + round % tokens);
        let hidden = batch(&[random.matrix(tokens, 4, 1.0), random.matrix(tokens, 4, 1.0)]);
        let graph = graph(&mut random, 2, tokens);
        for recovery in recoveries() {
            let plan = plan(recovery.as_ref(), &kept, &hidden, &graph, grid).clone_box();
            assert_eq!(plan.kept(), kept[0].len());
            assert_eq!(plan.positions().unwrap().unwrap().to_host().unwrap(), kept);
            let shrunk = matrices(&plan.shrink(&hidden).unwrap());
            let restored = matrices(&plan.restore(&batch(&shrunk)).unwrap());
            let original = matrices(&hidden);
            for (b, row) in kept.iter().enumerate() {
                assert_eq!(restored[b].len(), tokens);
                for (&i, value) in row.iter().zip(&shrunk[b]) {
                    assert_eq!(value, &original[b][i as usize], "{recovery:?}");
                    assert_eq!(value, &restored[b][i as usize], "{recovery:?}");
                }
            }
            assert!(plan.shrink(&batch(&shrunk)).is_err() || kept[0].len() == tokens);
            assert!(plan.restore(&hidden).is_err() || kept[0].len() == tokens);
        }
    }
}

#[test]
fn similarity_copies_the_strongest_kept_token() {
    let mut random = Random(21);
    let tokens = 12;
    let grid = Grid::new(3, 4);
    let kept = kept_rows(&mut random, 2, tokens, 5);
    let graph = graph(&mut random, 2, tokens);
    let hidden = batch(&[random.matrix(tokens, 3, 1.0), random.matrix(tokens, 3, 1.0)]);
    let reduced: Vec<Matrix> = (0..2).map(|_| random.matrix(5, 3, 1.0)).collect();
    let plan = plan(&SimilarityCopy, &kept, &hidden, &graph, grid);
    let restored = matrices(&plan.restore(&batch(&reduced)).unwrap());
    let rest = |row: &Vec<u32>| (0..tokens as u32).filter(|token| !row.contains(token)).collect();
    let pruned: Vec<Vec<u32>> = kept.iter().map(rest).collect();
    let map = Array::read(&graph.to_dense().unwrap()).unwrap();
    let donors = oracle::strongest(&map, &kept, &pruned);
    for ((tokens, donors), (restored, reduced)) in
        pruned.iter().zip(&donors).zip(restored.iter().zip(&reduced))
    {
        for (&token, &donor) in tokens.iter().zip(donors) {
            assert_eq!(restored[token as usize], reduced[donor as usize]);
        }
    }
}

/// The map of one head of a batch row.
fn head(maps: &[f64], b: usize, h: usize, tokens: usize) -> Matrix {
    let from = (b * 2 + h) * tokens * tokens;
    maps[from..from + tokens * tokens].chunks(tokens).map(<[f64]>::to_vec).collect()
}

#[test]
fn soft_takes_the_weighted_mean_of_the_strongest() {
    let mut random = Random(22);
    let (tokens, grid) = (12, Grid::new(3, 4));
    let kept = kept_rows(&mut random, 2, tokens, 5);
    let graph = graph(&mut random, 2, tokens);
    let maps = values(&graph.to_dense().unwrap());
    let hidden = batch(&[random.matrix(tokens, 3, 1.0), random.matrix(tokens, 3, 1.0)]);
    let reduced: Vec<Matrix> = (0..2).map(|_| random.matrix(5, 3, 1.0)).collect();
    // with fewer kept tokens than k, all are donors
    for (k, temperature, of) in [(2, 1.0, 2), (3, 0.25, 3), (5, 4.0, 5), (9, 1.0, 5)] {
        let plan = plan(&SoftCopy { k, temperature }, &kept, &hidden, &graph, grid);
        let restored = matrices(&plan.restore(&batch(&reduced)).unwrap());
        for b in 0..2 {
            let heads = [head(&maps, b, 0, tokens), head(&maps, b, 1, tokens)];
            for p in (0..tokens).filter(|p| !kept[b].contains(&(*p as u32))) {
                let received = |at: usize| {
                    let row = kept[b][at] as usize;
                    (heads[0][row][p] + heads[1][row][p]) / 2.0
                };
                let mut order: Vec<usize> = (0..5).collect();
                order.sort_by(|&i, &j| received(j).total_cmp(&received(i)));
                let weight = |at: usize| received(at).powf(1.0 / temperature);
                let total: f64 = order[..of].iter().map(|&at| weight(at)).sum();
                let expected: Vec<f64> = (0..3)
                    .map(|c| order[..of].iter().map(|&at| weight(at) / total * reduced[b][at][c]).sum())
                    .collect();
                assert_close(&restored[b][p], &expected, 1e-12);
            }
        }
    }
}

#[test]
fn soft_with_one_donor_is_similarity_bit_by_bit() {
    let mut random = Random(23);
    for round in 0..8 {
        let grid = Grid::new(2 + round % 3, 4);
        let tokens = grid.tokens();
        let kept = kept_rows(&mut random, 2, tokens, 1 + round % (tokens - 1));
        let hidden = batch(&[random.matrix(tokens, 4, 1.0), random.matrix(tokens, 4, 1.0)]);
        let graph = graph(&mut random, 2, tokens);
        let restore = |recovery: &dyn TokenRecovery<NdTensor>| {
            let plan = plan(recovery, &kept, &hidden, &graph, grid);
            matrices(&plan.restore(&plan.shrink(&hidden).unwrap()).unwrap())
        };
        let soft = restore(&SoftCopy { k: 1, temperature: 0.7 });
        assert_eq!(soft, restore(&SimilarityCopy));
        if kept[0].len() > 1 {
            assert_ne!(restore(&SoftCopy { k: 2, temperature: 1.0 }), soft);
        }
    }
}

/// A pruned token gets what another recovery gives for the changes. Those recoveries have tests of their own.
#[test]
fn update_adds_a_change_to_the_old_value() {
    let mut random = Random(24);
    let (tokens, grid) = (12, Grid::new(3, 4));
    let kept = kept_rows(&mut random, 2, tokens, 5);
    let graph = graph(&mut random, 2, tokens);
    let hidden = batch(&[random.matrix(tokens, 3, 1.0), random.matrix(tokens, 3, 1.0)]);
    let reduced: Vec<Matrix> = (0..2).map(|_| random.matrix(5, 3, 1.0)).collect();
    let bicubic = BicubicInterpolation { mode: Bicubic::Normalised };
    let pairs: [(Recovery, Recovery); 3] = [
        (Box::new(SimilarityCopy), Box::new(UpdateCopy { changes: SimilarityCopy })),
        (Box::new(SoftCopy::default()), Box::new(UpdateCopy { changes: SoftCopy::default() })),
        (Box::new(bicubic), Box::new(UpdateCopy { changes: bicubic })),
    ];
    for (of_changes, update) in pairs {
        let update = plan(update.as_ref(), &kept, &hidden, &graph, grid);
        let before = update.shrink(&hidden).unwrap();
        let change = batch(&reduced).sub(&before).unwrap();
        let changes =
            matrices(&plan(of_changes.as_ref(), &kept, &hidden, &graph, grid).restore(&change).unwrap());
        let restored = matrices(&update.restore(&batch(&reduced)).unwrap());
        let old = matrices(&hidden);
        for b in 0..2 {
            for p in (0..tokens).filter(|p| !kept[b].contains(&(*p as u32))) {
                let expected: Vec<f64> = old[b][p].iter().zip(&changes[b][p]).map(|(x, c)| x + c).collect();
                assert_close(&restored[b][p], &expected, 1e-12);
            }
        }
        // A block that changes nothing gives every token back.
        assert_eq!(matrices(&update.restore(&before).unwrap()), old);
    }
}

#[test]
fn soft_knows_its_options() {
    for (soft, field) in [
        (SoftCopy { k: 0, temperature: 1.0 }, "recovery_options.k: "),
        (SoftCopy { k: 2, temperature: 0.0 }, "recovery_options.temperature: "),
        (SoftCopy { k: 2, temperature: f64::NAN }, "recovery_options.temperature: "),
    ] {
        assert!(soft.validate().unwrap_err().to_string().starts_with(field));
    }
    let registry = Registry::<NdTensor>::with_builtins();
    let build = |options: Value| registry.build("at-edm", &options, &BuildContext::default()).map(|_| ());
    for name in ["soft", "update"] {
        build(json!({ "recovery": name })).unwrap();
        build(json!({"recovery": {"name": name, "k": 3, "temperature": 0.5}})).unwrap();
    }
    build(json!({"recovery": {"name": "update", "changes": "soft", "k": 3}})).unwrap();
    build(json!({"recovery": {"name": "update", "changes": "bicubic"}})).unwrap();
    for options in [
        json!({"name": "soft", "k": 0}),
        json!({"name": "soft", "donors": 3}),
        json!({"name": "update", "k": 0}),
        json!({"name": "update", "changes": "none"}),
        json!({"name": "update", "changes": 3}),
        json!({"name": "update", "changes": "bicubic", "k": 3}),
    ] {
        let message = build(json!({"recovery": options})).unwrap_err().to_string();
        assert!(message.starts_with("recovery_options"), "{message}");
    }
}

#[test]
fn ties_copy_the_lowest_index() {
    let graph = AttentionGraph::Dense(tensor(&[0.25; 16], &[1, 1, 4, 4]));
    let hidden = batch(&[vec![vec![0.0], vec![1.0], vec![2.0], vec![3.0]]]);
    let plan = plan(&SimilarityCopy, &[vec![1, 3]], &hidden, &graph, Grid::new(2, 2));
    let restored = plan.restore(&plan.shrink(&hidden).unwrap()).unwrap();
    assert_eq!(values(&restored), [1.0, 1.0, 1.0, 3.0]);
}

#[test]
fn direct_gives_the_old_value_and_zero_gives_none() {
    let mut random = Random(22);
    let grid = Grid::new(2, 3);
    let hidden = random.matrix(6, 2, 1.0);
    let graph = graph(&mut random, 1, 6);
    let reduced = random.matrix(2, 2, 1.0);
    let restored = |recovery: &dyn TokenRecovery<NdTensor>| {
        let plan = plan(recovery, &[vec![1, 4]], &batch(std::slice::from_ref(&hidden)), &graph, grid);
        matrices(&plan.restore(&batch(std::slice::from_ref(&reduced))).unwrap()).remove(0)
    };
    let mut direct = hidden.clone();
    (direct[1], direct[4]) = (reduced[0].clone(), reduced[1].clone());
    assert_eq!(restored(&DirectCopy), direct);
    let zero: Matrix =
        (0..6).map(|i| if i == 1 || i == 4 { direct[i].clone() } else { vec![0.0; 2] }).collect();
    assert_eq!(restored(&ZeroPadding), zero);
}

/// Keys' kernel, by its definition.
fn keys(x: f64) -> f64 {
    let (a, x) = (-0.75, x.abs());
    if x <= 1.0 {
        (a + 2.0) * x.powi(3) - (a + 3.0) * x.powi(2) + 1.0
    } else if x < 2.0 {
        a * x.powi(3) - 5.0 * a * x.powi(2) + 8.0 * a * x - 4.0 * a
    } else {
        0.0
    }
}

/// The interpolation at one cell by its definition, and the weight on kept cells.
fn interpolated(field: &[Option<f64>], grid: Grid, cell: usize) -> (f64, f64) {
    let (row, column) = ((cell / grid.width) as i64, (cell % grid.width) as i64);
    let (mut total, mut weight) = (0.0, 0.0);
    for (other, value) in field.iter().enumerate() {
        let (u, v) = ((other / grid.width) as i64 - row, (other % grid.width) as i64 - column);
        if let (Some(value), false) = (value, u == 0 && v == 0) {
            let w = keys(u as f64 / 2.0) * keys(v as f64 / 2.0) / 3.0;
            total += w * value;
            weight += w;
        }
    }
    (total, weight)
}

#[test]
fn bicubic_follows_its_definition() {
    let mut random = Random(23);
    let grid = Grid::new(6, 9);
    let kept = kept_rows(&mut random, 1, 54, 30);
    let hidden = random.matrix(54, 1, 1.0);
    let graph = graph(&mut random, 1, 54);
    let field: Vec<Option<f64>> =
        (0..54).map(|i| kept[0].contains(&(i as u32)).then(|| hidden[i][0])).collect();
    for mode in [Bicubic::Plain, Bicubic::Normalised] {
        let hidden = batch(std::slice::from_ref(&hidden));
        let plan = plan(&BicubicInterpolation { mode }, &kept, &hidden, &graph, grid);
        let restored = values(&plan.restore(&plan.shrink(&hidden).unwrap()).unwrap());
        for (cell, got) in restored.iter().enumerate() {
            let (total, weight) = interpolated(&field, grid, cell);
            let expected = match (field[cell], mode) {
                (Some(own), _) => own,
                (None, Bicubic::Normalised) if weight >= 0.125 => total / weight,
                (None, _) => total,
            };
            assert!((got - expected).abs() < 1e-6, "cell {cell}: {got} against {expected}");
        }
    }
}

#[test]
fn bicubic_keeps_constants_and_fails_in_holes() {
    let grid = Grid::new(16, 16);
    let constant = batch(&[vec![vec![2.0]; 256]]);
    let graph = AttentionGraph::Dense(tensor(&[0.0], &[1, 1, 1, 1]));
    let restored = |mode: Bicubic, kept: Vec<u32>| {
        let plan = plan(&BicubicInterpolation { mode }, &[kept], &constant, &graph, grid);
        values(&plan.restore(&plan.shrink(&constant).unwrap()).unwrap())
    };
    // A lone pruned cell inside a constant field.
    let all_but = |hole: &dyn Fn(u32) -> bool| (0..256).filter(|&i| !hole(i)).collect::<Vec<u32>>();
    let lone = restored(Bicubic::Plain, all_but(&|i| i == 8 * 16 + 8));
    assert_close(&lone, &[2.0; 256], 1e-12);
    // A checkerboard, normalised.
    let board = restored(Bicubic::Normalised, all_but(&|i| (i / 16 + i % 16) % 2 == 0));
    assert_close(&board, &[2.0; 256], 1e-6);
    // A hole of 9 x 9: no kept cell reaches its middle.
    let hole = |i: u32| (4..13).contains(&(i / 16)) && (4..13).contains(&(i % 16));
    for mode in [Bicubic::Plain, Bicubic::Normalised] {
        let restored = restored(mode, all_but(&hole));
        for (row, column) in [(8, 8), (7, 8), (8, 9), (9, 9)] {
            assert_eq!(restored[row * 16 + column], 0.0, "{mode:?}");
        }
        assert!(restored[4 * 16 + 4] != 0.0);
    }
}

#[test]
fn bicubic_fills_each_frame_of_a_video_for_itself() {
    let mut random = Random(25);
    let frames = [random.matrix(20, 3, 1.0), random.matrix(20, 3, 1.0)];
    let kept: [Vec<u32>; 2] =
        [(0..20).filter(|i| i % 3 > 0).collect(), (0..20).filter(|i| i % 4 > 0).collect()];
    let graph = AttentionGraph::Dense(tensor(&[0.0], &[1, 1, 1, 1]));
    let later: Vec<u32> = kept[1].iter().map(|i| i + 20).collect();
    let of_both = [kept[0].clone(), later].concat();
    let video = batch(&[frames.concat()]);
    for mode in [Bicubic::Plain, Bicubic::Normalised] {
        let restored = |hidden: &NdTensor, kept: &Vec<u32>, grid: Grid| {
            let kept = std::slice::from_ref(kept);
            let plan = plan(&BicubicInterpolation { mode }, kept, hidden, &graph, grid);
            values(&plan.restore(&plan.shrink(hidden).unwrap()).unwrap())
        };
        let alone: Vec<f64> = frames
            .iter()
            .zip(&kept)
            .flat_map(|(frame, kept)| restored(&batch(std::slice::from_ref(frame)), kept, Grid::new(4, 5)))
            .collect();
        assert_close(&restored(&video, &of_both, Grid::of_frames(2, 4, 5)), &alone, 1e-12);
    }
}

#[test]
fn bicubic_finds_its_cells_after_an_earlier_pruning() {
    let grid = Grid::new(4, 5);
    let stream: Vec<u32> = vec![0, 1, 2, 4, 6, 7, 8, 9, 11, 12, 13, 15, 16, 18, 19];
    let kept: Vec<u32> = vec![0, 2, 3, 5, 7, 8, 10, 11, 14];
    let mut random = Random(24);
    let hidden = random.matrix(stream.len(), 1, 1.0);
    let positions = NdIndices::from_host(std::slice::from_ref(&stream), &NdDevice).unwrap();
    let values_of = batch(std::slice::from_ref(&hidden));
    let input = RecoveryInput {
        partition: partition(std::slice::from_ref(&kept), stream.len()),
        graph: None,
        hidden: &values_of,
        grid,
        entry_tokens: 20,
        protected: (0, 0),
        positions: Some(&positions),
    };
    let plan = BicubicInterpolation::default().plan(input).unwrap();
    let restored = values(&plan.restore(&plan.shrink(&values_of).unwrap()).unwrap());
    let mut field = vec![None; 20];
    for &i in &kept {
        field[stream[i as usize] as usize] = Some(hidden[i as usize][0]);
    }
    for (i, &cell) in stream.iter().enumerate() {
        let expected = field[cell as usize].unwrap_or_else(|| interpolated(&field, grid, cell as usize).0);
        assert!((restored[i] - expected).abs() < 1e-12, "token {i}");
    }
}

/// Text before, within or after the image tokens changes nothing for them.
#[test]
fn bicubic_leaves_out_tokens_beside_the_grid() {
    let mut random = Random(26);
    let grid = Grid::new(4, 5);
    let graph = AttentionGraph::Dense(tensor(&[0.0], &[1, 1, 1, 1]));
    let image = random.matrix(20, 3, 1.0);
    let text = random.matrix(2, 3, 1.0);
    let kept = kept_rows(&mut random, 1, 20, 9);
    for mode in [Bicubic::Plain, Bicubic::Normalised] {
        let bicubic = BicubicInterpolation { mode };
        let whole = batch(std::slice::from_ref(&image));
        let alone = plan(&bicubic, &kept, &whole, &graph, grid);
        let alone = matrices(&alone.restore(&alone.shrink(&whole).unwrap()).unwrap()).remove(0);
        for start in [0, 7, 20] {
            let with_text = |image: &Matrix| [&image[..start], &text, &image[start..]].concat();
            let moved = |token: &u32| if (*token as usize) < start { *token } else { token + 2 };
            let mut stay: Vec<u32> =
                kept[0].iter().map(moved).chain([start as u32, start as u32 + 1]).collect();
            stay.sort_unstable();
            let hidden = batch(&[with_text(&image)]);
            let plan = bicubic
                .plan(RecoveryInput {
                    partition: partition(&[stay], 22),
                    graph: None,
                    hidden: &hidden,
                    grid,
                    entry_tokens: 22,
                    protected: (start, start + 2),
                    positions: None,
                })
                .unwrap();
            let restored = matrices(&plan.restore(&plan.shrink(&hidden).unwrap()).unwrap()).remove(0);
            assert_eq!(restored, with_text(&alone), "{mode:?}, text at {start}");
        }
    }
}

#[test]
fn bicubic_needs_a_whole_grid() {
    let hidden = batch(&[vec![vec![0.0]; 6]]);
    let input = RecoveryInput {
        partition: partition(&[vec![0, 1, 2]], 6),
        graph: None,
        hidden: &hidden,
        grid: Grid::new(2, 2),
        entry_tokens: 6,
        protected: (0, 0),
        positions: None,
    };
    let error = BicubicInterpolation::default().plan(input).unwrap_err().to_string();
    assert!(error.starts_with("recovery: ") && error.contains("2 x 2"), "{error}");
}

/// Two nested plans compose into one plan.
#[test]
fn index_plans_compose() {
    let mut random = Random(25);
    let (tokens, first, second) = (11, 7, 3);
    let mut random_plan = |tokens: usize, kept: usize| {
        let partition = partition(&kept_rows(&mut random, 2, tokens, kept), tokens);
        let donors: Vec<Vec<u32>> =
            (0..2).map(|_| (0..tokens - kept).map(|_| random.below(kept) as u32).collect()).collect();
        IndexPlan::new(&partition, &NdIndices::from_host(&donors, &NdDevice).unwrap()).unwrap()
    };
    let (outer, inner) = (random_plan(tokens, first), random_plan(first, second));
    let both = outer.then(&inner).unwrap();
    let mut random = Random(26);
    let full = batch(&[random.matrix(tokens, 2, 1.0), random.matrix(tokens, 2, 1.0)]);
    let nested = inner.shrink(&outer.shrink(&full).unwrap()).unwrap();
    assert_eq!(values(&both.shrink(&full).unwrap()), values(&nested));
    let back = outer.restore(&inner.restore(&nested).unwrap()).unwrap();
    assert_eq!(values(&both.restore(&nested).unwrap()), values(&back));
    assert!(inner.then(&outer).is_err());
}

#[test]
fn an_index_plan_wants_one_donor_for_each_pruned_token() {
    let donors = NdIndices::from_host(&[vec![0, 0]], &NdDevice).unwrap();
    assert!(IndexPlan::new(&partition(&[vec![0, 2]], 5), &donors).is_err());
}
