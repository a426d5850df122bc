//! Access to a Candle tensor's numbers without a copy.

use std::cell::Cell;

use candle_core::{DType, Layout, Result, Storage, StorageRef, Tensor};

use super::number::Number;

thread_local! {
    static INFERENCE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`. During the call, this thread's kernels may ignore that a tensor is a variable.
pub(crate) fn inference<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            INFERENCE.set(self.0);
        }
    }
    let _restore = Restore(INFERENCE.replace(true));
    f()
}

/// Whether a kernel may ignore the history of this tensor: it needs no gradient, or this is inference.
pub(crate) fn untracked(x: &Tensor) -> bool {
    INFERENCE.get() || !x.track_op()
}

/// Whether the kernels support these tensors. They must be on the CPU, in f32 or a half precision, and need no gradient.
pub(crate) fn takes(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|x| {
        x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16) && untracked(x)
    })
}

/// The numbers of a tensor on the CPU, with their layout. They are borrowed for the life of this value.
pub(crate) struct View<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> View<'a> {
    /// The view. Another device is an error.
    pub(crate) fn new(x: &'a Tensor) -> Result<Self> {
        let (storage, layout) = x.storage_and_layout();
        match &*storage {
            Storage::Cpu(_) => Ok(Self { storage, layout }),
            _ => candle_core::bail!("expected a tensor on the CPU"),
        }
    }

    /// All elements from the first one on, in the order of memory. A tensor of another dtype seems empty.
    pub(crate) fn data<N: Number>(&self) -> &[N] {
        let values = match &*self.storage {
            Storage::Cpu(storage) => N::cpu_storage_as_slice(storage).unwrap_or(&[]),
            _ => &[],
        };
        values.get(self.layout.start_offset()..).unwrap_or(&[])
    }

    /// The elements of a contiguous tensor, row-major. Another tensor or dtype is an error.
    pub(crate) fn slice<N: Number>(&self) -> Result<&[N]> {
        if !self.layout.is_contiguous() {
            candle_core::bail!("expected a contiguous tensor");
        }
        let len = self.layout.shape().elem_count();
        match self.data::<N>().get(..len) {
            Some(values) => Ok(values),
            None => candle_core::bail!("a tensor shorter than its shape, or of another dtype"),
        }
    }

    /// The distance in memory between neighbours along each axis.
    pub(crate) fn strides(&self) -> &[usize] {
        self.layout.stride()
    }
}
