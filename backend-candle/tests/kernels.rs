//! Compares the CPU kernels with the generic bodies in f64, on sizes that no block divides.

#![allow(clippy::unwrap_used)] // helpers belong to the tests, too

use atedm_candle::{Candle, CandleIndices, CandleTensor, Device};
use atedm_core::backend::{Attended, AttentionOptions, Conv2dOptions, GraphRequest, generic};
use atedm_core::{AttentionGraph, AttentionOps, Backend, DType, Error, Indices, NnOps, Partition, Tensor};

type T = CandleTensor;

/// Numbers in about -1 .. 1 from a small generator. Every run has the same numbers.
fn noise(seed: u32, shape: &[usize]) -> T {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    T::from_f32(&values, shape, DType::F32, &Device::Cpu).unwrap()
}

fn wide(x: &T) -> T {
    x.cast(DType::F64).unwrap()
}

fn values(x: &T) -> Vec<f64> {
    wide(x).as_ref().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference relative to the largest magnitude.
#[track_caller]
fn assert_close(got: &T, right: &T, tolerance: f64) {
    assert_eq!(got.shape(), right.shape());
    let (got, right) = (values(got), values(right));
    let scale = right.iter().fold(1e-30f64, |most, value| most.max(value.abs()));
    for (at, (got, right)) in got.iter().zip(&right).enumerate() {
        assert!((got - right).abs() <= tolerance * scale, "element {at}: got {got}, expected {right}");
    }
}

/// Tolerance for each dtype's own rounding, with some room for sums.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 2e-6,
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
    }
}

const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];

#[test]
fn linear_and_geglu() {
    for (dtype, rows, inner, out) in
        DTYPES.iter().flat_map(|&d| [(d, 1, 3, 2), (d, 77, 65, 34), (d, 401, 129, 66)])
    {
        let x = noise(1, &[2, rows, inner]).cast(dtype).unwrap();
        let weight = noise(2, &[out, inner]).cast(dtype).unwrap();
        let bias = noise(3, &[out]).cast(dtype).unwrap();
        for bias in [None, Some(&bias)] {
            let right = generic::linear(&wide(&x), &wide(&weight), bias.map(wide).as_ref()).unwrap();
            assert_close(&x.linear(&weight, bias).unwrap(), &right, tolerance(dtype));
            let right = generic::geglu(&wide(&x), &wide(&weight), bias.map(wide).as_ref()).unwrap();
            assert_close(&x.geglu(&weight, bias).unwrap(), &right, 2.0 * tolerance(dtype));
        }
        // An image seen as tokens is not contiguous.
        let image = noise(4, &[2, inner, rows]).cast(dtype).unwrap().permute(&[0, 2, 1]).unwrap();
        let right = generic::linear(&wide(&image), &wide(&weight), None).unwrap();
        assert_close(&image.linear(&weight, None).unwrap(), &right, tolerance(dtype));
    }
}

#[test]
fn norms() {
    for dtype in DTYPES {
        for (channels, groups, h, w) in [(6, 3, 5, 7), (32, 32, 1, 1), (64, 8, 33, 31)] {
            let x = noise(5, &[2, channels, h, w]).cast(dtype).unwrap().affine(3.0, 1.5).unwrap();
            let (weight, bias) = (noise(6, &[channels]), noise(7, &[channels]));
            let (weight, bias) = (weight.cast(dtype).unwrap(), bias.cast(dtype).unwrap());
            let right = generic::group_norm(&wide(&x), groups, &wide(&weight), &wide(&bias), 1e-5).unwrap();
            let normed = x.group_norm(groups, &weight, &bias, 1e-5).unwrap();
            assert_close(&normed, &right, 4.0 * tolerance(dtype));
            let activated = x.group_norm_silu(groups, &weight, &bias, 1e-5).unwrap();
            assert_close(&activated, &right.silu().unwrap(), 4.0 * tolerance(dtype));
            assert_eq!(normed.dtype(), dtype);
            let tokens = x.reshape(&[2, channels, h * w]).unwrap().permute(&[0, 2, 1]).unwrap();
            let right = generic::layer_norm(&wide(&tokens), &wide(&weight), &wide(&bias), 1e-5).unwrap();
            assert_close(&tokens.layer_norm(&weight, &bias, 1e-5).unwrap(), &right, 4.0 * tolerance(dtype));
        }
    }
}

