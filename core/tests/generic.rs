//! The generic bodies on the reference backend. Tests compare the streamed graph with the stored map, and both with
//! plain loops in f64.
#![cfg(feature = "reference")]
#![allow(clippy::unwrap_used, reason = "a test: helpers may panic, too")]

use atedm_core::backend::{Attended, AttentionOptions, GraphRequest, Streamed, generic};
use atedm_core::reference::{NdDevice, NdIndices, NdTensor};
use atedm_core::{AttentionGraph, AttentionOps, DType, Error, Indices, NnOps, Partition, Tensor};

const BOTH: [DType; 2] = [DType::F32, DType::F64];
const HOST: &NdDevice = &NdDevice;

/// More queries than one row block (512), so that the tests cover the seams between blocks.
const LONG: [usize; 5] = [2, 3, 530, 37, 8];
/// Few tokens, for maps that are to be hard.
const SHORT: [usize; 5] = [1, 2, 7, 5, 4];

fn noise(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / f64::from(1 << 22) - 2.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(dtype: DType, values: &[f64], shape: &[usize]) -> NdTensor {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    NdTensor::from_bytes(&bytes, DType::F64, shape, HOST).unwrap().cast(dtype).unwrap()
}

fn random(dtype: DType, shape: &[usize], seed: u64) -> NdTensor {
    tensor(dtype, &noise(shape.iter().product(), seed), shape)
}

fn values(tensor: &NdTensor) -> Vec<f64> {
    let bytes = tensor.cast(DType::F64).unwrap().to_bytes().unwrap();
    bytes.as_chunks::<8>().0.iter().map(|&raw| f64::from_le_bytes(raw)).collect()
}

/// Asserts equality within the rounding of `dtype`, relative to the largest expected value.
fn near(got: &NdTensor, shape: &[usize], expected: &[f64]) {
    assert_eq!(got.shape(), shape);
    let most = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let bound = if got.dtype() == DType::F64 { 1e-13 } else { 5e-6 } * most;
    let got = values(got);
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= bound, "{i}: {g} is not {e} within {bound}");
    }
}

/// One attention problem: sizes, queries, keys, values, and the map from plain loops in f64.
struct Problem {
    sizes: [usize; 5],
    q: NdTensor,
    k: NdTensor,
    v: NdTensor,
    scale: f64,
    map: Vec<f64>,
}

impl Problem {
    fn new(dtype: DType, sizes: [usize; 5], scale: f64, seed: u64) -> Self {
        let [b, h, m, n, d] = sizes;
        let q = random(dtype, &[b, h, m, d], seed);
        let k = random(dtype, &[b, h, n, d], seed + 1);
        let v = random(dtype, &[b, h, n, d], seed + 2);
        let map = plain_map(&q, &k, sizes, scale, |_, _| 0.0);
        Self { sizes, q, k, v, scale, map }
    }

    fn streamed(&self) -> AttentionGraph<NdTensor> {
        AttentionGraph::from_qk(&self.q, &self.k, self.scale).unwrap()
    }

    /// The streamed graph and the stored graph.
    fn both(&self) -> [AttentionGraph<NdTensor>; 2] {
        let streamed = self.streamed();
        assert!(matches!(streamed, AttentionGraph::Streamed(_)));
        let dense = AttentionGraph::Dense(streamed.to_dense().unwrap());
        [streamed, dense]
    }

    /// `Σ_j f(A_ij, j)` of each row.
    fn rows(&self, f: impl Fn(usize, usize, f64) -> f64) -> Vec<f64> {
        let n = self.sizes[3];
        let line = |(r, row): (usize, &[f64])| row.iter().enumerate().map(|(j, &a)| f(r, j, a)).sum();
        self.map.chunks(n).enumerate().map(line).collect()
    }
}

fn plain_map(
    q: &NdTensor,
    k: &NdTensor,
    [b, h, m, n, d]: [usize; 5],
    scale: f64,
    bias: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let (q, k) = (values(q), values(k));
    let mut map = Vec::new();
    for (head, i) in (0..b * h * m).map(|e| (e / m, e % m)) {
        let dot =
            |j: usize| (0..d).map(|c| q[(head * m + i) * d + c] * k[(head * n + j) * d + c]).sum::<f64>();
        let logits: Vec<f64> = (0..n).map(|j| dot(j) * scale + bias(i, j)).collect();
        let most = logits.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = logits.iter().map(|l| (l - most).exp()).sum();
        map.extend(logits.iter().map(|l| (l - most).exp() / total));
    }
    map
}

