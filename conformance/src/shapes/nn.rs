//! Convolutions and element-wise functions. All other operations are the generic bodies.

use atedm_core::backend::{Conv2dOptions, shape};
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
        Ok(self.made(shape::upsample_nearest(self.sizes(), height, width)?.to_vec()))
    }

    fn embedding(&self, ids: &ShapeIndices) -> Result<Self> {
        Ok(self.made(shape::embedding(self.sizes(), ids.dims())?.to_vec()))
    }

    fn gelu(&self) -> Result<Self> {
        self.mapped()
    }

    fn silu(&self) -> Result<Self> {
        self.mapped()
    }
}
