//! The two element types of attention: bf16 and f32.
//!
//! `vdpbf16ps` adds to each of 16 f32 the product of a pair: `c_j += a_2t b_2t,j + a_2t+1 b_2t+1,j`. A word of bf16 is
//! therefore a pair along the inner dimension. A word of f32 is one element.

use std::arch::x86_64::{
    __m512bh, _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh,
    _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_set1_epi32, _mm512_slli_epi32,
};
use std::fmt::Debug;

use crate::lanes::{LANES, Lanes, Words, bf16, floats, halves, load};
use crate::{Numbers, NumbersMut};

/// An element of queries, keys, values and outputs.
///
/// # Safety of its functions
/// The unsafe functions need a processor with AVX512-BF16.
#[allow(unsafe_code)]
pub(crate) trait Element: Debug + Copy + Send + Sync + 'static {
    /// A row of a tile: 64 elements.
    type Row: Debug + Copy + AsRef<[u32]> + AsMut<[u32]> + Send;
    /// The number of its words.
    const WORDS: usize;
    /// The number of elements in a word.
    const IN_WORD: usize;
    /// A row of zeros.
    const ZEROS: Self::Row;
    /// After this many panels the sums of `O` leave the registers. Their `P` stay in the first cache.
    const GROUP: usize;

    /// The numbers as this type, or nothing if they have the other one.
    fn slice(numbers: Numbers<'_>) -> &[Self];
    /// As [`Self::slice`], to write.
    fn slice_mut(numbers: NumbersMut<'_>) -> &mut [Self];
    /// Copies at most 64 elements. The rest of the row becomes zero.
    fn copy(from: &[Self], to: &mut Self::Row);
    /// Copies rows of values as words along the keys: one row, or a pair of them. A missing row is empty and becomes zero.
    fn copy_values(rows: [&[Self]; 2], to: &mut [u32]);
    /// The place of key `j` of a panel in what [`Self::lanes`] gives.
    fn place(j: usize) -> usize;

    /// `sum + left · right`, for each lane.
    unsafe fn add_product(sum: Lanes, left: Words, right: Words) -> Lanes;
    /// Stores 64 numbers as a row.
    unsafe fn store(numbers: [Lanes; 4], to: &mut Self::Row);
    /// The 64 numbers of a row, in the order of [`Self::place`].
    unsafe fn lanes(row: &Self::Row) -> [Lanes; 4];
    /// The nearest elements.
    unsafe fn round(lanes: Lanes) -> [Self; LANES];
}

#[allow(unsafe_code)]
impl Element for u16 {
    type Row = [u32; 32];
    const WORDS: usize = 32;
    const IN_WORD: usize = 2;
    const ZEROS: Self::Row = [0; 32];
    const GROUP: usize = 4;

    fn slice(numbers: Numbers<'_>) -> &[Self] {
        match numbers {
            Numbers::Bf16(numbers) => numbers,
            Numbers::F32(_) => &[],
        }
    }

    fn slice_mut(numbers: NumbersMut<'_>) -> &mut [Self] {
        match numbers {
            NumbersMut::Bf16(numbers) => numbers,
            NumbersMut::F32(_) => &mut [],
        }
    }

    #[inline]
    fn copy(from: &[Self], to: &mut Self::Row) {
        let to = halves(to);
        if let Ok(whole) = <&[u16; 64]>::try_from(from) {
            *to = *whole;
        } else {
            to[..from.len()].copy_from_slice(from);
            to[from.len()..].fill(0);
        }
    }

    #[inline]
    fn copy_values([even, odd]: [&[Self]; 2], to: &mut [u32]) {
        to[even.len()..].fill(0);
        if odd.is_empty() {
            to.iter_mut().zip(even).for_each(|(to, &low)| *to = u32::from(low));
        } else {
            let pair = |(&low, &high): (&u16, &u16)| u32::from(low) | u32::from(high) << 16;
            to.iter_mut().zip(even.iter().zip(odd)).for_each(|(to, both)| *to = pair(both));
        }
    }

    fn place(j: usize) -> usize {
        j / 32 * 32 + j % 2 * LANES + j % 32 / 2
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn add_product(sum: Lanes, left: Words, right: Words) -> Lanes {
        _mm512_dpbf16_ps(sum, bf16(left), bf16(right))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn store([a, b, c, d]: [Lanes; 4], to: &mut Self::Row) {
        let (low, high) = to.split_at_mut(LANES);
        low.copy_from_slice(&to_pairs([a, b]));
        high.copy_from_slice(&to_pairs([c, d]));
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn lanes(row: &Self::Row) -> [Lanes; 4] {
        let ([a, b], [c, d]) = (from_pairs(load(row, 0)), from_pairs(load(row, LANES)));
        [a, b, c, d]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn round(lanes: Lanes) -> [Self; LANES] {
        // SAFETY: both are 32 bytes, and every bit pattern is valid.
        unsafe { std::mem::transmute(_mm512_cvtneps_pbh(lanes)) }
    }
}

/// 32 numbers as bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) fn to_pairs([low, high]: [Lanes; 2]) -> [u32; LANES] {
    bits(_mm512_cvtne2ps_pbh(high, low))
}

/// 32 bf16 as numbers. Half of a pair, shifted or masked, is the f32 itself. A register of pairs therefore gives one
/// register of even columns and one of odd columns.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn from_pairs(pairs: Words) -> [Lanes; 2] {
    let odd = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(_mm512_and_si512(pairs, odd))]
}

/// The same bits as pairs.
#[inline]
#[target_feature(enable = "avx512f")]
fn bits(values: __m512bh) -> [u32; LANES] {
    // SAFETY: both are 64 bytes, and every bit pattern is valid.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::transmute::<__m512bh, [u32; LANES]>(values)
    }
}

#[allow(unsafe_code)]
impl Element for f32 {
    type Row = [u32; 64];
    const WORDS: usize = 64;
    const IN_WORD: usize = 1;
    const ZEROS: Self::Row = [0; 64];
    const GROUP: usize = 2;

    fn slice(numbers: Numbers<'_>) -> &[Self] {
        match numbers {
            Numbers::F32(numbers) => numbers,
            Numbers::Bf16(_) => &[],
        }
    }

    fn slice_mut(numbers: NumbersMut<'_>) -> &mut [Self] {
        match numbers {
            NumbersMut::F32(numbers) => numbers,
            NumbersMut::Bf16(_) => &mut [],
        }
    }

    #[inline]
    fn copy(from: &[Self], to: &mut Self::Row) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_bits());
        to[from.len()..].fill(0);
    }

    #[inline]
    fn copy_values([row, _]: [&[Self]; 2], to: &mut [u32]) {
        to.iter_mut().zip(row).for_each(|(to, from)| *to = from.to_bits());
        to[row.len()..].fill(0);
    }

    fn place(j: usize) -> usize {
        j
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn add_product(sum: Lanes, left: Words, right: Words) -> Lanes {
        _mm512_fmadd_ps(_mm512_castsi512_ps(left), _mm512_castsi512_ps(right), sum)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn store(numbers: [Lanes; 4], to: &mut Self::Row) {
        for (to, lanes) in to.chunks_mut(LANES).zip(numbers) {
            to.copy_from_slice(&floats(lanes).map(f32::to_bits));
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn lanes(row: &Self::Row) -> [Lanes; 4] {
        [0, 1, 2, 3].map(|at| _mm512_castsi512_ps(load(row, at * LANES)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn round(lanes: Lanes) -> [Self; LANES] {
        floats(lanes)
    }
}
