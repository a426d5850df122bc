//! Compares convolution and the other operations with plain loops, in both dtypes. Also tests errors where
//! `ndarray` would panic.

use super::*;
use crate::backend::generic;
use crate::reference::testing::{BOTH, near, noise, tensor, values};
use crate::reference::{NdDevice, NdIndices};
use crate::{DType, Tensor};

fn is_shape<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::Shape { .. })), "{result:?}");
}

fn is_dtype<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::DType { .. })), "{result:?}");
}

/// Seven nested loops. The input is read as if padded with zeros.
fn plain_conv(x: &NdTensor, weight: &NdTensor, bias: Option<&NdTensor>, options: Conv2dOptions) -> Vec<f64> {
    let (xs, ws) = (x.shape(), weight.shape());
    let (v, w) = (values(x), values(weight));
    let bias = bias.map(values);
    let out = |n: usize, k: usize| (n + options.pad_before + options.pad_after - k) / options.stride + 1;
    let (height, width) = (out(xs[2], ws[2]), out(xs[3], ws[3]));
    let mut result = Vec::new();
    for (b, o) in (0..xs[0] * ws[0]).map(|e| (e / ws[0], e % ws[0])) {
        for (y, x) in (0..height * width).map(|e| (e / width, e % width)) {
            let mut sum = bias.as_ref().map_or(0.0, |bias| bias[o]);
            for c in 0..xs[1] {
                for (ky, kx) in (0..ws[2] * ws[3]).map(|e| (e / ws[3], e % ws[3])) {
                    let (sy, sx) = (y * options.stride + ky, x * options.stride + kx);
                    let inside =
                        |at: usize, n: usize| at >= options.pad_before && at - options.pad_before < n;
                    if inside(sy, xs[2]) && inside(sx, xs[3]) {
                        let (sy, sx) = (sy - options.pad_before, sx - options.pad_before);
                        let pixel = v[((b * xs[1] + c) * xs[2] + sy) * xs[3] + sx];
                        sum += pixel * w[((o * xs[1] + c) * ws[2] + ky) * ws[3] + kx];
                    }
                }
            }
            result.push(sum);
        }
    }
    result
}

#[test]
fn convolutions_of_every_geometry() {
    let options = [
        Conv2dOptions::same(1),
        Conv2dOptions::same(3),
        Conv2dOptions::strided(2, 1),
        Conv2dOptions::strided(3, 0),
        Conv2dOptions { stride: 2, pad_before: 0, pad_after: 1 },
        Conv2dOptions { stride: 1, pad_before: 5, pad_after: 2 },
        Conv2dOptions { stride: 1, pad_before: 0, pad_after: 4 },
    ];
    for dtype in BOTH {
        for kernel in [(1, 1), (3, 3), (2, 4)] {
            for options in options {
                let x =
                    tensor(dtype, &noise(2 * 3 * 6 * 5, 1), &[2, 3, 5, 6]).permute(&[0, 1, 3, 2]).unwrap();
                let weight =
                    tensor(dtype, &noise(4 * 3 * kernel.0 * kernel.1, 2), &[4, 3, kernel.0, kernel.1]);
                let bias = tensor(dtype, &noise(4, 3), &[4]);
                for bias in [None, Some(&bias)] {
                    let got = x.conv2d(&weight, bias, options).unwrap();
                    let length = |n: usize, k: usize| options.output_len(n, k);
                    assert_eq!(got.shape(), [2, 4, length(6, kernel.0), length(5, kernel.1)]);
                    near(&values(&got), &plain_conv(&x, &weight, bias, options), dtype);
                }
            }
        }
    }
}

#[test]
fn a_convolution_in_several_bands_of_rows() {
    // 16 channels x 9 x 96 columns: the buffer holds 75 rows at once, so the 100 rows take two bands
    let x = tensor(DType::F64, &noise(16 * 100 * 96, 1), &[1, 16, 100, 96]);
    let weight = tensor(DType::F64, &noise(2 * 16 * 9, 2), &[2, 16, 3, 3]);
    const { assert!(16 * 9 * 96 * 100 > PATCHES) };
    let got = x.conv2d(&weight, None, Conv2dOptions::same(3)).unwrap();
    near(&values(&got), &plain_conv(&x, &weight, None, Conv2dOptions::same(3)), DType::F64);
}

