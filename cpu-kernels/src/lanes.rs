//! Registers of 16 numbers, their bits, and the exponential.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _CMP_GT_OQ, _MM_FROUND_TO_NEAREST_INT, _mm512_abs_ps, _mm512_add_ps,
    _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_fmadd_ps, _mm512_fmsub_ps,
    _mm512_loadu_si512, _mm512_mask_blend_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_roundscale_ps,
    _mm512_scalef_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_sub_ps, _mm512_ternarylogic_epi32,
};

/// The number of 32-bit numbers in a register.
pub(crate) const LANES: usize = 16;

/// 16 f32.
pub(crate) type Lanes = __m512;

/// 16 words: f32 or pairs of bf16.
pub(crate) type Words = __m512i;

/// The same bits as bf16.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn bf16(pairs: Words) -> __m512bh {
    // SAFETY: both are 64 bytes, and every bit pattern is valid.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::transmute::<Words, __m512bh>(pairs)
    }
}

/// 16 words of a row.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load(row: &[u32], from: usize) -> Words {
    let part: &[u32; LANES] = &row.as_chunks().0[from / LANES];
    // SAFETY: a register of 64 bytes is read from 64 bytes.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_loadu_si512(part.as_ptr().cast())
    }
}

/// `2^x` to 2e-7. Results below `2^-126` lose digits and end at 0. NaN and `-inf` become NaN.
///
/// It splits `x = n + f` with `|f| <= 1/2`. A polynomial gives `2^f`; its first two terms are exactly 1 and ln 2.
/// `n` is added to its exponent. Multipliers are the bottleneck, and rounding and scaling run beside them.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn exp2(x: Lanes) -> Lanes {
    let n = _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(x);
    let f = _mm512_sub_ps(x, n);
    let p = _mm512_set1_ps(1.330_060_7e-3);
    let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.669_691e-3));
    let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.550_558_5e-2));
    let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.402_228_3e-1));
    let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(std::f32::consts::LN_2));
    let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0));
    _mm512_scalef_ps(p, n)
}

/// The GELU `x Φ(x) = x / 2 · (1 + erf(x / √2))`, to 3e-7 of `x`.
///
/// The error function is N. Juffa's: an odd polynomial up to `475/512`, and beyond that `1 − e^(−t p(t))` for `t = |x|`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn gelu(x: Lanes) -> Lanes {
    let number = |x: f32| _mm512_set1_ps(x);
    let y = _mm512_mul_ps(x, number(std::f32::consts::FRAC_1_SQRT_2));
    let (t, s) = (_mm512_abs_ps(y), _mm512_mul_ps(y, y));
    let high = _mm512_fmadd_ps(number(-1.728_534_7e-5), t, number(3.831_971_3e-4));
    let low = _mm512_fmadd_ps(number(-3.883_964_4e-3), t, number(2.425_462_2e-2));
    let p = _mm512_fmadd_ps(high, s, low);
    let p = _mm512_fmadd_ps(p, t, number(-1.067_778_8e-1));
    let p = _mm512_fmadd_ps(p, t, number(-6.348_467e-1));
    let p = _mm512_fmadd_ps(p, t, number(-1.287_175_1e-1));
    let power = _mm512_mul_ps(_mm512_fmsub_ps(p, t, t), number(std::f32::consts::LOG2_E));
    // the second operand of a maximum is the result if one is NaN
    let far = _mm512_sub_ps(number(1.0), exp2(_mm512_max_ps(number(-150.0), power)));
    // the sign of y: one bit where the mask has one, the rest of `far` elsewhere
    let sign = _mm512_set1_epi32(i32::MIN);
    let far = _mm512_ternarylogic_epi32::<0xca>(sign, _mm512_castps_si512(y), _mm512_castps_si512(far));
    let q = _mm512_fmadd_ps(number(-5.967_617e-4), s, number(4.991_194_4e-3));
    let q = _mm512_fmadd_ps(q, s, number(-2.676_813_5e-2));
    let q = _mm512_fmadd_ps(q, s, number(1.128_199_3e-1));
    let q = _mm512_fmadd_ps(q, s, number(-3.761_253_4e-1));
    let q = _mm512_fmadd_ps(q, s, number(1.283_791_7e-1));
    let near = _mm512_fmadd_ps(q, y, y);
    let is_far = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(t, number(0.927_734_4));
    let erf = _mm512_mask_blend_ps(is_far, near, _mm512_castsi512_ps(far));
    _mm512_mul_ps(_mm512_mul_ps(x, number(0.5)), _mm512_add_ps(number(1.0), erf))
}

/// All bits zero.
pub(crate) const NO_WORDS: Words = {
    // SAFETY: 64 bytes, and every bit pattern is valid.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::zeroed()
    }
};

