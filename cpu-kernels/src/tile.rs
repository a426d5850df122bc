//! The product of 6 rows with 16 to 64 columns in bf16, accumulated in f32, and the exponential.
//!
//! `vdpbf16ps` adds to each of 16 f32 the product of a pair: `c_j += a_2t b_2t,j + a_2t+1 b_2t+1,j`. For each pair
//! `t` of the inner dimension, the right operand therefore holds the pairs of 16 columns in a register. The pair of
//! the left operand is one 32-bit number for all 16. 6 x 4 registers of sums leave 8 of 32 for the operands.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_FROUND_TO_NEAREST_INT, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_sub_ps,
};

/// The number of elements in a register.
pub(crate) const LANES: usize = 16;

/// The number of rows in a tile.
pub(crate) const ROWS: usize = 6;

/// The number of pairs in a row of a tile.
pub(crate) const PAIRS: usize = 32;

/// 16 sums.
pub(crate) type Lanes = __m512;

/// 16 pairs of bf16.
pub(crate) type Pairs = __m512i;

/// The sums of a tile: `C` registers of columns.
pub(crate) type Sums<const C: usize> = [[Lanes; C]; ROWS];

/// Left operand: 6 rows of 32 pairs.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Tile(pub(crate) [[u32; PAIRS]; ROWS]);

impl Tile {
    pub(crate) const ZERO: Self = Self([[0; PAIRS]; ROWS]);
}

/// `sums[i, j] += Σ_t left[i, t] · right[t, j]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(crate) fn product<const C: usize>(left: &Tile, right: &[[Pairs; C]], mut sums: Sums<C>) -> Sums<C> {
    for (pair, columns) in right.iter().enumerate().take(PAIRS) {
        for (row, sums) in left.0.iter().zip(&mut sums) {
            let factor = bf16(_mm512_set1_epi32(row[pair].cast_signed()));
            for (sum, &column) in sums.iter_mut().zip(columns) {
                *sum = _mm512_dpbf16_ps(*sum, factor, bf16(column));
            }
        }
    }
    sums
}

/// The sums at the start.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn zeros<const C: usize>() -> Sums<C> {
    [[_mm512_setzero_ps(); C]; ROWS]
}

/// The same bits as bf16.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn bf16(pairs: Pairs) -> __m512bh {
    // SAFETY: both are 64 bytes, and every bit pattern is valid.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::transmute::<Pairs, __m512bh>(pairs)
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

/// All bits zero.
pub(crate) const NO_PAIRS: Pairs = {
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

/// The 32-bit numbers of registers.
pub(crate) fn numbers(registers: &mut [Pairs]) -> &mut [u32] {
    // SAFETY: the same memory, borrowed for the same time. 64 bytes are 16 numbers of 4 bytes. Every bit pattern is
    // valid, and numbers need less alignment.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts_mut(registers.as_mut_ptr().cast(), registers.len() * LANES)
    }
}

/// The elements of a row of pairs.
pub(crate) fn halves(row: &mut [u32; PAIRS]) -> &mut [u16; 2 * PAIRS] {
    // SAFETY: the same memory, borrowed for the same time. On x86 the low half of a number comes first, as in a pair.
    #[allow(unsafe_code)]
    unsafe {
        &mut *std::ptr::from_mut(row).cast()
    }
}

#[cfg(test)]
mod tests {
    use super::{LANES, exp2, floats};
    use std::arch::x86_64::_mm512_set1_ps;

    #[target_feature(enable = "avx512f")]
    fn one(x: f32) -> [f32; LANES] {
        floats(exp2(_mm512_set1_ps(x)))
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
}
