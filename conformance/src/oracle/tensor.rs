//! Arithmetic, reductions, and choosing and moving tokens.

use crate::host::Array;

/// `f(a, b)` element by element. Axes of length 1 broadcast.
pub fn binary(a: &Array, b: &Array, f: impl Fn(f64, f64) -> f64) -> Array {
    let shape: Vec<usize> = a.shape.iter().zip(&b.shape).map(|(&m, &n)| if m == 1 { n } else { m }).collect();
    Array::from_fn(&shape, |i| f(a.at(i), b.at(i)))
}

/// The axes in the order `axes`.
pub fn permute(x: &Array, axes: &[usize]) -> Array {
    let shape: Vec<usize> = axes.iter().map(|&axis| x.shape[axis]).collect();
    Array::from_fn(&shape, |i| {
        let mut source = vec![0; i.len()];
        for (&axis, &place) in axes.iter().zip(i) {
            source[axis] = place;
        }
        x.at(&source)
    })
}

/// `len` entries of `axis` from `start`.
pub fn narrow(x: &Array, axis: usize, start: usize, len: usize) -> Array {
    let mut shape = x.shape.clone();
    shape[axis] = len;
    Array::from_fn(&shape, |i| {
        let mut source = i.to_vec();
        // an axis of length 1 would broadcast in `at`, but is only ever narrowed from 0 to 1
        source[axis] += start;
        x.at(&source)
    })
}

/// Joins the parts along `axis`.
pub fn concat(parts: &[&Array], axis: usize) -> Array {
    let mut shape = parts[0].shape.clone();
    shape[axis] = parts.iter().map(|part| part.shape[axis]).sum();
    Array::from_fn(&shape, |i| {
        let mut source = i.to_vec();
        for part in parts {
            if source[axis] < part.shape[axis] {
                return part.at(&source);
            }
            source[axis] -= part.shape[axis];
        }
        unreachable!("the parts' lengths sum to the axis")
    })
}

/// `[.., m, k] x [.., k, n]`.
pub fn matmul(a: &Array, b: &Array) -> Array {
    let axes = a.shape.len();
    let inner = a.shape[axes - 1];
    let mut shape = a.shape.clone();
    shape[axes - 1] = b.shape[axes - 1];
    Array::from_fn(&shape, |i| {
        let (mut left, mut right) = (i.to_vec(), i.to_vec());
        let mut sum = 0.0;
        for k in 0..inner {
            left[axes - 1] = k;
            right[axes - 2] = k;
            sum += a.at(&left) * b.at(&right);
        }
        sum
    })
}

/// Applies `f` to every line along `axis`. The axis stays, with length 1.
pub fn reduce(x: &Array, axis: usize, f: impl Fn(&[f64]) -> f64) -> Array {
    let mut shape = x.shape.clone();
    shape[axis] = 1;
    Array::from_fn(&shape, |i| {
        let mut source = i.to_vec();
        let line: Vec<f64> = (0..x.shape[axis])
            .map(|place| {
                source[axis] = place;
                x.at(&source)
            })
            .collect();
        f(&line)
    })
}

/// Sum over `axis`.
pub fn sum(x: &Array, axis: usize) -> Array {
    reduce(x, axis, |line| line.iter().sum())
}

/// Mean over `axis`.
pub fn mean(x: &Array, axis: usize) -> Array {
    reduce(x, axis, |line| line.iter().sum::<f64>() / line.len() as f64)
}

/// Maximum over `axis`.
pub fn max(x: &Array, axis: usize) -> Array {
    reduce(x, axis, |line| line.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// Softmax over the last axis.
pub fn softmax(x: &Array) -> Array {
    let axis = x.shape.len() - 1;
    let raised = binary(x, &max(x, axis), |a, b| (a - b).exp());
    binary(&raised, &sum(&raised, axis), |a, b| a / b)
}

/// The positions of the `kept` highest values of a row, ascending, and those of the rest. Among equals, the lower index
/// is kept.
pub fn split_top_k(row: &[f64], kept: usize) -> (Vec<u32>, Vec<u32>) {
    // a token is kept if fewer than `kept` others beat it: higher ones, and equal ones before it
    let beaten_by =
        |i: usize| (0..row.len()).filter(|&j| row[j] > row[i] || (row[j] == row[i] && j < i)).count();
    (0..row.len() as u32).partition(|&i| beaten_by(i as usize) < kept)
}

/// For each column of `[b, n, m]`, the row with the largest value. On ties, the lowest.
pub fn argmax_rows(x: &Array) -> Vec<Vec<u32>> {
    let [b, n, m] = [x.shape[0], x.shape[1], x.shape[2]];
    let best = |batch: usize, column: usize| {
        let mut best = 0;
        for row in 1..n {
            if x.at(&[batch, row, column]) > x.at(&[batch, best, column]) {
                best = row;
            }
        }
        best as u32
    };
    (0..b).map(|batch| (0..m).map(|column| best(batch, column)).collect()).collect()
}

/// `out[b, .., i, ..] = x[b, .., at[b][i], ..]` along `axis`.
pub fn gather(x: &Array, axis: usize, at: &[Vec<u32>]) -> Array {
    let mut shape = x.shape.clone();
    shape[axis] = at[0].len();
    Array::from_fn(&shape, |i| {
        let mut source = i.to_vec();
        source[axis] = at[i[0]][i[axis]] as usize;
        x.at(&source)
    })
}

/// `base` `[b, n, c]` with row `at[b][i]` replaced by `rows[b, i]`.
pub fn scatter_into(rows: &Array, base: &Array, at: &[Vec<u32>]) -> Array {
    Array::from_fn(&base.shape, |i| match at[i[0]].iter().position(|&place| place as usize == i[1]) {
        Some(from) => rows.at(&[i[0], from, i[2]]),
        None => base.at(i),
    })
}

/// The mean of the rows of `[b, n, c]` in each of `count` segments. Empty segments give zeros.
pub fn segment_mean(rows: &Array, segments: &[Vec<u32>], count: usize) -> Array {
    Array::from_fn(&[rows.shape[0], count, rows.shape[2]], |i| {
        let inside: Vec<f64> = (0..rows.shape[1])
            .filter(|&row| segments[i[0]][row] as usize == i[1])
            .map(|row| rows.at(&[i[0], row, i[2]]))
            .collect();
        if inside.is_empty() { 0.0 } else { inside.iter().sum::<f64>() / inside.len() as f64 }
    })
}
