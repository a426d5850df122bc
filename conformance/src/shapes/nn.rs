//! Convolutions and element-wise functions; the rest are the generic bodies.

use atedm_core::backend::{Conv2dOptions, dims};
use atedm_core::{Indices, NnOps, Result, Tensor};

use super::{ShapeIndices, ShapeTensor};

impl NnOps for ShapeTensor {
    fn conv2d(&self, weight: &Self, bias: Option<&Self>, options: Conv2dOptions) -> Result<Self> {
        self.same_dtype(weight, "conv2d")?;
        let out = options.output_shape(self.sizes(), weight.sizes(), bias.map(Self::sizes))?;
        let patch: usize = weight.sizes()[1..].iter().product();
        let macs = out.iter().product::<usize>() as u64 * patch as u64;
        self.device().with(|ledger| ledger.book_convolution(macs));
        Ok(self.made(out.to_vec()))
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