/// The convolution by its definition, in f64.
fn plain_conv2d(x: &T, weight: &T, bias: Option<&T>, options: Conv2dOptions) -> T {
    let Conv2dOptions { stride, pad_before, pad_after: _ } = options;
    let (xs, ws) = (x.shape(), weight.shape());
    let (oh, ow) = (options.output_len(xs[2], ws[2]), options.output_len(xs[3], ws[3]));
    let (x, weight, bias) = (values(x), values(weight), bias.map(values));
    let mut out = Vec::new();
    for b in 0..xs[0] {
        for co in 0..ws[0] {
            for place in 0..oh * ow {
                let (oy, ox) = (place / ow * stride, place % ow * stride);
                let mut sum = bias.as_ref().map_or(0.0, |bias| bias[co]);
                for k in 0..ws[1] * ws[2] * ws[3] {
                    let (ci, dy, dx) = (k / (ws[2] * ws[3]), k / ws[3] % ws[2], k % ws[3]);
                    let inside = |at: usize, len: usize| at.checked_sub(pad_before).filter(|&at| at < len);
                    if let (Some(y), Some(x_at)) = (inside(oy + dy, xs[2]), inside(ox + dx, xs[3])) {
                        let source = x[((b * xs[1] + ci) * xs[2] + y) * xs[3] + x_at];
                        sum += source * weight[co * ws[1] * ws[2] * ws[3] + k];
                    }
                }
                out.push(sum as f32);
            }
        }
    }
    T::from_f32(&out, &[xs[0], ws[0], oh, ow], DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn convolutions() {
    let one = |stride, pad_before, pad_after| Conv2dOptions { stride, pad_before, pad_after };
    let cases = [
        (3, 4, 5, 6, 7, one(1, 1, 1)),
        (3, 4, 5, 6, 7, one(2, 1, 1)),
        (3, 5, 3, 8, 8, one(2, 0, 1)),
        (1, 7, 9, 5, 4, one(1, 0, 0)),
        (1, 7, 9, 5, 4, one(2, 0, 0)),
        (1, 2, 2, 3, 3, one(1, 1, 1)),
        (3, 2, 2, 3, 3, one(3, 2, 0)),
        (3, 2, 3, 1, 1, one(1, 1, 1)),
        (2, 2, 3, 5, 4, one(1, 0, 0)),
        (3, 67, 3, 40, 45, one(1, 1, 1)),
    ];
    for (kernel, ci, co, h, w, options) in cases {
        for dtype in DTYPES {
            let x = noise(8, &[2, ci, h, w]).cast(dtype).unwrap();
            let weight = noise(9, &[co, ci, kernel, kernel]).cast(dtype).unwrap();
            let bias = noise(10, &[co]).cast(dtype).unwrap();
            for bias in [None, Some(&bias)] {
                let right = plain_conv2d(&x, &weight, bias, options);
                let got = x.conv2d(&weight, bias, options).unwrap();
                assert_close(&got, &right, tolerance(dtype).max(1e-6));
                assert_eq!(got.dtype(), dtype);
            }
        }
    }
}

#[test]
fn a_convolution_of_several_tiles() {
    // 1153 · 9 rows of columns leave 303 pixels for each tile: 5 tiles, cut inside image rows
    let x = noise(11, &[1, 1153, 36, 37]);
    let weight = noise(12, &[2, 1153, 3, 3]);
    let options = Conv2dOptions::same(3);
    assert_close(&x.conv2d(&weight, None, options).unwrap(), &plain_conv2d(&x, &weight, None, options), 2e-6);
}

#[test]
fn element_functions() {
    for dtype in DTYPES {
        let x = noise(13, &[3, 5, 1777]).affine(9.0, 0.0).unwrap().cast(dtype).unwrap();
        let near = tolerance(dtype);
        assert_close(&x.gelu().unwrap(), &wide(&x).gelu().unwrap(), near);
        assert_close(&x.silu().unwrap(), &wide(&x).silu().unwrap(), near);
        assert_close(&x.quick_gelu().unwrap(), &generic::quick_gelu(&wide(&x)).unwrap(), near);
        assert_close(&x.exp().unwrap(), &wide(&x).exp().unwrap(), near);
        assert_close(&x.softmax().unwrap(), &generic::softmax(&wide(&x)).unwrap(), near);
        assert_close(&x.affine(0.3, -2.0).unwrap(), &wide(&x).affine(0.3, -2.0).unwrap(), near);
        for shape in [[3, 5, 1777], [3, 5, 1], [1, 5, 1], [1, 1, 1777], [3, 1, 1777], [1, 1, 1], [3, 1, 1]] {
            let y = noise(14, &shape).affine(1.0, 3.0).unwrap().cast(dtype).unwrap();
            assert_close(&x.add(&y).unwrap(), &wide(&x).add(&wide(&y)).unwrap(), near);
            assert_close(&x.sub(&y).unwrap(), &wide(&x).sub(&wide(&y)).unwrap(), near);
            assert_close(&x.mul(&y).unwrap(), &wide(&x).mul(&wide(&y)).unwrap(), near);
            assert_close(&x.div(&y).unwrap(), &wide(&x).div(&wide(&y)).unwrap(), near);
            assert_close(&y.sub(&x).unwrap(), &wide(&y).sub(&wide(&x)).unwrap(), near);
        }
    }
}

#[test]
fn upsampling_takes_floor_of_the_ratio() {
    for (h, w, height, width) in [(3, 4, 6, 8), (3, 5, 7, 9), (7, 6, 3, 2), (1, 1, 4, 3)] {
        for dtype in DTYPES {
            let x = noise(15, &[2, 3, h, w]).cast(dtype).unwrap();
            let (got, source) = (x.upsample_nearest(height, width).unwrap(), values(&x));
            assert_eq!(got.shape(), [2, 3, height, width]);
            for (at, value) in values(&got).into_iter().enumerate() {
                let (plane, y, x) = (at / (height * width), at / width % height, at % width);
                assert_eq!(value, source[(plane * h + y * h / height) * w + x * w / width]);
            }
        }
    }
}

/// Queries, keys and values in a model's layout: heads inside tokens, so not contiguous.
fn tokens(dtype: DType, [b, h, m, n, dim]: [usize; 5]) -> (T, T, T) {
    let split = |seed, rows| {
        let x = noise(seed, &[b, rows, h, dim]).affine(2.0, 0.0).unwrap().cast(dtype).unwrap();
        x.permute(&[0, 2, 1, 3]).unwrap()
    };
    (split(16, m), split(17, n), split(18, n))
}

fn streamed(graph: Option<AttentionGraph<T>>) -> atedm_core::backend::Streamed<T> {
    match graph {
        Some(AttentionGraph::Streamed(streamed)) => streamed,
        other => panic!("expected a streamed graph, got {other:?}"),
    }
}

#[test]
fn attention_votes_and_argmax() {
    let sizes =
        [[1, 1, 1, 1, 1], [2, 3, 37, 37, 8], [1, 2, 300, 300, 40], [2, 2, 67, 77, 64], [1, 1, 1030, 1030, 5]];
    for size in sizes {
        for dtype in DTYPES {
            let [b, h, m, n, _] = size;
            let (q, k, v) = tokens(dtype, size);
            let wider = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
            let scores = noise(19, &[b, h, m]).affine(0.5, 0.6).unwrap().cast(wider).unwrap();
            let options =
                AttentionOptions { scale: 0.4, bias: None, graph: &GraphRequest::FirstVote(scores.clone()) };
            let Attended { hidden: out, graph, first_vote } = T::attention(&q, &k, &v, options).unwrap();
            let wide_scores = wide(&scores);
            let wide_options = AttentionOptions {
                scale: 0.4,
                bias: None,
                graph: &GraphRequest::FirstVote(wide_scores.clone()),
            };
            let right = generic::attention(&wide(&q), &wide(&k), &wide(&v), wide_options).unwrap();
            assert_close(&out, &right.hidden, tolerance(dtype));
            assert_eq!(out.dtype(), dtype);
            let (graph, right_graph) = (streamed(graph), streamed(right.graph));
            assert_eq!(graph.lse.dtype(), wider);
            // The map is computed in f32 from the same rounded tokens. In bf16, votes may round its shares to bf16.
            let near = tolerance(wider);
            let votes_near = if dtype == DType::BF16 { tolerance(dtype) } else { near };
            assert_close(&graph.lse, &right_graph.lse, near);
            assert_close(&first_vote.unwrap(), &right.first_vote.unwrap(), votes_near);
            assert_close(
                &T::votes(&graph, &scores).unwrap(),
                &generic::votes(&graph, &scores).unwrap(),
                votes_near,
            );
            if m != n || m < 3 {
                continue;
            }
            let kept: Vec<Vec<u32>> = (0..b)
                .map(|b| (0..n as u32).filter(|i| (i * 7 + b as u32) % 5 < 2).take(n / 3).collect())
                .collect();
            let partition = Partition::<T>::from_kept(&kept, n, &Device::Cpu).unwrap();
            let got = T::strongest(&graph, &partition).unwrap().to_host().unwrap();
            assert_eq!(got, generic::strongest(&graph, &partition).unwrap().to_host().unwrap());
        }
    }
}

#[test]
fn equal_rows_tie_to_the_lowest() {
    let q = T::full(0.25, &[1, 2, 300, 4], DType::F32, &Device::Cpu).unwrap();
    let k = noise(20, &[1, 2, 300, 4]);
    let options = AttentionOptions { graph: &GraphRequest::Lazy, ..AttentionOptions::for_dim(4) };
    let graph = T::attention(&q, &k, &k, options).unwrap().graph;
    let kept = vec![(5..280).collect::<Vec<u32>>()];
    let partition = Partition::<T>::from_kept(&kept, 300, &Device::Cpu).unwrap();
    let best = T::strongest(&streamed(graph), &partition).unwrap().to_host().unwrap();
    assert_eq!(best, vec![vec![0; 25]]);
}

#[test]
fn a_nan_in_the_map_is_an_error() {
    let mut numbers = vec![0.5f32; 40];
    numbers[7] = f32::NAN;
    let q = T::from_f32(&numbers, &[1, 1, 10, 4], DType::F32, &Device::Cpu).unwrap();
    let graph = AttentionGraph::from_qk(&q, &q, 1.0).unwrap();
    let partition = Partition::<T>::from_kept(&[vec![0, 1, 2]], 10, &Device::Cpu).unwrap();
    assert!(matches!(graph.strongest(&partition), Err(Error::NotFinite { .. })));
}

#[test]
fn a_bias_goes_through_the_generic_body() {
    let (q, k, v) = tokens(DType::F32, [1, 2, 5, 6, 4]);
    let bias = noise(21, &[1, 1, 5, 6]);
    let options = AttentionOptions { scale: 0.5, bias: Some(&bias), graph: &GraphRequest::Lazy };
    let Attended { hidden: out, graph, .. } = T::attention(&q, &k, &v, options).unwrap();
    let right = generic::attention(&q, &k, &v, options).unwrap().hidden;
    assert_close(&out, &right, 1e-7);
    assert!(matches!(graph, Some(AttentionGraph::Dense(_))));
}

/// Every operation that cuts its work into pieces, as bytes. The result must not depend on the number of threads.
fn workload() -> Vec<Vec<u8>> {
    let size = [2, 2, 300, 300, 16];
    let (q, k, v) = tokens(DType::F32, size);
    let scores = noise(22, &size[..3]);
    let options =
        AttentionOptions { scale: 0.3, bias: None, graph: &GraphRequest::FirstVote(scores.clone()) };
    let Attended { hidden: out, graph, first_vote } = T::attention(&q, &k, &v, options).unwrap();
    let graph = streamed(graph);
    let image = noise(23, &[2, 64, 33, 35]);
    let (weight, bias) = (noise(24, &[48, 64, 3, 3]), noise(25, &[64]));
    let rows = noise(26, &[700, 130]);
    let wide = noise(27, &[200, 130]);
    [
        out,
        first_vote.unwrap(),
        T::votes(&graph, &scores).unwrap(),
        image.conv2d(&weight, None, Conv2dOptions::same(3)).unwrap(),
        image.group_norm_silu(8, &bias, &bias, 1e-5).unwrap(),
        rows.linear(&wide, None).unwrap(),
        rows.geglu(&wide, None).unwrap(),
        rows.softmax().unwrap(),
        rows.add(&rows).unwrap(),
    ]
    .iter()
    .map(|x| x.to_bytes().unwrap())
    .collect()
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let with =
        |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(workload);
    let one = with(1);
    for threads in [2, 3, 7] {
        for (at, (one, more)) in one.iter().zip(with(threads)).enumerate() {
            assert!(*one == more, "result {at} differs with {threads} threads");
        }
    }
}

#[test]
fn variables_keep_their_gradients_outside_of_inference() {
    let x = candle_core::Var::from_tensor(noise(28, &[4, 6]).as_ref()).unwrap();
    let weight = noise(29, &[5, 6]);
    let loss = |x: T| x.linear(&weight, None).unwrap().gelu().unwrap().as_ref().sum_all().unwrap();
    let outside = loss(x.as_tensor().into());
    let gradients = outside.backward().unwrap();
    assert_eq!(gradients.get(&x).unwrap().dims(), [4, 6]);
    let inside = Candle::inference(|| loss(x.as_tensor().into()));
    assert!(inside.backward().unwrap().get(&x).is_none());
    let (outside, inside) = (outside.to_scalar::<f32>().unwrap(), inside.to_scalar::<f32>().unwrap());
    assert!((outside - inside).abs() < 1e-4 * outside.abs().max(1.0));
}

#[test]
fn indices_of_the_kernels_are_bounded() {
    let table = noise(30, &[10, 3]);
    let ids = CandleIndices::from_host(&[vec![0, 9], vec![3, 10]], &Device::Cpu).unwrap();
    assert!(matches!(table.embedding(&ids), Err(Error::Shape { .. })));
    let ids = CandleIndices::from_host(&[vec![0, 9], vec![3, 3]], &Device::Cpu).unwrap();
    let rows = values(&table.embedding(&ids).unwrap());
    let table = values(&table);
    let right: Vec<f64> = [0, 9, 3, 3].iter().flat_map(|&at| table[at * 3..][..3].to_vec()).collect();
    assert_eq!(rows, right);
}