/// `A v` by plain loops.
fn plain_output(map: &[f64], v: &NdTensor, [b, h, m, n, d]: [usize; 5]) -> Vec<f64> {
    let v = values(v);
    let entry = |e: usize| {
        let (head, i, c) = (e / (m * d), e / d % m, e % d);
        (0..n).map(|j| map[(head * m + i) * n + j] * v[(head * n + j) * d + c]).sum()
    };
    (0..b * h * m * d).map(entry).collect()
}

#[test]
fn attention_and_its_map() {
    for dtype in BOTH {
        for sizes in [LONG, SHORT] {
            let p = Problem::new(dtype, sizes, 0.35, 1);
            let [b, h, m, n, d] = sizes;
            for graph in [GraphRequest::None, GraphRequest::Lazy] {
                let options = AttentionOptions { scale: p.scale, bias: None, graph: &graph };
                let Attended { hidden: output, graph: graph_out, .. } =
                    NdTensor::attention(&p.q, &p.k, &p.v, options).unwrap();
                near(&output, &[b, h, m, d], &plain_output(&p.map, &p.v, sizes));
                assert_eq!(graph_out.is_some(), matches!(graph, GraphRequest::Lazy));
                if let Some(graph) = graph_out {
                    assert_eq!(graph.dims().unwrap(), [b, h, m, n]);
                    assert_eq!(graph.score_dtype(), dtype);
                    near(&graph.to_dense().unwrap(), &[b, h, m, n], &p.map);
                }
            }
            near(&p.streamed().to_dense().unwrap(), &[b, h, m, n], &p.map);
        }
    }
}

/// The bias on the logit of query `i` and key `j`.
type Bias<'a> = &'a dyn Fn(usize, usize) -> f64;

