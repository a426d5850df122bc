//! Level 2 on Candle.

use atedm_core::backend::{Conv2dOptions, dims, generic, shape};
use atedm_core::{Error, NnOps, Result};
use atedm_cpu_kernels::Geometry;
use candle_core::{Device, Result as CandleResult, Tensor as Raw};

use crate::cpu::cast::tensor;
use crate::cpu::layers;
use crate::cpu::layout::{dense, dense_f32};
use crate::cpu::linear::Layer;
use crate::cpu::norm::{Activation, Affine};
use crate::cpu::number::Number;
use crate::cpu::operation::{Operation, run};
use crate::cpu::pool::products;
use crate::cpu::product::Mat;
use crate::cpu::view::{View, takes};
use crate::cpu::{self, elementwise, math};
use crate::error::OrBackend;
use crate::{CandleIndices, CandleTensor};

impl NnOps for CandleTensor {
    fn conv2d(&self, weight: &Self, bias: Option<&Self>, options: Conv2dOptions) -> Result<Self> {
        for operand in [Some(weight), bias].into_iter().flatten() {
            self.same_dtype(operand, "conv2d")?;
        }
        let shape = options.output_shape(self.0.dims(), weight.0.dims(), bias.map(|bias| bias.0.dims()))?;
        if shape.contains(&0) || self.0.elem_count() == 0 {
            return Err(Error::shape("conv2d", "a filled image and weight", self.0.dims()));
        }
        if takes(&[&self.0, &weight.0]) && bias.is_none_or(|bias| takes(&[&bias.0])) {
            let bias = bias.map(|bias| &bias.0);
            return conv2d(&self.0, &weight.0, bias, options).map(Self).or_backend("conv2d");
        }
        let Conv2dOptions { stride, pad_before, pad_after } = options;
        let convolved = || -> candle_core::Result<Raw> {
            let y = if pad_before == pad_after {
                self.0.conv2d(&weight.0, pad_before, stride, 1, 1)?
            } else {
                let padded = self.0.pad_with_zeros(2, pad_before, pad_after)?;
                padded.pad_with_zeros(3, pad_before, pad_after)?.conv2d(&weight.0, 0, stride, 1, 1)?
            };
            match bias {
                Some(bias) => y.broadcast_add(&bias.0.reshape((1, (), 1, 1))?),
                None => Ok(y),
            }
        };
        convolved().map(Self).or_backend("conv2d")
    }

    /// On a CPU whose convolutions come from [`atedm_cpu_kernels`] it puts the channels last. A user's variable stays
    /// unchanged, so that it can be trained.
    fn conv2d_weight(self) -> Result<Self> {
        let pays = self.0.device().is_cpu() && products(self.0.dtype()).is_some();
        if !pays || self.0.rank() != 4 || self.0.track_op() || self.0.elem_count() == 0 {
            return Ok(self);
        }
        layers::channels_last(&self.0).map(Self).or_backend("conv2d_weight")
    }

    fn upsample_nearest(&self, height: usize, width: usize) -> Result<Self> {
        shape::upsample_nearest(self.0.dims(), height, width)?;
        let [_, _, h, w] = dims(self, "upsample_nearest")?;
        if takes(&[&self.0]) && self.0.elem_count() > 0 {
            let resize = Upsample { from: (h, w), to: (height, width) };
            return run(&self.0, resize).map(Self).or_backend("upsample_nearest");
        }
        // The indices are computed in integers. Candle's own resize uses a floating-point scale.
        let source = |from: usize, to: usize| {
            let at: Vec<u32> = (0..to).map(|i| (i * from / to) as u32).collect();
            Raw::from_vec(at, to, self.0.device())
        };
        let resized = || {
            let rows = self.0.contiguous()?.index_select(&source(h, height)?, 2)?;
            rows.index_select(&source(w, width)?, 3)
        };
        self.float("upsample_nearest")?;
        resized().map(Self).or_backend("upsample_nearest")
    }

    fn embedding(&self, ids: &CandleIndices) -> Result<Self> {
        let shape = shape::embedding(self.0.dims(), atedm_core::Indices::dims(ids))?;
        ids.check_below(self.0.dims()[0], "embedding")?;
        if shape.contains(&0) {
            let dtype = atedm_core::Tensor::dtype(self);
            return atedm_core::Tensor::full(0.0, &shape, dtype, self.0.device());
        }
        self.float("embedding")?;
        let rows = || self.0.contiguous()?.index_select(&ids.tensor().flatten_all()?, 0);
        rows().and_then(|rows| rows.reshape(&shape[..])).map(Self).or_backend("embedding")
    }

