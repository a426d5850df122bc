//! Matrix products on strided slices.

use gemm::Parallelism;

/// A read-only matrix in a slice: element `(i, j)` at `i * strides.0 + j * strides.1`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    size: (usize, usize),
    strides: (usize, usize),
}

/// A writable matrix in a slice, with the layout of [`Mat`].
#[derive(Debug)]
pub(crate) struct MatMut<'a> {
    data: &'a mut [f32],
    size: (usize, usize),
    strides: (usize, usize),
}

/// How a product treats the destination's old values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Update {
    /// Overwrites them.
    Replace,
    /// Adds to them.
    Add,
}

impl<'a> Mat<'a> {
    /// A matrix of `size` rows and columns. Panics if the slice is too short. Only a bug in this crate can cause this.
    pub(crate) fn new(data: &'a [f32], size: (usize, usize), strides: (usize, usize)) -> Self {
        assert!(reach(size, strides) <= data.len(), "matrix {size:?} by {strides:?} beyond {}", data.len());
        Self { data, size, strides }
    }

    /// A row-major matrix.
    pub(crate) fn rows(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::new(data, (rows, columns), (columns, 1))
    }

    /// The transposed matrix, without a copy.
    pub(crate) fn t(self) -> Self {
        let Self { data, size: (rows, columns), strides: (down, across) } = self;
        Self { data, size: (columns, rows), strides: (across, down) }
    }
}

impl<'a> MatMut<'a> {
    /// Like [`Mat::new`], but no two elements may share a place.
    pub(crate) fn new(data: &'a mut [f32], size: (usize, usize), strides: (usize, usize)) -> Self {
        assert!(reach(size, strides) <= data.len(), "matrix {size:?} by {strides:?} beyond {}", data.len());
        assert!(strides.1 == 1 && (strides.0 >= size.1 || size.0 <= 1), "rows that overlap");
        Self { data, size, strides }
    }

    /// A row-major matrix.
    pub(crate) fn rows(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::new(data, (rows, columns), (columns, 1))
    }
}

/// The number of elements from the first to the last one, both included.
fn reach((rows, columns): (usize, usize), (down, across): (usize, usize)) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * down + (columns - 1) * across + 1 }
}

/// `destination = [destination +] factor * left * right`, on all threads of the pool (`parallel`) or on this one.
pub(crate) fn product(
    destination: MatMut<'_>,
    update: Update,
    factor: f32,
    (left, right): (Mat<'_>, Mat<'_>),
    threads: Parallelism,
) {
    let (m, k) = left.size;
    let n = right.size.1;
    assert!(destination.size == (m, n) && right.size.0 == k, "{m}x{k} times {:?}", right.size);
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: every element (i, j) of the three matrices lies inside its slice: the constructors check this, and
    // the check above shows that the sizes agree. The destination is borrowed mutably, so it overlaps neither
    // operand. Its rows do not overlap each other. Strides are lengths of slices, so they fit isize.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            destination.data.as_mut_ptr(),
            destination.strides.1 as isize,
            destination.strides.0 as isize,
            update == Update::Add,
            left.data.as_ptr(),
            left.strides.1 as isize,
            left.strides.0 as isize,
            right.data.as_ptr(),
            right.strides.1 as isize,
            right.strides.0 as isize,
            1.0,
            factor,
            false,
            false,
            false,
            threads,
        );
    }
}

/// The number of tasks: one for each thread of the current pool.
pub(crate) fn all_threads() -> Parallelism {
    match rayon::current_num_threads() {
        0 | 1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    }
}
