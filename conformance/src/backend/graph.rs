//! Checks of the attention graph as an operator, in its two forms.

use atedm_core::backend::{Streamed, generic};
use atedm_core::{
    AttentionGraph, AttentionOps, Backend, DType, DeviceOf, Indices, Partition, Result, Tensor,
};

use super::support::{Lab, TensorOf, rejects};
use crate::host::Array;
use crate::oracle;
use crate::tolerance::{assert_close, assert_close_as};

/// A graph in both forms, and its map on the host.
pub(super) struct Graph<T: AttentionOps> {
    pub(super) streamed: Streamed<T>,
    pub(super) dense: AttentionGraph<T>,
    pub(super) map: Array,
}

impl<T: AttentionOps> Graph<T> {
    pub(super) fn forms(&self) -> [(&'static str, AttentionGraph<T>); 2] {
        [("dense", self.dense.clone()), ("streamed", AttentionGraph::Streamed(self.streamed.clone()))]
    }
}

const SIZES: [[usize; 5]; 5] =
    [[1, 1, 1, 1, 1], [2, 3, 7, 7, 5], [1, 2, 9, 4, 8], [2, 1, 3, 11, 3], [1, 2, 65, 67, 33]];

pub(super) fn graph<B: Backend>(
    lab: &mut Lab<'_, B>,
    [b, h, m, n, d]: [usize; 5],
) -> Result<Graph<TensorOf<B>>> {
    let (q, k) = (lab.normals(&[b, h, m, d])?, lab.normals(&[b, h, n, d])?);
    let scale = 1.5 / (d as f64).sqrt();
    let map = oracle::attention_map(&q.host, &k.host, scale, None);
    let lse = lab.sample_as(oracle::log_sum_exp(&q.host, &k.host, scale), lab.dtype.accumulator())?.on;
    let dense = AttentionGraph::Dense(lab.sample_as(map.clone(), lab.dtype.accumulator())?.on);
    Ok(Graph { streamed: Streamed { q: q.on, k: k.on, lse, scale }, dense, map })
}

pub(super) fn partition<B: Backend>(
    lab: &mut Lab<'_, B>,
    b: usize,
    kept: usize,
    n: usize,
) -> Result<Partition<TensorOf<B>>> {
    let rows: Vec<Vec<u32>> = (0..b).map(|_| lab.draws.subset(kept, n)).collect();
    Partition::from_kept(&rows, n, lab.device)
}

/// `Aᵀ s` agrees with the oracle.
pub fn votes_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 1);
    for size in SIZES {
        let graph = graph(&mut lab, size)?;
        let scores = lab.scores(&size[..3], 0.0, 1.0)?;
        let expected = oracle::votes(&graph.map, &scores.host);
        for (form, graph) in graph.forms() {
            let votes = graph.votes(&scores.on)?;
            assert_eq!(votes.dtype(), dtype.accumulator());
            assert_close_as(&votes, &expected, dtype, &format!("{form} {size:?}"));
        }
    }
    Ok(())
}

/// `A s` agrees with the oracle.
pub fn read_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 2);
    for size in SIZES {
        let graph = graph(&mut lab, size)?;
        let scores = lab.scores(&[size[0], size[1], size[3]], 0.0, 1.0)?;
        let expected = oracle::read(&graph.map, &scores.host);
        for (form, graph) in graph.forms() {
            assert_close_as(&graph.read(&scores.on)?, &expected, dtype, &format!("{form} {size:?}"));
        }
    }
    Ok(())
}

/// `−Σ A ln A` agrees with the oracle.
pub fn row_entropy_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 3);
    for size in SIZES {
        let graph = graph(&mut lab, size)?;
        let expected = oracle::row_entropy(&graph.map);
        for (form, graph) in graph.forms() {
            assert_close_as(&graph.row_entropy()?, &expected, dtype, &format!("{form} {size:?}"));
        }
    }
    Ok(())
}

/// `0·ln 0 = 0`: rows that attend to only one key have entropy 0, not NaN.
pub fn row_entropy_of_one_hot_rows<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 4);
    let map = Array::from_fn(&[1, 2, 3, 4], |i| f64::from(u8::from(i[2] == i[3])));
    let dense = AttentionGraph::Dense(lab.sample_as(map, dtype.accumulator())?.on);
    assert_close(&dense.row_entropy()?, &Array::full(&[1, 2, 3], 0.0), "dense");
    let far = |i: &[usize]| if i[2] == i[3] { 16.0 } else { 0.0 };
    let (q, k) =
        (lab.sample(Array::from_fn(&[1, 2, 4, 4], far))?, lab.sample(Array::from_fn(&[1, 2, 4, 4], far))?);
    let streamed = AttentionGraph::from_qk(&q.on, &k.on, 1.0)?;
    assert_close(&streamed.row_entropy()?, &Array::full(&[1, 2, 4], 0.0), "streamed");
    assert_close(&streamed.second_moment()?, &Array::full(&[1, 2, 4], 1.0), "second moment");
    Ok(())
}

