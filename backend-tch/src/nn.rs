//! Level 2 on libtorch, with its own kernels. They accumulate half dtypes in f32.

use atedm_core::backend::{Conv2dOptions, dims, generic, shape};
use atedm_core::{Error, Indices, NnOps, Result, Tensor};
use tch::{Device, Kind, Tensor as Raw};

use crate::error::{OrBackend, TorchResult};
use crate::value::sizes;
use crate::{TchIndices, TchTensor, packed};

impl NnOps for TchTensor {
    fn conv2d(&self, weight: &Self, bias: Option<&Self>, options: Conv2dOptions) -> Result<Self> {
        for operand in [Some(weight), bias].into_iter().flatten() {
            self.same_dtype(operand, "conv2d")?;
        }
        let shape =
            options.output_shape(&self.shape(), &weight.shape(), bias.map(Tensor::shape).as_deref())?;
        if shape.contains(&0) || self.0.numel() == 0 {
            return Err(Error::shape("conv2d", "a filled image and weight", self.shape()));
        }
        let Conv2dOptions { stride, pad_before, pad_after } = options;
        let (before, after, stride) = (pad_before as i64, pad_after as i64, stride as i64);
        let convolved = || -> TorchResult<Raw> {
            let (image, padding) = if before == after {
                (self.0.shallow_clone(), before)
            } else {
                (self.0.f_constant_pad_nd([before, after, before, after])?, 0)
            };
            // libtorch's defaults with two changes: cuDNN tries its algorithms once for each shape, and f32 does
            // not become TF32
            let (benchmark, deterministic, cudnn, tf32) = (true, false, true, false);
            image.f_internal_convolution(
                &weight.0,
                bias.map(|bias| &bias.0),
                [stride; 2],
                [padding; 2],
                [1, 1],
                false,
                [0, 0],
                1,
                benchmark,
                deterministic,
                cudnn,
                tf32,
            )
        };
        convolved().map(Self).or_backend("conv2d")
    }

    /// On the CPU it puts the channels last. The following operations (norm, activation, sum) keep that order. An image
    /// then has the memory layout of a row of tokens. A user's variable stays unchanged, so that it can be trained.
    fn conv2d_weight(self) -> Result<Self> {
        let kind = self.0.f_kind().or_backend("conv2d_weight")?;
        let pays = self.0.device() == Device::Cpu && matches!(kind, Kind::Float | Kind::BFloat16);
        if !pays || self.0.dim() != 4 || self.0.requires_grad() {
            return Ok(self);
        }
        self.unary("conv2d_weight", |x| x.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2]))
    }

    fn upsample_nearest(&self, height: usize, width: usize) -> Result<Self> {
        shape::upsample_nearest(&self.shape(), height, width)?;
        let [_, _, h, w] = dims(self, "upsample_nearest")?;
        if (height, width) == (2 * h, 2 * w) {
            return self
                .unary("upsample_nearest", |x| x.f_upsample_nearest2d(sizes(&[height, width]), None, None));
        }
        // the indices are computed in integers; libtorch uses an f32 scale, which is exact for a factor of two
        let source = |from: usize, to: usize| -> TorchResult<Raw> {
            let at: Vec<i64> = (0..to).map(|i| (i * from / to) as i64).collect();
            Raw::f_from_slice(&at)?.f_to_device(self.0.device())
        };
        self.unary("upsample_nearest", |x| {
            x.f_index_select(2, &source(h, height)?)?.f_index_select(3, &source(w, width)?)
        })
    }

    fn embedding(&self, ids: &TchIndices) -> Result<Self> {
        let shape = shape::embedding(&self.shape(), ids.dims())?;
        ids.check_below(self.shape()[0], "embedding")?;
        self.unary("embedding", |table| {
            let rows = table.f_index_select(0, &ids.tensor().f_reshape([-1])?)?;
            rows.f_reshape(sizes(&shape))
        })
    }

    fn gelu(&self) -> Result<Self> {
        self.unary("gelu", |x| x.f_gelu("none"))
    }

    fn silu(&self) -> Result<Self> {
        self.unary("silu", Raw::f_silu)
    }

    /// On the CPU oneDNN packs it in its own order, if it is no user's variable. Then libtorch's other operations refuse it.
    fn linear_weight(self) -> Result<Self> {
        let packed = packed::pack(&self.0).or_backend("linear_weight")?;
        Ok(packed.map_or(self, Self))
    }

    fn linear(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        check_linear(self, weight, bias)?;
        let bias = bias.map(|bias| &bias.0);
        let product = packed::linear(&self.0, &weight.0, bias);
        product.unwrap_or_else(|| self.0.f_linear(&weight.0, bias)).map(Self).or_backend("linear")
    }

    fn layer_norm(&self, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        let channels = self.shape().last().copied().unwrap_or(0);
        if !norm_fits(self, channels, weight, bias) {
            return generic::layer_norm(self, weight, bias, epsilon);
        }
        self.unary("layer_norm", |x| {
            x.f_layer_norm(channels as i64, Some(&weight.0), Some(&bias.0), epsilon, true)
        })
    }

    fn group_norm(&self, groups: usize, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        let channels = self.shape().get(1).copied().unwrap_or(0);
        if !norm_fits(self, channels, weight, bias) || groups == 0 || !channels.is_multiple_of(groups) {
            return generic::group_norm(self, groups, weight, bias, epsilon);
        }
        self.unary("group_norm", |x| {
            x.f_group_norm(groups as i64, Some(&weight.0), Some(&bias.0), epsilon, true)
        })
    }

    fn group_norm_silu(&self, groups: usize, weight: &Self, bias: &Self, epsilon: f64) -> Result<Self> {
        // in place on the norm's own result, to which no other handle exists
        let Self(mut normed) = self.group_norm(groups, weight, bias, epsilon)?;
        normed.f_silu_().map(Self).or_backend("group_norm_silu")
    }

    fn geglu(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        let projected = self.linear(weight, bias)?;
        let halves = shape::halves("geglu", &projected.shape())?;
        let half = halves.last().copied().unwrap_or(0) as i64;
        projected.unary("geglu", |both| {
            // in place on the activation's own result
            both.f_narrow(-1, half, half)?.f_gelu("none")?.f_mul_(&both.f_narrow(-1, 0, half)?)
        })
    }
}

