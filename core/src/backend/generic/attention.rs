//! Bodies for [`AttentionOps`](crate::AttentionOps), and the two forms of the attention graph.
//!
//! The streamed form holds one block of query rows of one map at a time, at most [`ROW_BLOCK`] rows. It stores
//! nothing else of size `m x n`. With `A_ij = exp(q_i·k_j·scale − lse_i)`:
//!
//! ```text
//! H_i      = −Σ_j A_ij ln A_ij
//! Σ_j A²   = Σ_j exp(2 ln A_ij)
//! ```

use crate::backend::{
    Attended, AttentionGraph, AttentionOptions, GraphRequest, Streamed, Tensor, dims, shape,
};
use crate::{DType, Error, Result};

/// The number of query rows that the streamed bodies handle at once.
const ROW_BLOCK: usize = 512;

/// Attention by blocks of query rows. It returns a streamed graph, or a dense one where a bias is part of the map.
pub fn attention<T: Tensor>(q: &T, k: &T, v: &T, options: AttentionOptions<'_, T>) -> Result<Attended<T>> {
    let AttentionOptions { scale, bias, graph } = options;
    if matches!(graph, GraphRequest::Stored) {
        return stored(q, k, v, (scale, bias));
    }
    let [_, _, m, _] = dims(q, "attention")?;
    let dtype = q.dtype();
    let wide = dtype.accumulator();
    let keys = k.cast(wide)?.permute(&[0, 1, 3, 2])?;
    let values = v.cast(wide)?;
    let (mut outputs, mut sums, mut maps) = (Vec::new(), Vec::new(), Vec::new());
    for (start, len) in row_blocks(m) {
        let mut logits = q.narrow(2, start, len)?.cast(wide)?.matmul(&keys)?.affine(scale, 0.0)?;
        if let Some(bias) = bias {
            let rows = dims::<4, T>(bias, "attention bias")?[2];
            logits = logits.add(&if rows == 1 { bias.clone() } else { bias.narrow(2, start, len)? })?;
        }
        let max = logits.max(3)?;
        let weights = logits.sub(&max)?.exp()?;
        let total = weights.sum(3)?;
        let map = weights.div(&total)?;
        outputs.push(map.matmul(&values)?);
        match (graph, bias) {
            (GraphRequest::None, _) => {}
            (_, Some(_)) => maps.push(map),
            (_, None) => sums.push(total.ln()?.add(&max)?),
        }
    }
    let hidden = concat(outputs, 2)?.cast(dtype)?;
    let (graph, first_vote) = match (graph, bias) {
        (GraphRequest::None, _) => (None, None),
        (_, Some(_)) => (Some(AttentionGraph::Dense(concat(maps, 2)?)), None),
        (request, None) => {
            let lse = drop_last(&concat(sums, 2)?)?;
            let streamed = Streamed { q: q.clone(), k: k.clone(), lse, scale };
            let first_vote = match request {
                GraphRequest::FirstVote(scores) => Some(votes(&streamed, scores)?),
                _ => None,
            };
            (Some(AttentionGraph::Streamed(streamed)), first_vote)
        }
    };
    Ok(Attended { hidden, graph, first_vote })
}

/// Attention with its whole map stored. Everything runs in the tokens' dtype, except the inside of the softmax.
fn stored<T: Tensor>(q: &T, k: &T, v: &T, (scale, bias): (f64, Option<&T>)) -> Result<Attended<T>> {
    let mut logits = q.affine(scale, 0.0)?.matmul(&k.permute(&[0, 1, 3, 2])?)?;
    if let Some(bias) = bias {
        logits = logits.add(&bias.cast(q.dtype())?)?;
    }
    let map = logits.softmax()?;
    drop(logits);
    let hidden = map.matmul(v)?;
    Ok(Attended { hidden, graph: Some(AttentionGraph::Dense(map)), first_vote: None })
}

/// The streamed graph of queries and keys. It takes one pass, for the log-sum-exp.
pub fn streamed_from_qk<T: Tensor>(q: &T, k: &T, scale: f64) -> Result<Streamed<T>> {
    let [_, _, m, _] = dims(q, "attention graph")?;
    let wide = q.dtype().accumulator();
    let keys = k.cast(wide)?.permute(&[0, 1, 3, 2])?;
    let mut sums = Vec::new();
    for (start, len) in row_blocks(m) {
        let logits = q.narrow(2, start, len)?.cast(wide)?.matmul(&keys)?.affine(scale, 0.0)?;
        let max = logits.max(3)?;
        sums.push(logits.sub(&max)?.exp()?.sum(3)?.ln()?.add(&max)?);
    }
    Ok(Streamed { q: q.clone(), k: k.clone(), lse: drop_last(&concat(sums, 2)?)?, scale })
}

/// `ln A` for query rows `start .. start + len`: `[b, h, len, n]`.
fn log_rows<T: Tensor>(graph: &Streamed<T>, start: usize, len: usize) -> Result<T> {
    let wide = graph.lse.dtype();
    let keys = graph.k.cast(wide)?.permute(&[0, 1, 3, 2])?;
    let logits = graph.q.narrow(2, start, len)?.cast(wide)?.matmul(&keys)?.affine(graph.scale, 0.0)?;
    logits.sub(&add_last(&graph.lse.narrow(2, start, len)?)?)
}