/// `Σ A²` agrees with the oracle.
pub fn second_moment_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 5);
    for size in SIZES {
        let graph = graph(&mut lab, size)?;
        let expected = oracle::second_moment(&graph.map);
        for (form, graph) in graph.forms() {
            assert_close_as(&graph.second_moment()?, &expected, dtype, &format!("{form} {size:?}"));
        }
    }
    Ok(())
}

/// The kept row that attends most to a pruned column, in the mean over heads.
pub fn strongest_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 6);
    for (b, h, n, kept) in [(1, 1, 2, 1), (2, 3, 7, 3), (1, 2, 9, 8), (2, 4, 33, 13), (1, 3, 130, 47)] {
        let graph = graph(&mut lab, [b, h, n, n, 6])?;
        let partition = partition(&mut lab, b, kept, n)?;
        let (stay, go) = (partition.kept.to_host()?, partition.pruned.to_host()?);
        let expected = oracle::strongest(&graph.map, &stay, &go);
        let mean = oracle::head_mean(&graph.map);
        for (form, graph) in graph.forms() {
            let got = graph.strongest(&partition)?.to_host()?;
            // if the dtype cannot distinguish the means of two rows, either may be chosen
            let value =
                |b: usize, i: usize, at: u32| mean.at(&[b, stay[b][at as usize] as usize, go[b][i] as usize]);
            for (b, row) in got.iter().enumerate() {
                let values = |from: &[u32]| {
                    let data = from.iter().enumerate().map(|(i, &at)| value(b, i, at)).collect();
                    Array::new(&[from.len()], data)
                };
                let accumulator = dtype.accumulator();
                crate::tolerance::assert_arrays_close(&values(row), &values(&expected[b]), accumulator, form);
            }
        }
    }
    Ok(())
}

/// If rows attend equally to a column, the lowest is taken, in both forms.
pub fn strongest_takes_the_lowest_of_equals<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 7);
    // all queries are equal, so all rows of the map are equal
    let (q, k) = (lab.sample(Array::full(&[2, 2, 41, 4], 0.5))?, lab.normals(&[2, 2, 41, 4])?);
    let streamed = AttentionGraph::from_qk(&q.on, &k.on, 0.5)?;
    let dense = AttentionGraph::Dense(streamed.to_dense()?);
    let partition = partition(&mut lab, 2, 17, 41)?;
    assert_eq!(streamed.strongest(&partition)?.to_host()?, vec![vec![0; 24]; 2], "streamed");
    assert_eq!(dense.strongest(&partition)?.to_host()?, vec![vec![0; 24]; 2], "dense");
    Ok(())
}

/// Both forms of a graph give the same results. The dense form is the oracle's map.
pub fn streamed_equals_dense<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 8);
    for size in SIZES {
        let [b, h, m, n, _] = size;
        let Graph { streamed, map, .. } = graph(&mut lab, size)?;
        let streamed = AttentionGraph::Streamed(streamed);
        let dense = AttentionGraph::Dense(streamed.to_dense()?);
        assert_close_as(&streamed.to_dense()?, &map, dtype, "map");
        assert_eq!(streamed.dims()?, [b, h, m, n]);
        assert_eq!(dense.dims()?, [b, h, m, n]);
        assert_eq!(dense.score_dtype(), streamed.score_dtype());
        let (rows, columns) = (lab.scores(&[b, h, m], 0.0, 1.0)?.on, lab.scores(&[b, h, n], 0.0, 1.0)?.on);
        for (what, a, b) in [
            ("votes", streamed.votes(&rows)?, dense.votes(&rows)?),
            ("read", streamed.read(&columns)?, dense.read(&columns)?),
            ("row_entropy", streamed.row_entropy()?, dense.row_entropy()?),
            ("second_moment", streamed.second_moment()?, dense.second_moment()?),
        ] {
            assert_close(&a, &Array::read(&b)?, what);
        }
    }
    Ok(())
}

