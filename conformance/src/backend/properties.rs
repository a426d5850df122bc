//! Invariants over random sizes and values. Cases are drawn from a fixed seed. `PROPTEST_CASES` sets their number.

use atedm_core::at_edm::recovery::{
    BicubicInterpolation, DirectCopy, RecoveryInput, SimilarityCopy, SoftCopy, TokenRecovery, UpdateCopy,
    ZeroPadding,
};
use atedm_core::at_edm::scoring::{PageRank, PageRankOptions, Start};
use atedm_core::at_edm::{AtEdmConfig, Bicubic, Parts, PrunePoint};
use atedm_core::backend::{AttentionOptions, GraphRequest, generic};
use atedm_core::plugin::{BuildContext, Grid, IndexPlan, Reduction, Unpruned};
use atedm_core::{
    AttentionGraph, AttentionOps, Backend, DType, DeviceOf, Indices, NnOps, Partition, Result, Tensor,
};
use proptest::prelude::any;

use super::block::TestBlock;
use super::support::{IndicesOf, Lab, TensorOf};
use crate::host::Array;
use crate::oracle::{self, BlockShape};
use crate::random::{OPERATIONS, forall};
use crate::tolerance::{assert_close, assert_close_as, assert_exact, assert_mass_close};

/// Kept and pruned lists together contain every index once. Both ascend. Every kept score is at least as high as every
/// pruned one.
pub fn every_split_is_a_partition<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    forall(OPERATIONS, (1..4usize, 1..90usize, 0.0..1.0, any::<u64>()), |(batch, n, share, seed)| {
        let scores = Lab::<B>::new(device, dtype, seed).normals(&[batch, n])?;
        let kept = 1 + (share * n as f64) as usize;
        let Partition { kept, pruned } = scores.on.split_top_k(kept.min(n))?;
        for (b, (stay, go)) in kept.to_host()?.iter().zip(&pruned.to_host()?).enumerate() {
            assert!(stay.windows(2).chain(go.windows(2)).all(|pair| pair[0] < pair[1]));
            let mut all = [&stay[..], &go[..]].concat();
            all.sort_unstable();
            assert_eq!(all, (0..n as u32).collect::<Vec<_>>());
            let score = |i: &u32| scores.host.at(&[b, *i as usize]);
            let least = stay.iter().map(score).fold(f64::INFINITY, f64::min);
            assert!(go.iter().all(|i| score(i) <= least));
        }
        Ok(())
    });
    Ok(())
}

/// With few distinct scores, the split is exactly the oracle's.
pub fn ties_always_keep_the_lower_index<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    forall(OPERATIONS, (2..200usize, 1..4usize, 0.0..1.0, any::<u64>()), |(n, distinct, share, seed)| {
        let mut lab = Lab::<B>::new(device, dtype, seed);
        let values = Array::from_fn(&[2, n], |_| lab.draws.below(distinct) as f64 - 1.0);
        let scores = lab.sample(values)?;
        let kept = (1 + (share * n as f64) as usize).min(n);
        let stay = scores.on.split_top_k(kept)?.kept.to_host()?;
        for (row, stay) in scores.host.data.chunks(n).zip(&stay) {
            assert_eq!(stay, &oracle::split_top_k(row, kept).0);
        }
        Ok(())
    });
    Ok(())
}

/// With any recovery, the kept tokens are restored bit by bit, and all tokens exist again.
pub fn kept_rows_survive_every_recovery<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    forall(OPERATIONS, (1..3usize, 2..7usize, 1..8usize, any::<u64>()), |(batch, height, width, seed)| {
        let mut lab = Lab::<B>::new(device, dtype, seed);
        let n = height * width;
        let kept = 1 + lab.draws.below(n - 1);
        let hidden = lab.normals(&[batch, n, 3])?;
        let graph = AttentionGraph::from_qk(
            &lab.normals(&[batch, 2, n, 4])?.on,
            &lab.normals(&[batch, 2, n, 4])?.on,
            0.5,
        )?;
        let rows: Vec<Vec<u32>> = (0..batch).map(|_| lab.draws.subset(kept, n)).collect();
        let recoveries: [Box<dyn TokenRecovery<TensorOf<B>>>; 8] = [
            Box::new(SimilarityCopy),
            Box::new(SoftCopy::default()),
            Box::new(DirectCopy),
            Box::new(ZeroPadding),
            Box::new(BicubicInterpolation { mode: Bicubic::Plain }),
            Box::new(BicubicInterpolation { mode: Bicubic::Normalised }),
            Box::new(UpdateCopy { changes: SoftCopy::default() }),
            Box::new(UpdateCopy { changes: BicubicInterpolation { mode: Bicubic::Normalised } }),
        ];
        for recovery in recoveries {
            let plan = recovery.plan(RecoveryInput {
                partition: Partition::from_kept(&rows, n, device)?,
                graph: Some(&graph),
                hidden: &hidden.on,
                grid: Grid::new(height, width),
                entry_tokens: n,
                protected: (0, 0),
                positions: None,
            })?;
            for plan in [plan.clone_box(), plan] {
                let small = plan.shrink(&hidden.on)?;
                assert_exact(&small, &oracle::gather(&hidden.host, 1, &rows), "shrink");
                let full = plan.restore(&small)?;
                assert_eq!((full.shape(), plan.kept()), (hidden.host.shape.clone(), kept));
                let back = oracle::gather(&Array::read(&full)?, 1, &rows);
                assert_eq!(back, oracle::gather(&hidden.host, 1, &rows), "{recovery:?}");
                let positions = plan.positions().transpose()?.map(|positions| positions.to_host());
                assert_eq!(positions.transpose()?, Some(rows.clone()));
            }
        }
        Ok(())
    });
    Ok(())
}

