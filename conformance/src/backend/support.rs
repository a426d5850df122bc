//! Shared code of the checks: sample tensors with their host values, and assertions about errors.

use std::panic::{AssertUnwindSafe, catch_unwind};

use atedm_core::{Backend, DType, DeviceOf, Error, Indices, NnOps, Result, Tensor};

use crate::host::{Array, Draws};

/// The tensor of a backend.
pub type TensorOf<B> = <B as Backend>::Tensor;
/// The index lists of a backend.
pub type IndicesOf<B> = <TensorOf<B> as Tensor>::Indices;

/// The device, dtype and seeded draws that a check works with.
#[derive(Debug)]
pub struct Lab<'a, B: Backend> {
    /// The device.
    pub device: &'a DeviceOf<B>,
    /// The dtype.
    pub dtype: DType,
    /// The source of random numbers.
    pub draws: Draws,
}

/// The same values on the host and on the device.
#[derive(Debug, Clone)]
pub struct Sample<T> {
    /// The values on the host, already rounded to the dtype.
    pub host: Array,
    /// The values on the device.
    pub on: T,
}

impl<'a, B: Backend> Lab<'a, B> {
    /// A lab whose draws start from `seed`.
    pub fn new(device: &'a DeviceOf<B>, dtype: DType, seed: u64) -> Self {
        Self { device, dtype, draws: Draws::new(seed) }
    }

    /// A sample with these values, rounded to the dtype.
    pub fn sample(&self, values: Array) -> Result<Sample<TensorOf<B>>> {
        self.sample_as(values, self.dtype)
    }

    /// A sample with these values, rounded to another dtype.
    pub fn sample_as(&self, values: Array, dtype: DType) -> Result<Sample<TensorOf<B>>> {
        let host = values.rounded(dtype);
        Ok(Sample { on: host.upload(dtype, self.device)?, host })
    }

    /// A sample of standard normals.
    pub fn normals(&mut self, shape: &[usize]) -> Result<Sample<TensorOf<B>>> {
        let values = self.draws.normals(shape);
        self.sample(values)
    }

    /// A sample of normals. Their standard deviation suits a matrix with `fan_in` inputs, so that products stay around
    /// 1.
    pub fn weights(&mut self, shape: &[usize], fan_in: usize) -> Result<Sample<TensorOf<B>>> {
        let values = self.draws.normals(shape).map(|x| x / (fan_in as f64).sqrt());
        self.sample(values)
    }

    /// A sample of uniforms in `[low, high)`.
    pub fn uniforms(&mut self, shape: &[usize], low: f64, high: f64) -> Result<Sample<TensorOf<B>>> {
        let values = self.draws.uniforms(shape, low, high);
        self.sample(values)
    }

    /// A sample of uniforms in `[low, high)` in the accumulator dtype, for scores.
    pub fn scores(&mut self, shape: &[usize], low: f64, high: f64) -> Result<Sample<TensorOf<B>>> {
        let values = self.draws.uniforms(shape, low, high);
        self.sample_as(values, self.dtype.accumulator())
    }

    /// A sample of `0, 1, 2, …`, scaled to be exact in every dtype.
    pub fn counting(&self, shape: &[usize]) -> Result<Sample<TensorOf<B>>> {
        let mut next = -1.0;
        self.sample(Array::from_fn(shape, |_| {
            next += 1.0;
            next % 251.0
        }))
    }

    /// Index lists with these rows.
    pub fn indices(&self, rows: &[Vec<u32>]) -> Result<IndicesOf<B>> {
        IndicesOf::<B>::from_host(rows, self.device)
    }

    /// Another dtype that the backend can make, if any.
    pub fn other_dtype(&self) -> Option<DType> {
        let others = [DType::F64, DType::F32, DType::F16, DType::BF16];
        let makes = |dtype: &DType| {
            *dtype != self.dtype && TensorOf::<B>::full(1.0, &[1, 1], *dtype, self.device).is_ok()
        };
        others.into_iter().find(makes)
    }
}

/// The name of an error's variant, for messages.
fn variant(error: &Error) -> String {
    format!("{error:?}").split([' ', '{', '(']).next().unwrap_or_default().to_string()
}

/// Asserts that the operation fails with an error, not with a panic. Returns the error.
///
/// # Panics
/// If the operation does not fail, or panics.
#[track_caller]
pub fn rejects<R>(what: &str, operation: impl FnOnce() -> Result<R>) -> Error {
    match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(Err(error)) => error,
        Ok(Ok(_)) => panic!("{what}: accepted"),
        Err(panic) => panic!(
            "{what}: panicked instead of returning an error: {}",
            crate::report::panic_message(&*panic)
        ),
    }
}

/// Like [`rejects`], for an [`Error::DType`].
///
/// # Panics
/// If it does not fail in that way.
#[track_caller]
pub fn rejects_dtype<R>(what: &str, operation: impl FnOnce() -> Result<R>) {
    let error = rejects(what, operation);
    assert!(matches!(error, Error::DType { .. }), "{what}: {} instead of DType: {error}", variant(&error));
}

/// Like [`rejects`], for an [`Error::NotFinite`].
///
/// # Panics
/// If it does not fail in that way.
#[track_caller]
pub fn rejects_nan<R>(what: &str, operation: impl FnOnce() -> Result<R>) {
    let error = rejects(what, operation);
    let fits = matches!(error, Error::NotFinite { .. });
    assert!(fits, "{what}: {} instead of NotFinite: {error}", variant(&error));
}

/// Like [`rejects`], for an [`Error::Shape`].
///
/// # Panics
/// If it does not fail in that way.
#[track_caller]
pub fn rejects_shape<R>(what: &str, operation: impl FnOnce() -> Result<R>) {
    let error = rejects(what, operation);
    assert!(matches!(error, Error::Shape { .. }), "{what}: {} instead of Shape: {error}", variant(&error));
}

/// A tensor with the values of `x` that is not contiguous: the last two axes are swapped in memory, and swapped back by
/// a view.
pub fn as_view<T: NnOps>(x: &T) -> Result<T> {
    let axes = x.shape().len();
    let mut order: Vec<usize> = (0..axes).collect();
    order.swap(axes - 1, axes - 2);
    let shape = x.shape();
    let swapped: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
    // copies through bytes, so that the swapped layout is the one in memory
    let memory = T::from_bytes(&x.permute(&order)?.to_bytes()?, x.dtype(), &swapped, &x.device())?;
    memory.permute(&order)
}

/// The precision of what is f32 in every dtype: recorded scores, and the weights of normalized bicubic recovery.
pub(super) fn recorded(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F32 } else { dtype }
}