#[test]
fn attention_with_a_bias_returns_the_map_it_used() {
    for dtype in BOTH {
        let sizes @ [b, h, m, n, d] = LONG;
        let (q, k, v) = (
            random(dtype, &[b, h, m, d], 4),
            random(dtype, &[b, h, n, d], 5),
            random(dtype, &[b, h, n, d], 6),
        );
        let wall = |i: usize, j: usize| if j > i { f64::NEG_INFINITY } else { 0.0 };
        let keys = |_: usize, j: usize| j as f64 / 7.0;
        let causal =
            tensor(dtype, &(0..m * n).map(|e| wall(e / n, e % n)).collect::<Vec<_>>(), &[1, 1, m, n]);
        let per_key = tensor(dtype, &(0..n).map(|j| keys(0, j)).collect::<Vec<_>>(), &[1, 1, 1, n]);
        let cases: [(&NdTensor, Bias<'_>); 2] = [(&causal, &wall), (&per_key, &keys)];
        for (bias, plain) in cases {
            let map = plain_map(&q, &k, sizes, 0.3, plain);
            let options = AttentionOptions { scale: 0.3, bias: Some(bias), graph: &GraphRequest::Lazy };
            let Attended { hidden: output, graph, .. } = NdTensor::attention(&q, &k, &v, options).unwrap();
            near(&output, &[b, h, m, d], &plain_output(&map, &v, sizes));
            near(&graph.unwrap().to_dense().unwrap(), &[b, h, m, n], &map);
        }
    }
}

#[test]
fn votes_are_column_sums_weighted_by_scores() {
    for dtype in BOTH {
        for sizes @ [b, h, m, n, _] in [LONG, SHORT] {
            let p = Problem::new(dtype, sizes, 0.35, 7);
            let scores = random(dtype, &[b, h, m], 9).affine(0.25, 0.5).unwrap();
            let s = values(&scores);
            let mut expected = vec![0.0; b * h * n];
            for (e, a) in p.map.iter().enumerate() {
                expected[e / (m * n) * n + e % n] += a * s[e / n];
            }
            for graph in p.both() {
                near(&graph.votes(&scores).unwrap(), &[b, h, n], &expected);
            }
            let options = AttentionOptions {
                scale: p.scale,
                bias: None,
                graph: &GraphRequest::FirstVote(scores.clone()),
            };
            let first_vote = NdTensor::attention(&p.q, &p.k, &p.v, options).unwrap().first_vote;
            near(&first_vote.unwrap(), &[b, h, n], &expected);
        }
    }
}

#[test]
fn read_is_the_map_times_scores() {
    for dtype in BOTH {
        for sizes @ [b, h, m, n, _] in [LONG, SHORT] {
            let p = Problem::new(dtype, sizes, 0.35, 10);
            let scores = random(dtype, &[b, h, n], 11);
            let s = values(&scores);
            let expected = p.rows(|row, j, a| a * s[row / m * n + j]);
            for graph in p.both() {
                near(&graph.read(&scores).unwrap(), &[b, h, m], &expected);
            }
        }
    }
}

#[test]
fn row_entropy_and_second_moment() {
    for dtype in BOTH {
        for sizes @ [b, h, m, ..] in [LONG, SHORT] {
            let p = Problem::new(dtype, sizes, 0.35, 12);
            let entropy = p.rows(|_, _, a| if a > 0.0 { -a * a.ln() } else { 0.0 });
            let squares = p.rows(|_, _, a| a * a);
            for graph in p.both() {
                near(&graph.row_entropy().unwrap(), &[b, h, m], &entropy);
                near(&graph.second_moment().unwrap(), &[b, h, m], &squares);
            }
        }
    }
}

#[test]
fn a_one_hot_row_has_no_entropy_and_a_flat_row_the_most() {
    for dtype in BOTH {
        // query 0 sees only key 2 (the others underflow to 0), and query 1 sees all keys equally
        let q = tensor(dtype, &[1000.0, 0.0], &[1, 1, 2, 1]);
        let k = tensor(dtype, &[-1.0, 0.0, 3.0, -2.0], &[1, 1, 4, 1]);
        let streamed = AttentionGraph::from_qk(&q, &k, 1.0).unwrap();
        let dense = AttentionGraph::Dense(streamed.to_dense().unwrap());
        assert_eq!(values(&dense.to_dense().unwrap())[..4], [0.0, 0.0, 1.0, 0.0]);
        for graph in [streamed, dense] {
            let entropy = graph.row_entropy().unwrap();
            assert_eq!(values(&entropy)[0], 0.0);
            near(&entropy, &[1, 1, 2], &[0.0, 4.0f64.ln()]);
            near(&graph.second_moment().unwrap(), &[1, 1, 2], &[1.0, 0.25]);
        }
    }
}

#[test]
fn strongest_is_the_first_argmax_of_the_head_mean() {
    for dtype in BOTH {
        // square maps, with more pruned tokens than one column block
        let sizes @ [b, h, n, _, _] = [2, 3, 700, 700, 8];
        let p = Problem::new(dtype, sizes, 0.35, 13);
        let partition = random(dtype, &[b, n], 14).split_top_k(120).unwrap();
        let (kept, pruned) = (partition.kept.to_host().unwrap(), partition.pruned.to_host().unwrap());
        let mean = |batch: usize, i: u32, j: u32| {
            let entry = |head: usize| p.map[((batch * h + head) * n + i as usize) * n + j as usize];
            (0..h).map(entry).sum::<f64>() / h as f64
        };
        for graph in p.both() {
            let chosen = graph.strongest(&partition).unwrap();
            assert_eq!(chosen.dims(), (b, n - 120));
            for (batch, row) in chosen.to_host().unwrap().iter().enumerate() {
                for (&at, &column) in row.iter().zip(&pruned[batch]) {
                    let best = kept[batch].iter().map(|&i| mean(batch, i, column)).fold(0.0, f64::max);
                    let got = mean(batch, kept[batch][at as usize], column);
                    let slack = if dtype == DType::F64 { 1e-13 } else { 1e-5 };
                    assert!(got >= best * (1.0 - slack), "batch {batch}, column {column}: {got} < {best}");
                }
            }
        }
    }
}

#[test]
fn strongest_takes_the_lowest_kept_row_on_ties() {
    for dtype in BOTH {
        // all queries are equal, so every row of the map is the same
        let q = NdTensor::full(0.5, &[1, 2, 6, 3], dtype, HOST).unwrap();
        let graph = AttentionGraph::from_qk(&q, &random(dtype, &[1, 2, 6, 3], 1), 1.0).unwrap();
        let partition = Partition::<NdTensor>::from_kept(&[vec![1, 4, 5]], 6, HOST).unwrap();
        let dense = AttentionGraph::Dense(graph.to_dense().unwrap());
        for graph in [graph, dense] {
            assert_eq!(graph.strongest(&partition).unwrap().to_host().unwrap(), [[0, 0, 0]]);
        }
    }
}

#[test]
fn a_map_of_nan_is_an_error_and_never_a_choice() {
    let q = NdTensor::full(f64::NAN, &[1, 1, 4, 2], DType::F32, HOST).unwrap();
    let k = random(DType::F32, &[1, 1, 4, 2], 1);
    let graph = AttentionGraph::from_qk(&q, &k, 1.0).unwrap();
    let partition = Partition::<NdTensor>::from_kept(&[vec![0, 2]], 4, HOST).unwrap();
    assert!(matches!(graph.strongest(&partition), Err(Error::NotFinite { .. })));
}

#[test]
fn graph_operations_check_shapes() {
    let graph = Problem::new(DType::F32, SHORT, 0.5, 1).streamed();
    let dense = AttentionGraph::Dense(graph.to_dense().unwrap());
    for graph in [graph, dense] {
        let wrong = NdTensor::full(1.0, &[1, 2, 6], DType::F32, HOST).unwrap();
        assert!(matches!(graph.votes(&wrong), Err(Error::Shape { .. })));
        assert!(matches!(graph.read(&wrong), Err(Error::Shape { .. })));
        let double = NdTensor::full(1.0, &[1, 2, 7], DType::F64, HOST).unwrap();
        assert!(matches!(graph.votes(&double), Err(Error::DType { .. })));
    }
    let rank = random(DType::F32, &[2, 3, 4], 1);
    assert!(matches!(AttentionGraph::from_qk(&rank, &rank, 1.0), Err(Error::Shape { .. })));
    let none = NdTensor::full(0.0, &[1, 1, 0, 2], DType::F32, HOST).unwrap();
    let keys = random(DType::F32, &[1, 1, 3, 2], 1);
    assert!(matches!(AttentionGraph::from_qk(&none, &keys, 1.0), Err(Error::Shape { .. })));
    assert!(matches!(AttentionGraph::from_qk(&keys, &none, 1.0), Err(Error::Shape { .. })));
    let options = AttentionOptions::for_dim(2);
    assert!(matches!(NdTensor::attention(&keys, &keys, &rank, options), Err(Error::Shape { .. })));
}

#[test]
fn a_streamed_graph_is_rebuilt_from_its_parts() {
    let p = Problem::new(DType::F64, SHORT, 0.5, 3);
    let Streamed { q, k, lse, scale } = generic::streamed_from_qk(&p.q, &p.k, p.scale).unwrap();
    let [b, h, m, n, d] = SHORT;
    let (qs, ks) = (values(&q), values(&k));
    let mut expected = Vec::new();
    for (head, i) in (0..b * h * m).map(|e| (e / m, e % m)) {
        let dot =
            |j: usize| (0..d).map(|c| qs[(head * m + i) * d + c] * ks[(head * n + j) * d + c]).sum::<f64>();
        expected.push((0..n).map(|j| (dot(j) * scale).exp()).sum::<f64>().ln());
    }
    near(&lse, &[b, h, m], &expected);
}

#[test]
fn norms_beside_plain_loops() {
    for dtype in BOTH {
        let [b, c, h, w] = [2, 6, 4, 5];
        let x = random(dtype, &[b, c, h, w], 20).affine(2.0, 3.0).unwrap();
        let (weight, bias) = (random(dtype, &[c], 21), random(dtype, &[c], 22));
        let (v, wv, bv) = (values(&x), values(&weight), values(&bias));
        let standard = |run: &[f64]| {
            let mean = run.iter().sum::<f64>() / run.len() as f64;
            let variance = run.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / run.len() as f64;
            run.iter().map(|x| (x - mean) / (variance + 1e-5).sqrt()).collect::<Vec<_>>()
        };
        for groups in [1, 3, 6] {
            let flat: Vec<f64> = v.chunks(c / groups * h * w).flat_map(standard).collect();
            let channel = |e: usize| e / (h * w) % c;
            let expected: Vec<f64> =
                flat.iter().enumerate().map(|(e, x)| x * wv[channel(e)] + bv[channel(e)]).collect();
            near(&generic::group_norm(&x, groups, &weight, &bias, 1e-5).unwrap(), &[b, c, h, w], &expected);
            near(&x.group_norm(groups, &weight, &bias, 1e-5).unwrap(), &[b, c, h, w], &expected);
        }
        let tokens = x.reshape(&[b, h * w, c]).unwrap();
        let flat: Vec<f64> = v.chunks(c).flat_map(standard).collect();
        let expected: Vec<f64> = flat.iter().enumerate().map(|(e, x)| x * wv[e % c] + bv[e % c]).collect();
        near(&generic::layer_norm(&tokens, &weight, &bias, 1e-5).unwrap(), &[b, h * w, c], &expected);
        near(&tokens.layer_norm(&weight, &bias, 1e-5).unwrap(), &[b, h * w, c], &expected);
    }
}

#[test]
fn linear_and_geglu_beside_plain_loops() {
    for dtype in BOTH {
        let [b, n, inner, out] = [2, 5, 6, 8];
        let x = random(dtype, &[b, n, inner], 30);
        let (weight, bias) = (random(dtype, &[out, inner], 31), random(dtype, &[out], 32));
        let (v, w) = (values(&x), values(&weight));
        for bias in [None, Some(&bias)] {
            let shift = bias.map_or(vec![0.0; out], values);
            let entry = |e: usize| {
                let (row, o) = (e / out, e % out);
                (0..inner).map(|i| v[row * inner + i] * w[o * inner + i]).sum::<f64>() + shift[o]
            };
            let expected: Vec<f64> = (0..b * n * out).map(entry).collect();
            near(&x.linear(&weight, bias).unwrap(), &[b, n, out], &expected);
            // the first half is the value, and the second half is the gate
            let gated: Vec<f64> = expected
                .chunks(out)
                .flat_map(|row| (0..out / 2).map(|o| row[o] * gelu(row[o + out / 2])).collect::<Vec<_>>())
                .collect();
            near(&x.geglu(&weight, bias).unwrap(), &[b, n, out / 2], &gated);
        }
        let odd = weight.narrow(0, 0, 7).unwrap();
        assert!(matches!(x.geglu(&odd, None), Err(Error::Shape { .. })));
    }
}

/// `x Φ(x)`, with the error function by its Taylor series (for |x| below 12).
fn gelu(x: f64) -> f64 {
    let z = x / 2.0f64.sqrt();
    if z.abs() > 5.9 {
        return x.max(0.0);
    }
    // erf z = 2/√π e^(−z²) Σ 2ⁿ z^(2n+1) / (1·3·…·(2n+1)): all terms have one sign, so nothing cancels
    let (mut term, mut sum, mut n) = (z, z, 0.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * z * z / (2.0 * n + 1.0);
        sum += term;
    }
    let erf = 2.0 / std::f64::consts::PI.sqrt() * (-z * z).exp() * sum;
    0.5 * x * (1.0 + erf)
}

fn indices(rows: &[&[u32]]) -> NdIndices {
    NdIndices::from_host(&rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>(), HOST).unwrap()
}

#[test]
fn indices_compose_join_complement_and_invert() {
    let all = indices(&[&[4, 0, 2, 1], &[3, 1, 5, 0]]);
    let some = indices(&[&[2, 0], &[3, 3]]);
    assert_eq!(all.gather(&some).unwrap().to_host().unwrap(), [[2, 4], [0, 0]]);
    let joined = NdIndices::concat(&[&some, &all]).unwrap();
    assert_eq!(joined.to_host().unwrap(), [[2, 0, 4, 0, 2, 1], [3, 3, 3, 1, 5, 0]]);
    assert_eq!(all.complement(6).unwrap().to_host().unwrap(), [[3, 5], [2, 4]]);
    assert_eq!(indices(&[&[0, 1]]).complement(2).unwrap().dims(), (1, 0));

    let permutation = indices(&[&[2, 0, 3, 1], &[1, 0, 2, 3]]);
    let inverse = permutation.inverse().unwrap();
    for (a, b) in [(&permutation, &inverse), (&inverse, &permutation)] {
        assert_eq!(a.gather(b).unwrap().to_host().unwrap(), [[0, 1, 2, 3], [0, 1, 2, 3]]);
    }
}

#[test]
fn indices_errors() {
    let at = indices(&[&[0, 4]]);
    assert!(matches!(at.gather(&indices(&[&[2]])), Err(Error::Shape { .. })));
    assert!(matches!(at.gather(&indices(&[&[0], &[0]])), Err(Error::Shape { .. })));
    assert!(matches!(NdIndices::concat(&[]), Err(Error::Shape { .. })));
    assert!(matches!(NdIndices::concat(&[&at, &indices(&[&[0], &[0]])]), Err(Error::Shape { .. })));
    assert!(matches!(at.complement(4), Err(Error::Shape { .. })));
    assert!(matches!(indices(&[&[0, 0]]).inverse(), Err(Error::Shape { .. })));
    assert!(matches!(indices(&[&[0, 2]]).inverse(), Err(Error::Shape { .. })));
}

#[test]
fn kept_rows_given_by_the_caller_are_checked() {
    let partition = Partition::<NdTensor>::from_kept(&[vec![0, 3], vec![1, 2]], 4, HOST).unwrap();
    assert_eq!(partition.pruned.to_host().unwrap(), [[1, 2], [0, 3]]);
    for rows in [vec![vec![3, 0]], vec![vec![1, 1]], vec![vec![0, 4]]] {
        let error = Partition::<NdTensor>::from_kept(&rows, 4, HOST).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
    assert!(Partition::<NdTensor>::from_kept(&[vec![0], vec![0, 1]], 4, HOST).is_err());
}