/// Two index plans in sequence equal one composed plan.
pub fn plans_compose<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    forall(OPERATIONS, (3..40usize, any::<u64>()), |(n, seed)| {
        let mut lab = Lab::<B>::new(device, dtype, seed);
        let middle = 2 + lab.draws.below(n - 2);
        let inner = 1 + lab.draws.below(middle - 1);
        let plan = |lab: &mut Lab<'_, B>, kept: usize, n: usize| -> Result<IndexPlan<TensorOf<B>>> {
            let partition = Partition::from_kept(&[lab.draws.subset(kept, n)], n, device)?;
            let donors = (0..n - kept).map(|_| lab.draws.below(kept) as u32).collect();
            IndexPlan::new(&partition, &IndicesOf::<B>::from_host(&[donors], device)?)
        };
        let (first, second) = (plan(&mut lab, middle, n)?, plan(&mut lab, inner, middle)?);
        let both = first.then(&second)?;
        let x = lab.normals(&[1, n, 2])?.on;
        let small = second.shrink(&first.shrink(&x)?)?;
        assert_exact(&both.shrink(&x)?, &Array::read(&small)?, "shrink");
        let full = first.restore(&second.restore(&small)?)?;
        assert_exact(&both.restore(&small)?, &Array::read(&full)?, "restore");
        Ok(())
    });
    Ok(())
}

/// With L1, the scores of every head are non-negative and sum to one.
pub fn scores_are_a_distribution<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    forall(OPERATIONS, (1..4usize, 1..40usize, 1..8usize, any::<u64>()), |(heads, n, votes, seed)| {
        let mut lab = Lab::<B>::new(device, dtype, seed);
        let (q, k) = (lab.normals(&[1, heads, n, 5])?.on, lab.normals(&[1, heads, n, 5])?.on);
        let rank =
            PageRank::new(PageRankOptions { max_iterations: votes, epsilon: 0.0, ..Default::default() })?;
        let (scores, _) = rank.per_head(&AttentionGraph::from_qk(&q, &k, 1.0)?, Start::equal())?;
        let ones = Array::full(&[1, heads, 1], 1.0);
        assert_close_as(&scores.sum(2)?, &ones, dtype, "the sum of scores");
        assert!(Array::read(&scores)?.data.iter().all(|&score| score >= 0.0));
        Ok(())
    });
    Ok(())
}

/// If tokens are permuted, their scores are permuted alike.
pub fn permuting_tokens_permutes_scores<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    forall(OPERATIONS, (1..3usize, 2..40usize, any::<u64>()), |(heads, n, seed)| {
        let mut lab = Lab::<B>::new(device, dtype, seed);
        let (q, k) = (lab.normals(&[2, heads, n, 5])?.on, lab.normals(&[2, heads, n, 5])?.on);
        let orders = [lab.draws.permutation(n), lab.draws.permutation(n)];
        let order = lab.indices(&orders)?;
        let rank = PageRank::new(PageRankOptions { epsilon: 0.0, ..Default::default() })?;
        let score = |q: &TensorOf<B>, k: &TensorOf<B>| -> Result<TensorOf<B>> {
            Ok(rank.per_head(&AttentionGraph::from_qk(q, k, 0.6)?, Start::equal())?.0)
        };
        let permuted = score(&q.gather(2, &order)?, &k.gather(2, &order)?)?;
        let expected = score(&q, &k)?.gather(2, &order)?;
        assert_mass_close(&permuted, &Array::read(&expected)?, dtype, "scores of permuted tokens");
        Ok(())
    });
    Ok(())
}

