//! In place of `packed`, where libtorch has no oneDNN that we know: no weight is packed.

use tch::Tensor as Raw;

use crate::error::TorchResult;

pub(crate) fn pack(_weight: &Raw) -> TorchResult<Option<Raw>> {
    Ok(None)
}

pub(crate) fn linear(_x: &Raw, _weight: &Raw, _bias: Option<&Raw>) -> Option<TorchResult<Raw>> {
    None
}
