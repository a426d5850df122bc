//! Checks of attention, and of the graph that it can also return.

use atedm_core::backend::{Attended, AttentionOptions, GraphRequest, Streamed, generic};
use atedm_core::{AttentionGraph, AttentionOps, Backend, DType, DeviceOf, Result, Tensor};

use super::support::{Lab, Sample, TensorOf, as_view, rejects};
use crate::host::Array;
use crate::oracle;
use crate::tolerance::{assert_close, assert_close_as};

/// Queries `[b, h, m, d]`, and keys and values `[b, h, n, d]`.
struct Heads<T> {
    q: Sample<T>,
    k: Sample<T>,
    v: Sample<T>,
    scale: f64,
}

/// Odd sizes: self-attention, cross-attention, one query, one key. None is a multiple of a block size.
const SIZES: [[usize; 5]; 6] = [
    [1, 1, 1, 1, 1],
    [2, 3, 7, 7, 5],
    [1, 2, 9, 4, 8],
    [2, 1, 1, 11, 3],
    [1, 2, 5, 1, 4],
    [1, 2, 65, 67, 33],
];

fn heads<B: Backend>(lab: &mut Lab<'_, B>, [b, h, m, n, d]: [usize; 5]) -> Result<Heads<TensorOf<B>>> {
    let (q, k) = (lab.normals(&[b, h, m, d])?, lab.normals(&[b, h, n, d])?);
    Ok(Heads { q, k, v: lab.normals(&[b, h, n, d])?, scale: 1.0 / (d as f64).sqrt() })
}

fn options<T>(scale: f64) -> AttentionOptions<'static, T> {
    AttentionOptions { scale, bias: None, graph: &GraphRequest::None }
}

/// The streamed form of a graph without a bias.
fn streamed<T: AttentionOps>(graph: Option<AttentionGraph<T>>) -> Option<Streamed<T>> {
    match graph {
        Some(AttentionGraph::Streamed(streamed)) => Some(streamed),
        _ => None,
    }
}

/// `softmax(q kᵀ scale) v` agrees with the oracle.
pub fn attention_against_the_oracle<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 1);
    for size in SIZES {
        let Heads { q, k, v, scale } = heads(&mut lab, size)?;
        for scale in [scale, 0.3] {
            let got = TensorOf::<B>::attention(&q.on, &k.on, &v.on, options(scale))?.hidden;
            assert_eq!(got.dtype(), dtype);
            let expected = oracle::attention(&q.host, &k.host, &v.host, scale, None);
            assert_close(&got, &expected, &format!("{size:?}"));
        }
    }
    Ok(())
}

/// Biases of every allowed shape, among them a causal mask of minus infinity. The graph of attention with a bias is the
/// graph of its map.
pub fn attention_with_every_bias<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 2);
    let [b, h, m, n, d] = [2, 3, 7, 7, 5];
    let Heads { q, k, v, scale } = heads(&mut lab, [b, h, m, n, d])?;
    let mut biases = Vec::new();
    for shape in [[b, h, m, n], [1, 1, m, n], [b, 1, 1, n], [1, h, 1, n], [1, 1, 1, n]] {
        biases.push(lab.scores(&shape, -2.0, 2.0)?);
    }
    let causal = Array::from_fn(&[1, 1, m, n], |i| if i[3] > i[2] { f64::NEG_INFINITY } else { 0.0 });
    biases.push(lab.sample_as(causal, dtype.accumulator())?);
    for bias in &biases {
        let what = format!("bias {:?}", bias.host.shape);
        let options = AttentionOptions { scale, bias: Some(&bias.on), graph: &GraphRequest::Lazy };
        let Attended { hidden: got, graph, .. } = TensorOf::<B>::attention(&q.on, &k.on, &v.on, options)?;
        let map = oracle::attention_map(&q.host, &k.host, scale, Some(&bias.host));
        assert_close(&got, &oracle::matmul(&map, &v.host), &what);
        let graph = graph.expect("the graph was asked for");
        assert_close_as(&graph.to_dense()?, &map, dtype, &what);
        let scores = lab.scores(&[b, h, m], 0.0, 1.0)?;
        assert_close_as(&graph.votes(&scores.on)?, &oracle::votes(&map, &scores.host), dtype, &what);
    }
    Ok(())
}

