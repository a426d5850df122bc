//! Nests in Candle's own types and errors, for models that are written directly on Candle.

use atedm_core::plugin::{self, NestSite, TokenReducer};
use candle_core::{Error, Result, Tensor};

use crate::error::OrBackend;
use crate::value::CandleTensor;

/// Calls [`atedm_core::plugin::nest`] for plain [`candle_core::Tensor`]s. It runs `inner` on `x`, unless the method
/// gives an output instead. In a transformer nest `i` is all blocks from block `i` on.
///
/// ```
/// # use atedm_candle::nest;
/// # use atedm_core::plugin::{NestId, NestSite, Row, Step, Unpruned};
/// # use candle_core::{DType, Device, Tensor};
/// # fn main() -> candle_core::Result<()> {
/// # let x = Tensor::ones((1, 4, 8), DType::F32, &Device::Cpu)?;
/// # let (mut method, rows) = (Unpruned, Row::singles(1));
/// # let step = Step { index: 0, total: 1, evaluation: 0, sigma: 1.0, timestep: 999.0 };
/// # let blocks = [1.0, 2.0, 3.0];
/// # let first = |x: &Tensor| x.affine(blocks[0], 0.5);
/// let x = first(&x)?;
/// let site = NestSite { nest: NestId(1), step, rows: &rows };
/// let x = nest(&mut method, &site, x, |_method, x| blocks[1..].iter().try_fold(x, |x, block| x.affine(*block, 0.0)))?;
/// # assert_eq!(x.to_vec3::<f32>()?[0][0][0], 9.0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of the method and of `inner`.
pub fn nest(
    method: &mut dyn TokenReducer<CandleTensor>,
    site: &NestSite<'_>,
    x: Tensor,
    inner: impl FnOnce(&mut dyn TokenReducer<CandleTensor>, Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let inner = |method: &mut dyn TokenReducer<CandleTensor>, x: CandleTensor| {
        inner(method, x.into()).map(CandleTensor::from).or_backend("nest")
    };
    plugin::nest(method, site, x.into(), inner).map(Tensor::from).map_err(Error::wrap)
}
