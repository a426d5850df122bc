//! Row-wise loops: softmax, layer norm, group norm. They override the generic bodies, which are chains of
//! element-wise passes. Those passes would take a large part of a small model's time here.

use super::NdTensor;
use super::array::{Array, Element, larger, pack, row_major, sum_of};
use crate::{Error, Result};

/// Softmax over the last axis.
pub(super) fn softmax<F: Element>(logits: &Array<F>) -> Result<Array<F>> {
    let shape = logits.shape();
    let Some(&n) = shape.last().filter(|&&n| n > 0) else {
        return Err(Error::shape("softmax", "at least one entry on the last axis", shape));
    };
    let mut out = row_major(logits).into_owned();
    for row in out.chunks_exact_mut(n) {
        let most = row.iter().copied().fold(F::neg_infinity(), larger);
        for x in row.iter_mut() {
            *x = (*x - most).exp();
        }
        let total = F::rounded(sum_of(row, |x| x));
        for x in row.iter_mut() {
            *x /= total;
        }
    }
    pack(out, shape, "softmax")
}

/// A vector of `channels` entries in the dtype of `F`.
pub(super) fn vector<'a, F: Element>(
    tensor: &'a NdTensor,
    channels: usize,
    op: &'static str,
) -> Result<std::borrow::Cow<'a, [F]>> {
    let array = F::of(tensor, op)?;
    if array.shape() != [channels] {
        return Err(Error::shape(op, format!("weight and bias of [{channels}]"), array.shape()));
    }
    Ok(row_major(array))
}

/// The mean and `1 / √(variance + ε)` of a run of values. The variance is biased.
fn statistics<F: Element>(values: &[F], epsilon: f64) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = sum_of(values, |x| x) / n;
    let variance = sum_of(values, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// Layer norm over the last axis, then `* weight + bias`.
pub(super) fn layer_norm<F: Element>(
    x: &Array<F>,
    weight: &NdTensor,
    bias: &NdTensor,
    epsilon: f64,
) -> Result<Array<F>> {
    let Some(&channels) = x.shape().last() else {
        return Err(Error::shape("layer_norm", "at least 1 axis", []));
    };
    let weight = vector::<F>(weight, channels, "layer_norm")?;
    let bias = vector::<F>(bias, channels, "layer_norm")?;
    let mut out = row_major(x).into_owned();
    if channels > 0 {
        for row in out.chunks_exact_mut(channels) {
            let (mean, scale) = statistics(row, epsilon);
            for ((x, &w), &b) in row.iter_mut().zip(weight.iter()).zip(bias.iter()) {
                *x = F::rounded((x.wide() - mean) * scale) * w + b;
            }
        }
    }
    pack(out, x.shape(), "layer_norm")
}

/// Group norm of `[b, c, ..]`, then `* weight + bias` per channel.
pub(super) fn group_norm<F: Element>(
    x: &Array<F>,
    groups: usize,
    weight: &NdTensor,
    bias: &NdTensor,
    epsilon: f64,
) -> Result<Array<F>> {
    let shape = x.shape();
    let (Some(&channels), true) = (shape.get(1), groups > 0) else {
        return Err(Error::shape("group_norm", "[batch, channels, ..] and at least one group", shape));
    };
    if !channels.is_multiple_of(groups) {
        return Err(Error::shape("group_norm", format!("channels in {groups} equal groups"), shape));
    }
    let weight = vector::<F>(weight, channels, "group_norm")?;
    let bias = vector::<F>(bias, channels, "group_norm")?;
    let size: usize = shape[2..].iter().product();
    let each = channels / groups;
    let mut out = row_major(x).into_owned();
    if !out.is_empty() {
        for (i, group) in out.chunks_exact_mut(each * size).enumerate() {
            let (mean, scale) = statistics(group, epsilon);
            let first = (i % groups) * each;
            for (c, pixels) in group.chunks_exact_mut(size).enumerate() {
                let (w, b) = (weight[first + c], bias[first + c]);
                for x in pixels {
                    *x = F::rounded((x.wide() - mean) * scale) * w + b;
                }
            }
        }
    }
    pack(out, shape, "group_norm")
}
