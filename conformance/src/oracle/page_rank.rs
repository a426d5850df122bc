//! G-WPR (Algorithm 1 of the paper) on a stored map, one head at a time.

use atedm_core::at_edm::scoring::PageRankOptions;
use atedm_core::at_edm::{CrossVote, Heads, Norm, ScoreSource};

use crate::host::Array;

/// One head's map, `rows[i][j]`.
type Map = Vec<Vec<f64>>;

/// The scores of every head `[b, h, m]`, and the number of votes of the slowest head.
pub fn page_rank(map: &Array, options: &PageRankOptions) -> (Array, usize) {
    let [b, h, m, n] = [map.shape[0], map.shape[1], map.shape[2], map.shape[3]];
    let (mut data, mut most) = (Vec::new(), 0);
    for batch in 0..b {
        for head in 0..h {
            let one: Map = (0..m).map(|i| (0..n).map(|j| map.at(&[batch, head, i, j])).collect()).collect();
            let (scores, votes) = of_one_head(&one, options);
            data.extend(scores);
            most = most.max(votes);
        }
    }
    (Array::new(&[b, h, m], data), most)
}

fn of_one_head(map: &Map, options: &PageRankOptions) -> (Vec<f64>, usize) {
    let mut queries = vec![1.0 / map.len() as f64; map.len()];
    for votes in 1..=options.max_iterations {
        let next = normalised(way_back(map, vote(map, &queries, options.damping), options), options.norm);
        let change: f64 = next.iter().zip(&queries).map(|(a, b)| (a - b).abs()).sum();
        queries = next;
        if options.epsilon > 0.0 && change <= options.epsilon {
            return (queries, votes);
        }
    }
    (queries, options.max_iterations)
}

/// `s_K = (1 − d) Aᵀ s_Q + d/N`.
fn vote(map: &Map, queries: &[f64], damping: f64) -> Vec<f64> {
    let n = map[0].len();
    let received = |j: usize| map.iter().zip(queries).map(|(row, s)| row[j] * s).sum::<f64>();
    (0..n).map(|j| (1.0 - damping) * received(j) + damping / n as f64).collect()
}

/// `f(A, s_K)`.
fn way_back(map: &Map, keys: Vec<f64>, options: &PageRankOptions) -> Vec<f64> {
    if options.source == ScoreSource::SelfAttention {
        return keys;
    }
    let read = |row: &Vec<f64>| -> f64 { row.iter().zip(&keys).map(|(a, s)| a * s).sum() };
    let entropy = |row: &Vec<f64>| -> f64 {
        let sum: f64 = row.iter().map(|&a| if a == 0.0 { 0.0 } else { -a * a.ln() }).sum();
        sum.max(1e-12)
    };
    let hard = |row: &Vec<f64>| {
        let best = (1..row.len()).fold(0, |best, j| if row[j] > row[best] { j } else { best });
        keys[best]
    };
    match options.cross_vote {
        CrossVote::Entropy => map.iter().map(|row| read(row) / entropy(row)).collect(),
        CrossVote::Plain => map.iter().map(read).collect(),
        CrossVote::Hard => map.iter().map(hard).collect(),
    }
}

fn normalised(scores: Vec<f64>, norm: Norm) -> Vec<f64> {
    let size = match norm {
        Norm::L1 => scores.iter().sum::<f64>(),
        Norm::L2 => scores.iter().map(|s| s * s).sum::<f64>().sqrt(),
    };
    scores.into_iter().map(|s| s / size).collect()
}

/// Combines scores `[b, h, tokens]` over heads to `[b, tokens]`.
pub fn combine_heads(scores: &Array, heads: Heads) -> Array {
    let [b, h, n] = [scores.shape[0], scores.shape[1], scores.shape[2]];
    Array::from_fn(&[b, n], |i| {
        let each = (0..h).map(|head| scores.at(&[i[0], head, i[1]]));
        match heads {
            Heads::Rms => (each.map(|s| s * s).sum::<f64>() / h as f64).sqrt(),
            Heads::Mean => each.sum::<f64>() / h as f64,
            Heads::Max => each.fold(f64::NEG_INFINITY, f64::max),
        }
    })
}
