//! Linear layers whose weights oneDNN has packed for this processor (`packed.cpp`).
//!
//! libtorch's own `linear` copies a weight into this order at every call. PyTorch's compiler packs weights once, with the same
//! two operations.

use std::ffi::{CStr, c_char};
use std::ptr;

use tch::{Device, Kind, TchError, Tensor as Raw};
use torch_sys::C_tensor;

use crate::error::TorchResult;

#[allow(unsafe_code)]
unsafe extern "C" {
    fn atedm_tch_pack(weight: *const C_tensor, message: *mut *mut c_char) -> *mut C_tensor;
    fn atedm_tch_packed_linear(
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        message: *mut *mut c_char,
    ) -> *mut C_tensor;
}

/// The packed weight of `[outputs, inputs]`, for [`linear`] alone. `None` where packing does not pay or is not possible. A user's
/// variable is never packed, so that it can be trained.
pub(crate) fn pack(weight: &Raw) -> TorchResult<Option<Raw>> {
    let known = match weight.f_kind()? {
        Kind::Float => true,
        // libtorch refuses bf16 without these instructions
        Kind::BFloat16 => {
            is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
        }
        _ => false,
    };
    let plain = weight.device() == Device::Cpu && !weight.is_mkldnn() && !weight.requires_grad();
    if !known || !plain || weight.dim() != 2 || weight.numel() == 0 {
        return Ok(None);
    }
    // SAFETY: the weight is a live tensor.
    #[allow(unsafe_code)]
    owned(|message| unsafe { atedm_tch_pack(weight.as_ptr(), message) }).map(Some)
}

/// `[.., inputs]` with a packed weight `[outputs, inputs]` and `bias [outputs]` → `[.., outputs]`. `None` if the weight is not packed.
pub(crate) fn linear(x: &Raw, weight: &Raw, bias: Option<&Raw>) -> Option<TorchResult<Raw>> {
    let bias = bias.map_or(ptr::null(), Raw::as_ptr);
    // SAFETY: the operands are live tensors, or null for no bias.
    #[allow(unsafe_code)]
    let call = |message| unsafe { atedm_tch_packed_linear(x.as_ptr(), weight.as_ptr(), bias, message) };
    weight.is_mkldnn().then(|| owned(call))
}

/// The tensor that a function of `packed.cpp` returns, or its message.
fn owned(call: impl FnOnce(*mut *mut c_char) -> *mut C_tensor) -> TorchResult<Raw> {
    let mut message = ptr::null_mut();
    let tensor = call(&raw mut message);
    if !tensor.is_null() {
        // SAFETY: the function made the tensor for its caller.
        #[allow(unsafe_code)]
        return Ok(unsafe { Raw::from_ptr(tensor) });
    }
    // SAFETY: without a tensor there is a message, which ends in zero and belongs to the caller.
    #[allow(unsafe_code)]
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        libc::free(message.cast());
        text
    };
    Err(TchError::Torch(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(shape: &[i64]) -> Raw {
        let count = shape.iter().product::<i64>();
        (Raw::arange(count, (Kind::Float, Device::Cpu)) * 0.7).sin().reshape(shape)
    }

    #[test]
    fn packed_weights_multiply_as_plain_ones() {
        let (weight, bias) = (numbers(&[48, 20]), numbers(&[48]));
        let packed = pack(&weight).unwrap().unwrap();
        assert_eq!((packed.size(), packed.kind()), (vec![48, 20], Kind::Float));
        assert!(pack(&packed).unwrap().is_none(), "packed twice");
        for rows in [0, 1, 7, 300] {
            let x = numbers(&[2, rows, 20]);
            for bias in [None, Some(&bias)] {
                let plain = x.linear(&weight, bias);
                let product = linear(&x, &packed, bias).unwrap().unwrap();
                assert_eq!(product.size(), plain.size());
                assert!(product.allclose(&plain, 1e-5, 1e-5, false));
            }
        }
        assert!(linear(&numbers(&[3, 20]), &weight, None).is_none());
    }

    #[test]
    fn what_is_not_packed() {
        for other in [
            numbers(&[4]),
            numbers(&[0, 4]),
            numbers(&[4, 4]).to_kind(Kind::Double),
            numbers(&[4, 4]).set_requires_grad(true),
        ] {
            assert!(pack(&other).unwrap().is_none(), "{other:?}");
        }
    }

    #[test]
    fn a_fault_has_a_message() {
        let packed = pack(&numbers(&[8, 4])).unwrap().unwrap();
        let error = linear(&numbers(&[3, 5]), &packed, None).unwrap().unwrap_err();
        assert!(matches!(&error, TchError::Torch(text) if !text.is_empty()), "{error:?}");
    }
}
