//! Tensors on the GPU, as the kernels read them.

use candle_core::cuda_backend::cudarc::driver::{CudaView, DeviceRepr};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage, cudarc::driver::CudaSlice};
use candle_core::op::BackpropOp;
use candle_core::{Result, Shape, Storage, StorageRef, Tensor as Raw};

/// The kernels read 8 words of a row at once. Rows start at multiples of them.
pub(super) const WORDS: usize = 8;

/// The distances in elements between batch entries, heads and rows. The kernels have the same struct.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Strides {
    batch: i64,
    head: i64,
    row: i64,
}

// SAFETY: it is three integers, in the order and size of the kernels' struct.
#[allow(unsafe_code)]
unsafe impl DeviceRepr for Strides {}

/// A tensor's elements, borrowed for the life of this value.
pub(super) struct Operand<'a> {
    storage: StorageRef<'a>,
    start: usize,
}

impl<'a> Operand<'a> {
    pub(super) fn new(x: &'a Raw) -> Self {
        let (storage, layout) = x.storage_and_layout();
        Self { storage, start: layout.start_offset() }
    }

    /// All elements from the first one on, in the order of memory. Another device or dtype is an error.
    pub(super) fn view<T: CudaDType>(&self) -> Result<CudaView<'_, T>> {
        match &*self.storage {
            Storage::Cuda(storage) => Ok(storage.as_cuda_slice::<T>()?.slice(self.start..)),
            _ => candle_core::bail!("expected a tensor on a GPU"),
        }
    }
}

/// The tensor `[b, h, rows, dim]` in memory that the kernels can read. It is copied if it is not yet.
pub(super) fn readable(x: &Raw) -> Result<Raw> {
    let whole = |distance: &usize| distance.is_multiple_of(WORDS);
    let layout = x.layout();
    let rows = matches!(layout.stride(), [outer @ .., 1] if outer.iter().all(whole));
    if rows && whole(&layout.start_offset()) { Ok(x.clone()) } else { x.force_contiguous() }
}

/// The strides of a readable tensor.
pub(super) fn strides(x: &Raw) -> Result<Strides> {
    match *x.stride() {
        [batch, head, row, 1] => Ok(Strides { batch: batch as i64, head: head as i64, row: row as i64 }),
        _ => candle_core::bail!("expected 4 axes with contiguous rows, got strides {:?}", x.stride()),
    }
}

/// A number of rows, as the kernels take it.
pub(super) fn count(rows: usize) -> Result<i32> {
    i32::try_from(rows)
        .map_err(|_| candle_core::Error::Msg(format!("expected at most {} rows, got {rows}", i32::MAX)))
}

/// The tensor of what a kernel has written.
pub(super) fn tensor<T: CudaDType>(
    written: CudaSlice<T>,
    shape: impl Into<Shape>,
    device: &CudaDevice,
) -> Raw {
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(written, device.clone()));
    Raw::from_storage(storage, shape, BackpropOp::none(), false)
}
