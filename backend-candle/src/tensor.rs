//! Level 1 on Candle: [`CandleTensor`].

use atedm_core::backend::{Partition, shape};
use atedm_core::{DType, Error, Result, Tensor};
use candle_core::{DType as CandleDType, Device, Tensor as Raw};

use crate::cpu::layout::{dense, dense_f32};
use crate::cpu::number::Number;
use crate::cpu::operation::{Operation, run};
use crate::cpu::{cast, elementwise, view};
use crate::error::OrBackend;
use crate::value::{CandleTensor, from_candle, to_candle};
use crate::{CandleIndices, select};

impl CandleTensor {
    /// A binary operation that broadcasts only axes of length 1.
    fn binary(
        &self,
        other: &Self,
        op: &'static str,
        apply: impl FnOnce(&Raw, &Raw) -> candle_core::Result<Raw>,
    ) -> Result<Self> {
        self.same_dtype(other, op)?;
        shape::broadcast(op, self.0.dims(), other.0.dims())?;
        apply(&self.0, &other.0).map(Self).or_backend(op)
    }

    /// Like [`Self::binary`], with the CPU kernels where they support the tensors.
    fn arithmetic(
        &self,
        other: &Self,
        op: &'static str,
        apply: impl FnOnce(&Raw, &Raw) -> candle_core::Result<Raw>,
        kernel: impl Fn(f32, f32) -> f32 + Sync,
    ) -> Result<Self> {
        self.binary(other, op, |x, y| {
            if !paired(x, y) {
                return apply(x, y);
            }
            let (x, y) = (dense(x)?, dense(y)?);
            match pairing(&x, &y) {
                Some(pairing) => run(&x, Paired { y: &y, pairing, kernel }),
                None => apply(&x, &y),
            }
        })
    }

    /// An element-wise function. The CPU kernels compute it in f32 where they support the tensor. Otherwise Candle does,
    /// in the accumulator dtype.
    pub(crate) fn mapped(
        &self,
        op: &'static str,
        apply: impl FnOnce(&Raw) -> candle_core::Result<Raw>,
        kernel: impl Fn(f32) -> f32 + Sync,
    ) -> Result<Self> {
        if !view::takes(&[&self.0]) {
            return self.widened(op, apply);
        }
        run(&self.0, Mapped(kernel)).map(Self).or_backend(op)
    }

    /// An operation of Candle's.
    fn unary(&self, op: &'static str, apply: impl FnOnce(&Raw) -> candle_core::Result<Raw>) -> Result<Self> {
        apply(self.float(op)?).map(Self).or_backend(op)
    }

    /// Computes `apply` in the accumulator dtype. The result has this tensor's dtype.
    pub(crate) fn widened(
        &self,
        op: &'static str,
        apply: impl FnOnce(&Raw) -> candle_core::Result<Raw>,
    ) -> Result<Self> {
        let dtype = self.float(op)?.dtype();
        let wide = to_candle(self.dtype().accumulator());
        cast::cast(&self.0, wide)
            .and_then(|x| apply(&x))
            .and_then(|y| cast::cast(&y, dtype))
            .map(Self)
            .or_backend(op)
    }
}

impl Tensor for CandleTensor {
    type Device = Device;
    type Indices = CandleIndices;

    fn from_bytes(bytes: &[u8], stored: DType, shape: &[usize], device: &Device) -> Result<Self> {
        shape::from_bytes(bytes.len(), stored, shape)?;
        Raw::from_raw_buffer(bytes, to_candle(stored), shape, device).map(Self).or_backend("from_bytes")
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        fn bytes<T: candle_core::WithDType, const N: usize>(
            x: &Raw,
            to_le: impl Fn(T) -> [u8; N],
        ) -> candle_core::Result<Vec<u8>> {
            Ok(x.to_vec1::<T>()?.into_iter().flat_map(to_le).collect())
        }
        let flat = self.float("to_bytes")?.flatten_all().or_backend("to_bytes")?;
        match self.dtype() {
            DType::F16 => bytes(&flat, half::f16::to_le_bytes),
            DType::BF16 => bytes(&flat, half::bf16::to_le_bytes),
            DType::F32 => bytes(&flat, f32::to_le_bytes),
            DType::F64 => bytes(&flat, f64::to_le_bytes),
        }
        .or_backend("to_bytes")
    }

    fn full(value: f64, shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        match dtype {
            DType::F16 => Raw::full(half::f16::from_f64(value), shape, device),
            DType::BF16 => Raw::full(half::bf16::from_f64(value), shape, device),
            DType::F32 => Raw::full(value as f32, shape, device),
            DType::F64 => Raw::full(value, shape, device),
        }
        .map(Self)
        .or_backend("full")
    }

    fn to_f32(&self) -> Result<Vec<f32>> {
        let wide = cast::cast(self.float("to_f32")?, CandleDType::F32);
        wide.and_then(|x| x.flatten_all()?.to_vec1::<f32>()).or_backend("to_f32")
    }

