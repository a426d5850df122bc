//! Bodies for [`NnOps`](crate::NnOps). Those that need only [`Tensor`] require only [`Tensor`].

use crate::backend::{NnOps, Tensor, dims, shape};
use crate::{Error, Result};

/// `x * sigmoid(1.702 x)`, as `silu(1.702 x) / 1.702`.
pub fn quick_gelu<T: NnOps>(x: &T) -> Result<T> {
    x.affine(1.702, 0.0)?.silu()?.affine(1.0 / 1.702, 0.0)
}

/// `x Wᵀ + b` over the last axis, as one matrix product.
pub fn linear<T: Tensor>(x: &T, weight: &T, bias: Option<&T>) -> Result<T> {
    let result = shape::linear(&x.shape(), &weight.shape(), bias.map(Tensor::shape).as_deref())?;
    let [out, inner] = dims(weight, "linear")?;
    let rows: usize = result[..result.len() - 1].iter().product();
    let mut y = x.reshape(&[rows, inner])?.matmul(&weight.permute(&[1, 0])?)?;
    if let Some(bias) = bias {
        y = y.add(&bias.reshape(&[1, out])?)?;
    }
    y.reshape(&result)
}

/// Subtracts the mean over `axis` and divides by the biased standard deviation, in the accumulator dtype.
fn normalise<T: Tensor>(x: &T, axis: usize, epsilon: f64) -> Result<T> {
    let wide = x.cast(x.dtype().accumulator())?;
    let centred = wide.sub(&wide.mean(axis)?)?;
    let variance = centred.mul(&centred)?.mean(axis)?;
    centred.div(&variance.affine(1.0, epsilon)?.sqrt()?)
}

/// Layer norm over the last axis, then `* weight + bias`.
pub fn layer_norm<T: Tensor>(x: &T, weight: &T, bias: &T, epsilon: f64) -> Result<T> {
    let shape = x.shape();
    let Some(&channels) = shape.last() else {
        return Err(Error::shape("layer_norm", "at least 1 axis", shape));
    };
    let mut per_channel = vec![1; shape.len()];
    per_channel[shape.len() - 1] = channels;
    let normed = normalise(x, shape.len() - 1, epsilon)?;
    scale_and_shift(&normed, weight, bias, &per_channel)?.cast(x.dtype())
}

/// Group norm of `[b, c, ..]`, then `* weight + bias` per channel.
pub fn group_norm<T: Tensor>(x: &T, groups: usize, weight: &T, bias: &T, epsilon: f64) -> Result<T> {
    let shape = x.shape();
    if shape.len() < 2 || groups == 0 || !shape[1].is_multiple_of(groups) {
        return Err(Error::shape(
            "group_norm",
            format!("[batch, a multiple of {groups} channels, ..]"),
            shape,
        ));
    }
    let group: usize = shape[1] / groups * shape[2..].iter().product::<usize>();
    let normed = normalise(&x.reshape(&[shape[0] * groups, group])?, 1, epsilon)?.reshape(&shape)?;
    let mut per_channel = vec![1; shape.len()];
    per_channel[1] = shape[1];
    scale_and_shift(&normed, weight, bias, &per_channel)?.cast(x.dtype())
}

fn scale_and_shift<T: Tensor>(normed: &T, weight: &T, bias: &T, per_channel: &[usize]) -> Result<T> {
    let dtype = normed.dtype();
    let weight = weight.reshape(per_channel)?.cast(dtype)?;
    let bias = bias.reshape(per_channel)?.cast(dtype)?;
    normed.mul(&weight)?.add(&bias)
}

/// Projects to twice the width. The result is the first half times the GELU of the second.
pub fn geglu<T: NnOps>(x: &T, weight: &T, bias: Option<&T>) -> Result<T> {
    let projected = x.linear(weight, bias)?;
    let halves = shape::halves("geglu", &projected.shape())?;
    let axis = halves.len() - 1;
    let half = halves[axis];
    let value = projected.narrow(axis, 0, half)?;
    let gate = projected.narrow(axis, half, half)?;
    value.mul(&gate.gelu()?)
}
