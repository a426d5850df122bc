//! Compares products and convolutions with plain loops in f64, on every unit that this machine has.

use half::bf16;

use super::finish::rounded;
use super::{Bias, Destination, Geometry, Matrix, Numbers, NumbersMut, Products, Unit};
use crate::OwnThreads;
use crate::lanes::{LANES, lanes};

/// Runs `check` for every unit of this machine, and says which are missing.
fn every_unit(check: impl Fn(Unit)) {
    for unit in [Unit::Fma, Unit::Pairs, Unit::Tiles] {
        match Products::with(unit, &OwnThreads(1)) {
            Some(_) => check(unit),
            None => println!("skipped: this processor has no {unit:?}"),
        }
    }
}

/// Numbers that are exact in bf16, so that only sums are rounded.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| bf16::from_f32(next()).to_f32()).collect()
}

fn bits(numbers: &[f32]) -> Vec<u16> {
    numbers.iter().map(|&x| bf16::from_f32(x).to_bits()).collect()
}

/// Checks sums of `depth` products of numbers up to 1, after rounding to bf16 if `half`.
fn close(found: f32, right: f64, depth: usize, half: bool) {
    let allowed = 1e-6 * (depth as f64).sqrt() * 4.0 + if half { right.abs() / 250.0 } else { 0.0 };
    assert!((f64::from(found) - right).abs() <= allowed, "{found} for {right} at depth {depth}");
}

#[test]
fn linear_layers_of_any_size() {
    every_unit(|unit| {
        for [rows, out, depth, gap] in [
            [1, 1, 1, 0],
            [3, 5, 7, 2],
            [15, 33, 31, 0],
            [65, 70, 333, 1],
            [40, 100, 1290, 0],
            [400, 37, 64, 0],
            [40, 33, 64, 448],
        ] {
            let (x, w, b) = (noise(rows * (depth + gap), 1), noise(out * depth, 2), noise(out, 3));
            let right = |i: usize, j: usize| {
                let row = &x[i * (depth + gap)..][..depth];
                let products = row.iter().zip(&w[j * depth..]).map(|(x, w)| f64::from(*x) * f64::from(*w));
                products.sum::<f64>() + f64::from(b[j])
            };
            let products = Products::with(unit, &OwnThreads(2)).expect("found above");
            let mut found = vec![f32::NAN; rows * out];
            let operand =
                |numbers, rows, stride| Matrix::new(numbers, rows, depth, stride).expect("long enough");
            let into = Destination::new(NumbersMut::F32(&mut found), out, Bias::Columns(Numbers::F32(&b)));
            products.linear(
                operand(Numbers::F32(&x), rows, depth + gap),
                operand(Numbers::F32(&w), out, depth),
                into,
            );
            let (x, w, b) = (bits(&x), bits(&w), bits(&b));
            let mut half = vec![0; rows * out];
            let into = Destination::new(NumbersMut::Bf16(&mut half), out, Bias::Columns(Numbers::Bf16(&b)));
            products.linear(
                operand(Numbers::Bf16(&x), rows, depth + gap),
                operand(Numbers::Bf16(&w), out, depth),
                into,
            );
            for (at, (&single, &half)) in found.iter().zip(&half).enumerate() {
                let right = right(at / out, at % out);
                close(single, right, depth, false);
                close(bf16::from_bits(half).to_f32(), right, depth, true);
            }
        }
    });
}