    fn gelu(&self) -> Result<Self> {
        self.mapped("gelu", Raw::gelu_erf, math::gelu)
    }

    fn silu(&self) -> Result<Self> {
        self.mapped(
            "silu",
            Raw::silu,
            #[inline(always)]
            |x| math::swish(x, 1.0),
        )
    }

    fn quick_gelu(&self) -> Result<Self> {
        if !takes(&[&self.0]) {
            return generic::quick_gelu(self);
        }
        self.mapped(
            "quick_gelu",
            |x| Ok(x.clone()),
            #[inline(always)]
            |x| math::swish(x, 1.702),
        )
    }

    fn linear(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        if !layer_fits(self, weight, bias) {
            return generic::linear(self, weight, bias);
        }
        linear(&self.0, &weight.0, bias.map(|bias| &bias.0)).map(Self).or_backend("linear")
    }

    fn layer_norm(&self, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        let channels = self.0.dims().last().copied().unwrap_or(0);
        if !norm_fits(self, channels, weight, bias) {
            return generic::layer_norm(self, weight, bias, epsilon);
        }
        let norm =
            Norm { groups: None, weight: &weight.0, bias: &bias.0, epsilon, activation: Activation::None };
        run(&self.0, norm).map(Self).or_backend("layer_norm")
    }

    fn group_norm(&self, groups: usize, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        let channels = self.0.dims().get(1).copied().unwrap_or(0);
        if !norm_fits(self, channels, weight, bias) || groups == 0 || !channels.is_multiple_of(groups) {
            return generic::group_norm(self, groups, weight, bias, epsilon);
        }
        let norm = Norm {
            groups: Some(groups),
            weight: &weight.0,
            bias: &bias.0,
            epsilon,
            activation: Activation::None,
        };
        run(&self.0, norm).map(Self).or_backend("group_norm")
    }

    fn group_norm_silu(&self, groups: usize, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        let channels = self.0.dims().get(1).copied().unwrap_or(0);
        if !norm_fits(self, channels, weight, bias) || groups == 0 || !channels.is_multiple_of(groups) {
            return self.group_norm(groups, weight, bias, epsilon)?.silu();
        }
        let norm = Norm {
            groups: Some(groups),
            weight: &weight.0,
            bias: &bias.0,
            epsilon,
            activation: Activation::Silu,
        };
        run(&self.0, norm).map(Self).or_backend("group_norm_silu")
    }

    fn geglu(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        let out = weight.0.dims().first().copied().unwrap_or(0);
        if !layer_fits(self, weight, bias) || !out.is_multiple_of(2) {
            return generic::geglu(self, weight, bias);
        }
        geglu(&self.0, &weight.0, bias.map(|bias| &bias.0)).map(Self).or_backend("geglu")
    }
}

/// Whether the kernels support this linear layer. If not, the generic body computes it or reports what is wrong.
fn layer_fits(x: &CandleTensor, weight: &CandleTensor, bias: Option<&CandleTensor>) -> bool {
    let same = |y: &CandleTensor| takes(&[&y.0]) && y.0.dtype() == x.0.dtype();
    same(x)
        && same(weight)
        && weight.0.rank() == 2
        && x.0.elem_count() > 0
        && weight.0.elem_count() > 0
        && x.0.dims().last() == weight.0.dims().last()
        && bias.is_none_or(|bias| same(bias) && bias.0.dims() == &weight.0.dims()[..1])
}

/// Whether the kernels support a norm over `channels` channels.
fn norm_fits(x: &CandleTensor, channels: usize, weight: &CandleTensor, bias: &CandleTensor) -> bool {
    takes(&[&x.0, &weight.0, &bias.0])
        && x.0.elem_count() > 0
        && weight.0.dims() == [channels]
        && bias.0.dims() == [channels]
}

/// A layer norm, or a group norm and the activation after it.
struct Norm<'a> {
    groups: Option<usize>,
    weight: &'a Raw,
    bias: &'a Raw,
    epsilon: f64,
    activation: Activation,
}

impl Operation for Norm<'_> {
    fn run<N: Number>(self, x: &Raw) -> CandleResult<Raw> {
        let Self { groups, weight, bias, epsilon, activation } = self;
        let (x, weight, bias) = (dense(x)?, dense_f32(weight)?, dense_f32(bias)?);
        let (values, weight, bias) = (View::new(&x)?, View::new(&weight)?, View::new(&bias)?);
        let affine = Affine { weight: weight.slice()?, bias: bias.slice()?, epsilon };
        let values = values.slice::<N>()?;
        let normed = match groups {
            None => cpu::norm::layer_norm(values, affine),
            Some(groups) => {
                let area = x.dims()[2..].iter().product();
                cpu::norm::group_norm(values, area, groups, affine, activation)
            }
        };
        Raw::from_vec(normed, x.dims(), &Device::Cpu)
    }
}

