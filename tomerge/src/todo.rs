//! Token Downsampling (ToDo, arXiv 2402.13573): self-attention's keys and values come from a coarser token grid.
//!
//! ```text
//! x + attn(queries: norm(x), keys and values: downsample(norm(x)))
//! ```
//!
//! Neighbours are alike at high resolution, so one of each `f x f` cell is enough to attend to. Queries stay whole:
//! nothing is restored, nothing is compared, and fused attention stays as it is. The projections of keys and values see
//! fewer tokens, too.

use atedm_core::plugin::{Grid, IndexPlan, Reduction, Scope, Site, Sublayer};
use atedm_core::{AttentionOps, Error, Indices, Partition, Result};
use serde::{Deserialize, Serialize};

use crate::around::Planner;
use crate::rules::Rules;

/// Which token stands for a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DownsampleMethod {
    /// The one at the cell's middle: `floor((i + 1/2) · in / out)`, as torch's `nearest-exact`.
    #[default]
    NearestExact,
    /// The first: `floor(i · in / out)`, as torch's `nearest`.
    Nearest,
}

/// What ToDo can be told besides where and when. Names and defaults are those of its authors' program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TodoOptions {
    /// The factor, in each direction, at the full latent size (level 0); 1 is none. Default 2.
    pub downsample_factor: usize,
    /// The factor at half of it (level 1): the finest at which SD-XL has attention. Default 1.
    pub downsample_factor_level_2: usize,
    /// The factor at a quarter of it (level 2). Default 1.
    pub downsample_factor_level_3: usize,
    /// `nearest-exact` or `nearest`. Default `nearest-exact`.
    pub downsample_method: DownsampleMethod,
    /// Nothing is downsampled once less than this share of the schedule remains, in `[0, 1]`. (With evenly spaced time
    /// steps the share that remains is the time step.) Default 0.
    pub timestep_threshold_stop: f64,
}

impl Default for TodoOptions {
    fn default() -> Self {
        Self {
            downsample_factor: 2,
            downsample_factor_level_2: 1,
            downsample_factor_level_3: 1,
            downsample_method: DownsampleMethod::NearestExact,
            timestep_threshold_stop: 0.0,
        }
    }
}

impl TodoOptions {
    /// The factor at `level`; 1 below the three that have one.
    pub fn factor(&self, level: usize) -> usize {
        let factors =
            [self.downsample_factor, self.downsample_factor_level_2, self.downsample_factor_level_3];
        factors.get(level).copied().unwrap_or(1)
    }

    /// Whether keys and values are still downsampled at `step` of `total`.
    pub fn is_on(&self, step: usize, total: usize) -> bool {
        let remaining = 1.0 - step as f64 / total.max(1) as f64;
        remaining >= self.timestep_threshold_stop
    }

    /// The coarser grid at `level`, if it is one.
    pub fn coarse(&self, level: usize, grid: Grid) -> Option<Grid> {
        let factor = self.factor(level).max(1);
        let coarse = Grid { height: grid.height / factor, width: grid.width / factor };
        (coarse.tokens() > 0 && coarse.tokens() < grid.tokens()).then_some(coarse)
    }

    /// For every place of a side of `coarse` tokens its place among `fine`.
    fn places(&self, fine: usize, coarse: usize) -> Vec<usize> {
        let place = |i: usize| match self.downsample_method {
            DownsampleMethod::NearestExact => (2 * i + 1) * fine / (2 * coarse),
            DownsampleMethod::Nearest => i * fine / coarse,
        };
        (0..coarse).map(place).collect()
    }
}

impl Rules for TodoOptions {
    fn validate(&self) -> Result<()> {
        for (field, factor) in [
            ("downsample_factor", self.downsample_factor),
            ("downsample_factor_level_2", self.downsample_factor_level_2),
            ("downsample_factor_level_3", self.downsample_factor_level_3),
        ] {
            if !(1..=64).contains(&factor) {
                return Err(Error::config(field, format!("expected 1 to 64, got {factor}")));
            }
        }
        if !(0.0..=1.0).contains(&self.timestep_threshold_stop) {
            let reason = format!("expected 0 to 1, got {}", self.timestep_threshold_stop);
            return Err(Error::config("timestep_threshold_stop", reason));
        }
        Ok(())
    }

    fn kept(&self, _ratio: f64, level: usize, grid: Grid) -> usize {
        self.coarse(level, grid).unwrap_or(grid).tokens()
    }

    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        (sub == Sublayer::SelfAttention).then_some(Scope::KeysValues)
    }

    fn rests(&self, step: usize, total: usize) -> bool {
        !self.is_on(step, total)
    }

    fn has_ratio(&self) -> bool {
        false
    }

    fn why_nothing(&self, finest: usize) -> String {
        format!("the factor is {} at level {finest}, the finest with attention", self.factor(finest))
    }
}

/// ToDo.
#[derive(Debug)]
pub(crate) struct Todo {
    pub(crate) options: TodoOptions,
}

impl<T: AttentionOps> Planner<T> for Todo {
    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        self.options.scope(sub)
    }

    fn plan(&mut self, site: &Site<'_>, metric: &T, _ratio: f64) -> Result<Option<Box<dyn Reduction<T>>>> {
        let options = &self.options;
        let on = options.is_on(site.step.index, site.step.total);
        let Some(coarse) = options.coarse(site.block.level, site.grid).filter(|_| on) else {
            return Ok(None);
        };
        let Grid { height, width } = site.grid;
        let rows = options.places(height, coarse.height);
        let columns = options.places(width, coarse.width);
        let (start, end) = site.protected;
        let gap = end.saturating_sub(start);
        let place = |i: usize| if i < start { i } else { i + gap };
        let mut kept: Vec<usize> = (start..start + gap).collect();
        kept.extend(rows.iter().flat_map(|&y| columns.iter().map(move |&x| place(y * width + x))));
        kept.sort_unstable();
        // Keys and values are not restored; were they, each token would take its cell's.
        let nearest = |y: usize, x: usize| {
            let (row, column) = (y * coarse.height / height, x * coarse.width / width);
            place(rows[row] * width + columns[column])
        };
        let chosen: std::collections::BTreeMap<usize, u32> = kept.iter().copied().zip(0..).collect();
        let pruned = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
        let pruned = pruned.filter(|&(y, x)| !chosen.contains_key(&place(y * width + x)));
        let donors: Vec<u32> =
            pruned.map(|(y, x)| chosen.get(&nearest(y, x)).copied().unwrap_or(0)).collect();
        let batch = metric.shape().first().copied().unwrap_or(0);
        let kept: Vec<u32> = kept.into_iter().map(|i| i as u32).collect();
        let device = metric.device();
        let partition = Partition::<T>::from_kept(&vec![kept; batch], site.tokens, &device)?;
        let donors = T::Indices::from_host(&vec![donors; batch], &device)?;
        Ok(Some(Box::new(IndexPlan::new(&partition, &donors)?)))
    }
}
