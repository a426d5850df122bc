//! Group norm and layer norm. Two passes compute the statistics (mean, then centred squares). One pass scales, shifts and
//! activates.

use super::math::{sum_of, swish, vectorised};
use super::number::Number;
use super::pool::each;

/// The activation after a group norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// Nothing.
    None,
    /// `x · sigmoid(x)`.
    Silu,
}

/// The factors of a norm, one for each channel, and the number added to the variance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Affine<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) epsilon: f64,
}

/// Mean and `1/√(variance + ε)` of a slice.
#[inline(always)]
fn statistics<N: Number>(values: &[N], epsilon: f64) -> (f32, f32) {
    let n = values.len() as f64;
    let mean = (sum_of(values, |x| x) / n) as f32;
    let variance = sum_of(values, |x| (x - mean) * (x - mean)) / n;
    (mean, (1.0 / (variance + epsilon).sqrt()) as f32)
}

/// Group norm of `[b, c, area]`: runs of `c / groups` channels share their statistics.
pub(crate) fn group_norm<N: Number>(
    x: &[N],
    area: usize,
    groups: usize,
    affine: Affine<'_>,
    activation: Activation,
) -> Vec<N> {
    let Affine { weight, bias, epsilon } = affine;
    let per_group = weight.len() / groups;
    let mut out = N::zeros(x.len());
    let size = per_group * area;
    each(out.chunks_mut(size).zip(x.chunks(size)).enumerate(), |(at, (out, x))| {
        let first = at % groups * per_group;
        vectorised(
            #[inline(always)]
            || {
                let (mean, inverse) = statistics(x, epsilon);
                for (channel, (out, x)) in out.chunks_mut(area).zip(x.chunks(area)).enumerate() {
                    let (weight, bias) = (weight[first + channel], bias[first + channel]);
                    match activation {
                        Activation::None => {
                            for (out, &x) in out.iter_mut().zip(x) {
                                *out = N::round((x.single() - mean) * inverse * weight + bias);
                            }
                        }
                        Activation::Silu => {
                            for (out, &x) in out.iter_mut().zip(x) {
                                *out = N::round(swish((x.single() - mean) * inverse * weight + bias, 1.0));
                            }
                        }
                    }
                }
            },
        );
    });
    out
}

/// Layer norm of rows. A row has as many elements as there are weights.
pub(crate) fn layer_norm<N: Number>(x: &[N], affine: Affine<'_>) -> Vec<N> {
    let Affine { weight, bias, epsilon } = affine;
    let channels = weight.len();
    let mut out = N::zeros(x.len());
    let chunk = (16 * 1024 / channels).max(1) * channels;
    each(out.chunks_mut(chunk).zip(x.chunks(chunk)), |(out, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_mut(channels).zip(x.chunks(channels)) {
                    let (mean, inverse) = statistics(x, epsilon);
                    for ((out, &x), (&weight, &bias)) in out.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                        *out = N::round((x.single() - mean) * inverse * weight + bias);
                    }
                }
            },
        );
    });
    out
}
