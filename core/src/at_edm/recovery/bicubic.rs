//! Bicubic interpolation (paper, section 3.2, baseline II): the kept cells around a pruned cell fill it.
//!
//! Keys' kernel, a = −0.75:
//!
//! ```text
//! w(x) = (a+2)|x|³ − (a+3)|x|² + 1              |x| ≤ 1
//!      = a|x|³ − 5a|x|² + 8a|x| − 4a            1 < |x| < 2
//! ```
//!
//! At unit width the kernel is 1 at the cell itself and 0 at every other cell. It would return the pruned cell's
//! own zero. The kernel is therefore stretched over two cells, as in a resampler that halves a picture. The cell is
//! the midpoint, at ±½ and ±1½, between its neighbours at ±1 and ±3. With k(0) = 1, k(±1) = w(½) = 19/32, k(±2) =
//! w(1) = 0, k(±3) = w(1½) = −3/32:
//!
//! ```text
//! x̂[r, c] = ⅓ Σ_{(u,v) ≠ (0,0)} k(u) k(v) x[r+u, c+v]        over kept cells; all others count as zero
//! ```
//!
//! This is the mean of three cubic interpolations: along the row, along the column, and on the lattice of the four
//! diagonal cells. The weights sum to one, so a lone pruned cell in a constant field gets the constant. A cell whose
//! neighbours are all pruned gets zero, the failure that the paper shows in Fig. 9. `normalised` divides by the sum of
//! the kept cells' weights, where that sum is at least 1/8. Below that, weights that nearly cancel would only add noise.
//!
//! Cells outside the grid, in other frames, or pruned by an earlier layer count as pruned. The interpolation is
//! separable, `K_h X K_w`, and runs as two matrix products on the device.

use super::scatter::{Background, ScatterPlan};
use super::{RecoveryInput, TokenRecovery};
use crate::at_edm::options::Bicubic;
use crate::backend::{AttentionOps, dims};
use crate::plugin::{Grid, Reduction};
use crate::{DType, Error, Indices, Result, Tensor};

/// k(0), k(1), k(2), k(3).
const STRETCHED_KEYS: [f32; 4] = [1.0, 19.0 / 32.0, 0.0, -3.0 / 32.0];
/// Normalisation needs at least this weight on kept cells.
const LEAST_WEIGHT: f32 = 1.0 / 8.0;

/// Interpolates pruned cells from the kept cells around them.
#[derive(Debug, Clone, Copy, Default)]
pub struct BicubicInterpolation {
    /// How to treat pruned neighbours.
    pub mode: Bicubic,
}

impl<T: AttentionOps> TokenRecovery<T> for BicubicInterpolation {
    fn plan(&self, input: RecoveryInput<'_, T>) -> Result<Box<dyn Reduction<T>>> {
        let beside = if input.protected.0 < input.protected.1 { input.protected } else { (0, 0) };
        if input.entry_tokens != input.grid.tokens() + beside.1 - beside.0 {
            let Grid { frames, height, width } = input.grid;
            let reason = format!(
                "bicubic needs a whole grid of tokens and protected ones beside it: {frames} x {height} x {width} without \
                 {beside:?} is not {}",
                input.entry_tokens
            );
            return Err(Error::config("recovery", reason));
        }
        let places = match input.positions {
            Some(positions) => positions.gather(&input.partition.kept)?,
            None => input.partition.kept.clone(),
        };
        let (grid, stream) = (input.grid, input.positions.cloned());
        let mut surroundings = Surroundings::<T> { places, stream, grid, beside, factor: None };
        if self.mode == Bicubic::Normalised {
            surroundings.factor = Some(surroundings.normalisation(input.hidden)?);
        }
        Ok(Box::new(ScatterPlan::new(input.partition, surroundings)))
    }
}

/// The interpolation from the kept cells to all cells.
#[derive(Debug, Clone)]
struct Surroundings<T: Tensor> {
    /// The places of the kept tokens among all tokens of the block's entry, `[b, kept]`.
    places: T::Indices,
    /// The places of the stream's tokens, `[b, tokens]`. `None` when the stream is whole.
    stream: Option<T::Indices>,
    grid: Grid,
    /// The range of tokens that are no cells of the grid. They are always kept, so no value is needed for them.
    beside: (usize, usize),
    /// The factor of each token's interpolated value, `[b, all tokens, 1]` in f32.
    factor: Option<T>,
}

