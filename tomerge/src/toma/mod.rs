//! Token merging with attention (ToMA, arXiv 2509.10918, ICML 2025). Merging and unmerging are products with matrices.
//!
//! ```text
//! D      chosen greedily to maximise Σ_i max_{d ∈ D} c_id         facility location, c: cosine similarity
//! A_di = softmax_d(s · c_di)                                       how much of token i each destination stands for
//! merge    Y = (A / Σ_i A_di) X                                    a weighted mean for every destination
//! unmerge  X' = Aᵀ Y                                               a weighted mean of destinations for every token
//! ```
//!
//! All this happens within tiles of the grid, so matrices stay small. A plan is reused over steps and layers. Otherwise
//! the choice would cost more than merging saves. There is no sort and no scatter, only two products for each sublayer.
//!
//! As in the authors' program, the destinations of the batch's first row serve all rows. Each row has its own
//! weights. This is `guidance = "first"`, the preset's value. With the other values each image has its own choice,
//! so none depends on its batch.
//!
//! Among equal gains the lower index wins. Destinations and weights are reused together. A grid that does not
//! divide into the requested number of tiles is cut into as many as it allows.

mod dense;
mod facility;
mod options;

pub use dense::DensePlan;
use facility::choose_destinations;
pub use options::{Tiles, TomaOptions};

use atedm_core::backend::dims;
use atedm_core::plugin::{GuidanceMasks, Reduction, Scope, Site, Sublayer};
use atedm_core::{AttentionOps, Indices, Result};

use crate::around::{Moment, Planner};
use crate::matching::normalised;
use crate::method_options::MethodOptions;

/// The planner of ToMA.
#[derive(Debug)]
pub(crate) struct Toma {
    pub(crate) options: TomaOptions,
    pub(crate) guidance: GuidanceMasks,
}

impl<T: AttentionOps> Planner<T> for Toma {
    fn moment(&self) -> Moment {
        self.options.compare
    }

    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        self.options.scope(sub)
    }

    fn plan(&mut self, site: &Site<'_>, metric: &T, ratio: f64) -> Result<Option<Box<dyn Reduction<T>>>> {
        let tiles = self.options.tiles_of(site.grid);
        let kept = tiles.kept(ratio);
        // Protected tokens are in no tile, so streams with protected tokens run whole.
        if kept == tiles.tokens() || site.tokens != site.grid.tokens() {
            return Ok(None);
        }
        let [batch, _, channels] = dims(metric, "token merging with attention")?;
        let device = metric.device();
        let order = T::Indices::from_host(&vec![tiles.order(); batch], &device)?;
        let (count, size) = (tiles.count(), tiles.tokens());
        let tiled = normalised(metric)?.gather(1, &order)?.reshape(&[batch * count, size, channels])?;
        let mut similarity = tiled.matmul(&tiled.permute(&[0, 2, 1])?)?.cast(metric.dtype().accumulator())?;
        let first = self.guidance == GuidanceMasks::First;
        if !first && self.guidance.is_shared(site.rows) {
            let flat = similarity.reshape(&[batch, count * size * size])?;
            similarity = self.guidance.share(flat, site.rows)?.reshape(&[batch * count, size, size])?;
        }
        // The first row's tiles come first.
        let deciding = if first { similarity.narrow(0, 0, count)? } else { similarity.clone() };
        let mut chosen: Vec<Vec<u32>> = deciding
            .to_f32()?
            .chunks(size * size)
            .map(|tile| choose_destinations(tile, size, kept))
            .collect::<Result<_>>()?;
        if first {
            chosen = std::iter::repeat_n(chosen, batch).flatten().collect();
        }
        let destinations = T::Indices::from_host(&chosen, &device)?;
        let scaled = similarity.gather(1, &destinations)?.affine(self.options.attention_scale, 0.0)?;
        // In `[tiles, tokens, destinations]` the shares of every token sum to 1.
        let shares = scaled.permute(&[0, 2, 1])?.softmax()?;
        let plan = DensePlan::new(&shares, &chosen, &tiles, batch, metric.dtype(), order)?;
        Ok(Some(Box::new(plan)))
    }
}