/// A nearest-neighbour resize of planes, by height and width.
struct Upsample {
    from: (usize, usize),
    to: (usize, usize),
}

impl Operation for Upsample {
    fn run<N: Number>(self, x: &Raw) -> CandleResult<Raw> {
        let (b, c, _, _) = x.dims4()?;
        let x = dense(x)?;
        let values = elementwise::upsample_nearest(View::new(&x)?.slice::<N>()?, self.from, self.to);
        Raw::from_vec(values, (b, c, self.to.0, self.to.1), &Device::Cpu)
    }
}

fn conv2d(x: &Raw, weight: &Raw, bias: Option<&Raw>, options: Conv2dOptions) -> CandleResult<Raw> {
    let Conv2dOptions { stride, pad_before, pad_after: _ } = options;
    let (b, ci, h, w) = x.dims4()?;
    let (co, _, kh, kw) = weight.dims4()?;
    let (oh, ow) = (options.output_len(h, kh), options.output_len(w, kw));
    let geometry =
        Geometry { input: (ci, h, w), output: (co, oh, ow), kernel: (kh, kw), stride, before: pad_before };
    if let Some(products) = products(x.dtype()) {
        return layers::Layer { products, weight, bias }.conv2d(x, geometry);
    }
    let (wide, weight) = (dense_f32(x)?, dense_f32(weight)?);
    let bias = bias.map(dense_f32).transpose()?;
    let (values, weight) = (View::new(&wide)?, View::new(&weight)?);
    let bias = bias.as_ref().map(View::new).transpose()?;
    let bias = bias.as_ref().map(View::slice).transpose()?;
    let out = cpu::conv::conv2d(values.slice()?, weight.slice()?, bias, geometry);
    tensor(out, &[b, co, oh, ow], x.dtype())
}

/// Runs `f` with the layer's numbers.
fn with_layer<R>(weight: &Raw, bias: Option<&Raw>, f: impl FnOnce(Layer<'_>) -> R) -> CandleResult<R> {
    let (out, inner) = weight.dims2()?;
    let weight = dense_f32(weight)?;
    let weight = View::new(&weight)?;
    let bias = bias.map(dense_f32).transpose()?;
    let bias = bias.as_ref().map(View::new).transpose()?;
    let bias = bias.as_ref().map(View::slice).transpose()?;
    Ok(f(Layer { weight: Mat::rows(weight.slice()?, out, inner), bias, out }))
}

fn linear(x: &Raw, weight: &Raw, bias: Option<&Raw>) -> CandleResult<Raw> {
    if let Some(products) = products(x.dtype()) {
        return layers::Layer { products, weight, bias }.linear(x);
    }
    let (out, inner) = weight.dims2()?;
    let wide = x.to_dtype(candle_core::DType::F32)?;
    let values = with_layer(weight, bias, |layer| {
        let mut values = Vec::with_capacity(wide.elem_count() / inner * out);
        match (wide.is_contiguous(), wide.dims()) {
            // An image seen as tokens is an example. Its matrices are operands of products without a copy.
            (false, &[batch, rows, _]) => {
                let view = View::new(&wide)?;
                for b in 0..batch {
                    let start = b * view.strides()[0];
                    let strides = (view.strides()[1], view.strides()[2]);
                    let tokens = Mat::new(&view.data()[start..], (rows, inner), strides);
                    layer.append(tokens, rows, &mut values);
                }
            }
            _ => {
                let dense = wide.contiguous()?;
                let view = View::new(&dense)?;
                let rows = dense.elem_count() / inner;
                layer.append(Mat::rows(view.slice()?, rows, inner), rows, &mut values);
            }
        }
        Ok::<_, candle_core::Error>(values)
    })??;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = out;
    }
    tensor(values, &shape, x.dtype())
}

fn geglu(x: &Raw, weight: &Raw, bias: Option<&Raw>) -> CandleResult<Raw> {
    if let Some(products) = products(x.dtype()) {
        return layers::Layer { products, weight, bias }.geglu(x);
    }
    let (out, inner) = weight.dims2()?;
    let wide = dense_f32(x)?;
    let view = View::new(&wide)?;
    let tokens = view.slice()?;
    let values = with_layer(weight, bias, |layer| cpu::linear::geglu(tokens, inner, layer))?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = out / 2;
    }
    tensor(values, &shape, x.dtype())
}
