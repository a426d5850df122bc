//! Token Downsampling (ToDo, arXiv 2402.13573). The keys and values of self-attention come from a coarser token grid.
//!
//! ```text
//! x + attn(queries: norm(x), keys and values: downsample(norm(x)))
//! ```
//!
//! At high resolution neighbours are alike, so attention needs only one token of each `f x f` cell. Queries stay
//! whole. Nothing is restored or compared, and fused attention stays unchanged. The projections of keys and values
//! also see fewer tokens.
//!
//! Late in a run details matter. The authors' program therefore has a second method by time step. Once `t / 1000`
//! is at most `timestep_threshold_switch`, it merges keys and values by similarity, as [ToMe](crate::tome) does.

use atedm_core::plugin::{
    Grid, GuidanceMasks, IndexPlan, Reduction, Run, Scope, Site, Sublayer, check_ratio,
};
use atedm_core::{AttentionOps, Error, Indices, Partition, Result};
use serde::{Deserialize, Serialize};

use crate::around::{Moment, Planner};
use crate::draws::Generator;
use crate::method_options::{BlockAtStep, MethodOptions};
use crate::tome::{Tome, TomeOptions};

/// The token that represents a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DownsampleMethod {
    /// The token at the cell's middle: `floor((i + 1/2) · in / out)`, as in torch's `nearest-exact`.
    #[default]
    NearestExact,
    /// The first token: `floor(i · in / out)`, as in torch's `nearest`.
    Nearest,
}

/// How to reduce keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TodoMethod {
    /// Keep them all.
    None,
    /// Merge them by similarity.
    Similarity,
    /// Take them from a coarser grid.
    Downsample,
}

/// The options of ToDo besides where and when it works. Names and defaults are those of its authors' program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TodoOptions {
    /// The factor in each direction at the full latent size (level 0). 1 keeps the grid. Default 2.
    pub downsample_factor: usize,
    /// The factor at half the latent size (level 1), the finest at which SD-XL has attention. Default 1.
    pub downsample_factor_level_2: usize,
    /// The factor at a quarter of the latent size (level 2). Default 1.
    pub downsample_factor_level_3: usize,
    /// `nearest-exact` or `nearest`. Default `nearest-exact`.
    pub downsample_method: DownsampleMethod,
    /// The method while `t / 1000` is above `timestep_threshold_switch`, where t is the time step: `downsample`,
    /// `similarity` or `none`. Default `downsample`.
    pub merge_method: TodoMethod,
    /// The method from there on. Default `similarity`.
    pub secondary_merge_method: TodoMethod,
    /// The second method takes over at this `t / 1000`, in `[0, 1]`. Default 0.2.
    pub timestep_threshold_switch: f64,
    /// From this `t / 1000` on keys and values stay whole, in `[0, 1]`. With 0 they do so only at time step 0. Default 0.
    pub timestep_threshold_stop: f64,
    /// The fraction of keys and values that `similarity` removes at level 1, in `[0, 1)`. (At level 0 it is
    /// `ratio`. At other levels nothing is removed.) Default 0.5.
    pub ratio_level_2: f64,
    /// The columns of a cell. One token of each cell is a destination of `similarity`. Default 2.
    pub sx: usize,
    /// The rows of a cell. Default 2.
    pub sy: usize,
    /// Whether `similarity` draws the destination within each cell. If not, it is the first token. With
    /// `rng = "torch"` a batch with an odd number of rows draws none. Default true.
    pub use_rand: bool,
    /// The generator that draws: `torch` or `chacha`. Default `torch`.
    pub rng: Generator,
}

impl Default for TodoOptions {
    fn default() -> Self {
        Self {
            downsample_factor: 2,
            downsample_factor_level_2: 1,
            downsample_factor_level_3: 1,
            downsample_method: DownsampleMethod::NearestExact,
            merge_method: TodoMethod::Downsample,
            secondary_merge_method: TodoMethod::Similarity,
            timestep_threshold_switch: 0.2,
            timestep_threshold_stop: 0.0,
            ratio_level_2: 0.5,
            sx: 2,
            sy: 2,
            use_rand: true,
            rng: Generator::Torch,
        }
    }
}

impl TodoOptions {
    /// The factor at `level`. Levels deeper than the first three have factor 1.
    pub fn factor(&self, level: usize) -> usize {
        let factors =
            [self.downsample_factor, self.downsample_factor_level_2, self.downsample_factor_level_3];
        factors.get(level).copied().unwrap_or(1)
    }

    /// The method at this time step.
    pub fn method(&self, timestep: f64) -> TodoMethod {
        let share = timestep / 1000.0;
        if share <= self.timestep_threshold_stop {
            TodoMethod::None
        } else if share > self.timestep_threshold_switch {
            self.merge_method
        } else {
            self.secondary_merge_method
        }
    }

    /// The fraction that similarity removes at `level`. `ratio` is the fraction of level 0.
    fn similar(&self, ratio: f64, level: usize) -> f64 {
        [ratio, self.ratio_level_2].get(level).copied().unwrap_or(0.0)
    }

    /// The options of ToMe for merging by similarity.
    fn similarity(&self) -> TomeOptions {
        let Self { sx, sy, use_rand, rng, .. } = *self;
        TomeOptions { max_downsample: 8, sx, sy, use_rand, rng, ..TomeOptions::default() }
    }

