//! Registers of 8 numbers, and the exponential.

use std::arch::x86_64::{
    __m256, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm256_add_epi32, _mm256_add_ps, _mm256_and_ps,
    _mm256_castsi256_ps, _mm256_cmpgt_epi32, _mm256_cvtps_epi32, _mm256_fmadd_ps, _mm256_max_ps,
    _mm256_min_ps, _mm256_mul_ps, _mm256_round_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32,
    _mm256_slli_epi32, _mm256_srai_epi32, _mm256_sub_epi32, _mm256_sub_ps,
};

/// The number of f32 in a register.
pub(super) const LANES: usize = 8;

/// 8 f32.
pub(super) type Lanes = __m256;

/// 8 zeros.
pub(super) const ZERO: Lanes = {
    // SAFETY: 32 bytes, and every bit pattern is valid.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::zeroed()
    }
};

/// `2^x` to 2e-7. Results below `2^-126` lose digits and end at 0. NaN stays NaN.
///
/// It splits `x = n + f` with `|f| <= 1/2`, as [`crate::lanes::exp2`] does, with the same polynomial. No instruction adds
/// `n` to an exponent here, so two powers of 2 multiply the result: their product may be outside the normal numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn exp2(x: Lanes) -> Lanes {
    // if one operand of a minimum or maximum is NaN, the result is the second one
    let x = _mm256_min_ps(_mm256_set1_ps(254.0), x);
    let x = _mm256_max_ps(_mm256_set1_ps(-252.0), x);
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
    let f = _mm256_sub_ps(x, n);
    let p = _mm256_set1_ps(1.330_060_7e-3);
    let p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(9.669_691e-3));
    let p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(5.550_558_5e-2));
    let p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(2.402_228_3e-1));
    let p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(std::f32::consts::LN_2));
    let p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0));
    let n = _mm256_cvtps_epi32(n);
    let half = _mm256_srai_epi32::<1>(n);
    let bias = _mm256_set1_epi32(127);
    let power = |n| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, bias)));
    _mm256_mul_ps(_mm256_mul_ps(p, power(half)), power(_mm256_sub_epi32(n, half)))
}

/// The register with zeros from lane `len` on.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn first(lanes: Lanes, len: usize) -> Lanes {
    let at = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let inside = _mm256_cmpgt_epi32(_mm256_set1_epi32(len.min(LANES) as i32), at);
    _mm256_and_ps(lanes, _mm256_castsi256_ps(inside))
}

/// The sum of the lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum(lanes: Lanes) -> f32 {
    floats(lanes).iter().sum()
}

/// `totals += sums`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add_all(totals: &mut [Lanes], sums: &[Lanes]) {
    for (total, &sum) in totals.iter_mut().zip(sums) {
        *total = _mm256_add_ps(*total, sum);
    }
}

/// The numbers of a register.
#[inline]
pub(super) fn floats(lanes: Lanes) -> [f32; LANES] {
    // SAFETY: the same 32 bytes, and every bit pattern is valid.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::transmute::<Lanes, [f32; LANES]>(lanes)
    }
}

/// The register of these numbers.
#[inline]
pub(super) fn lanes(floats: &[f32; LANES]) -> Lanes {
    // SAFETY: the same 32 bytes, and every bit pattern is valid.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::transmute::<[f32; LANES], Lanes>(*floats)
    }
}

#[cfg(test)]
mod tests {
    use super::{LANES, exp2, first, floats, lanes};
    use crate::lanes::tests::check_exp2;
    use std::arch::x86_64::_mm256_set1_ps;

    #[target_feature(enable = "avx2,fma")]
    fn power(x: f32) -> f32 {
        floats(exp2(_mm256_set1_ps(x)))[5]
    }

    fn here() -> bool {
        let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        if !found {
            println!("skipped: this processor has no AVX2 or no FMA");
        }
        found
    }

    #[test]
    #[allow(unsafe_code)]
    fn powers_of_two_to_single_precision() {
        if !here() {
            return;
        }
        // SAFETY: the check above found the features.
        let value = |x: f32| unsafe { power(x) };
        check_exp2(value);
    }

    #[test]
    #[allow(unsafe_code)]
    fn lanes_beyond_a_length_are_zero() {
        if !here() {
            return;
        }
        for len in 0..=9 {
            // SAFETY: the check above found the features.
            let found = unsafe { first(lanes(&[f32::NAN; LANES]), len) };
            assert_eq!(floats(found).iter().filter(|x| x.is_nan()).count(), len.min(LANES));
        }
    }
}