/// Ratio 0, a block of one layer, and pruning in the last layer all give the whole block bit by bit.
pub fn sparing_configurations_are_identities<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let sizes = (1..4usize, 2..5usize, 2..6usize, 0.0..0.99, any::<u64>());
    forall(OPERATIONS, sizes, |(depth, height, width, ratio, seed)| {
        let shape = BlockShape { depth, heads: 2, channels: 8, text: 4, text_tokens: 3 };
        let mut lab = Lab::<B>::new(device, dtype, seed);
        let block = TestBlock::new(&mut lab, shape, 1, Grid::new(height, width))?;
        let whole = Array::read(&block.run(&mut Unpruned)?)?;
        for prune_point in [PrunePoint::AfterFf, PrunePoint::BeforeFf] {
            let base = AtEdmConfig { prune_point, schedule: "constant".into(), ..AtEdmConfig::default() };
            for config in [
                AtEdmConfig { ratio: 0.0, ..base.clone() },
                AtEdmConfig { ratio, prune_layers: vec![depth - 1], ..base.clone() },
                AtEdmConfig { ratio, levels: atedm_core::plugin::Levels::List(vec![3]), ..base.clone() },
            ] {
                let mut reducer = config.build(&BuildContext::default(), &Parts::with_builtins())?;
                assert_exact(&block.run(&mut reducer)?, &whole, "spared");
            }
        }
        Ok(())
    });
    Ok(())
}

/// Every product with the graph agrees in both forms.
pub fn both_forms_of_any_graph_agree<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    forall(OPERATIONS, (1..3usize, 1..4usize, 1..50usize, 1..50usize, any::<u64>()), |(b, h, m, n, seed)| {
        let mut lab = Lab::<B>::new(device, dtype, seed);
        let (q, k) = (lab.normals(&[b, h, m, 4])?.on, lab.normals(&[b, h, n, 4])?.on);
        let streamed = AttentionGraph::from_qk(&q, &k, 0.9)?;
        let dense = AttentionGraph::Dense(streamed.to_dense()?);
        let (rows, columns) = (lab.scores(&[b, h, m], 0.0, 1.0)?.on, lab.scores(&[b, h, n], 0.0, 1.0)?.on);
        assert_close(&streamed.votes(&rows)?, &Array::read(&dense.votes(&rows)?)?, "votes");
        assert_close(&streamed.read(&columns)?, &Array::read(&dense.read(&columns)?)?, "read");
        assert_close(&streamed.row_entropy()?, &Array::read(&dense.row_entropy()?)?, "row_entropy");
        assert_close(&streamed.second_moment()?, &Array::read(&dense.second_moment()?)?, "second_moment");
        Ok(())
    });
    Ok(())
}

/// Every override agrees with its generic body on any size.
pub fn overrides_equal_the_generic_bodies_on_any_size<B: Backend>(
    device: &DeviceOf<B>,
    dtype: DType,
) -> Result<()> {
    forall(
        OPERATIONS,
        (1..3usize, 1..70usize, 1..40usize, 1..5usize, any::<u64>()),
        |(b, n, c, groups, seed)| {
            let mut lab = Lab::<B>::new(device, dtype, seed);
            let same = |got: TensorOf<B>, body: TensorOf<B>, what: &str| -> Result<()> {
                assert_close_as(&got, &Array::read(&body)?, dtype, what);
                Ok(())
            };
            let x = lab.normals(&[b, n, c])?.on;
            let (weight, bias) = (lab.weights(&[2 * groups, c], c)?.on, lab.normals(&[2 * groups])?.on);
            same(x.linear(&weight, Some(&bias))?, generic::linear(&x, &weight, Some(&bias))?, "linear")?;
            same(x.geglu(&weight, None)?, generic::geglu(&x, &weight, None)?, "geglu")?;
            same(x.softmax()?, generic::softmax(&x)?, "softmax")?;
            let (scale, shift) = (lab.normals(&[c])?.on, lab.normals(&[c])?.on);
            // two channels and their mean are ill-conditioned in any precision, so epsilon is large
            same(
                x.layer_norm(&scale, &shift, 0.1)?,
                generic::layer_norm(&x, &scale, &shift, 0.1)?,
                "layer_norm",
            )?;
            let image = lab.normals(&[b, groups * 3, n, 2])?.on;
            let (scale, shift) = (lab.normals(&[groups * 3])?.on, lab.normals(&[groups * 3])?.on);
            let body = generic::group_norm(&image, groups, &scale, &shift, 0.1)?;
            same(image.group_norm(groups, &scale, &shift, 0.1)?, body.clone(), "group_norm")?;
            same(image.group_norm_silu(groups, &scale, &shift, 0.1)?, body.silu()?, "group_norm_silu")?;
            let keys = 1 + lab.draws.below(90);
            let (q, k) = (lab.normals(&[b, groups, n, c])?.on, lab.normals(&[b, groups, keys, c])?.on);
            let (v, start) =
                (lab.normals(&[b, groups, keys, c])?.on, lab.scores(&[b, groups, n], 0.0, 1.0)?.on);
            let options = AttentionOptions {
                graph: &GraphRequest::FirstVote(start.clone()),
                ..AttentionOptions::for_dim(c)
            };
            let got = TensorOf::<B>::attention(&q, &k, &v, options)?;
            let body = generic::attention(&q, &k, &v, options)?;
            same(got.hidden, body.hidden, "attention")?;
            let votes = |graph: Option<AttentionGraph<TensorOf<B>>>| match graph {
                Some(graph) => graph.votes(&start),
                None => panic!("the graph was asked for"),
            };
            same(votes(got.graph)?, votes(body.graph)?, "votes")
        },
    );
    Ok(())
}
