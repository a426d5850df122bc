//! Neural-network operations.

use atedm_core::backend::Conv2dOptions;

use crate::host::Array;

/// Cross-correlation of `[b, ci, h, w]` with `[co, ci, kh, kw]`.
pub fn conv2d(x: &Array, weight: &Array, bias: Option<&Array>, options: Conv2dOptions) -> Array {
    let Conv2dOptions { stride, pad_before, pad_after } = options;
    let [co, ci, kh, kw] = [weight.shape[0], weight.shape[1], weight.shape[2], weight.shape[3]];
    let [height, width] = [x.shape[2], x.shape[3]];
    let out = |len: usize, kernel: usize| (len + pad_before + pad_after - kernel) / stride + 1;
    // positions count from the first padding row
    let pixel = |b: usize, c: usize, y: usize, z: usize| {
        let inside =
            (pad_before..pad_before + height).contains(&y) && (pad_before..pad_before + width).contains(&z);
        if inside { x.at(&[b, c, y - pad_before, z - pad_before]) } else { 0.0 }
    };
    Array::from_fn(&[x.shape[0], co, out(height, kh), out(width, kw)], |i| {
        let mut sum = bias.map_or(0.0, |bias| bias.at(&[i[1]]));
        for c in 0..ci {
            for dy in 0..kh {
                for dz in 0..kw {
                    let value = pixel(i[0], c, i[2] * stride + dy, i[3] * stride + dz);
                    sum += weight.at(&[i[1], c, dy, dz]) * value;
                }
            }
        }
        sum
    })
}

/// Nearest-neighbour resize: source index `floor(i * in / out)`.
pub fn upsample_nearest(x: &Array, height: usize, width: usize) -> Array {
    let [from_h, from_w] = [x.shape[2], x.shape[3]];
    Array::from_fn(&[x.shape[0], x.shape[1], height, width], |i| {
        x.at(&[i[0], i[1], i[2] * from_h / height, i[3] * from_w / width])
    })
}

/// The rows of a table `[vocabulary, channels]` with these ids.
pub fn embedding(table: &Array, ids: &[Vec<u32>]) -> Array {
    Array::from_fn(&[ids.len(), ids[0].len(), table.shape[1]], |i| {
        table.at(&[ids[i[0]][i[1]] as usize, i[2]])
    })
}

/// The error function, by its Maclaurin series in the middle and the continued fraction of `erfc` outside.
pub fn erf(x: f64) -> f64 {
    let size = x.abs();
    let value = if size < 2.0 {
        let (mut term, mut sum, mut n) = (size, size, 0.0);
        while term.abs() > 1e-18 {
            n += 1.0;
            term *= -size * size / n;
            sum += term / (2.0 * n + 1.0);
        }
        2.0 / std::f64::consts::PI.sqrt() * sum
    } else {
        // erfc(x) = exp(-x²)/√π · 1/(x + (1/2)/(x + (2/2)/(x + (3/2)/(x + …))))
        let tail = (1..=200).rev().fold(size, |tail, k| size + f64::from(k) / 2.0 / tail);
        1.0 - (-size * size).exp() / std::f64::consts::PI.sqrt() / tail
    };
    value.copysign(x)
}

/// GELU with the error function.
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// `x · sigmoid(x)`.
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// `x · sigmoid(1.702 x)`.
pub fn quick_gelu(x: f64) -> f64 {
    x / (1.0 + (-1.702 * x).exp())
}

/// `x` `[.., in]` times `weight` `[out, in]`, plus `bias` `[out]`.
pub fn linear(x: &Array, weight: &Array, bias: Option<&Array>) -> Array {
    let last = x.shape.len() - 1;
    let mut shape = x.shape.clone();
    shape[last] = weight.shape[0];
    Array::from_fn(&shape, |i| {
        let mut source = i.to_vec();
        let mut sum = bias.map_or(0.0, |bias| bias.at(&[i[last]]));
        for k in 0..weight.shape[1] {
            source[last] = k;
            sum += x.at(&source) * weight.at(&[i[last], k]);
        }
        sum
    })
}

/// `(line − mean) / √(variance + ε)`, with the biased variance.
fn normalised(line: &[f64], epsilon: f64) -> Vec<f64> {
    let n = line.len() as f64;
    let mean = line.iter().sum::<f64>() / n;
    let variance = line.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    line.iter().map(|x| (x - mean) / (variance + epsilon).sqrt()).collect()
}

/// Layer norm over the last axis.
pub fn layer_norm(x: &Array, weight: &Array, bias: &Array, epsilon: f64) -> Array {
    let channels = *x.shape.last().expect("at least one axis");
    let lines = x.data.chunks_exact(channels).flat_map(|line| normalised(line, epsilon));
    let data = lines.enumerate().map(|(i, x)| x * weight.data[i % channels] + bias.data[i % channels]);
    Array::new(&x.shape, data.collect())
}

/// Group norm of `[b, c, ..]` over `groups` runs of channels.
pub fn group_norm(x: &Array, groups: usize, weight: &Array, bias: &Array, epsilon: f64) -> Array {
    let [batch, channels] = [x.shape[0], x.shape[1]];
    let run = x.data.len() / batch / groups;
    let area = x.data.len() / batch / channels;
    let lines = x.data.chunks_exact(run).flat_map(|line| normalised(line, epsilon));
    let data = lines.enumerate().map(|(i, x)| {
        let channel = i / area % channels;
        x * weight.data[channel] + bias.data[channel]
    });
    Array::new(&x.shape, data.collect())
}

/// The first half of a linear map times the GELU of the second.
pub fn geglu(x: &Array, weight: &Array, bias: Option<&Array>) -> Array {
    let wide = linear(x, weight, bias);
    let last = wide.shape.len() - 1;
    let half = wide.shape[last] / 2;
    let value = super::narrow(&wide, last, 0, half);
    let gate = super::narrow(&wide, last, half, half);
    super::binary(&value, &gate, |value, gate| value * gelu(gate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_its_tabulated_values() {
        let table =
            [(0.5, 0.520_499_877_813_046_5), (1.0, 0.842_700_792_949_714_9), (2.0, 0.995_322_265_018_952_7)];
        let far = [(2.99, 0.999_976_474_396_919_4), (3.5, 0.999_999_256_901_627_6)];
        for (x, y) in table.into_iter().chain(far) {
            assert!((erf(x) - y).abs() < 1e-14 && (erf(-x) + y).abs() < 1e-14, "{x}: {} {y}", erf(x));
        }
        // the two branches meet
        assert!((erf(2.0 - 1e-12) - erf(2.0 + 1e-12)).abs() < 1e-12);
    }
}
