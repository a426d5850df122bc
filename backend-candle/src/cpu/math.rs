//! Element functions that vectorise. They have no branches, no calls and no fused multiply-add. Some instruction
//! sets lack a fused multiply-add, and it would then be a library call.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use super::number::Number;

/// The number of lanes of the sums. They fill two AVX-512 registers. The number is fixed, so sums are equal on every machine.
pub(crate) const LANES: usize = 32;

/// Runs `f` compiled for the best instruction set of this machine. `f` and all that it calls must be marked
/// `#[inline(always)]`. Code outside the specialised function is compiled for the oldest machine.
#[inline(always)]
pub(crate) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Adding and then subtracting this number rounds a small float to an integer. The integer is in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// `2^k` for `-126 <= k <= 127`.
#[inline(always)]
fn power_of_two(k: i32) -> f32 {
    f32::from_bits((k.wrapping_add(127) as u32) << 23)
}

/// `e^x`, to about 1 unit in the last place. Beyond the range of f32 it is 0 or infinity. NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`. `e^r` is Cephes' polynomial (`expf`). `2^n` is a product of two
/// factors, so that subnormal results and the largest results are right.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 90.0 { 90.0 } else { x };
    let shifted = x * LOG2_E + ROUND;
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let whole = shifted - ROUND;
    // ln 2 is split into two parts. The first has few enough bits that its product with n is exact.
    let r = (x - whole * 0.693_359_4) - whole * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// The error function, to 1 unit in the last place (8e-8). It uses N. Juffa's minimax polynomials: an odd one up to
/// `475/512`, and beyond that `1 − e^(−t p(t))` for `t = |x|`.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let t = x.abs();
    let s = x * x;
    let high = -1.728_534_7e-5 * t + 3.831_971_3e-4;
    let low = -3.883_964_4e-3 * t + 2.425_462_2e-2;
    let p = high * s + low;
    let p = p * t + -1.067_778_8e-1;
    let p = p * t + -6.348_467e-1;
    let p = p * t + -1.287_175_1e-1;
    let far = (1.0 - exp(p * t - t)).copysign(x);
    let q = -5.967_617e-4;
    let q = q * s + 4.991_194_4e-3;
    let q = q * s + -2.676_813_5e-2;
    let q = q * s + 1.128_199_3e-1;
    let q = q * s + -3.761_253_4e-1;
    let q = q * s + 1.283_791_7e-1;
    let near = q * x + x;
    // Bits select the result. An `if` would become a branch around the exponential, and its loop would no longer be
    // vectorised.
    let mask = u32::from(t > 0.927_734_4).wrapping_neg();
    f32::from_bits((far.to_bits() & mask) | (near.to_bits() & !mask))
}

/// `x Φ(x)`, the GELU with the error function.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// `x / (1 + e^(−factor x))`: SiLU for factor 1, CLIP's quick GELU for 1.702.
#[inline(always)]
pub(crate) fn swish(x: f32, factor: f32) -> f32 {
    x / (1.0 + exp(-factor * x))
}

/// The sum of `f` over a slice. Runs of at most 4096 elements are summed in [`LANES`] lanes of f32 and then by halves.
/// The runs are summed in f64.
#[inline(always)]
pub(crate) fn sum_of<N: Number>(values: &[N], f: impl Fn(f32) -> f32) -> f64 {
    let mut total = 0.0;
    for run in values.chunks(4096) {
        let mut lanes = [0f32; LANES];
        let (whole, rest) = run.as_chunks::<LANES>();
        for chunk in whole {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                *lane += f(value.single());
            }
        }
        for (lane, &value) in lanes.iter_mut().zip(rest) {
            *lane += f(value.single());
        }
        total += f64::from(fold(
            lanes,
            #[inline(always)]
            |a, b| a + b,
        ));
    }
    total
}

/// Adds all lanes by halves, in the same order on every machine.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        let (low, high) = lanes.split_at_mut(width);
        low.iter_mut().zip(high).for_each(
            #[inline(always)]
            |(low, high)| *low = f(*low, *high),
        );
        width /= 2;
    }
    lanes[0]
}

/// The largest element, or `-inf` for an empty slice. It ignores NaN.
#[inline(always)]
pub(crate) fn max_of(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = if value > *lane { value } else { *lane };
    }
    fold(
        lanes,
        #[inline(always)]
        |a, b| if b > a { b } else { a },
    )
}

/// Sets `values[j] = e^(values[j] − shift)` and returns the sum of the results.
#[inline(always)]
pub(crate) fn exp_and_sum(values: &mut [f32], shift: f32) -> f32 {
    let mut total = 0.0;
    // Two loops over data in the first cache. One loop would need more registers than exist.
    for run in values.chunks_mut(4096) {
        for value in run.iter_mut() {
            *value = exp(*value - shift);
        }
        total += sum_of(run, |value| value);
    }
    total as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `erf` in f64: the Maclaurin series up to 3, and above that the continued fraction of `erfc` (Lentz from the tail).
    fn erf_f64(x: f64) -> f64 {
        if x.abs() < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..120 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let z = x.abs();
        let tail = (1..200).rev().fold(z, |below, k| z + f64::from(k) / 2.0 / below);
        x.signum() * (1.0 - (-z * z).exp() / (tail * std::f64::consts::PI.sqrt()))
    }

    #[test]
    fn exp_is_within_two_ulp() {
        let mut worst = 0f64;
        for i in -880_000..887_000 {
            let x = i as f32 * 1e-4;
            let right = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - right).abs() / right);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert!((f64::from(exp(-100.0)) - (-100f64).exp()).abs() < 1e-44);
    }

    #[test]
    fn erf_is_exact_to_single_precision() {
        let mut worst = 0f64;
        for i in -60_000..60_000 {
            let x = i as f32 * 1e-4;
            worst = worst.max((f64::from(erf(x)) - erf_f64(f64::from(x))).abs());
        }
        assert!(worst < 1e-7, "{worst}");
        assert_eq!((erf(f32::INFINITY), erf(f32::NEG_INFINITY)), (1.0, -1.0));
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn sums_and_maxima_take_any_length() {
        for n in [0, 1, 31, 32, 33, 4095, 4096, 4097, 9000] {
            let values: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1009) as f32 - 500.0).collect();
            let right: f64 = values.iter().map(|&v| f64::from(v)).sum();
            assert_eq!(sum_of(&values, |v| v), right);
            assert_eq!(max_of(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