impl<T: Tensor> Surroundings<T> {
    /// Interpolates every cell from the kept tokens `[b, kept, channels]`: `[b, all tokens, channels]`, with zeros beside the
    /// grid.
    fn interpolate(&self, reduced: &T) -> Result<T> {
        let [batch, _, channels] = dims(reduced, "bicubic interpolation")?;
        let Grid { frames, height, width } = self.grid;
        let cells = self.grid.tokens();
        let (start, end) = self.beside;
        let zeros =
            T::full(0.0, &[batch, cells + end - start, channels], reduced.dtype(), &reduced.device())?;
        let whole = reduced.scatter_into(&zeros, &self.places)?;
        let field = joined(&[(&whole, 0, start), (&whole, end, cells - start)])?;
        // every frame is a separate picture
        let pictures = batch * frames;
        let lines = field.reshape(&[pictures, height, width * channels])?;
        let rows = band::<T>(height, pictures, reduced)?.matmul(&lines)?;
        let columns = rows.reshape(&[pictures, height, width, channels])?.permute(&[0, 2, 1, 3])?;
        let columns = columns.reshape(&[pictures, width, height * channels])?;
        let both = band::<T>(width, pictures, reduced)?.matmul(&columns)?;
        let both = both.reshape(&[pictures, width, height, channels])?.permute(&[0, 2, 1, 3])?;
        let filled = both.reshape(&[batch, cells, channels])?.affine(1.0 / 3.0, 0.0)?;
        joined(&[(&filled, 0, start), (&zeros, 0, end - start), (&filled, start, cells - start)])
    }

    /// One divided by the kept neighbours' weight at each cell, in f32 on the device of `like`.
    fn normalisation(&self, like: &T) -> Result<T> {
        let (batch, kept) = self.places.dims();
        let ones = T::full(1.0, &[batch, kept, 1], DType::F32, &like.device())?;
        let weights = self.interpolate(&ones)?;
        let invert = |weight: f32| if weight >= LEAST_WEIGHT { 1.0 / weight } else { 1.0 };
        let factors: Vec<f32> = weights.to_f32()?.into_iter().map(invert).collect();
        T::from_f32(&factors, &weights.shape(), DType::F32, &like.device())
    }
}

/// Runs of tokens of several tensors `[b, tokens, channels]`, one after the other. A run is its tensor, first token and length.
fn joined<T: Tensor>(runs: &[(&T, usize, usize)]) -> Result<T> {
    let some = runs.iter().filter(|(_, _, tokens)| *tokens > 0);
    let runs: Vec<T> =
        some.map(|(of, first, tokens)| of.narrow(1, *first, *tokens)).collect::<Result<_>>()?;
    match runs.as_slice() {
        [run] => Ok(run.clone()),
        _ => T::concat(&runs.iter().collect::<Vec<_>>(), 1),
    }
}

/// The matrix `[batch, len, len]` of the stretched kernel along one axis: `K[i, j] = k(i − j)`.
fn band<T: Tensor>(len: usize, batch: usize, like: &T) -> Result<T> {
    let entry = |at: usize| STRETCHED_KEYS.get((at / len).abs_diff(at % len)).copied().unwrap_or(0.0);
    let one: Vec<f32> = (0..len * len).map(entry).collect();
    T::from_f32(&one.repeat(batch), &[batch, len, len], like.dtype(), &like.device())
}

impl<T: Tensor> Background<T> for Surroundings<T> {
    const NAME: &'static str = "bicubic interpolation";

    fn behind(&self, reduced: &T, _tokens: usize) -> Result<T> {
        let mut cells = self.interpolate(reduced)?;
        if let Some(factor) = &self.factor {
            // update copy interpolates changes in a wider dtype than the tokens'
            cells = cells.mul(&factor.cast(cells.dtype())?)?;
        }
        match &self.stream {
            Some(positions) => cells.gather(1, positions),
            None => Ok(cells),
        }
    }
}