/// The stored map of a streamed graph.
pub fn dense_map<T: Tensor>(graph: &Streamed<T>) -> Result<T> {
    let [_, _, m, _] = dims(&graph.q, "attention graph")?;
    let rows: Result<Vec<T>> = row_blocks(m).map(|(start, len)| log_rows(graph, start, len)?.exp()).collect();
    concat(rows?, 2)
}

/// `Aᵀ s`, in blocks.
pub fn votes<T: Tensor>(graph: &Streamed<T>, scores: &T) -> Result<T> {
    let [b, h, m, _] = dims(&graph.q, "votes")?;
    expect_scores(scores, [b, h, m], graph.lse.dtype(), "votes")?;
    let mut sum: Option<T> = None;
    for (start, len) in row_blocks(m) {
        let part = dense_votes(&log_rows(graph, start, len)?.exp()?, &scores.narrow(2, start, len)?)?;
        sum = Some(match sum {
            Some(sum) => sum.add(&part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| Error::shape("votes", "at least one query", scores.shape()))
}

/// `A s`, in blocks.
pub fn read<T: Tensor>(graph: &Streamed<T>, scores: &T) -> Result<T> {
    per_row(graph, |log| dense_read(&log.exp()?, scores))
}

/// `−Σ_j A_ij ln A_ij`, in blocks.
pub fn row_entropy<T: Tensor>(graph: &Streamed<T>) -> Result<T> {
    // ln A is finite here even where A of a far key underflows to 0. So 0·ln 0 = 0 holds without a special case.
    per_row(graph, |log| drop_last(&log.exp()?.mul(log)?.sum(3)?.affine(-1.0, 0.0)?))
}

/// `Σ_j A_ij²`, in blocks.
pub fn second_moment<T: Tensor>(graph: &Streamed<T>) -> Result<T> {
    per_row(graph, |log| drop_last(&log.affine(2.0, 0.0)?.exp()?.sum(3)?))
}

fn per_row<T: Tensor>(graph: &Streamed<T>, reduce: impl Fn(&T) -> Result<T>) -> Result<T> {
    let [_, _, m, _] = dims(&graph.q, "attention graph")?;
    let rows: Result<Vec<T>> =
        row_blocks(m).map(|(start, len)| reduce(&log_rows(graph, start, len)?)).collect();
    concat(rows?, 2)
}

/// `Aᵀ s` for a stored map `[b, h, m, n]` and scores `[b, h, m]`.
pub fn dense_votes<T: Tensor>(map: &T, scores: &T) -> Result<T> {
    let [b, h, m, n] = dims(map, "votes")?;
    expect_scores(scores, [b, h, m], map.dtype(), "votes")?;
    scores.cast(map.dtype())?.reshape(&[b, h, 1, m])?.matmul(map)?.reshape(&[b, h, n])?.cast(scores.dtype())
}

/// `A s` for a stored map `[b, h, m, n]` and scores `[b, h, n]`.
pub fn dense_read<T: Tensor>(map: &T, scores: &T) -> Result<T> {
    let [b, h, m, n] = dims(map, "read")?;
    expect_scores(scores, [b, h, n], map.dtype(), "read")?;
    map.matmul(&scores.cast(map.dtype())?.reshape(&[b, h, n, 1])?)?.reshape(&[b, h, m])?.cast(scores.dtype())
}

/// `−Σ_j A_ij ln A_ij` for a stored map, with `0·ln 0 = 0`.
pub fn dense_row_entropy<T: Tensor>(map: &T) -> Result<T> {
    // The smallest normal f32 keeps the logarithm finite where A is 0. The product is then 0.
    let map = &map.cast(map.dtype().accumulator())?;
    let log = map.clamp_min(f64::from(f32::MIN_POSITIVE))?.ln()?;
    drop_last(&map.mul(&log)?.sum(3)?.affine(-1.0, 0.0)?)
}

/// `Σ_j A_ij²` for a stored map.
pub fn dense_second_moment<T: Tensor>(map: &T) -> Result<T> {
    let map = &map.cast(map.dtype().accumulator())?;
    drop_last(&map.mul(map)?.sum(3)?)
}

/// Checks the shape of scores over a graph and casts them. `dtype` is that of its maps or log-sum-exps.
fn expect_scores<T: Tensor>(scores: &T, expected: [usize; 3], dtype: DType, op: &'static str) -> Result<()> {
    shape::scores(op, &scores.shape(), expected)?;
    let (expected, got) = (dtype.accumulator(), scores.dtype());
    if expected != got {
        return Err(Error::DType { op, expected: expected.to_string(), got: got.to_string() });
    }
    Ok(())
}

pub(super) fn head_mean<T: Tensor>(map: &T) -> Result<T> {
    let [b, _, m, n] = dims(map, "head mean")?;
    map.mean(1)?.reshape(&[b, m, n])
}

pub(super) fn row_blocks(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).step_by(ROW_BLOCK).map(move |start| (start, ROW_BLOCK.min(rows - start)))
}

pub(super) fn concat<T: Tensor>(mut parts: Vec<T>, axis: usize) -> Result<T> {
    match parts.len() {
        0 => Err(Error::shape("attention", "at least one query", [0])),
        1 => Ok(parts.swap_remove(0)),
        _ => T::concat(&parts.iter().collect::<Vec<_>>(), axis),
    }
}

pub(super) fn add_last<T: Tensor>(x: &T) -> Result<T> {
    let mut shape = x.shape();
    shape.push(1);
    x.reshape(&shape)
}

fn drop_last<T: Tensor>(x: &T) -> Result<T> {
    let mut shape = x.shape();
    shape.pop();
    x.reshape(&shape)
}
