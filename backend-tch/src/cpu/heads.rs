//! Queries, keys and values in memory, and the inputs and outputs of the kernels.

use std::marker::PhantomData;

/// The maximum number of elements in a head: 32 pairs of bf16, one row of a tile.
pub(crate) const MAX_DIM: usize = 64;

/// Whether the kernels support heads of this size.
pub(crate) fn fits(dim: usize) -> bool {
    (1..=MAX_DIM).contains(&dim)
}

/// `[b, h, rows, dim]` as bf16 bits, anywhere in a slice. The elements of a row are contiguous.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads<'a> {
    data: &'a [u16],
    dims: [usize; 4],
    /// The strides between batch entries, heads and rows.
    strides: [usize; 3],
}

impl<'a> Heads<'a> {
    /// `None` if rows are not contiguous, something is empty, a head is too long, or the slice is too short.
    pub(crate) fn new(data: &'a [u16], dims: [usize; 4], strides: [usize; 4]) -> Option<Self> {
        let [by_batch, by_head, by_row, by_element] = strides;
        if dims.contains(&0) || !fits(dims[3]) || (by_element != 1 && dims[3] > 1) {
            return None;
        }
        let last = [(0, by_batch), (1, by_head), (2, by_row)]
            .into_iter()
            .try_fold(dims[3], |at, (axis, stride)| (dims[axis] - 1).checked_mul(stride)?.checked_add(at))?;
        (last <= data.len()).then_some(Self { data, dims, strides: [by_batch, by_head, by_row] })
    }

    /// Batch, heads, rows, dim.
    pub(crate) fn dims(&self) -> [usize; 4] {
        self.dims
    }

    /// One row: `dim` elements.
    #[inline]
    pub(super) fn row(&self, batch: usize, head: usize, row: usize) -> &'a [u16] {
        let [by_batch, by_head, by_row] = self.strides;
        &self.data[batch * by_batch + head * by_head + row * by_row..][..self.dims[3]]
    }
}

/// The input of a pass over the queries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass<'a> {
    /// `[b, h, m, dim]`.
    pub(crate) q: Heads<'a>,
    /// `[b, h, n, dim]`.
    pub(crate) k: Heads<'a>,
    /// The factor on `q·k`.
    pub(crate) scale: f32,
    /// Scores `[b, h, m]`, if a vote is requested.
    pub(crate) scores: Option<&'a [f32]>,
}

impl Pass<'_> {
    /// Batch, heads, queries, keys. Panics if queries and keys do not fit each other. Only a bug here can cause this.
    pub(super) fn sizes(&self) -> [usize; 4] {
        let [batch, heads, m, dim] = self.q.dims;
        let [other_batch, other_heads, n, other_dim] = self.k.dims;
        assert!(
            (batch, heads, dim) == (other_batch, other_heads, other_dim),
            "queries and keys of other heads"
        );
        assert!(
            self.scores.is_none_or(|scores| scores.len() == batch * heads * m),
            "a score for every query"
        );
        [batch, heads, m, n]
    }
}

/// The memory to which [`attention`](super::attention()) writes.
#[derive(Debug)]
pub(crate) struct Attended<'a> {
    /// The output `[b, m, h, dim]` as bf16 bits: tokens outside, heads inside. The next layer needs this order.
    pub(crate) output: &'a mut [u16],
    /// The log-sum-exp `[b, h, m]`.
    pub(crate) lse: &'a mut [f32],
    /// The first vote `[b, h, n]`, written if there are scores.
    pub(crate) first_vote: Option<&'a mut [f32]>,
}

/// The output rows, which several threads write.
pub(super) struct Output<'a> {
    data: *mut u16,
    len: usize,
    all: PhantomData<&'a mut [u16]>,
}

// SAFETY: only one task writes each row (see `Output::row`).
#[allow(unsafe_code)]
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// The rows in a slice.
    pub(super) fn new(all: &'a mut [u16]) -> Self {
        Self { data: all.as_mut_ptr(), len: all.len(), all: PhantomData }
    }

    /// The `len` elements from `at` on.
    ///
    /// # Safety
    /// No other task may access these elements.
    #[allow(unsafe_code)]
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn row(&self, at: usize, len: usize) -> &mut [u16] {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "a row beyond the output");
        // SAFETY: the elements lie inside the slice (checked), which is borrowed as long as `self` lives. The
        // caller ensures that nobody else accesses these elements.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(at), len) }
    }
}