#[test]
fn gates_of_any_size() {
    let phi = |x: f64| {
        // the normal distribution, by Simpson's rule from 0
        let steps = 200;
        let h = x / f64::from(steps);
        let density =
            |i: i32| (-(h * f64::from(i)).powi(2) / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let inside: f64 = (1..steps).map(|i| density(i) * f64::from(2 + i % 2 * 2)).sum();
        0.5 + h / 3.0 * (density(0) + inside + density(steps))
    };
    every_unit(|unit| {
        for [rows, half, depth] in
            [[1, 1, 1], [3, 5, 7], [40, 16, 64], [70, 50, 100], [33, 440, 24], [800, 37, 32]]
        {
            let (x, w, b) = (noise(rows * depth, 1), noise(2 * half * depth, 2), noise(2 * half, 3));
            let sum = |i: usize, j: usize| {
                let row = x[i * depth..].iter().zip(&w[j * depth..][..depth]);
                row.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() + f64::from(b[j])
            };
            let products = Products::with(unit, &OwnThreads(2)).expect("found above");
            let operand = |numbers, rows| Matrix::new(numbers, rows, depth, depth).expect("long enough");
            let mut found = vec![f32::NAN; rows * half];
            let into = Destination::new(NumbersMut::F32(&mut found), half, Bias::Columns(Numbers::F32(&b)));
            products.geglu(operand(Numbers::F32(&x), rows), operand(Numbers::F32(&w), 2 * half), into);
            let (half_x, half_w, half_b) = (bits(&x), bits(&w), bits(&b));
            let mut short = vec![0; found.len()];
            let into =
                Destination::new(NumbersMut::Bf16(&mut short), half, Bias::Columns(Numbers::Bf16(&half_b)));
            let (left, right) = (Numbers::Bf16(&half_x), Numbers::Bf16(&half_w));
            products.geglu(operand(left, rows), operand(right, 2 * half), into);
            for (at, (&single, &short)) in found.iter().zip(&short).enumerate() {
                let (value, gate) = (sum(at / half, at % half), sum(at / half, at % half + half));
                let right = value * gate * phi(gate);
                let allowed = 4e-6 * (depth as f64).sqrt() * (1.0 + value.abs() + gate.abs());
                assert!((f64::from(single) - right).abs() <= allowed, "{unit:?}: {single} for {right}");
                let short = f64::from(bf16::from_bits(short).to_f32());
                assert!(
                    (short - right).abs() <= allowed + right.abs() / 250.0,
                    "{unit:?}: {short} for {right}"
                );
            }
        }
    });
}

/// A convolution, by its definition.
fn convolved(x: &[f32], w: &[f32], b: &[f32], geometry: Geometry) -> Vec<f64> {
    let Geometry { input: (ci, h, width), output: (co, oh, ow), kernel: (kh, kw), stride, before } = geometry;
    let mut out = Vec::new();
    for image in x.chunks(ci * h * width) {
        for o in 0..co {
            for (oy, ox) in (0..oh).flat_map(|oy| (0..ow).map(move |ox| (oy, ox))) {
                let mut sum = f64::from(b[o]);
                for (dy, dx) in (0..kh).flat_map(|dy| (0..kw).map(move |dx| (dy, dx))) {
                    let (y, x) =
                        ((oy * stride + dy).wrapping_sub(before), (ox * stride + dx).wrapping_sub(before));
                    if y < h && x < width {
                        for c in 0..ci {
                            let weight = w[((o * kh + dy) * kw + dx) * ci + c];
                            sum += f64::from(image[(c * h + y) * width + x]) * f64::from(weight);
                        }
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}

#[test]
fn convolutions_of_any_size() {
    let of = |batch: usize, input, output, kernel, stride, before| {
        (batch, Geometry { input, output, kernel, stride, before })
    };
    every_unit(|unit| {
        for (batch, geometry) in [
            of(1, (1, 1, 1), (1, 1, 1), (1, 1), 1, 0),
            of(2, (3, 5, 7), (4, 5, 7), (3, 3), 1, 1),
            of(1, (4, 9, 40), (15, 9, 40), (3, 3), 1, 1),
            of(1, (40, 8, 8), (33, 4, 4), (3, 3), 2, 1),
            // zeros below and to the right alone
            of(1, (6, 9, 9), (5, 4, 4), (3, 3), 2, 0),
            of(2, (37, 6, 20), (9, 6, 20), (1, 1), 1, 0),
            of(1, (80, 12, 33), (3, 12, 33), (3, 3), 1, 1),
        ] {
            let Geometry { input: (ci, h, w), output: (co, oh, ow), kernel: (kh, kw), .. } = geometry;
            let depth = ci * kh * kw;
            let (x, weight, b) = (noise(batch * ci * h * w, 4), noise(co * depth, 5), noise(co, 6));
            let right = convolved(&x, &weight, &b, geometry);
            let products = Products::with(unit, &OwnThreads(3)).expect("found above");
            let operand = |numbers| Matrix::new(numbers, co, depth, depth).expect("long enough");
            let mut found = vec![f32::NAN; batch * co * oh * ow];
            let into = Destination::new(NumbersMut::F32(&mut found), oh * ow, Bias::Rows(Numbers::F32(&b)));
            products.convolution(Numbers::F32(&x), operand(Numbers::F32(&weight)), geometry, into);
            let (x, weight, b) = (bits(&x), bits(&weight), bits(&b));
            let mut half = vec![0; found.len()];
            let into = Destination::new(NumbersMut::Bf16(&mut half), oh * ow, Bias::Rows(Numbers::Bf16(&b)));
            products.convolution(Numbers::Bf16(&x), operand(Numbers::Bf16(&weight)), geometry, into);
            for ((&single, &half), right) in found.iter().zip(&half).zip(right) {
                close(single, right, depth, false);
                close(bf16::from_bits(half).to_f32(), right, depth, true);
            }
        }
    });
}

#[test]
fn threads_and_neighbours_change_nothing() {
    every_unit(|unit| {
        // more rows than outputs, and fewer
        for (rows, out, depth) in [(450, 130, 700), (130, 450, 700)] {
            let (x, w) = (bits(&noise(rows * depth, 7)), bits(&noise(out * depth, 8)));
            let run = |first: usize, threads: usize, gated: bool| {
                let width = if gated { out / 2 } else { out };
                let mut found = vec![0.0; (rows - first) * width];
                let left = Matrix::new(Numbers::Bf16(&x[first * depth..]), rows - first, depth, depth);
                let right = Matrix::new(Numbers::Bf16(&w), out, depth, depth);
                let (left, right) = (left.expect("long enough"), right.expect("long enough"));
                let into = Destination::new(NumbersMut::F32(&mut found), width, Bias::None);
                let threads = OwnThreads(threads);
                let products = Products::with(unit, &threads).expect("found above");
                if gated {
                    products.geglu(left, right, into);
                } else {
                    products.linear(left, right, into);
                }
                found
            };
            for gated in [false, true] {
                let one = run(0, 1, gated);
                for threads in [2, 3, 7, 2, 3, 7] {
                    assert_eq!(one, run(0, threads, gated), "{unit:?}");
                }
                assert_eq!(one[one.len() / rows * 3..], run(3, 1, gated), "{unit:?}");
            }
        }
    });
}

#[test]
fn nan_stays_in_its_row() {
    every_unit(|unit| {
        let mut x = vec![1.0; 20 * 40];
        x[5 * 40 + 7] = f32::NAN;
        let (x, w) = (bits(&x), bits(&vec![1.0; 3 * 40]));
        let mut found = vec![0; 20 * 3];
        let left = Matrix::new(Numbers::Bf16(&x), 20, 40, 40).expect("long enough");
        let right = Matrix::new(Numbers::Bf16(&w), 3, 40, 40).expect("long enough");
        let into = Destination::new(NumbersMut::Bf16(&mut found), 3, Bias::None);
        Products::with(unit, &OwnThreads(1)).expect("found above").linear(left, right, into);
        for (i, row) in found.chunks(3).enumerate() {
            assert!(row.iter().all(|&x| bf16::from_bits(x).is_nan() == (i == 5)), "{i}");
        }
    });
}

#[test]
fn rounding_is_to_the_nearest_even() {
    if !is_x86_feature_detected!("avx512f") {
        println!("skipped: this processor has no AVX-512");
        return;
    }
    for bits in (0..=u32::MAX).step_by(12_345) {
        let x = f32::from_bits(bits);
        // SAFETY: the check above found the feature.
        #[allow(unsafe_code)]
        let found = unsafe { rounded(lanes(&[x; LANES])) }[3];
        let (found, right) = (bf16::from_bits(found), bf16::from_f32(x));
        assert!(
            found.to_bits() == right.to_bits() || found.is_nan() && right.is_nan(),
            "{x}: {found} for {right}"
        );
    }
}

#[test]
fn matrices_beyond_their_numbers_do_not_exist() {
    let numbers = Numbers::F32(&[0.0; 12]);
    assert!(Matrix::new(numbers, 3, 4, 4).is_some() && Matrix::new(numbers, 2, 4, 8).is_some());
    assert!(Matrix::new(numbers, 4, 4, 4).is_none() && Matrix::new(numbers, 0, 4, 4).is_none());
    assert!(Matrix::new(numbers, 3, 0, 4).is_none() && Matrix::new(numbers, 3, 4, usize::MAX).is_none());
}