#[test]
fn convolution_errors() {
    let zeros = |shape: &[usize]| NdTensor::full(0.0, shape, DType::F32, &NdDevice).unwrap();
    let (x, weight) = (zeros(&[1, 3, 4, 4]), zeros(&[2, 3, 3, 3]));
    let same = Conv2dOptions::same(3);
    is_shape(zeros(&[3, 4, 4]).conv2d(&weight, None, same));
    is_shape(x.conv2d(&zeros(&[2, 4, 3, 3]), None, same));
    is_shape(x.conv2d(&zeros(&[2, 3, 0, 3]), None, same));
    is_shape(x.conv2d(&zeros(&[2, 3, 3]), None, same));
    is_shape(x.conv2d(&weight, Some(&zeros(&[3])), same));
    let still = x.conv2d(&weight, None, Conv2dOptions::strided(0, 1));
    assert!(matches!(&still, Err(Error::Config { field, .. }) if field == "stride"), "{still:?}");
    is_shape(x.conv2d(&zeros(&[2, 3, 5, 5]), None, Conv2dOptions::strided(1, 0)));
    is_shape(x.conv2d(&weight, None, Conv2dOptions::strided(1, usize::MAX)));
    is_dtype(x.conv2d(&weight.cast(DType::F64).unwrap(), None, same));
    is_dtype(x.conv2d(&weight, Some(&zeros(&[2]).cast(DType::F64).unwrap()), same));
    assert_eq!(zeros(&[0, 3, 4, 4]).conv2d(&weight, None, same).unwrap().shape(), [0, 2, 4, 4]);
    let hollow = zeros(&[1, 0, 4, 4]).conv2d(&zeros(&[2, 0, 3, 3]), Some(&zeros(&[2])), same).unwrap();
    assert_eq!(hollow.shape(), [1, 2, 4, 4]);
}

#[test]
fn upsampling_takes_the_nearest_below() {
    for dtype in BOTH {
        let x = tensor(dtype, &noise(2 * 3 * 5, 4), &[1, 2, 3, 5]);
        let v = values(&x);
        for (height, width) in [(6, 10), (4, 7), (3, 5), (2, 3)] {
            let got = x.upsample_nearest(height, width).unwrap();
            assert_eq!(got.shape(), [1, 2, height, width]);
            let mut expected = Vec::new();
            for (c, y, x) in
                (0..2 * height * width).map(|e| (e / (height * width), e / width % height, e % width))
            {
                expected.push(v[(c * 3 + y * 3 / height) * 5 + x * 5 / width]);
            }
            assert_eq!(values(&got), expected);
        }
        is_shape(x.upsample_nearest(0, 5));
        is_shape(x.reshape(&[2, 3, 5]).unwrap().upsample_nearest(3, 5));
        is_shape(NdTensor::full(0.0, &[1, 1, 0, 2], dtype, &NdDevice).unwrap().upsample_nearest(2, 2));
    }
}

#[test]
fn embedding_takes_rows() {
    let ids = NdIndices::from_host(&[vec![2, 0], vec![2, 3]], &NdDevice).unwrap();
    for dtype in BOTH {
        let table = tensor(dtype, &(0..12).map(f64::from).collect::<Vec<_>>(), &[4, 3]);
        let got = table.embedding(&ids).unwrap();
        assert_eq!(got.shape(), [2, 2, 3]);
        assert_eq!(values(&got), [6., 7., 8., 0., 1., 2., 6., 7., 8., 9., 10., 11.]);
        is_shape(table.narrow(0, 0, 3).unwrap().embedding(&ids));
        is_shape(table.reshape(&[12]).unwrap().embedding(&ids));
    }
}

/// `x Φ(x)` to 16 digits, computed with 50-digit arithmetic.
const GELU: [(f64, f64); 7] = [
    (-6.0, -5.9195258702261888e-9),
    (-2.5, -0.015524163314440338),
    (-0.75, -0.16997051428265115),
    (0.0, 0.0),
    (0.001, 0.000_500_398_942_213_911),
    (1.3, 1.1741593700387066),
    (5.0, 4.999_998_566_742_141),
];

#[test]
fn gelu_is_exact_in_f64() {
    let points = GELU;
    let x = tensor(DType::F64, &points.map(|(x, _)| x), &[7]);
    for (got, (x, expected)) in values(&x.gelu().unwrap()).into_iter().zip(points) {
        assert!((got - expected).abs() <= 1e-14 * x.abs().max(1.0), "{x}: {got} {expected}");
    }
    let single = values(&x.cast(DType::F32).unwrap().gelu().unwrap());
    for (got, (x, expected)) in single.into_iter().zip(points) {
        assert!((got - expected).abs() <= 3e-7 * x.abs().max(1.0), "{x}: {got} {expected}");
    }
}

