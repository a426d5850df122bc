//! Level 2 on Candle.

use atedm_core::backend::{Conv2dOptions, dims};
use atedm_core::{Error, NnOps, Result};
use candle_core::Tensor as Raw;

use crate::error::OrBackend;
use crate::{CandleIndices, CandleTensor};

impl NnOps for CandleTensor {
    fn conv2d(&self, weight: &Self, bias: Option<&Self>, options: Conv2dOptions) -> Result<Self> {
        check_conv2d(self, weight, bias, options)?;
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

    fn upsample_nearest(&self, height: usize, width: usize) -> Result<Self> {
        let [_, _, h, w] = dims(self, "upsample_nearest")?;
        if h == 0 || w == 0 || height == 0 || width == 0 {
            let expected = format!("a filled [b, c, h, w] for {height} x {width}");
            return Err(Error::shape("upsample_nearest", expected, self.0.dims()));
        }
        // indices in integers: Candle's own goes through a floating-point scale
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
        let [vocabulary, channels] = dims(self, "embedding")?;
        ids.check_below(vocabulary, "embedding")?;
        let (batch, length) = atedm_core::Indices::dims(ids);
        if batch * length * channels == 0 {
            return atedm_core::Tensor::full(
                0.0,
                &[batch, length, channels],
                atedm_core::Tensor::dtype(self),
                self.0.device(),
            );
        }
        self.float("embedding")?;
        let rows = || self.0.contiguous()?.index_select(&ids.tensor().flatten_all()?, 0);
        rows().and_then(|rows| rows.reshape((batch, length, channels))).map(Self).or_backend("embedding")
    }

    fn gelu(&self) -> Result<Self> {
        self.widened("gelu", Raw::gelu_erf)
    }

    fn silu(&self) -> Result<Self> {
        self.widened("silu", Raw::silu)
    }
}

/// Checks everything that Candle would panic on, or report in terms of its own.
fn check_conv2d(
    x: &CandleTensor,
    weight: &CandleTensor,
    bias: Option<&CandleTensor>,
    options: Conv2dOptions,
) -> Result<()> {
    let Conv2dOptions { stride, pad_before, pad_after } = options;
    let [_, ci, h, w] = dims(x, "conv2d")?;
    let [co, inner, kh, kw] = dims(weight, "conv2d weight")?;
    x.same_dtype(weight, "conv2d")?;
    if inner != ci {
        return Err(Error::shape("conv2d weight", format!("[co, {ci}, kh, kw]"), weight.0.dims()));
    }
    if stride == 0 {
        return Err(Error::config("stride", "expected at least 1, got 0"));
    }
    let padding = pad_before + pad_after;
    if kh == 0 || kw == 0 || h + padding < kh || w + padding < kw || x.0.elem_count() == 0 || co == 0 {
        return Err(Error::shape("conv2d", format!("an image of at least {kh} x {kw} when padded"), x.0.dims()));
    }
    if let Some(bias) = bias {
        x.same_dtype(bias, "conv2d")?;
        if bias.0.dims() != [co] {
            return Err(Error::shape("conv2d bias", format!("[{co}]"), bias.0.dims()));
        }
    }
    Ok(())
}
