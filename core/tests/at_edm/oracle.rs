//! Plain loops over dense maps in f64: slow, and hard to get wrong.

use crate::support::Matrix;

pub(crate) fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let cell = |row: &Vec<f64>, j: usize| row.iter().zip(b).map(|(x, r)| x * r[j]).sum();
    a.iter().map(|row| (0..b[0].len()).map(|j| cell(row, j)).collect()).collect()
}

pub(crate) fn sum(a: &Matrix, b: &Matrix) -> Matrix {
    a.iter().zip(b).map(|(x, y)| x.iter().zip(y).map(|(p, q)| p + q).collect()).collect()
}

/// Columns `from..to`.
pub(crate) fn columns(a: &Matrix, from: usize, to: usize) -> Matrix {
    a.iter().map(|row| row[from..to].to_vec()).collect()
}

/// One head's attention map.
pub(crate) fn map(q: &Matrix, k: &Matrix, scale: f64) -> Matrix {
    let softmax = |query: &Vec<f64>| {
        let logits: Vec<f64> =
            k.iter().map(|key| query.iter().zip(key).map(|(x, y)| x * y).sum::<f64>() * scale).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logits.iter().map(|l| (l - top).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / total).collect()
    };
    q.iter().map(softmax).collect()
}

/// How the oracle's page rank votes.
#[derive(Clone, Copy)]
pub(crate) struct Votes {
    pub(crate) cross: bool,
    pub(crate) most: usize,
    pub(crate) epsilon: f64,
    pub l2: bool,
    pub(crate) damping: f64,
}

impl Votes {
    pub(crate) fn paper(cross: bool) -> Self {
        Self { cross, most: 5, epsilon: 1e-4, l2: false, damping: 0.0 }
    }
}

/// Algorithm 1 on one head's map: the scores, and the votes cast.
pub(crate) fn page_rank(map: &Matrix, votes: Votes) -> (Vec<f64>, usize) {
    let (m, n) = (map.len(), map[0].len());
    let mut s = vec![1.0 / m as f64; m];
    for t in 1..=votes.most {
        let mut keys = vec![0.0; n];
        for (row, score) in map.iter().zip(&s) {
            for (key, weight) in keys.iter_mut().zip(row) {
                *key += weight * score;
            }
        }
        for key in &mut keys {
            *key = *key * (1.0 - votes.damping) + votes.damping / n as f64;
        }
        let mut next =
            if votes.cross { map.iter().map(|row| equation_1(row, &keys)).collect() } else { keys };
        let norm = if votes.l2 {
            next.iter().map(|x| x * x).sum::<f64>().sqrt()
        } else {
            next.iter().map(|x| x.abs()).sum()
        };
        next.iter_mut().for_each(|x| *x /= norm);
        let change: f64 = next.iter().zip(&s).map(|(a, b)| (a - b).abs()).sum();
        s = next;
        if votes.epsilon > 0.0 && change <= votes.epsilon {
            return (s, t);
        }
    }
    (s, votes.most)
}

fn equation_1(row: &[f64], keys: &[f64]) -> f64 {
    let read: f64 = row.iter().zip(keys).map(|(a, s)| a * s).sum();
    let entropy: f64 = row.iter().map(|&a| if a > 0.0 { -a * a.ln() } else { 0.0 }).sum();
    read / entropy.max(1e-12)
}

/// Root mean square over heads.
pub(crate) fn rms(heads: &[Vec<f64>]) -> Vec<f64> {
    let square = |j: usize| heads.iter().map(|h| h[j] * h[j]).sum::<f64>() / heads.len() as f64;
    (0..heads[0].len()).map(|j| square(j).sqrt()).collect()
}

/// The `kept` best, ascending, the lower index first among equals; and the rest.
pub(crate) fn top_k(scores: &[f64], kept: usize) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap().then(a.cmp(&b)));
    let (mut keep, mut prune) = (order[..kept].to_vec(), order[kept..].to_vec());
    keep.sort_unstable();
    prune.sort_unstable();
    (keep, prune)
}

/// For each pruned token the kept token that attends to it most, mean over heads, the lowest on ties.
pub(crate) fn donors(maps: &[Matrix], kept: &[usize], pruned: &[usize]) -> Vec<usize> {
    let received = |i: usize, b: usize| maps.iter().map(|map| map[i][b]).sum::<f64>();
    let best = |&b: &usize| {
        let mut donor = kept[0];
        for &i in kept {
            if received(i, b) > received(donor, b) {
                donor = i;
            }
        }
        donor
    };
    pruned.iter().map(best).collect()
}
