//! An output that several threads write.

use std::marker::PhantomData;

/// A slice whose pieces belong to different tasks.
pub(crate) struct Output<'a, T> {
    data: *mut T,
    len: usize,
    all: PhantomData<&'a mut [T]>,
}

// SAFETY: only one task writes each element (see `Output::row`), and numbers may be written by any thread.
#[allow(unsafe_code)]
unsafe impl<T: Send> Sync for Output<'_, T> {}

impl<'a, T> Output<'a, T> {
    /// The elements of a slice.
    pub(crate) fn new(all: &'a mut [T]) -> Self {
        Self { data: all.as_mut_ptr(), len: all.len(), all: PhantomData }
    }

    /// The `len` elements from `at` on.
    ///
    /// # Safety
    /// No other task may access these elements.
    #[allow(unsafe_code)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn row(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "a row beyond the output");
        // SAFETY: the elements lie inside the slice (checked), which is borrowed as long as `self` lives. The
        // caller ensures that nobody else accesses these elements.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(at), len) }
    }
}