/// Attention works on views. Every model splits heads by a permutation, so the operands are views.
pub fn attention_of_views<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 3);
    let (b, h, m, n, d) = (2, 3, 9, 5, 4);
    let split = |x: &Sample<TensorOf<B>>, tokens: usize| -> Result<(TensorOf<B>, Array)> {
        let on = x.on.reshape(&[b, tokens, h, d])?.permute(&[0, 2, 1, 3])?;
        Ok((on, oracle::permute(&x.host.reshaped(&[b, tokens, h, d]), &[0, 2, 1, 3])))
    };
    let (q, k, v) =
        (lab.normals(&[b, m, h * d])?, lab.normals(&[b, n, h * d])?, lab.normals(&[b, n, h * d])?);
    let ((q, q_host), (k, k_host), (v, v_host)) = (split(&q, m)?, split(&k, n)?, split(&v, n)?);
    let expected = oracle::attention(&q_host, &k_host, &v_host, 0.5, None);
    let lazy = AttentionOptions { graph: &GraphRequest::Lazy, ..options(0.5) };
    let Attended { hidden: got, graph, .. } = TensorOf::<B>::attention(&q, &k, &v, lazy)?;
    assert_close(&got, &expected, "split heads");
    let map = oracle::attention_map(&q_host, &k_host, 0.5, None);
    assert_close_as(&graph.expect("asked for").to_dense()?, &map, dtype, "their graph");
    let got = TensorOf::<B>::attention(&as_view(&q)?, &as_view(&k)?, &as_view(&v)?, options(0.5))?.hidden;
    assert_close(&got, &expected, "swapped in memory");
    Ok(())
}

/// Logits around ±200 do not overflow, and distant keys get no weight.
pub fn attention_of_large_logits<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 4);
    // whole numbers are exact in every dtype, and so are the logits
    let q = lab.sample(Array::from_fn(&[1, 1, 5, 2], |i| (i[2] as f64 - 2.0) * (1.0 + i[3] as f64)))?;
    let k = lab.sample(Array::from_fn(&[1, 1, 6, 2], |i| 20.0 * (i[2] as f64 - 3.0)))?;
    let v = lab.counting(&[1, 1, 6, 2])?;
    let lazy = AttentionOptions { graph: &GraphRequest::Lazy, ..options(1.0) };
    let Attended { hidden: got, graph, .. } = TensorOf::<B>::attention(&q.on, &k.on, &v.on, lazy)?;
    assert_close(&got, &oracle::attention(&q.host, &k.host, &v.host, 1.0, None), "attention");
    let map = oracle::attention_map(&q.host, &k.host, 1.0, None);
    let graph = graph.expect("asked for");
    assert_close_as(&graph.to_dense()?, &map, dtype, "map");
    assert_close_as(&graph.row_entropy()?, &oracle::row_entropy(&map), dtype, "entropy");
    Ok(())
}

/// The override agrees with the generic body, whatever it fuses.
pub fn attention_equals_the_generic_body<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 5);
    for size in SIZES.into_iter().chain([[1, 2, 131, 131, 40], [1, 1, 260, 77, 64]]) {
        let Heads { q, k, v, scale } = heads(&mut lab, size)?;
        let start = lab.scores(&[size[0], size[1], size[2]], 0.0, 1.0)?;
        for graph in [GraphRequest::None, GraphRequest::Lazy, GraphRequest::FirstVote(start.on.clone())] {
            let options = AttentionOptions { graph: &graph, ..options(0.8 * scale) };
            let got = TensorOf::<B>::attention(&q.on, &k.on, &v.on, options)?;
            let body = generic::attention(&q.on, &k.on, &v.on, options)?;
            let what = format!("{size:?} {}", options.graph.request_name());
            assert_close(&got.hidden, &Array::read(&body.hidden)?, &what);
            if let (Some(got), Some(body)) = (&got.first_vote, &body.first_vote) {
                assert_close_as(got, &Array::read(body)?, dtype, &what);
            }
            if let (Some(got), Some(body)) = (streamed(got.graph), streamed(body.graph)) {
                assert_close_as(&got.lse, &Array::read(&body.lse)?, dtype, &what);
                assert_eq!(got.scale, body.scale);
            }
        }
    }
    Ok(())
}

/// The name of a request in messages.
trait RequestName {
    fn request_name(&self) -> &'static str;
}

impl<T> RequestName for GraphRequest<T> {
    fn request_name(&self) -> &'static str {
        match self {
            GraphRequest::None => "without a graph",
            GraphRequest::Lazy => "with a graph",
            GraphRequest::FirstVote(_) => "with a vote",
            GraphRequest::Stored => "with a stored map",
        }
    }
}

