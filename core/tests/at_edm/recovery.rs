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

pub(crate) fn kept_rows(random: &mut Random, rows: usize, tokens: usize, kept: usize) -> Vec<Vec<u32>> {
    let mut row = || {
        let mut row: Vec<u32> = random.permutation(tokens)[..kept].iter().map(|&i| i as u32).collect();
        row.sort_unstable();
        row
    };
    (0..rows).map(|_| row()).collect()
}

pub(crate) fn partition(kept: &[Vec<u32>], tokens: usize) -> Partition<NdTensor> {
    Partition::from_kept(kept, tokens, &NdDevice).unwrap()
}

pub(crate) fn graph(random: &mut Random, rows: usize, tokens: usize) -> AttentionGraph<NdTensor> {
    let mut draw = || tensor(&random.numbers(rows * 2 * tokens * 3), &[rows, 2, tokens, 3]);
    AttentionGraph::from_qk(&draw(), &draw(), 2.0).unwrap()
}

pub(crate) fn plan(
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
