//! Stored values in the dtypes of safetensors files.

use std::borrow::Cow;

use atedm_core::DType;
use safetensors::tensor::Dtype;

use super::f8;

/// The dtypes that are read as weights.
pub(crate) const FLOATS: &str = "F8_E4M3, F8_E5M2, F16, BF16, F32 or F64";

/// The same values in a dtype of ours: f8 becomes f16.
///
/// # Errors
/// A message about a dtype that is unknown here.
pub(super) fn floats(bytes: &[u8], stored: Dtype) -> Result<(Cow<'_, [u8]>, DType), String> {
    match stored {
        Dtype::F16 => Ok((Cow::Borrowed(bytes), DType::F16)),
        Dtype::BF16 => Ok((Cow::Borrowed(bytes), DType::BF16)),
        Dtype::F32 => Ok((Cow::Borrowed(bytes), DType::F32)),
        Dtype::F64 => Ok((Cow::Borrowed(bytes), DType::F64)),
        Dtype::F8_E4M3 => Ok((Cow::Owned(f8::to_f16(bytes, &f8::e4m3())), DType::F16)),
        Dtype::F8_E5M2 => Ok((Cow::Owned(f8::to_f16(bytes, &f8::e5m2())), DType::F16)),
        other => Err(format!("expected dtype {FLOATS}, got {other:?}")),
    }
}

/// The number that these bytes are, if they are one.
pub(super) fn number(bytes: &[u8], stored: Dtype) -> Option<f64> {
    Some(match stored {
        Dtype::I64 => i64::from_le_bytes(bytes.try_into().ok()?) as f64,
        Dtype::I32 => i32::from_le_bytes(bytes.try_into().ok()?).into(),
        stored => {
            let (bytes, dtype) = floats(bytes, stored).ok()?;
            match dtype {
                DType::F16 => half::f16::from_le_bytes(bytes.as_ref().try_into().ok()?).into(),
                DType::BF16 => half::bf16::from_le_bytes(bytes.as_ref().try_into().ok()?).into(),
                DType::F32 => f32::from_le_bytes(bytes.as_ref().try_into().ok()?).into(),
                DType::F64 => f64::from_le_bytes(bytes.as_ref().try_into().ok()?),
            }
        }
    })
}

/// Whether all of these values are finite. `None` for a dtype that cannot be weights.
pub(crate) fn are_finite(bytes: &[u8], stored: Dtype) -> Option<bool> {
    /// Whether a value's exponent, which these bits of its upper bytes hold, is not the highest.
    fn below(bytes: &[u8], size: usize, exponent: u16) -> bool {
        let upper = |value: &[u8]| match value {
            [.., low, high] => u16::from_le_bytes([*low, *high]),
            _ => 0,
        };
        bytes.chunks_exact(size).all(|value| upper(value) & exponent != exponent)
    }
    Some(match stored {
        Dtype::F16 => below(bytes, 2, 0x7c00),
        Dtype::BF16 => below(bytes, 2, 0x7f80),
        Dtype::F32 => below(bytes, 4, 0x7f80),
        Dtype::F64 => below(bytes, 8, 0x7ff0),
        Dtype::F8_E4M3 => bytes.iter().all(|byte| byte & 0x7f != 0x7f),
        Dtype::F8_E5M2 => bytes.iter().all(|byte| byte & 0x7c != 0x7c),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_dtype_are_read() {
        for (bytes, dtype) in [
            (&[0x00, 0x41][..], Dtype::F16),
            (&[0x20, 0x40], Dtype::BF16),
            (&2.5f32.to_le_bytes(), Dtype::F32),
            (&2.5f64.to_le_bytes(), Dtype::F64),
            (&[0x42], Dtype::F8_E4M3),
            (&[0x41], Dtype::F8_E5M2),
        ] {
            assert_eq!(number(bytes, dtype), Some(2.5), "{dtype:?}");
        }
        assert_eq!(number(&7i64.to_le_bytes(), Dtype::I64), Some(7.0));
        assert_eq!(number(&(-7i32).to_le_bytes(), Dtype::I32), Some(-7.0));
        assert_eq!((number(&[1], Dtype::U8), number(&[0, 0], Dtype::F32)), (None, None));
    }

    #[test]
    fn nan_and_infinities_are_found_in_every_dtype() {
        let all = |value: f32| {
            let (half, brain) = (half::f16::from_f32(value), half::bf16::from_f32(value));
            [
                (half.to_le_bytes().to_vec(), Dtype::F16),
                (brain.to_le_bytes().to_vec(), Dtype::BF16),
                (value.to_le_bytes().to_vec(), Dtype::F32),
                (f64::from(value).to_le_bytes().to_vec(), Dtype::F64),
            ]
        };
        for (finite, values) in
            [(true, [0.0, -60_000.0, 1e-7]), (false, [f32::NAN, f32::INFINITY, f32::NEG_INFINITY])]
        {
            for (bytes, dtype) in values.into_iter().flat_map(all) {
                let size = bytes.len();
                assert_eq!(are_finite(&[vec![0; size], bytes].concat(), dtype), Some(finite), "{dtype:?}");
            }
        }
        for (bytes, dtype, finite) in [
            (&[0x7e, 0xfe, 0][..], Dtype::F8_E4M3, Some(true)),
            (&[0, 0xff], Dtype::F8_E4M3, Some(false)),
            (&[0x7b, 0xfb, 0], Dtype::F8_E5M2, Some(true)),
            (&[0x7c], Dtype::F8_E5M2, Some(false)),
            (&[0xff; 8], Dtype::I64, None),
        ] {
            assert_eq!(are_finite(bytes, dtype), finite, "{bytes:?} {dtype:?}");
        }
    }
}