    /// The element type. It is [`DType::F32`] for a tensor of one of Candle's other dtypes, which every operation
    /// refuses.
    fn dtype(&self) -> DType {
        from_candle(self.0.dtype()).unwrap_or(DType::F32)
    }

    fn shape(&self) -> Vec<usize> {
        self.0.dims().to_vec()
    }

    fn device(&self) -> Device {
        self.0.device().clone()
    }

    fn cast(&self, to: DType) -> Result<Self> {
        self.unary("cast", |x| cast::cast(x, to_candle(to)))
    }

    fn reshape(&self, shape: &[usize]) -> Result<Self> {
        shape::reshape(self.0.dims(), shape)?;
        dense(&self.0).and_then(|x| x.reshape(shape)).map(Self).or_backend("reshape")
    }

    fn permute(&self, axes: &[usize]) -> Result<Self> {
        shape::permute(self.0.dims(), axes)?;
        self.0.permute(axes).map(Self).or_backend("permute")
    }

    fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        shape::narrow(self.0.dims(), axis, start, len)?;
        self.0.narrow(axis, start, len).map(Self).or_backend("narrow")
    }

    fn concat(parts: &[&Self], axis: usize) -> Result<Self> {
        let dims: Vec<&[usize]> = parts.iter().map(|part| part.0.dims()).collect();
        shape::concat(&dims, axis)?;
        let first = parts[0];
        parts.iter().try_for_each(|part| first.same_dtype(part, "concat"))?;
        let filled: Vec<&Raw> = parts.iter().map(|part| &part.0).filter(|raw| raw.dims()[axis] > 0).collect();
        match filled.as_slice() {
            [] => Ok(first.clone()),
            [one] => Ok(Self((*one).clone())),
            _ => Raw::cat(&filled, axis).map(Self).or_backend("concat"),
        }
    }

    fn add(&self, other: &Self) -> Result<Self> {
        self.arithmetic(other, "add", Raw::broadcast_add, |x, y| x + y)
    }

    fn sub(&self, other: &Self) -> Result<Self> {
        self.arithmetic(other, "sub", Raw::broadcast_sub, |x, y| x - y)
    }

    fn mul(&self, other: &Self) -> Result<Self> {
        self.arithmetic(other, "mul", Raw::broadcast_mul, |x, y| x * y)
    }

    fn div(&self, other: &Self) -> Result<Self> {
        self.arithmetic(other, "div", Raw::broadcast_div, |x, y| x / y)
    }

    fn affine(&self, scale: f64, shift: f64) -> Result<Self> {
        let (factor, term) = (scale as f32, shift as f32);
        self.mapped(
            "affine",
            |x| x.affine(scale, shift),
            #[inline(always)]
            |x| x * factor + term,
        )
    }

    fn exp(&self) -> Result<Self> {
        self.mapped("exp", Raw::exp, crate::cpu::math::exp)
    }

    fn ln(&self) -> Result<Self> {
        self.unary("ln", Raw::log)
    }

    fn sqrt(&self) -> Result<Self> {
        self.unary("sqrt", Raw::sqrt)
    }

    fn clamp_min(&self, least: f64) -> Result<Self> {
        // A comparison keeps NaN on every device, because NaN is not below anything. Candle's `maximum` would not.
        let bound = Self::full(least, &self.shape(), self.dtype(), self.0.device())?;
        self.unary("clamp_min", |x| x.lt(&bound.0)?.where_cond(&bound.0, x))
    }

    fn matmul(&self, other: &Self) -> Result<Self> {
        self.same_dtype(other, "matmul")?;
        let shape = shape::matmul(self.0.dims(), other.0.dims())?;
        if self.0.elem_count() == 0 || other.0.elem_count() == 0 {
            return Self::full(0.0, &shape, self.dtype(), self.0.device());
        }
        let product = |x: &Raw, y: &Raw| match x.matmul(y) {
            Err(error) if unfit_strides(&error) => x.contiguous()?.matmul(&y.contiguous()?),
            other => other,
        };
        if self.0.device().is_cpu() && self.0.dtype() != CandleDType::F64 {
            let right = cast::operand(&other.0).or_backend("matmul")?;
            return self.widened("matmul", |left| product(left, &right));
        }
        product(&self.0, &other.0).map(Self).or_backend("matmul")
    }

    fn softmax(&self) -> Result<Self> {
        let Some(last) = self.0.rank().checked_sub(1) else {
            return Err(Error::shape("softmax", "at least 1 axis", []));
        };
        if self.0.elem_count() == 0 {
            return Ok(self.clone());
        }
        if view::takes(&[&self.0]) {
            let computed = || {
                let x = dense_f32(&self.0)?;
                let mut values = view::View::new(&x)?.slice()?.to_vec();
                elementwise::softmax_rows(&mut values, x.dims()[last]);
                cast::tensor(values, x.dims(), self.0.dtype())
            };
            return computed().map(Self).or_backend("softmax");
        }
        if self.0.track_op() {
            return self.widened("softmax", |x| candle_nn::ops::softmax(x, last));
        }
        self.widened("softmax", |x| candle_nn::ops::softmax_last_dim(&x.contiguous()?))
    }

    fn sum(&self, axis: usize) -> Result<Self> {
        let shape = shape::reduce("sum", self.0.dims(), axis)?;
        if self.0.dims()[axis] == 0 {
            return Self::full(0.0, &shape, self.dtype(), self.0.device());
        }
        self.widened("sum", |x| x.sum_keepdim(axis))
    }

    fn max(&self, axis: usize) -> Result<Self> {
        let shape = shape::max(self.0.dims(), axis)?;
        let columns = self.0.dims()[axis + 1..].iter().product::<usize>();
        if view::takes(&[&self.0]) && self.0.elem_count() > 0 && columns > 1 {
            let highest = select::columns(&self.0, axis).map(|found| found.highest);
            let highest = highest.and_then(|highest| cast::tensor(highest, &shape, self.0.dtype()));
            return highest.map(Self).or_backend("max");
        }
        self.unary("max", |x| x.max_keepdim(axis))
    }

    fn split_top_k(&self, kept: usize) -> Result<Partition<Self>> {
        select::split_top_k(self, kept)
    }

    fn argmax_rows(&self) -> Result<CandleIndices> {
        select::argmax_rows(self)
    }

    fn gather(&self, axis: usize, at: &CandleIndices) -> Result<Self> {
        select::gather(self, axis, at)
    }

    fn scatter_into(&self, base: &Self, at: &CandleIndices) -> Result<Self> {
        select::scatter_into(self, base, at)
    }
}

