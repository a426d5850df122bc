//! Compares each operation with plain loops, in both dtypes. Also tests errors where `ndarray` would panic.

use super::*;
use crate::Indices;
use crate::reference::testing::{BOTH, near, noise, tensor, values};

const HOST: &NdDevice = &NdDevice;

fn rows(rows: &[&[u32]]) -> NdIndices {
    NdIndices::from_host(&rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>(), HOST).unwrap()
}

fn is_shape<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::Shape { .. })), "{result:?}");
}

fn is_dtype<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::DType { .. })), "{result:?}");
}

#[test]
fn bytes_round_trip_and_half_types_are_widened() {
    let numbers = [1.5f32, -0.0, 1e-3, f32::INFINITY];
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    let x = NdTensor::from_bytes(&bytes, DType::F32, &[2, 2], HOST).unwrap();
    assert_eq!((x.to_bytes().unwrap(), x.shape(), x.dtype()), (bytes, vec![2, 2], DType::F32));

    let bytes: Vec<u8> = [0.1f64, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let x = NdTensor::from_bytes(&bytes, DType::F64, &[2], HOST).unwrap();
    assert_eq!((x.to_bytes().unwrap(), x.dtype()), (bytes, DType::F64));

    let halves: Vec<u8> = [0.5f32, -3.0].iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
    let x = NdTensor::from_bytes(&halves, DType::F16, &[2], HOST).unwrap();
    assert_eq!((values(&x), x.dtype()), (vec![0.5, -3.0], DType::F32));
    let brains: Vec<u8> = [0.5f32, -3.0].iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
    let x = NdTensor::from_bytes(&brains, DType::BF16, &[2], HOST).unwrap();
    assert_eq!((values(&x), x.dtype()), (vec![0.5, -3.0], DType::F32));
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    is_shape(NdTensor::from_bytes(&[0; 8], DType::F32, &[3], HOST));
    is_shape(NdTensor::from_bytes(&[0; 9], DType::F32, &[2], HOST));
    is_shape(NdTensor::from_bytes(&[], DType::F32, &[usize::MAX, 2], HOST));
    is_shape(NdTensor::from_bytes(&[], DType::F32, &[0, usize::MAX], HOST));
    is_shape(NdTensor::full(0.0, &[usize::MAX, usize::MAX], DType::F32, HOST));
    is_shape(NdTensor::from_f32(&[1.0], &[2], DType::F64, HOST));
}

#[test]
fn full_and_casts() {
    for dtype in BOTH {
        let x = NdTensor::full(0.1, &[2, 3], dtype, HOST).unwrap();
        let expected = if dtype == DType::F32 { f64::from(0.1f32) } else { 0.1 };
        assert_eq!((x.dtype(), values(&x)), (dtype, vec![expected; 6]));
        for half in [DType::F16, DType::BF16] {
            assert!(matches!(x.cast(half), Err(Error::Unsupported { backend: "ndarray", .. })));
            assert!(matches!(NdTensor::full(0.0, &[1], half, HOST), Err(Error::Unsupported { .. })));
        }
    }
    let x = tensor(DType::F64, &[0.1, 1e300], &[2]).cast(DType::F32).unwrap();
    assert_eq!(values(&x), [f64::from(0.1f32), f64::INFINITY]);
}

#[test]
fn a_clone_and_a_view_share_the_data() {
    let NdTensor::F32(x) = tensor(DType::F32, &noise(24, 1), &[2, 3, 4]) else { panic!("dtype") };
    let whole = NdTensor::from(x.clone());
    let view = whole.clone().narrow(0, 1, 1).unwrap().reshape(&[4, 3]).unwrap().permute(&[1, 0]).unwrap();
    let NdTensor::F32(view) = view else { panic!("dtype") };
    assert_eq!(view.as_ptr(), x.as_ptr().wrapping_add(12));
}

#[test]
fn layout_operations_move_the_right_elements() {
    for dtype in BOTH {
        let x = tensor(dtype, &(0..24).map(f64::from).collect::<Vec<_>>(), &[2, 3, 4]);
        let p = x.permute(&[2, 0, 1]).unwrap();
        assert_eq!(p.shape(), [4, 2, 3]);
        let got = values(&p);
        for (i, j, k) in (0..24).map(|e| (e / 6, e / 3 % 2, e % 3)) {
            assert_eq!(got[i * 6 + j * 3 + k], (j * 12 + k * 4 + i) as f64);
        }
        assert_eq!(values(&p.reshape(&[24]).unwrap()), got);
        let n = x.narrow(1, 1, 2).unwrap();
        assert_eq!(values(&n.narrow(2, 3, 1).unwrap()), [7.0, 11.0, 19.0, 23.0]);
        assert_eq!(x.narrow(1, 3, 0).unwrap().shape(), [2, 0, 4]);
        let back = NdTensor::concat(&[&x.narrow(1, 0, 1).unwrap(), &n], 1).unwrap();
        assert_eq!((back.shape(), values(&back)), (x.shape(), values(&x)));
        let wide = NdTensor::concat(&[&n.narrow(2, 0, 1).unwrap(), &n.narrow(2, 3, 1).unwrap()], 2).unwrap();
        assert_eq!(values(&wide), [4.0, 7.0, 8.0, 11.0, 16.0, 19.0, 20.0, 23.0]);
        let empty = NdTensor::concat(&[&x.narrow(1, 0, 0).unwrap(), &x], 1).unwrap();
        assert_eq!(values(&empty), values(&x));
    }
}

#[test]
fn layout_errors() {
    let x = tensor(DType::F32, &noise(6, 1), &[2, 3]);
    is_shape(x.reshape(&[4]));
    is_shape(x.reshape(&[usize::MAX, 7]));
    is_shape(x.permute(&[0]));
    is_shape(x.permute(&[0, 0]));
    is_shape(x.permute(&[0, 2]));
    is_shape(x.narrow(2, 0, 1));
    is_shape(x.narrow(1, 2, 2));
    is_shape(x.narrow(1, usize::MAX, 2));
    is_shape(NdTensor::concat(&[], 0));
    is_shape(NdTensor::concat(&[&x], 2));
    is_shape(NdTensor::concat(&[&x, &x.reshape(&[3, 2]).unwrap()], 0));
    is_shape(NdTensor::concat(&[&x, &x.reshape(&[6]).unwrap()], 0));
    is_dtype(NdTensor::concat(&[&x, &x.cast(DType::F64).unwrap()], 0));
}

type Binary = fn(&NdTensor, &NdTensor) -> Result<NdTensor>;
type Plain = fn(f64, f64) -> f64;
const BINARIES: [(Binary, Plain); 4] = [
    (NdTensor::add, |a, b| a + b),
    (NdTensor::sub, |a, b| a - b),
    (NdTensor::mul, |a, b| a * b),
    (NdTensor::div, |a, b| a / b),
];

#[test]
fn arithmetic_broadcasts_every_pattern_of_length_1_axes() {
    let full = [2, 3, 4];
    for dtype in BOTH {
        for pattern in 0..64usize {
            let shape = |bits: usize| (0..3).map(|i| if bits >> i & 1 == 1 { 1 } else { full[i] }).collect();
            let (left, right): (Vec<usize>, Vec<usize>) = (shape(pattern), shape(pattern >> 3));
            let a = tensor(dtype, &noise(left.iter().product(), 1), &left);
            // a permuted operand, so that the test covers strides
            let turned = [right[2], right[1], right[0]];
            let b = tensor(dtype, &noise(right.iter().product(), 2), &turned).permute(&[2, 1, 0]).unwrap();
            let (x, y) = (values(&a), values(&b));
            let out: Vec<usize> = left.iter().zip(&right).map(|(&l, &r)| l.max(r)).collect();
            let at =
                |s: &[usize], i: usize, j: usize, k: usize| (i % s[0] * s[1] + j % s[1]) * s[2] + k % s[2];
            for (operation, plain) in BINARIES {
                let got = operation(&a, &b).unwrap();
                assert_eq!(got.shape(), out);
                let mut expected = Vec::new();
                for (i, j, k) in (0..24).map(|e| (e / 12, e / 4 % 3, e % 4)) {
                    if i < out[0] && j < out[1] && k < out[2] {
                        expected.push(plain(x[at(&left, i, j, k)], y[at(&right, i, j, k)]));
                    }
                }
                near(&values(&got), &expected, dtype);
            }
        }
    }
}

#[test]
fn arithmetic_errors_and_empty_operands() {
    let x = tensor(DType::F32, &noise(6, 1), &[2, 3]);
    for (operation, _) in BINARIES {
        is_shape(operation(&x, &x.reshape(&[3, 2]).unwrap()));
        is_shape(operation(&x, &x.narrow(0, 0, 1).unwrap().reshape(&[3]).unwrap()));
        is_dtype(operation(&x, &x.cast(DType::F64).unwrap()));
        let none = x.narrow(0, 0, 0).unwrap();
        assert_eq!(operation(&none, &x.narrow(0, 0, 1).unwrap()).unwrap().shape(), [0, 3]);
        is_shape(operation(&none, &x));
    }
    let scalar = tensor(DType::F64, &[3.0], &[]);
    assert_eq!(values(&scalar.add(&scalar).unwrap()), [6.0]);
}

#[test]
fn element_wise_functions() {
    for dtype in BOTH {
        let numbers = noise(12, 3);
        let x = tensor(dtype, &numbers, &[3, 4]).permute(&[1, 0]).unwrap();
        let x_values = values(&x);
        let each = |f: &dyn Fn(f64) -> f64| x_values.iter().map(|&v| f(v)).collect::<Vec<_>>();
        near(&values(&x.affine(2.5, -1.0).unwrap()), &each(&|v| 2.5 * v - 1.0), dtype);
        near(&values(&x.exp().unwrap()), &each(&f64::exp), dtype);
        let positive = x.mul(&x).unwrap().affine(1.0, 0.5).unwrap();
        near(&values(&positive.ln().unwrap()), &each(&|v| (v * v + 0.5).ln()), dtype);
        near(&values(&positive.sqrt().unwrap()), &each(&|v| (v * v + 0.5).sqrt()), dtype);
        near(&values(&x.clamp_min(0.25).unwrap()), &each(&|v| v.max(0.25)), dtype);
        let clamped = tensor(dtype, &[f64::NAN, -1.0], &[2]).clamp_min(0.0).unwrap();
        assert!(values(&clamped)[0].is_nan() && values(&clamped)[1] == 0.0);
    }
}

#[test]
fn matmul_over_batches_and_strides() {
    for dtype in BOTH {
        for lead in [vec![], vec![3], vec![2, 3]] {
            let (m, k, n) = (5, 7, 4);
            let batch: usize = lead.iter().product();
            let with = |tail: [usize; 2]| [lead.as_slice(), &tail].concat();
            let a = tensor(dtype, &noise(batch * m * k, 4), &with([m, k]));
            let turned = tensor(dtype, &noise(batch * k * n, 5), &with([n, k]));
            let rank = lead.len() + 2;
            let mut axes: Vec<usize> = (0..rank).collect();
            axes.swap(rank - 2, rank - 1);
            let got = a.matmul(&turned.permute(&axes).unwrap()).unwrap();
            assert_eq!(got.shape(), with([m, n]));
            let (x, y) = (values(&a), values(&turned));
            let mut expected = Vec::new();
            for (b, i, j) in (0..batch * m * n).map(|e| (e / (m * n), e / n % m, e % n)) {
                expected.push((0..k).map(|l| x[(b * m + i) * k + l] * y[(b * n + j) * k + l]).sum());
            }
            near(&values(&got), &expected, dtype);
        }
        let none = NdTensor::full(1.0, &[2, 0], dtype, HOST).unwrap();
        let product = none.matmul(&none.permute(&[1, 0]).unwrap()).unwrap();
        assert_eq!((product.shape(), values(&product)), (vec![2, 2], vec![0.0; 4]));
    }
}

#[test]
fn matmul_errors() {
    let zeros = |shape: &[usize]| NdTensor::full(0.0, shape, DType::F32, HOST).unwrap();
    is_shape(zeros(&[2]).matmul(&zeros(&[2])));
    is_shape(zeros(&[1, 1, 1, 2, 2]).matmul(&zeros(&[1, 1, 1, 2, 2])));
    is_shape(zeros(&[2, 3]).matmul(&zeros(&[2, 3])));
    is_shape(zeros(&[2, 2, 2]).matmul(&zeros(&[1, 2, 2])));
    is_shape(zeros(&[2, 2, 2]).matmul(&zeros(&[2, 2])));
    is_dtype(zeros(&[2, 2]).matmul(&zeros(&[2, 2]).cast(DType::F64).unwrap()));
}

#[test]
fn reductions_over_each_axis() {
    let shape = [3, 19, 5];
    for dtype in BOTH {
        let x = tensor(dtype, &noise(285, 6), &shape);
        let v = values(&x);
        for axis in 0..3 {
            let mut kept = shape.to_vec();
            kept[axis] = 1;
            let (mut sums, mut most) = (Vec::new(), Vec::new());
            for (i, j, k) in (0..285).map(|e| (e / 95, e / 5 % 19, e % 5)) {
                let at = [i, j, k];
                if at[axis] == 0 {
                    let line: Vec<f64> = (0..shape[axis])
                        .map(|p| {
                            let mut at = at;
                            at[axis] = p;
                            v[(at[0] * 19 + at[1]) * 5 + at[2]]
                        })
                        .collect();
                    sums.push(line.iter().sum::<f64>());
                    most.push(line.iter().copied().fold(f64::MIN, f64::max));
                }
            }
            let sum = x.sum(axis).unwrap();
            assert_eq!(sum.shape(), kept);
            near(&values(&sum), &sums, dtype);
            assert_eq!(values(&x.max(axis).unwrap()), most);
            let n = shape[axis] as f64;
            near(&values(&x.mean(axis).unwrap()), &sums.iter().map(|s| s / n).collect::<Vec<_>>(), dtype);
        }
    }
}

#[test]
fn long_sums_do_not_drift() {
    // in plain f32 this sum stops at 2^24
    let ones = NdTensor::full(1.0, &[1 << 25, 1], DType::F32, HOST).unwrap();
    assert_eq!(values(&ones.sum(0).unwrap()), [f64::from(1 << 25)]);
}

#[test]
fn reductions_of_nothing_and_of_nan() {
    let none = NdTensor::full(0.0, &[2, 0, 3], DType::F32, HOST).unwrap();
    assert_eq!(values(&none.sum(1).unwrap()), [0.0; 6]);
    assert_eq!(none.sum(2).unwrap().shape(), [2, 0, 1]);
    is_shape(none.max(1));
    assert_eq!(none.max(0).unwrap().shape(), [1, 0, 3]);
    is_shape(none.sum(3));
    is_shape(none.max(3));
    for axis in [0, 1] {
        let x = tensor(DType::F64, &[1.0, f64::NAN, 3.0, 4.0], &[2, 2]);
        let most = values(&x.max(axis).unwrap());
        assert_eq!(most.iter().filter(|m| m.is_nan()).count(), 1, "{most:?}");
    }
}

#[test]
fn softmax_of_large_logits() {
    for dtype in BOTH {
        let x = tensor(dtype, &[1000.0, 1001.0, -1e30, f64::NEG_INFINITY, 0.0, 0.0, 0.0, 0.0], &[2, 4]);
        let e = 1.0f64.exp();
        let expected = [1.0 / (1.0 + e), e / (1.0 + e), 0.0, 0.0, 0.25, 0.25, 0.25, 0.25];
        near(&values(&x.softmax().unwrap()), &expected, dtype);
        is_shape(NdTensor::full(0.0, &[2, 0], dtype, HOST).unwrap().softmax());
        is_shape(NdTensor::full(0.0, &[], dtype, HOST).unwrap().softmax());
    }
}

#[test]
fn softmax_equals_its_generic_body() {
    for dtype in BOTH {
        let x = tensor(dtype, &noise(60, 7), &[3, 4, 5]).permute(&[2, 0, 1]).unwrap();
        near(&values(&x.softmax().unwrap()), &values(&crate::backend::generic::softmax(&x).unwrap()), dtype);
    }
}

#[test]
fn top_k_keeps_the_lower_index_on_ties() {
    for dtype in BOTH {
        let x = tensor(dtype, &[0.0, 2.0, -0.0, 2.0, 0.0, 5.0, 5.0, 5.0, 5.0, f64::INFINITY], &[2, 5]);
        let Partition { kept, pruned } = x.split_top_k(3).unwrap();
        assert_eq!(kept.to_host().unwrap(), [[0, 1, 3], [0, 1, 4]]);
        assert_eq!(pruned.to_host().unwrap(), [[2, 4], [2, 3]]);
        // -0.0 equals a later 0.0 and comes first
        let x = tensor(dtype, &[-0.0, 0.0], &[1, 2]);
        assert_eq!(x.split_top_k(1).unwrap().kept.to_host().unwrap(), [[0]]);
        let all = x.split_top_k(2).unwrap();
        assert_eq!((all.kept.dims(), all.pruned.dims(), all.tokens()), ((1, 2), (1, 0), 2));
    }
}

#[test]
fn top_k_errors() {
    let x = tensor(DType::F32, &[1.0, f64::NAN, 0.0], &[1, 3]);
    for kept in 1..=3 {
        assert!(matches!(x.split_top_k(kept), Err(Error::NotFinite { .. })));
    }
    is_shape(x.split_top_k(0));
    is_shape(x.split_top_k(4));
    is_shape(x.reshape(&[3]).unwrap().split_top_k(1));
    is_shape(NdTensor::full(0.0, &[2, 0], DType::F32, HOST).unwrap().split_top_k(0));
}

#[test]
fn argmax_takes_the_lowest_row_on_ties() {
    for dtype in BOTH {
        let x = tensor(dtype, &[1.0, -0.0, 3.0, 0.0, 3.0, -1.0], &[1, 3, 2]);
        assert_eq!(x.argmax_rows().unwrap().to_host().unwrap(), [[1, 0]]);
        let x = tensor(dtype, &noise(60, 8), &[2, 6, 5]);
        let v = values(&x);
        for (b, row) in x.argmax_rows().unwrap().to_host().unwrap().iter().enumerate() {
            for (j, &best) in row.iter().enumerate() {
                let column: Vec<f64> = (0..6).map(|i| v[(b * 6 + i) * 5 + j]).collect();
                assert!(column.iter().all(|&value| value <= column[best as usize]));
            }
        }
        let nan = tensor(dtype, &[1.0, f64::NAN], &[1, 2, 1]);
        assert!(matches!(nan.argmax_rows(), Err(Error::NotFinite { .. })));
        is_shape(NdTensor::full(0.0, &[1, 0, 2], dtype, HOST).unwrap().argmax_rows());
        is_shape(nan.reshape(&[1, 2]).unwrap().argmax_rows());
        let none = NdTensor::full(0.0, &[2, 3, 0], dtype, HOST).unwrap();
        assert_eq!(none.argmax_rows().unwrap().dims(), (2, 0));
    }
}

#[test]
fn gather_along_each_axis() {
    let at = rows(&[&[3, 0, 3], &[1, 2, 0]]);
    for dtype in BOTH {
        for (axis, shape) in [(1, vec![2, 4]), (1, vec![2, 4, 3]), (2, vec![2, 3, 4]), (2, vec![2, 2, 4, 3])]
        {
            let size: usize = shape.iter().product();
            let x = tensor(dtype, &noise(size, 9), &shape);
            let (v, host) = (values(&x), at.to_host().unwrap());
            let middle: usize = shape[1..axis].iter().product();
            let inner: usize = shape[axis + 1..].iter().product();
            let mut expected = Vec::new();
            for (b, m, i, c) in (0..2 * middle * 3 * inner)
                .map(|e| (e / (middle * 3 * inner), e / (3 * inner) % middle, e / inner % 3, e % inner))
            {
                expected.push(v[((b * middle + m) * 4 + host[b][i] as usize) * inner + c]);
            }
            let got = x.gather(axis, &at).unwrap();
            assert_eq!((got.shape()[axis], values(&got)), (3, expected));
        }
    }
}

#[test]
fn gather_errors_and_empty_lists() {
    let x = tensor(DType::F32, &noise(12, 1), &[2, 3, 2]);
    is_shape(x.gather(0, &rows(&[&[0], &[0]])));
    is_shape(x.gather(3, &rows(&[&[0], &[0]])));
    is_shape(x.gather(1, &rows(&[&[0]])));
    is_shape(x.gather(1, &rows(&[&[0], &[3]])));
    assert_eq!(x.gather(1, &rows(&[&[], &[]])).unwrap().shape(), [2, 0, 2]);
}

#[test]
fn scatter_replaces_rows() {
    for dtype in BOTH {
        let base = tensor(dtype, &noise(16, 1), &[2, 4, 2]);
        let at = rows(&[&[3, 1], &[0, 2]]);
        let new = tensor(dtype, &noise(8, 2), &[2, 2, 2]);
        let got = new.scatter_into(&base, &at).unwrap();
        assert_eq!(values(&got.gather(1, &at).unwrap()), values(&new));
        let rest = at.complement(4).unwrap();
        assert_eq!(values(&got.gather(1, &rest).unwrap()), values(&base.gather(1, &rest).unwrap()));
        is_shape(new.scatter_into(&base, &rows(&[&[4, 1], &[0, 2]])));
        is_shape(new.scatter_into(&base, &rows(&[&[1], &[0]])));
    }
}
