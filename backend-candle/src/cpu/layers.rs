//! Linear layers, GEGLU and convolutions by the products of [`atedm_cpu_kernels`], in f32 and bf16.

use atedm_cpu_kernels::{Bias, Destination, Geometry, Matrix, Numbers, Products};
use candle_core::{Device, Result, Tensor};

use super::layout::dense;
use super::number::Number;
use super::operation::{Operation, run};
use super::view::View;

/// A weight `[out, in]` or `[co, ci, kh, kw]` with its bias, and the products to use. All tensors have the input's dtype,
/// f32 or bf16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub(crate) products: Products<'static>,
    pub(crate) weight: &'a Tensor,
    pub(crate) bias: Option<&'a Tensor>,
}

impl Layer<'_> {
    /// `x Wᵀ + b` for `[.., in]`.
    pub(crate) fn linear(self, x: &Tensor) -> Result<Tensor> {
        run(x, Projection { layer: self, out: self.weight.dim(0)?, multiply: Products::linear })
    }

    /// `h = x Wᵀ + b`, then the first half of `h` times the GELU of the second.
    pub(crate) fn geglu(self, x: &Tensor) -> Result<Tensor> {
        run(x, Projection { layer: self, out: self.weight.dim(0)? / 2, multiply: Products::geglu })
    }

    /// The convolution of `[b, ci, h, w]`.
    pub(crate) fn conv2d(self, x: &Tensor, geometry: Geometry) -> Result<Tensor> {
        run(x, Convolution(self, geometry))
    }
}

/// The dimensions of `x` with another last one.
fn ending(x: &Tensor, last: usize) -> Vec<usize> {
    let mut shape = x.dims().to_vec();
    if let Some(length) = shape.last_mut() {
        *length = last;
    }
    shape
}

/// Contiguous rows as an operand.
fn matrix(numbers: Numbers<'_>, rows: usize, depth: usize) -> Result<Matrix<'_>> {
    let fits = Matrix::new(numbers, rows, depth, depth);
    fits.ok_or_else(|| candle_core::Error::Msg(format!("expected {rows} rows of {depth} numbers")))
}

/// Runs `f` with the bias's numbers, if there is a bias.
fn with_bias<N: Number, R>(
    bias: Option<&Tensor>,
    f: impl FnOnce(Option<Numbers<'_>>) -> Result<R>,
) -> Result<R> {
    let bias = bias.map(dense).transpose()?;
    let view = bias.as_ref().map(View::new).transpose()?;
    f(view.as_ref().map(View::slice::<N>).transpose()?.map(N::numbers))
}

/// A product of rows, a weight `[out, in]` and a destination.
type Multiply = fn(&Products<'static>, Matrix<'_>, Matrix<'_>, Destination<'_>);

/// Rows of `out` numbers from a layer.
struct Projection<'a> {
    layer: Layer<'a>,
    out: usize,
    multiply: Multiply,
}

impl Operation for Projection<'_> {
    fn run<N: Number>(self, x: &Tensor) -> Result<Tensor> {
        let Self { layer: Layer { products, weight, bias }, out, multiply } = self;
        let (width, inner) = weight.dims2()?;
        let (shape, x, weight) = (ending(x, out), dense(x)?, dense(weight)?);
        let (x, weight) = (View::new(&x)?, View::new(&weight)?);
        let tokens = x.slice::<N>()?;
        let rows = tokens.len() / inner;
        let mut values = N::zeros(rows * out);
        with_bias::<N, _>(bias, |bias| {
            let into =
                Destination::new(N::numbers_mut(&mut values), out, bias.map_or(Bias::None, Bias::Columns));
            let weight = matrix(N::numbers(weight.slice()?), width, inner)?;
            multiply(&products, matrix(N::numbers(tokens), rows, inner)?, weight, into);
            Ok(())
        })?;
        Tensor::from_vec(values, shape, &Device::Cpu)
    }
}

/// A weight `[co, ci, kh, kw]` whose channels lie together: a view of `[co, kh, kw, ci]`. Convolutions read it in this order.
pub(crate) fn channels_last(weight: &Tensor) -> Result<Tensor> {
    let (co, ci, kh, kw) = weight.dims4()?;
    if weight.permute((0, 2, 3, 1))?.is_contiguous() {
        return Ok(weight.clone());
    }
    let swapped = dense(&weight.reshape((co, ci, kh * kw))?.transpose(1, 2)?)?;
    swapped.reshape((co, kh, kw, ci))?.permute((0, 3, 1, 2))
}

struct Convolution<'a>(Layer<'a>, Geometry);

impl Operation for Convolution<'_> {
    fn run<N: Number>(self, x: &Tensor) -> Result<Tensor> {
        let Self(Layer { products, weight, bias }, geometry) = self;
        let batch = x.dim(0)?;
        let (co, ci, kh, kw) = weight.dims4()?;
        let (_, oh, ow) = geometry.output;
        let (x, weight) = (dense(x)?, channels_last(weight)?.permute((0, 2, 3, 1))?);
        let (x, weight) = (View::new(&x)?, View::new(&weight)?);
        let mut out = N::zeros(batch * co * oh * ow);
        with_bias::<N, _>(bias, |bias| {
            let into =
                Destination::new(N::numbers_mut(&mut out), oh * ow, bias.map_or(Bias::None, Bias::Rows));
            let weight = matrix(N::numbers(weight.slice()?), co, ci * kh * kw)?;
            products.convolution(N::numbers(x.slice()?), weight, geometry, into);
            Ok(())
        })?;
        Tensor::from_vec(out, (batch, co, oh, ow), &Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_of_a_weight_lie_together() {
        let weight = Tensor::arange(0f32, 72., &Device::Cpu).unwrap().reshape((3, 4, 2, 3)).unwrap();
        let laid_out = channels_last(&weight).unwrap();
        assert!(laid_out.permute((0, 2, 3, 1)).unwrap().is_contiguous());
        let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!((laid_out.dims(), flat(&laid_out)), (weight.dims(), flat(&weight)));
        assert_eq!(channels_last(&laid_out).unwrap().stride(), laid_out.stride());
    }
}
