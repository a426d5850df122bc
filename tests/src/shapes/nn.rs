//! Convolutions and element-wise functions; the rest are the generic bodies.

use atedm_core::backend::{Conv2dOptions, dims};
use atedm_core::{Error, Indices, NnOps, Result, Tensor};

use super::{ShapeIndices, ShapeTensor};

impl NnOps for ShapeTensor {
    fn conv2d(&self, weight: &Self, bias: Option<&Self>, options: Conv2dOptions) -> Result<Self> {
        self.same_dtype(weight, "conv2d")?;
        let [batch, inputs, height, width] = dims(self, "conv2d")?;
        let [outputs, channels, kernel_height, kernel_width] = dims(weight, "conv2d")?;
        if channels != inputs || bias.is_some_and(|bias| bias.sizes() != [outputs]) {
            return Err(Error::shape("conv2d", format!("{inputs} channels"), weight.shape()));
        }
        let out = [options.output_len(height, kernel_height), options.output_len(width, kernel_width)];
        let patch = inputs * kernel_height * kernel_width;
        let macs = (batch * outputs * out[0] * out[1]) as u64 * patch as u64;
        self.device().with(|ledger| ledger.book_convolution(macs));
        Ok(self.made(vec![batch, outputs, out[0], out[1]]))
    }

    fn upsample_nearest(&self, height: usize, width: usize) -> Result<Self> {
        let [batch, channels, ..]: [usize; 4] = dims(self, "upsample_nearest")?;
        Ok(self.made(vec![batch, channels, height, width]))
    }

    fn embedding(&self, ids: &ShapeIndices) -> Result<Self> {
        let [_, channels] = dims(self, "embedding")?;
        let (batch, length) = ids.dims();
        Ok(self.made(vec![batch, length, channels]))
    }

    fn gelu(&self) -> Result<Self> {
        self.mapped()
    }

    fn silu(&self) -> Result<Self> {
        self.mapped()
    }
}