/// There is a graph only if one is requested. Its size is that of the map.
pub fn graphs_come_only_when_asked_for<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 6);
    let Heads { q, k, v, scale } = heads(&mut lab, [2, 3, 7, 5, 4])?;
    let none = TensorOf::<B>::attention(&q.on, &k.on, &v.on, options(scale))?;
    assert!(none.graph.is_none() && none.first_vote.is_none());
    let lazy = AttentionOptions { graph: &GraphRequest::Lazy, ..options(scale) };
    let attended = TensorOf::<B>::attention(&q.on, &k.on, &v.on, lazy)?;
    assert_eq!(attended.graph.expect("asked for").dims()?, [2, 3, 7, 5]);
    assert!(attended.first_vote.is_none(), "nobody asked for a vote");
    Ok(())
}

/// The log-sum-exp has the accumulator dtype, whatever the tokens' dtype is.
pub fn log_sum_exp_is_in_the_accumulator<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 7);
    for size in SIZES {
        let Heads { q, k, v, scale } = heads(&mut lab, size)?;
        let lazy = AttentionOptions { graph: &GraphRequest::Lazy, ..options(scale) };
        let graph = TensorOf::<B>::attention(&q.on, &k.on, &v.on, lazy)?.graph.expect("asked for");
        assert_eq!(graph.score_dtype(), dtype.accumulator());
        if let AttentionGraph::Streamed(graph) = graph {
            assert_eq!(graph.lse.dtype(), dtype.accumulator());
            let expected = oracle::log_sum_exp(&q.host, &k.host, scale);
            assert_close_as(&graph.lse, &expected, dtype, &format!("{size:?}"));
        }
    }
    Ok(())
}

/// A vote by the forward pass equals a vote that is cast afterwards.
pub fn attention_casts_the_first_vote<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let mut lab = Lab::<B>::new(device, dtype, 8);
    for size in SIZES.into_iter().chain([[1, 2, 131, 131, 40]]) {
        let Heads { q, k, v, scale } = heads(&mut lab, size)?;
        let start = lab.scores(&[size[0], size[1], size[2]], 0.0, 1.0)?;
        let voted = AttentionOptions { graph: &GraphRequest::FirstVote(start.on.clone()), ..options(scale) };
        let attended = TensorOf::<B>::attention(&q.on, &k.on, &v.on, voted)?;
        let graph = attended.graph.expect("asked for");
        let map = oracle::attention_map(&q.host, &k.host, scale, None);
        let expected = oracle::votes(&map, &start.host);
        assert_close_as(&graph.votes(&start.on)?, &expected, dtype, &format!("afterwards, {size:?}"));
        if let Some(vote) = attended.first_vote {
            assert_eq!(vote.dtype(), dtype.accumulator());
            assert_close_as(&vote, &expected, dtype, &format!("at once, {size:?}"));
        }
    }
    Ok(())
}

/// Misfits are errors: heads, widths and lengths that do not fit, and a bias or scores of another shape.
pub fn attention_rejects_misfits<B: Backend>(device: &DeviceOf<B>, dtype: DType) -> Result<()> {
    let lab = Lab::<B>::new(device, dtype, 9);
    let of = |shape: &[usize]| -> Result<TensorOf<B>> { Ok(lab.counting(shape)?.on) };
    let (q, k, v) = (of(&[2, 3, 7, 4])?, of(&[2, 3, 5, 4])?, of(&[2, 3, 5, 4])?);
    let run =
        |q: &TensorOf<B>, k: &TensorOf<B>, v: &TensorOf<B>| TensorOf::<B>::attention(q, k, v, options(0.5));
    rejects("other heads of the keys", || run(&q, &of(&[2, 2, 5, 4])?, &v));
    rejects("another width of the keys", || run(&q, &of(&[2, 3, 5, 3])?, &v));
    rejects("another number of values", || run(&q, &k, &of(&[2, 3, 6, 4])?));
    rejects("another batch", || run(&q, &of(&[1, 3, 5, 4])?, &of(&[1, 3, 5, 4])?));
    rejects("three axes", || run(&q.reshape(&[6, 7, 4])?, &k.reshape(&[6, 5, 4])?, &v.reshape(&[6, 5, 4])?));
    let accumulator = dtype.accumulator();
    for shape in [&[2, 3, 7, 4][..], &[2, 3, 6, 5], &[7, 5], &[2, 2, 7, 5]] {
        let bias = lab.sample_as(Array::full(shape, 0.0), accumulator)?.on;
        let with_bias = AttentionOptions { bias: Some(&bias), ..options(0.5) };
        rejects(&format!("bias {shape:?}"), || TensorOf::<B>::attention(&q, &k, &v, with_bias));
    }
    let scores = lab.sample_as(Array::full(&[2, 3, 5], 1.0), accumulator)?.on;
    let voted = AttentionOptions { graph: &GraphRequest::FirstVote(scores.clone()), ..options(0.5) };
    rejects("scores of the keys' length", || TensorOf::<B>::attention(&q, &k, &v, voted));
    Ok(())
}
