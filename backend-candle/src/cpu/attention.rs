//! Attention and votes in blocks of query rows. The map `[b, h, m, n]` is never stored.
//!
//! For a block of rows `i` of one head, with all keys at once:
//!
//! ```text
//! S_ij  = q_i·k_j · scale            one product
//! P_ij  = e^(S_ij − max_j S_ij)      in place;  l_i = Σ_j P_ij,  lse_i = max + ln l_i
//! O_i   = Σ_j P_ij v_j / l_i         one product
//! u_j  += Σ_i P_ij s_i / l_i         only if a vote is asked for: the block's rows are whole, so the first vote is free
//! ```
//!
//! A later vote computes the same block with `P_ij = e^(S_ij − lse_i)`. A task is one block of rows of one batch
//! entry, with all heads in turn. Its outputs are therefore contiguous. The votes of each block are stored
//! separately and added in the order of the blocks.

use gemm::Parallelism;
use rayon::prelude::*;

use super::math::{exp_and_sum, max_of, vectorised};
use super::product::{Mat, MatMut, Update, product};

/// A tensor `[b, h, rows, dim]` anywhere in a slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads<'a> {
    pub(crate) data: &'a [f32],
    /// Batch, heads, rows, dim.
    pub(crate) dims: [usize; 4],
    pub(crate) strides: [usize; 4],
}

impl<'a> Heads<'a> {
    /// `len` rows from `start` of one head as a matrix.
    pub(crate) fn block(&self, batch: usize, head: usize, start: usize, len: usize) -> Mat<'a> {
        let [by_batch, by_head, by_row, by_dim] = self.strides;
        let at = batch * by_batch + head * by_head + start * by_row;
        Mat::new(&self.data[at.min(self.data.len())..], (len, self.dims[3]), (by_row, by_dim))
    }

    fn rows(&self, batch: usize, head: usize) -> Mat<'a> {
        self.block(batch, head, 0, self.dims[2])
    }
}

/// The input of a pass over the queries: scores `[b, h, m]`, if a vote is needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) q: Heads<'a>,
    pub(crate) k: Heads<'a>,
    pub(crate) scale: f32,
    pub(crate) scores: Option<&'a [f32]>,
}

/// The result of [`attention`].
pub(crate) struct Attended {
    /// `[b, m, h, dim]`: tokens outside, heads inside. The next layer needs this order.
    pub(crate) output: Vec<f32>,
    /// `[b, h, m]`.
    pub(crate) lse: Vec<f32>,
    /// `[b, h, n]`, if there were scores.
    pub(crate) first_vote: Option<Vec<f32>>,
}

/// The part of the sums that one task computes.
struct Block {
    /// `[h, rows]`.
    lse: Vec<f32>,
    /// `[h, n]`, empty without scores.
    votes: Vec<f32>,
}

/// Rows of a block for `m` queries and `n` keys. A block holds about 512 KiB of the map. It has at least 128 rows,
/// because each block packs all keys and values anew, and at most 256. A short sequence still makes 4 blocks, down to 32
/// rows.
fn block_rows(m: usize, n: usize) -> usize {
    let fits = (128 * 1024 / n.max(1)).clamp(128, 256);
    fits.min(m.div_ceil(4).max(32)).next_multiple_of(8)
}

/// `softmax(q kᵀ scale) v` with the log-sum-exp of every row. With scores, it also gives the first vote.
pub(crate) fn attention(pass: Pass<'_>, v: Heads<'_>) -> Attended {
    let Pass { q, k, scale, scores } = pass;
    let [batch, heads, m, _] = q.dims;
    let (n, dim) = (k.dims[2], v.dims[3]);
    let rows = block_rows(m, n);
    let mut output = vec![0.0; batch * m * heads * dim];
    // Blocks must not cross from one batch entry into the next, so there are two levels.
    let blocks: Vec<Vec<Block>> = output
        .par_chunks_mut(m * heads * dim)
        .enumerate()
        .map(|(b, output)| {
            let blocks = output.par_chunks_mut(rows * heads * dim).enumerate();
            blocks
                .map(|(at, output)| {
                    let (start, len) = (at * rows, output.len() / (heads * dim));
                    let mut block = Block { lse: vec![0.0; heads * len], votes: Vec::new() };
                    if scores.is_some() {
                        block.votes.resize(heads * n, 0.0);
                    }
                    let mut map = vec![0.0; len * n];
                    let mut weights = vec![0.0; len];
                    for head in 0..heads {
                        let operands = (q.block(b, head, start, len), k.rows(b, head).t());
                        product(
                            MatMut::rows(&mut map, len, n),
                            Update::Replace,
                            scale,
                            operands,
                            Parallelism::None,
                        );
                        let lse = &mut block.lse[head * len..][..len];
                        vectorised(
                            #[inline(always)]
                            || exponentials(&mut map, lse, &mut weights),
                        );
                        let out = &mut output[head * dim..];
                        product(
                            MatMut::new(out, (len, dim), (heads * dim, 1)),
                            Update::Replace,
                            1.0,
                            (Mat::rows(&map, len, n), v.rows(b, head)),
                            Parallelism::None,
                        );
                        vectorised(
                            #[inline(always)]
                            || {
                                for (row, &weight) in out.chunks_mut(heads * dim).zip(&weights) {
                                    row[..dim].iter_mut().for_each(|value| *value *= weight);
                                }
                            },
                        );
                        if let Some(scores) = scores {
                            let scores = &scores[(b * heads + head) * m + start..][..len];
                            weights.iter_mut().zip(scores).for_each(|(weight, &score)| *weight *= score);
                            let votes = &mut block.votes[head * n..][..n];
                            vectorised(
                                #[inline(always)]
                                || column_sums(&map, &weights, votes),
                            );
                        }
                    }
                    block
                })
                .collect()
        })
        .collect();
    let first_vote = scores.map(|_| sum_votes(&blocks, heads * n));
    Attended { output, lse: join_rows(&blocks, heads, m), first_vote }
}

