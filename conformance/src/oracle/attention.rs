//! Attention and all operations on its map, with a stored map `[b, h, m, n]`.

use super::{binary, matmul, permute, softmax, sum};
use crate::host::Array;

/// `softmax(q kᵀ scale + bias)`, `[b, h, m, n]`.
pub fn attention_map(q: &Array, k: &Array, scale: f64, bias: Option<&Array>) -> Array {
    let mut logits = matmul(q, &permute(k, &[0, 1, 3, 2])).map(|x| x * scale);
    if let Some(bias) = bias {
        logits = binary(&logits, bias, |a, b| a + b);
    }
    softmax(&logits)
}

/// `softmax(q kᵀ scale + bias) v`.
pub fn attention(q: &Array, k: &Array, v: &Array, scale: f64, bias: Option<&Array>) -> Array {
    matmul(&attention_map(q, k, scale, bias), v)
}

/// `ln Σ_j exp(q_i·k_j·scale)`, `[b, h, m]`.
pub fn log_sum_exp(q: &Array, k: &Array, scale: f64) -> Array {
    let logits = matmul(q, &permute(k, &[0, 1, 3, 2])).map(|x| x * scale);
    drop_last(&sum(&logits.map(f64::exp), 3).map(f64::ln))
}

/// `Aᵀ s`: `[b, h, m]` → `[b, h, n]`.
pub fn votes(map: &Array, scores: &Array) -> Array {
    let [b, h, m, n] = four(map);
    Array::from_fn(&[b, h, n], |i| {
        (0..m).map(|row| map.at(&[i[0], i[1], row, i[2]]) * scores.at(&[i[0], i[1], row])).sum()
    })
}

/// `A s`: `[b, h, n]` → `[b, h, m]`.
pub fn read(map: &Array, scores: &Array) -> Array {
    let [b, h, m, n] = four(map);
    Array::from_fn(&[b, h, m], |i| {
        (0..n).map(|column| map.at(&[i[0], i[1], i[2], column]) * scores.at(&[i[0], i[1], column])).sum()
    })
}

/// `−Σ_j A_ij ln A_ij`, with `0·ln 0 = 0`.
pub fn row_entropy(map: &Array) -> Array {
    drop_last(&sum(&map.map(|a| if a == 0.0 { 0.0 } else { -a * a.ln() }), 3))
}

/// `Σ_j A_ij²`.
pub fn second_moment(map: &Array) -> Array {
    drop_last(&sum(&map.map(|a| a * a), 3))
}

/// The mean over heads, `[b, m, n]`.
pub fn head_mean(map: &Array) -> Array {
    let [b, h, m, n] = four(map);
    Array::from_fn(&[b, m, n], |i| {
        (0..h).map(|head| map.at(&[i[0], head, i[1], i[2]])).sum::<f64>() / h as f64
    })
}

/// For each pruned column, the position within `kept` of the kept row that attends to it most. On ties, the lowest.
pub fn strongest(map: &Array, kept: &[Vec<u32>], pruned: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let mean = head_mean(map);
    let best = |batch: usize, column: u32| {
        let value = |place: usize| mean.at(&[batch, kept[batch][place] as usize, column as usize]);
        (1..kept[batch].len()).fold(0, |best, place| if value(place) > value(best) { place } else { best })
            as u32
    };
    (0..kept.len()).map(|b| pruned[b].iter().map(|&column| best(b, column)).collect()).collect()
}

/// The head-mean map between the rows `rows` and the columns `columns`, column by column: `[b, columns, rows]`.
pub fn block(map: &Array, rows: &[Vec<u32>], columns: &[Vec<u32>]) -> Array {
    let mean = head_mean(map);
    Array::from_fn(&[rows.len(), columns[0].len(), rows[0].len()], |i| {
        mean.at(&[i[0], rows[i[0]][i[2]] as usize, columns[i[0]][i[1]] as usize])
    })
}

/// For each pruned column, the positions within `kept` of the `k` kept rows that attend to it most, ascending. Among
/// equals, the lowest.
pub fn top_k(map: &Array, kept: &[Vec<u32>], pruned: &[Vec<u32>], k: usize) -> Vec<Vec<Vec<u32>>> {
    let block = block(map, kept, pruned);
    let of = |batch: usize, column: usize| {
        let value = |at: u32| block.at(&[batch, column, at as usize]);
        let mut order: Vec<u32> = (0..kept[batch].len() as u32).collect();
        // the sort is stable, so equal values keep their order
        order.sort_by(|&a, &b| value(b).total_cmp(&value(a)));
        order.truncate(k);
        order.sort_unstable();
        order
    };
    (0..kept.len()).map(|b| (0..pruned[b].len()).map(|column| of(b, column)).collect()).collect()
}

fn four(map: &Array) -> [usize; 4] {
    [map.shape[0], map.shape[1], map.shape[2], map.shape[3]]
}

fn drop_last(x: &Array) -> Array {
    x.reshaped(&x.shape[..x.shape.len() - 1])
}