#[test]
fn silu_and_quick_gelu() {
    for dtype in BOTH {
        let x = tensor(dtype, &noise(20, 5), &[4, 5]);
        let each = |f: &dyn Fn(f64) -> f64| values(&x).into_iter().map(f).collect::<Vec<_>>();
        near(&values(&x.silu().unwrap()), &each(&|v| v / (1.0 + (-v).exp())), dtype);
        near(&values(&x.quick_gelu().unwrap()), &each(&|v| v / (1.0 + (-1.702 * v).exp())), dtype);
        let far = tensor(dtype, &[-1000.0, 1000.0], &[2]).silu().unwrap();
        assert_eq!(values(&far), [0.0, 1000.0]);
    }
}

#[test]
fn norms_equal_their_generic_bodies() {
    for dtype in BOTH {
        let x = tensor(dtype, &noise(2 * 6 * 5 * 4, 6), &[2, 4, 5, 6]).permute(&[0, 3, 2, 1]).unwrap();
        let shifted = x.affine(3.0, 10.0).unwrap();
        let (w, b) = (tensor(dtype, &noise(6, 7), &[6]), tensor(dtype, &noise(6, 8), &[6]));
        for groups in [1, 2, 6] {
            let got = shifted.group_norm(groups, &w, &b, 1e-5).unwrap();
            assert_eq!(got.shape(), [2, 6, 5, 4]);
            let expected = generic::group_norm(&shifted, groups, &w, &b, 1e-5).unwrap();
            near(&values(&got), &values(&expected), dtype);
            let silu = shifted.group_norm_silu(groups, &w, &b, 1e-5).unwrap();
            near(&values(&silu), &values(&expected.silu().unwrap()), dtype);
        }
        let tokens = shifted.permute(&[0, 2, 3, 1]).unwrap();
        let got = tokens.layer_norm(&w, &b, 1e-5).unwrap();
        near(&values(&got), &values(&generic::layer_norm(&tokens, &w, &b, 1e-5).unwrap()), dtype);
    }
}

#[test]
fn norms_far_from_zero_keep_their_variance() {
    // E[x²] − E[x]² would lose the variance in f32
    let x = tensor(DType::F32, &[1e4, 1e4 + 1.0, 1e4 + 2.0, 1e4 + 3.0], &[1, 4]);
    let one = NdTensor::full(1.0, &[4], DType::F32, &NdDevice).unwrap();
    let zero = one.affine(0.0, 0.0).unwrap();
    let scale = 1.25f64.sqrt();
    let expected: Vec<f64> = [-1.5, -0.5, 0.5, 1.5].iter().map(|v| v / scale).collect();
    near(&values(&x.layer_norm(&one, &zero, 0.0).unwrap()), &expected, DType::F32);
    near(&values(&x.group_norm(1, &one, &zero, 0.0).unwrap()), &expected, DType::F32);
}

#[test]
fn norm_errors() {
    let full = |shape: &[usize], dtype| NdTensor::full(1.0, shape, dtype, &NdDevice).unwrap();
    let (x, w) = (full(&[2, 6, 4], DType::F32), full(&[6], DType::F32));
    is_shape(x.group_norm(0, &w, &w, 1e-5));
    is_shape(x.group_norm(4, &w, &w, 1e-5));
    is_shape(x.group_norm(2, &full(&[4], DType::F32), &w, 1e-5));
    is_shape(w.group_norm(2, &w, &w, 1e-5));
    is_dtype(x.group_norm(2, &w, &full(&[6], DType::F64), 1e-5));
    is_shape(x.layer_norm(&w, &w, 1e-5));
    is_shape(full(&[], DType::F32).layer_norm(&w, &w, 1e-5));
    is_dtype(w.layer_norm(&full(&[6], DType::F64), &w, 1e-5));
}

#[test]
fn linear_and_geglu_errors() {
    let full = |shape: &[usize], dtype| NdTensor::full(1.0, shape, dtype, &NdDevice).unwrap();
    let x = full(&[2, 3, 4], DType::F32);
    is_shape(x.linear(&full(&[5, 3], DType::F32), None));
    is_shape(x.linear(&full(&[5, 4, 1], DType::F32), None));
    is_shape(x.linear(&full(&[5, 4], DType::F32), Some(&full(&[4], DType::F32))));
    is_dtype(x.linear(&full(&[5, 4], DType::F64), None));
    is_shape(x.geglu(&full(&[6, 3], DType::F32), None));
}