/// `Aᵀ s` with `A_ij = e^(S_ij − lse_i)`: `[b, h, n]`. Empty without scores.
pub(crate) fn votes(pass: Pass<'_>, lse: &[f32]) -> Vec<f32> {
    let Pass { q, k, scale, scores } = pass;
    let Some(scores) = scores else {
        return Vec::new();
    };
    let [batch, heads, m, _] = q.dims;
    let n = k.dims[2];
    let rows = block_rows(m, n);
    let per_batch = m.div_ceil(rows);
    let blocks: Vec<Block> = (0..batch * per_batch)
        .into_par_iter()
        .map(|task| {
            let (b, start) = (task / per_batch, task % per_batch * rows);
            let len = rows.min(m - start);
            let mut votes = vec![0.0; heads * n];
            let mut map = vec![0.0; len * n];
            for head in 0..heads {
                let operands = (q.block(b, head, start, len), k.rows(b, head).t());
                product(MatMut::rows(&mut map, len, n), Update::Replace, scale, operands, Parallelism::None);
                let at = (b * heads + head) * m + start;
                let (lse, scores) = (&lse[at..][..len], &scores[at..][..len]);
                vectorised(
                    #[inline(always)]
                    || {
                        for (row, &lse) in map.chunks_mut(n).zip(lse) {
                            row.iter_mut().for_each(|value| *value = super::math::exp(*value - lse));
                        }
                        column_sums(&map, scores, &mut votes[head * n..][..n]);
                    },
                );
            }
            Block { lse: Vec::new(), votes }
        })
        .collect();
    let by_batch: Vec<&[Block]> = blocks.chunks(per_batch.max(1)).collect();
    sum_votes(&by_batch, heads * n)
}

/// Replaces each row by `e^(S − max)`. Returns its log-sum-exp, and 1 divided by its sum.
#[inline(always)]
fn exponentials(map: &mut [f32], lse: &mut [f32], inverse: &mut [f32]) {
    let columns = map.len() / lse.len().max(1);
    for ((row, lse), inverse) in map.chunks_mut(columns.max(1)).zip(lse).zip(inverse) {
        let max = max_of(row);
        let sum = exp_and_sum(row, max);
        *inverse = 1.0 / sum;
        *lse = max + sum.ln();
    }
}

/// `votes[j] += Σ_i weights[i] map[i, j]`, four rows at a time.
#[inline(always)]
fn column_sums(map: &[f32], weights: &[f32], votes: &mut [f32]) {
    let n = votes.len();
    let mut fours = map.chunks_exact(4 * n);
    let (weights_by_four, last) = weights.as_chunks::<4>();
    for (rows, &[a, b, c, d]) in fours.by_ref().zip(weights_by_four) {
        let (first, rows) = rows.split_at(n);
        let (second, rows) = rows.split_at(n);
        let (third, fourth) = rows.split_at(n);
        let rows = first.iter().zip(second).zip(third.iter().zip(fourth));
        for (vote, ((&p, &q), (&r, &s))) in votes.iter_mut().zip(rows) {
            *vote += (a * p + b * q) + (c * r + d * s);
        }
    }
    for (row, &weight) in fours.remainder().chunks(n).zip(last) {
        votes.iter_mut().zip(row).for_each(|(vote, &value)| *vote += weight * value);
    }
}

/// The blocks' votes, added in order: `[b, h, n]`.
fn sum_votes<B: AsRef<[Block]>>(batches: &[B], size: usize) -> Vec<f32> {
    let mut sums = Vec::with_capacity(batches.len() * size);
    for blocks in batches {
        let mut total = vec![0f64; size];
        for block in blocks.as_ref() {
            total.iter_mut().zip(&block.votes).for_each(|(total, &vote)| *total += f64::from(vote));
        }
        sums.extend(total.into_iter().map(|total| total as f32));
    }
    sums
}

/// The blocks' `[h, rows]` as `[b, h, m]`.
fn join_rows(batches: &[Vec<Block>], heads: usize, m: usize) -> Vec<f32> {
    let mut joined = Vec::with_capacity(batches.len() * heads * m);
    for blocks in batches {
        for head in 0..heads {
            for block in blocks {
                let len = block.lse.len() / heads;
                joined.extend_from_slice(&block.lse[head * len..][..len]);
            }
        }
    }
    joined
}