    /// The coarser grid at `level`, if the factor makes one.
    pub(crate) fn coarse(&self, level: usize, grid: Grid) -> Option<Grid> {
        let factor = self.factor(level).max(1);
        let coarse = Grid::of_frames(grid.frames, grid.height / factor, grid.width / factor);
        (coarse.tokens() > 0 && coarse.tokens() < grid.tokens()).then_some(coarse)
    }

    /// For every place on a side of `coarse` tokens: its place on the side of `fine` tokens.
    fn places(&self, fine: usize, coarse: usize) -> Vec<usize> {
        let place = |i: usize| match self.downsample_method {
            DownsampleMethod::NearestExact => (2 * i + 1) * fine / (2 * coarse),
            DownsampleMethod::Nearest => i * fine / coarse,
        };
        (0..coarse).map(place).collect()
    }
}

impl MethodOptions for TodoOptions {
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
        for (field, share) in [
            ("timestep_threshold_switch", self.timestep_threshold_switch),
            ("timestep_threshold_stop", self.timestep_threshold_stop),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::config(field, format!("expected 0 to 1, got {share}")));
            }
        }
        check_ratio("ratio_level_2", self.ratio_level_2)?;
        self.similarity().validate()
    }

    fn kept(&self, ratio: f64, place: &BlockAtStep) -> usize {
        match self.method(place.timestep) {
            TodoMethod::None => place.grid.tokens(),
            TodoMethod::Similarity => self.similarity().kept(self.similar(ratio, place.level), place),
            TodoMethod::Downsample => self.coarse(place.level, place.grid).unwrap_or(place.grid).tokens(),
        }
    }

    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        sub.has_self_graph().then_some(Scope::KeysValues)
    }

    fn follows_timesteps(&self) -> bool {
        true
    }

    fn has_ratio(&self) -> bool {
        false
    }

    fn why_nothing(&self, finest: usize) -> String {
        format!("the factor is {} at level {finest}, the finest with attention", self.factor(finest))
    }
}

/// The planner of ToDo.
#[derive(Debug)]
pub(crate) struct Todo {
    options: TodoOptions,
    similarity: Tome,
}

impl Todo {
    pub(crate) fn new(options: TodoOptions, guidance: GuidanceMasks, seed: u64) -> Self {
        Self { similarity: Tome::new(options.similarity(), guidance, seed), options }
    }

    /// The plan that takes tokens from a coarser grid.
    fn downsample<T: AttentionOps>(
        &self,
        site: &Site<'_>,
        metric: &T,
    ) -> Result<Option<Box<dyn Reduction<T>>>> {
        let options = &self.options;
        let Some(coarse) = options.coarse(site.block.level, site.grid) else { return Ok(None) };
        let Grid { frames, height, width } = site.grid;
        let rows = options.places(height, coarse.height);
        let columns = options.places(width, coarse.width);
        let (start, end) = site.protected;
        let gap = end.saturating_sub(start);
        let place = |frame: usize, cell: usize| {
            let i = frame * height * width + cell;
            if i < start { i } else { i + gap }
        };
        let mut kept: Vec<usize> = (start..start + gap).collect();
        for frame in 0..frames {
            kept.extend(rows.iter().flat_map(|&y| columns.iter().map(move |&x| place(frame, y * width + x))));
        }
        kept.sort_unstable();
        // Keys and values are not restored. If they were, each token would take the value of its cell.
        let nearest = |frame: usize, y: usize, x: usize| {
            let (row, column) = (y * coarse.height / height, x * coarse.width / width);
            place(frame, rows[row] * width + columns[column])
        };
        let chosen: std::collections::BTreeMap<usize, u32> = kept.iter().copied().zip(0..).collect();
        let cells = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
        let tokens = (0..frames).flat_map(|frame| cells.clone().map(move |(y, x)| (frame, y, x)));
        let pruned = tokens.filter(|&(frame, y, x)| !chosen.contains_key(&place(frame, y * width + x)));
        let donors: Vec<u32> =
            pruned.map(|(frame, y, x)| chosen.get(&nearest(frame, y, x)).copied().unwrap_or(0)).collect();
        let batch = metric.shape().first().copied().unwrap_or(0);
        let kept: Vec<u32> = kept.into_iter().map(|i| i as u32).collect();
        let device = metric.device();
        let partition = Partition::<T>::from_kept(&vec![kept; batch], site.tokens, &device)?;
        let donors = T::Indices::from_host(&vec![donors; batch], &device)?;
        Ok(Some(Box::new(IndexPlan::new(&partition, &donors)?)))
    }
}

impl<T: AttentionOps> Planner<T> for Todo {
    /// The method compares keys and values as their projections get them.
    fn moment(&self) -> Moment {
        Moment::Normalised
    }

    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        self.options.scope(sub)
    }

    fn begin(&mut self, run: &Run<'_>) {
        Planner::<T>::begin(&mut self.similarity, run);
    }

    fn plan(&mut self, site: &Site<'_>, metric: &T, ratio: f64) -> Result<Option<Box<dyn Reduction<T>>>> {
        match self.options.method(site.step.timestep) {
            TodoMethod::None => Ok(None),
            TodoMethod::Similarity => {
                let ratio = self.options.similar(ratio, site.block.level);
                self.similarity.plan(site, metric, ratio)
            }
            TodoMethod::Downsample => self.downsample(site, metric),
        }
    }
}