/// Whether libtorch's norms support these. If not, the generic body computes the norm or reports the fault.
fn norm_fits(x: &TchTensor, channels: usize, weight: &TchTensor, bias: &TchTensor) -> bool {
    let fits = |y: &TchTensor| y.shape() == [channels] && y.0.f_kind().ok() == x.0.f_kind().ok();
    x.float("norm").is_ok() && x.0.numel() > 0 && fits(weight) && fits(bias)
}

fn check_linear(x: &TchTensor, weight: &TchTensor, bias: Option<&TchTensor>) -> Result<()> {
    shape::linear(&x.shape(), &weight.shape(), bias.map(Tensor::shape).as_deref())?;
    [Some(weight), bias].into_iter().flatten().try_for_each(|operand| x.same_dtype(operand, "linear"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between −2 and 2. libtorch's generator is shared by all threads, so tests beside this one would change what it
    /// draws.
    fn numbers(shape: &[i64], stride: f64) -> Raw {
        let count = shape.iter().product::<i64>();
        2.0 * (Raw::arange(count, (Kind::Float, Device::Cpu)) * stride).sin().reshape(shape)
    }

    /// Gradients of `f` with respect to a variable of this shape.
    fn gradient(shape: &[i64], f: impl Fn(&TchTensor) -> Result<TchTensor>) -> Vec<f32> {
        let x = numbers(shape, 0.7).set_requires_grad(true);
        let y = f(&TchTensor::from(&x)).unwrap();
        (Raw::from(y).square().sum(Kind::Float)).backward();
        TchTensor::from(x.grad()).to_f32().unwrap()
    }

    /// Operations that work in place on their own results leave gradients unchanged.
    #[test]
    fn fused_operations_have_the_gradients_of_their_parts() {
        let of = |shape: &[i64]| TchTensor::from(numbers(shape, 1.3));
        let close = |a: Vec<f32>, b: Vec<f32>| {
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3 * (1.0 + a.abs()))
        };
        let (weight, bias) = (of(&[12, 5]), of(&[12]));
        let fused = gradient(&[2, 3, 5], |x| x.geglu(&weight, Some(&bias)));
        assert!(close(fused, gradient(&[2, 3, 5], |x| generic::geglu(x, &weight, Some(&bias)))));
        let (weight, bias) = (of(&[6]), of(&[6]));
        let fused = gradient(&[2, 6, 3, 4], |x| x.group_norm_silu(3, &weight, &bias, 1e-5));
        let parts = gradient(&[2, 6, 3, 4], |x| generic::group_norm(x, 3, &weight, &bias, 1e-5)?.silu());
        assert!(close(fused, parts));
    }

    /// A variable is trained in its own layout. Other weights get a new layout with the same values.
    #[test]
    fn weights_of_a_convolution_are_laid_out_once() {
        let raw = Raw::randn([4, 3, 3, 3], (Kind::Float, Device::Cpu));
        let laid_out = TchTensor::from(&raw).conv2d_weight().unwrap();
        assert_eq!(laid_out.0.stride(), [27, 1, 9, 3]);
        assert_eq!(laid_out.to_f32().unwrap(), TchTensor::from(&raw).to_f32().unwrap());
        let variable = raw.set_requires_grad(true);
        let kept = TchTensor::from(&variable).conv2d_weight().unwrap();
        assert_eq!(kept.0.data_ptr(), variable.data_ptr());
    }
}