/// A function of every element.
struct Mapped<F>(F);

impl<F: Fn(f32) -> f32 + Sync> Operation for Mapped<F> {
    fn run<N: Number>(self, x: &Raw) -> candle_core::Result<Raw> {
        let x = dense(x)?;
        let values = elementwise::map(view::View::new(&x)?.slice::<N>()?, self.0);
        Raw::from_vec(values, x.dims(), &Device::Cpu)
    }
}

/// A function of the elements of two tensors of one dtype.
struct Paired<'a, F> {
    y: &'a Raw,
    pairing: Pairing,
    kernel: F,
}

impl<F: Fn(f32, f32) -> f32 + Sync> Operation for Paired<'_, F> {
    fn run<N: Number>(self, x: &Raw) -> candle_core::Result<Raw> {
        let Self { y, pairing, kernel } = self;
        let (left, right) = (view::View::new(x)?, view::View::new(y)?);
        let (left, right) = (left.slice::<N>()?, right.slice::<N>()?);
        let values = match pairing {
            Pairing::Same => elementwise::zip(left, right, kernel),
            Pairing::Runs(run) => elementwise::zip_runs(left, right, run, kernel),
            Pairing::Rows => elementwise::zip_rows(left, right, kernel),
        };
        Raw::from_vec(values, x.dims(), &Device::Cpu)
    }
}

/// How the elements of two tensors are paired, among the ways that have a kernel.
enum Pairing {
    /// One to one.
    Same,
    /// One element of the second for each run of this many of the first.
    Runs(usize),
    /// All elements of the second for each row of the first.
    Rows,
}

/// Whether the kernels support two such tensors, if they are contiguous.
fn paired(x: &Raw, y: &Raw) -> bool {
    matches!(x.dtype(), CandleDType::F32 | CandleDType::BF16) && view::takes(&[x, y]) && x.elem_count() > 0
}

/// The pairing of two contiguous tensors, if the result has the first one's shape.
fn pairing(x: &Raw, y: &Raw) -> Option<Pairing> {
    let (left, right) = (x.dims(), y.dims());
    if left == right {
        return Some(Pairing::Same);
    }
    // The axes on which they differ must all come after, or all before, those on which they agree.
    let differ = |(l, r): (&usize, &usize)| l != r;
    let first = left.iter().zip(right).position(differ)?;
    let last = left.iter().zip(right).rposition(differ)?;
    if right[first..].iter().all(|&len| len == 1) {
        let run: usize = left[first..].iter().product();
        return (run >= 16).then_some(Pairing::Runs(run));
    }
    let repeated = right[..=last].iter().all(|&len| len == 1);
    (repeated && y.elem_count() >= 16).then_some(Pairing::Rows)
}

/// Whether Candle refused a product only because of its operands' layout in memory.
fn unfit_strides(error: &candle_core::Error) -> bool {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => unfit_strides(inner),
        other => matches!(other, candle_core::Error::MatMulUnexpectedStriding(_)),
    }
}
