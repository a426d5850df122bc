//! Token Downsampling (ToDo, arXiv 2402.13573): self-attention's keys and values come from a coarser token grid.
//!
//! ```text
//! x + attn(queries: norm(x), keys and values: downsample(norm(x)))
//! ```
//!
//! Neighbours are alike at high resolution, so one of each `f x f` cell is enough to attend to. Queries stay whole:
//! nothing is restored, nothing is compared, and fused attention stays as it is. The projections of keys and values see
//! fewer tokens, too.
//!
//! Late in a run details count. So the authors' program has a second method by time step: once `t / 1000` is no more than
//! `timestep_threshold_switch`, keys and values are merged by similarity, as [ToMe](crate::tome) merges, instead.

use atedm_core::plugin::{
    Grid, GuidanceMasks, IndexPlan, Reduction, Run, Scope, Site, Sublayer, check_ratio,
};
use atedm_core::{AttentionOps, Error, Indices, Partition, Result};
use serde::{Deserialize, Serialize};

use crate::around::{Moment, Planner};
use crate::draws::Generator;
use crate::method_options::{BlockAtStep, MethodOptions};
use crate::tome::{Tome, TomeOptions};

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

/// How keys and values become fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TodoMethod {
    /// They stay.
    None,
    /// They are merged by similarity.
    Similarity,
    /// They come from a coarser grid.
    Downsample,
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
    /// What is done while `t / 1000`, t being the time step, is above `timestep_threshold_switch`: `downsample`,
    /// `similarity` or `none`. Default `downsample`.
    pub merge_method: TodoMethod,
    /// What is done from there on. Default `similarity`.
    pub secondary_merge_method: TodoMethod,
    /// The `t / 1000` at which the second method takes over, in `[0, 1]`. Default 0.2.
    pub timestep_threshold_switch: f64,
    /// The `t / 1000` at which keys and values stay whole again, in `[0, 1]`; at 0 only the time step 0 does. Default 0.
    pub timestep_threshold_stop: f64,
    /// The fraction of keys and values that `similarity` removes at level 1, in `[0, 1)`. (At level 0 it is `ratio`, at
    /// others nothing.) Default 0.5.
    pub ratio_level_2: f64,
    /// Columns of a cell, of which one token is a destination of `similarity`. Default 2.
    pub sx: usize,
    /// Rows of a cell. Default 2.
    pub sy: usize,
    /// Whether `similarity` draws the destination within each cell; else it is the first. With `rng = "torch"` a batch
    /// of an odd number of rows draws none. Default true.
    pub use_rand: bool,
    /// Which generator draws: `torch` or `chacha`. Default `torch`.
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
    /// The factor at `level`; 1 below the three that have one.
    pub fn factor(&self, level: usize) -> usize {
        let factors =
            [self.downsample_factor, self.downsample_factor_level_2, self.downsample_factor_level_3];
        factors.get(level).copied().unwrap_or(1)
    }

    /// What is done at this time step.
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

    /// The fraction that similarity removes at `level`, where `ratio` is that of level 0.
    fn similar(&self, ratio: f64, level: usize) -> f64 {
        [ratio, self.ratio_level_2].get(level).copied().unwrap_or(0.0)
    }

    /// Merging by similarity, as ToMe's options.
    fn similarity(&self) -> TomeOptions {
        let Self { sx, sy, use_rand, rng, .. } = *self;
        TomeOptions { max_downsample: 8, sx, sy, use_rand, rng, ..TomeOptions::default() }
    }

    /// The coarser grid at `level`, if it is one.
    pub fn coarse(&self, level: usize, grid: Grid) -> Option<Grid> {
        let factor = self.factor(level).max(1);
        let coarse = Grid::of_frames(grid.frames, grid.height / factor, grid.width / factor);
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

/// ToDo.
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
        // Keys and values are not restored; were they, each token would take its cell's.
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
    /// Keys and values are compared as their projections get them.
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