/// Sixteen zeros.
pub(crate) const NO_LANES: Lanes = {
    // SAFETY: as above.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::zeroed()
    }
};

/// The numbers of a register.
pub(crate) fn floats(lanes: Lanes) -> [f32; LANES] {
    // SAFETY: the same 64 bytes, and every bit pattern is valid.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::transmute::<Lanes, [f32; LANES]>(lanes)
    }
}

/// The register of these numbers.
#[inline]
pub(crate) fn lanes(floats: &[f32; LANES]) -> Lanes {
    // SAFETY: the same 64 bytes, and every bit pattern is valid.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::transmute::<[f32; LANES], Lanes>(*floats)
    }
}

/// The 32-bit numbers of registers.
pub(crate) fn numbers(registers: &mut [Words]) -> &mut [u32] {
    // SAFETY: the same memory, borrowed for the same time. 64 bytes are 16 numbers of 4 bytes. Every bit pattern is
    // valid, and numbers need less alignment.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts_mut(registers.as_mut_ptr().cast(), registers.len() * LANES)
    }
}

/// The elements of 32 pairs.
pub(crate) fn halves(row: &mut [u32; 32]) -> &mut [u16; 64] {
    // SAFETY: the same memory, borrowed for the same time. On x86 the low half of a number comes first, as in a pair.
    #[allow(unsafe_code)]
    unsafe {
        &mut *std::ptr::from_mut(row).cast()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{LANES, exp2, floats, gelu};
    use std::arch::x86_64::_mm512_set1_ps;

    #[target_feature(enable = "avx512f")]
    fn one(x: f32) -> [f32; LANES] {
        floats(exp2(_mm512_set1_ps(x)))
    }

    #[target_feature(enable = "avx512f")]
    fn gate(x: f32) -> [f32; LANES] {
        floats(gelu(_mm512_set1_ps(x)))
    }

    /// `x Φ(x)` in f64: the Maclaurin series of the error function up to 4, and beyond that its continued fraction.
    fn gelu_f64(x: f64) -> f64 {
        let z = x.abs() * std::f64::consts::FRAC_1_SQRT_2;
        let tail = (1..200).rev().fold(z, |below, k| z + f64::from(k) / 2.0 / below);
        let (mut term, mut sum) = (z, z);
        for n in 1..160 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        let pi = std::f64::consts::PI.sqrt();
        let below = if z < 4.0 { 1.0 - sum * 2.0 / pi } else { (-z * z).exp() / (tail * pi) };
        if x < 0.0 { x * below / 2.0 } else { x * (1.0 - below / 2.0) }
    }

    #[test]
    #[allow(unsafe_code)]
    fn gelu_to_single_precision() {
        if !is_x86_feature_detected!("avx512f") {
            println!("skipped: this processor has no AVX-512");
            return;
        }
        // SAFETY: the check above found the feature.
        let value = |x: f32| unsafe { gate(x) }[5];
        let mut worst = 0f64;
        for i in -90_000..90_000 {
            let x = i as f32 * 1e-4;
            let away = (f64::from(value(x)) - gelu_f64(f64::from(x))).abs();
            worst = worst.max(away / f64::from(x.abs()).max(1e-6));
        }
        assert!(worst < 3e-7, "{worst}");
        assert_eq!((value(0.0), value(100.0), value(-100.0)), (0.0, 100.0, 0.0));
        assert_eq!((value(1e30), value(f32::INFINITY)), (1e30, f32::INFINITY));
        assert!(value(f32::NAN).is_nan());
    }

    /// Checks a `2^x` of one of the instruction sets.
    pub(crate) fn check_exp2(value: impl Fn(f32) -> f32) {
        let mut worst = 0f64;
        for i in -125_999..127_000 {
            let x = i as f32 * 1e-3;
            let right = f64::from(x).exp2();
            worst = worst.max((f64::from(value(x)) - right).abs() / right);
        }
        assert!(worst < 2e-7, "{worst}");
        for whole in -126..=127 {
            assert_eq!(value(whole as f32), 2f32.powi(whole));
        }
        assert_eq!((value(-140.0), value(-1e30), value(1e30)), (2f32.powi(-140), 0.0, f32::INFINITY));
        assert!(value(f32::NAN).is_nan());
    }

    #[test]
    #[allow(unsafe_code)]
    fn powers_of_two_to_single_precision() {
        if !is_x86_feature_detected!("avx512f") {
            println!("skipped: this processor has no AVX-512");
            return;
        }
        // SAFETY: the check above found the feature.
        let value = |x: f32| unsafe { one(x) }[7];
        check_exp2(value);
    }
}