/// A graph from queries and keys, for kernels that return no log-sum-exp.
pub fn graph_from_queries_and_keys<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 9);
    for [b, h, m, n, d] in SIZES {
        let (q, k) = (lab.normals(&[b, h, m, d])?, lab.normals(&[b, h, n, d])?);
        let graph = AttentionGraph::from_qk(&q.on, &k.on, 0.7)?;
        assert_eq!(graph.score_dtype(), dtype.accumulator());
        let map = oracle::attention_map(&q.host, &k.host, 0.7, None);
        assert_close_as(&graph.to_dense()?, &map, dtype, "map");
        let ones = Array::full(&[b, h, m], 1.0);
        assert_close(
            &graph.read(&lab.sample_as(Array::full(&[b, h, n], 1.0), dtype.accumulator())?.on)?,
            &ones,
            "rows sum to one",
        );
    }
    Ok(())
}

/// The overridable steps agree with their generic bodies on odd sizes.
pub fn graph_overrides_equal_the_generic_bodies<B: Backend>(
    device: &DeviceOf<B>,
    dtype: DType,
) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 10);
    for size in [[1, 1, 5, 5, 3], [2, 3, 35, 35, 17], [1, 2, 131, 131, 40], [2, 2, 77, 19, 8]] {
        let [b, _, m, n, _] = size;
        let Graph { streamed, .. } = graph(&mut lab, size)?;
        let scores = lab.scores(&size[..3], 0.0, 1.0)?.on;
        let body = generic::votes(&streamed, &scores)?;
        assert_close_as(&TensorOf::<B>::votes(&streamed, &scores)?, &Array::read(&body)?, dtype, "votes");
        if m != n {
            continue;
        }
        let partition = partition(&mut lab, b, n / 3, n)?;
        let got = TensorOf::<B>::strongest(&streamed, &partition)?.to_host()?;
        let body = generic::strongest(&streamed, &partition)?.to_host()?;
        let differ = got.concat().iter().zip(&body.concat()).filter(|(a, b)| a != b).count();
        assert!(differ == 0, "strongest: {differ} of {} differ at {size:?}", body.concat().len());
    }
    Ok(())
}

/// More rows than any tile or block has. The parts must fit together.
pub fn graphs_beyond_one_block<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 11);
    let size = [1, 2, 1030, 1030, 4];
    let Graph { streamed, map, .. } = graph(&mut lab, size)?;
    let scores = lab.scores(&size[..3], 0.0, 2.0 / 1030.0)?;
    let votes = oracle::votes(&map, &scores.host);
    let sum: f64 = votes.data.iter().sum();
    // votes of about 1/n each, scaled to about 1 each, so that the absolute tolerance cannot hide errors
    let wide = |x: &Array| x.map(|v| v * 1030.0 / sum);
    let got = TensorOf::<B>::votes(&streamed, &scores.on)?;
    crate::tolerance::assert_arrays_close(&wide(&Array::read(&got)?), &wide(&votes), dtype, "votes");
    let graph = AttentionGraph::Streamed(streamed);
    assert_close_as(&graph.row_entropy()?, &oracle::row_entropy(&map), dtype, "row_entropy");
    let partition = partition(&mut lab, 1, 381, 1030)?;
    let body = generic::dense_strongest(&graph.to_dense()?, &partition)?.to_host()?.concat();
    let got = graph.strongest(&partition)?.to_host()?.concat();
    let same = got.iter().zip(&body).filter(|(a, b)| a == b).count();
    assert!(same + 2 >= body.len(), "strongest: {same} of {} agree", body.len());
    Ok(())
}

/// Misfits are errors: scores and partitions that do not fit the map.
pub fn graph_rejects_misfits<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 12);
    let graph = graph(&mut lab, [2, 3, 7, 5, 4])?;
    for (form, graph) in graph.forms() {
        for shape in [&[2, 3, 5][..], &[2, 3, 8], &[2, 2, 7], &[1, 3, 7], &[6, 7]] {
            let scores = lab.scores(shape, 0.0, 1.0)?.on;
            rejects(&format!("{form} votes {shape:?}"), || graph.votes(&scores));
        }
        for shape in [&[2, 3, 7][..], &[2, 3, 4], &[6, 5]] {
            let scores = lab.scores(shape, 0.0, 1.0)?.on;
            rejects(&format!("{form} read {shape:?}"), || graph.read(&scores));
        }
        let beyond = partition(&mut lab, 2, 3, 20)?;
        rejects(&format!("{form} strongest of other tokens"), || graph.strongest(&beyond)?.to_host());
    }
    rejects("queries and keys of other heads", || {
        AttentionGraph::from_qk(&lab.counting(&[1, 2, 3, 4])?.on, &lab.counting(&[1, 3, 3, 4])?.on, 1.0)
    });
    Ok(())
}
