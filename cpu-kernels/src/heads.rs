//! Queries, keys and values in memory, and the inputs and outputs of the kernels.

use crate::{Numbers, NumbersMut};

/// The maximum number of elements in a head: 32 pairs of bf16, one row of a tile.
pub const MAX_DIM: usize = 64;

/// Whether the kernels support heads of this size.
pub fn fits(dim: usize) -> bool {
    (1..=MAX_DIM).contains(&dim)
}

/// `[b, h, rows, dim]` anywhere in a slice. The elements of a row are contiguous.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    data: Numbers<'a>,
    dims: [usize; 4],
    /// The strides between batch entries, heads and rows.
    strides: [usize; 3],
}

impl<'a> Heads<'a> {
    /// `None` if rows are not contiguous, something is empty, a head is too long, or the slice is too short.
    pub fn new(data: Numbers<'a>, dims: [usize; 4], strides: [usize; 4]) -> Option<Self> {
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
    pub fn dims(&self) -> [usize; 4] {
        self.dims
    }

    /// The numbers, and the strides between batch entries, heads and rows.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn parts(&self) -> (Numbers<'a>, [usize; 3]) {
        (self.data, self.strides)
    }
}

/// The input of a pass over the queries.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// `[b, h, m, dim]`.
    pub q: Heads<'a>,
    /// `[b, h, n, dim]`.
    pub k: Heads<'a>,
    /// The factor on `q·k`.
    pub scale: f32,
    /// Scores `[b, h, m]`, if a vote is requested.
    pub scores: Option<&'a [f32]>,
}

/// The memory to which [`attention`](crate::attention()) writes.
#[derive(Debug)]
pub struct Attended<'a> {
    /// The output `[b, m, h, dim]`: tokens outside, heads inside. The next layer needs this order.
    pub output: NumbersMut<'a>,
    /// The log-sum-exp `[b, h, m]`.
    pub lse: &'a mut [f32],
    /// The first vote `[b, h, n]`, written if there are scores.
    pub first_vote: Option<&'a mut [f32]>,
}
