//! 8-bit floats of the Open Compute Project (version 1.0). Each of them is an f16 without any rounding.
//!
//! ```text
//! F8_E4M3   1 sign, 4 exponent (bias 7) and 3 mantissa bits; up to ±448; 0x7f and 0xff are NaN; no infinities
//! F8_E5M2   1 sign, 5 exponent (bias 15) and 2 mantissa bits: the upper byte of an f16
//! ```

use half::f16;

/// The f16 of each byte, for `F8_E4M3`.
pub(super) fn e4m3() -> [f16; 256] {
    std::array::from_fn(|byte| {
        let (exponent, mantissa) = ((byte >> 3) & 15, (byte & 7) as f32);
        let size = match (exponent, byte & 7) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa / 512.0,
            (exponent, _) => (8.0 + mantissa) * 2f32.powi(exponent as i32 - 10),
        };
        f16::from_f32(if byte < 128 { size } else { -size })
    })
}

/// The f16 of each byte, for `F8_E5M2`.
pub(super) fn e5m2() -> [f16; 256] {
    std::array::from_fn(|byte| f16::from_bits((byte as u16) << 8))
}

/// Little-endian f16 values of f8 values.
pub(super) fn to_f16(bytes: &[u8], table: &[f16; 256]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| table[usize::from(*byte)].to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from the specification's tables: largest, smallest normal, largest and smallest subnormal.
    #[test]
    fn values_are_those_of_the_specification() {
        let (four, five) = (e4m3(), e5m2());
        for (byte, value) in [(0x7e, 448.0), (0x08, 0.015625), (0x07, 0.013671875), (0x01, 0.001953125)] {
            assert_eq!((four[byte].to_f32(), four[byte | 0x80].to_f32()), (value, -value), "{byte:#x}");
        }
        for (byte, value) in [(0x38, 1.0), (0x39, 1.125), (0x00, 0.0), (0x40, 2.0)] {
            assert_eq!(four[byte].to_f32(), value, "{byte:#x}");
        }
        let smallest = 2f32.powi(-14);
        for (byte, value) in
            [(0x7b, 57344.0), (0x04, smallest), (0x03, 0.75 * smallest), (0x01, 0.25 * smallest)]
        {
            assert_eq!((five[byte].to_f32(), five[byte | 0x80].to_f32()), (value, -value), "{byte:#x}");
        }
        assert_eq!((five[0x7c], five[0xfc]), (f16::INFINITY, f16::NEG_INFINITY));
        assert!([0x7d, 0x7e, 0x7f, 0xff].iter().all(|byte: &usize| five[*byte].is_nan()));
        let nans: Vec<usize> = (0..256).filter(|byte| four[*byte].is_nan()).collect();
        assert_eq!(nans, [0x7f, 0xff]);
        assert!(four.iter().all(|value| !value.is_infinite()) && four[0x80].is_sign_negative());
    }

    #[test]
    fn bytes_become_little_endian_pairs() {
        assert_eq!(to_f16(&[0x38, 0xb8], &e4m3()), [0x00, 0x3c, 0x00, 0xbc]);
        assert_eq!(to_f16(&[0x3c, 0xfc], &e5m2()), [0x00, 0x3c, 0x00, 0xfc]);
    }
}
