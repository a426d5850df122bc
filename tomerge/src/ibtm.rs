//! Importance-based token merging (IBTM, arXiv 2411.16720). Tokens on which guidance acts most are merged least.
//!
//! ```text
//! importance h_i  mean over channels of |ε_cond − ε_uncond| at the step before, resized to the block's grid by area
//! pool            the M tokens with the highest h               M = min(N, floor(pool_size · (N − r)))
//! destinations    floor(dst_share · N) tokens of the pool       drawn, one draw for both halves of an image
//! sources         all others; each to its most similar destination
//! merged          every source below the pool's lowest h, then the most similar of the others: r in all
//! ```
//!
//! The pool's remaining sources stay alone. A destination and its sources become their mean. Importance needs an
//! earlier prediction, so it does not decide in the first `merge_from` steps. There the authors' program picks
//! destinations as ToMe does and prunes the sources, so only the destination remains. We do the same.
//!
//! This follows the authors' program (`cvlab-stonybrook/importance-token-merge`, commit 4c2c319: `tomesd/merge.py`,
//! `tomesd/patch.py`, `pipe_sd.py`, `demo_sd.py`). We differ in four points:
//!
//! 1. `levels` says where tokens are merged. The program uses tomesd's `max_downsample = 1`, which selects no block of SD-XL.
//! 2. Among equal importances the lower index comes first (the program: no order). Destinations are listed in
//!    stream order (the program: as drawn). This matters only between equal similarities.
//! 3. A ratio that leaves fewer tokens than destinations is lowered, and the user is told. The program stops with an error.
//! 4. Without guidance, or if the halves of an image are not in one batch, no token has importance. Every step then
//!    runs like the first ones. The program stops with an error.

use std::collections::BTreeMap;

use atedm_core::backend::dims;
use atedm_core::plugin::{Branch, Grid, GuidanceMasks, Reduction, Row, Run, Scope, Site, Step, Sublayer};
use atedm_core::{AttentionOps, Error, Indices, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::around::Planner;
use crate::draws::{Draws, Generator};
use crate::grid::{Cells, Split};
use crate::matching::{Sides, match_tokens};
use crate::merge::{MergeKernel, MergePlan, Merges};
use crate::method_options::{BlockAtStep, MethodOptions};

/// Added to the similarity of unimportant sources, so that they are merged first.
const BEFORE_ALL: f32 = 4.0;

/// How to choose destinations from the pool of important tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DstMode {
    /// Draw them at random.
    #[default]
    Random,
    /// Take the most important tokens.
    TopK,
}

/// The options of IBTM besides where and how much it merges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IbtmOptions {
    /// The fraction of tokens that are destinations, above 0 and below 1 (the program's `kk`). Default 0.25.
    pub dst_share: f64,
    /// The size of the pool of important tokens, as a multiple of the number of tokens that stay (the program's `pp`). It
    /// is at least 1. Default 1.4.
    pub pool_size: f64,
    /// How to choose destinations from the pool: `random` or `top_k`. Default `random`.
    pub dst_mode: DstMode,
    /// The first step, in the full schedule, at which importance decides. At least 1. Default 2.
    pub merge_from: usize,
    /// Whether self-attention runs on merged tokens. Default true.
    pub merge_attn: bool,
    /// Whether cross-attention runs on merged tokens. Default false.
    pub merge_crossattn: bool,
    /// Whether the feed-forward runs on merged tokens. Default false.
    pub merge_mlp: bool,
    /// The generator that draws destinations: `torch` (`torch.randperm` after `torch.manual_seed(seed)`, one image
    /// after the other) or `chacha`. Default `torch`.
    pub rng: Generator,
}

impl Default for IbtmOptions {
    fn default() -> Self {
        Self {
            dst_share: 0.25,
            pool_size: 1.4,
            dst_mode: DstMode::Random,
            merge_from: 2,
            merge_attn: true,
            merge_crossattn: false,
            merge_mlp: false,
            rng: Generator::Torch,
        }
    }
}

/// The counts that follow from a ratio on a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    /// The number of sources that are merged.
    merged: usize,
    /// The number of destinations.
    destinations: usize,
    /// The number of important tokens.
    pool: usize,
}

impl IbtmOptions {
    fn merged(&self) -> [bool; 3] {
        [self.merge_attn, self.merge_crossattn, self.merge_mlp]
    }

    /// ToMe's cells. Steps without importance use them.
    fn cells(grid: Grid) -> Cells {
        Cells { grid, sx: 2, sy: 2 }
    }

    /// The counts for a ratio. `None` where nothing is merged. The number of merged tokens is the same with and
    /// without importance, so costs are known before a run.
    fn counts(&self, ratio: f64, grid: Grid) -> Option<Counts> {
        let tokens = grid.tokens();
        let (destinations, cells) =
            ((self.dst_share * tokens as f64).floor() as usize, Self::cells(grid).destinations());
        let merged = ((ratio * tokens as f64).floor() as usize).min(tokens - destinations.max(cells));
        let pool = (((tokens - merged) as f64 * self.pool_size).floor() as usize).min(tokens);
        (destinations > 0 && cells > 0 && merged > 0).then_some(Counts { merged, destinations, pool })
    }
}

impl MethodOptions for IbtmOptions {
    fn validate(&self) -> Result<()> {
        if !(self.dst_share > 0.0 && self.dst_share < 1.0) {
            let reason = format!("expected a fraction above 0 and below 1, got {}", self.dst_share);
            return Err(Error::config("dst_share", reason));
        }
        if !(self.pool_size >= 1.0 && self.pool_size.is_finite()) {
            return Err(Error::config("pool_size", format!("expected at least 1, got {}", self.pool_size)));
        }
        if self.merge_from == 0 {
            let reason = "expected at least 1, got 0: importance comes from the step before";
            return Err(Error::config("merge_from", reason));
        }
        crate::tome::check_sublayers(self.merged())
    }

    fn kept(&self, ratio: f64, &BlockAtStep { grid, .. }: &BlockAtStep) -> usize {
        grid.tokens() - self.counts(ratio, grid).map_or(0, |counts| counts.merged)
    }

    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        crate::tome::merges(sub, self.merged()).then_some(Scope::Both)
    }

    fn why_capped(&self) -> String {
        format!("destinations stay: a share of {} of the tokens, and one a cell of 2 x 2", self.dst_share)
    }
}

/// How much guidance acts on each place of the latents, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Importance {
    height: usize,
    width: usize,
    values: Vec<f32>,
}

impl Importance {
    /// The importance on `grid`, frame after frame: the mean over all places that a token touches (torch's `area`).
    fn on(&self, grid: Grid) -> Vec<f32> {
        let (rows, columns) = (spans(self.height, grid.height), spans(self.width, grid.width));
        let mut frame = Vec::with_capacity(grid.height * grid.width);
        for rows in &rows {
            for columns in &columns {
                let places = rows.clone().flat_map(|y| columns.clone().map(move |x| y * self.width + x));
                let count = rows.len() * columns.len();
                let sum: f32 = places.filter_map(|place| self.values.get(place)).sum();
                frame.push(sum / count as f32);
            }
        }
        frame.repeat(grid.frames)
    }
}

/// For each of `to` cells: the places of `from` that it touches.
fn spans(from: usize, to: usize) -> Vec<std::ops::Range<usize>> {
    (0..to).map(|i| i * from / to..((i + 1) * from).div_ceil(to)).collect()
}

/// The pool of one image, by falling importance, and its lowest importance. Among equals the lower index comes first.
fn pool(importance: &[f32], size: usize) -> (Vec<u32>, f32) {
    let mut order: Vec<u32> = (0..importance.len() as u32).collect();
    order.sort_by(|&i, &j| importance[j as usize].total_cmp(&importance[i as usize]));
    order.truncate(size);
    let lowest = order.last().map_or(f32::NEG_INFINITY, |&last| importance[last as usize]);
    (order, lowest)
}

/// The planner of IBTM.
#[derive(Debug)]
pub(crate) struct Ibtm {
    options: IbtmOptions,
    guidance: GuidanceMasks,
    /// The draws of the pool and of ToMe's cells. The authors' program forks its generator for the cells.
    pools: Draws,
    cells: Draws,
    /// The rows of the running step.
    rows: Vec<Row>,
    /// The importance by image, from the previous evaluation.
    importance: BTreeMap<u64, Importance>,
}

impl Ibtm {
    pub(crate) fn new(options: IbtmOptions, guidance: GuidanceMasks, seed: u64) -> Self {
        let draws = Draws::new(options.rng, seed);
        let (rows, importance) = (Vec::new(), BTreeMap::new());
        Self { options, guidance, pools: draws.clone(), cells: draws, rows, importance }
    }

    /// The importance of every row's image. `None` where importance does not decide at this step.
    fn known(&self, site: &Site<'_>) -> Option<Vec<&Importance>> {
        let deciding = |row: &Row| match (self.guidance, site.rows.first()) {
            (GuidanceMasks::First, Some(first)) => first.image,
            _ => row.image,
        };
        let ready = site.step.index >= self.options.merge_from && !site.rows.is_empty();
        ready
            .then(|| site.rows.iter().map(|row| self.importance.get(&deciding(row))).collect::<Option<_>>())
            .flatten()
    }

    /// The plan without importance: ToMe's cells, with pruned sources.
    fn by_cells<T: AttentionOps>(
        &mut self,
        site: &Site<'_>,
        metric: &T,
        merged: usize,
    ) -> Result<Box<dyn Reduction<T>>> {
        let cells = IbtmOptions::cells(site.grid);
        let offsets = self.cells.offsets(&cells, site);
        let split = cells.split(offsets.as_deref()).around(site.protected);
        let sides = Sides::of_split(&split, site.rows.len(), &metric.device())?;
        let matching = match_tokens(metric, &sides, self.guidance, site.rows)?;
        let chosen = matching.choose(merged)?;
        let merges = Merges { merged: chosen.kept.to_host()?, destination: matching.destination.to_host()? };
        let device = metric.device();
        Ok(Box::new(MergePlan::<T>::new(&split, &merges, site.tokens, MergeKernel::Prune, &device)?))
    }

    /// The split of every row, and for each of its sources whether it is unimportant.
    fn splits(&mut self, site: &Site<'_>, counts: Counts, fields: &[Vec<f32>]) -> Vec<(Split, Vec<bool>)> {
        let mut by_image: BTreeMap<u64, (Split, Vec<bool>)> = BTreeMap::new();
        for (row, field) in site.rows.iter().zip(fields) {
            if by_image.contains_key(&row.image) {
                continue;
            }
            let first = by_image.values().next().cloned();
            let made = match (self.guidance, first) {
                (GuidanceMasks::First, Some(first)) => first,
                _ => self.split(site, row.image, counts, field),
            };
            by_image.insert(row.image, made);
        }
        site.rows.iter().filter_map(|row| by_image.get(&row.image).cloned()).collect()
    }

    fn split(&mut self, site: &Site<'_>, image: u64, counts: Counts, field: &[f32]) -> (Split, Vec<bool>) {
        let (pool, lowest) = pool(field, counts.pool);
        let mut is_destination = vec![false; field.len()];
        let mut mark = |at: &u32| is_destination[*at as usize] = true;
        match self.options.dst_mode {
            DstMode::TopK => pool.iter().take(counts.destinations).for_each(&mut mark),
            DstMode::Random => {
                let drawn = self.pools.permutation(pool.len(), site, image);
                let places = drawn.iter().take(counts.destinations);
                places.filter_map(|&at| pool.get(at as usize)).for_each(&mut mark);
            }
        }
        let of = |wanted: bool| -> Vec<u32> {
            let tokens = is_destination.iter().enumerate();
            tokens.filter(|(_, is)| **is == wanted).map(|(at, _)| at as u32).collect()
        };
        let (sources, destinations) = (of(false), of(true));
        let unimportant = sources.iter().map(|&at| field[at as usize] < lowest).collect();
        (Split { sources, destinations }.around(site.protected), unimportant)
    }
}

impl<T: AttentionOps> Planner<T> for Ibtm {
    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        self.options.scope(sub)
    }

    fn begin(&mut self, run: &Run<'_>) {
        *self = Self::new(self.options.clone(), self.guidance, run.seed);
    }

    fn begin_step(&mut self, _step: &Step, rows: &[Row]) {
        self.rows = rows.to_vec();
    }

    /// Learns how guidance acted. `prediction` is `[rows, channels, height, width]`.
    fn end_step(&mut self, prediction: &T) -> Result<()> {
        let [batch, channels, height, width] = dims(prediction, "importance of tokens")?;
        if batch != self.rows.len() {
            let expected = format!("[{}, channels, height, width]", self.rows.len());
            return Err(Error::shape("importance of tokens", expected, prediction.shape()));
        }
        self.importance.clear();
        let half = |image: u64, branch: Branch| {
            let wanted = Row { image, branch };
            self.rows.iter().position(|row| *row == wanted)
        };
        for (at, row) in self.rows.iter().enumerate() {
            let (Branch::Cond, Some(other)) = (row.branch, half(row.image, Branch::Uncond)) else { continue };
            let of = |at: usize| prediction.narrow(0, at, 1)?.to_f32();
            let (cond, uncond) = (of(at)?, of(other)?);
            let mut values = vec![0.0f32; height * width];
            let places = values.len().max(1);
            for (cond, uncond) in cond.chunks(places).zip(uncond.chunks(places)) {
                for ((value, cond), uncond) in values.iter_mut().zip(cond).zip(uncond) {
                    *value += (cond - uncond).abs();
                }
            }
            values.iter_mut().for_each(|value| *value /= channels as f32);
            if values.iter().any(|value| value.is_nan()) {
                return Err(Error::NotFinite { what: "the importance of a token".into() });
            }
            self.importance.insert(row.image, Importance { height, width, values });
        }
        Ok(())
    }

    fn plan(&mut self, site: &Site<'_>, metric: &T, ratio: f64) -> Result<Option<Box<dyn Reduction<T>>>> {
        let Some(counts) = self.options.counts(ratio, site.grid) else { return Ok(None) };
        let known = self.known(site);
        let fields: Option<Vec<Vec<f32>>> =
            known.map(|known| known.iter().map(|importance| importance.on(site.grid)).collect());
        let Some(fields) = fields else { return self.by_cells(site, metric, counts.merged).map(Some) };
        let device = metric.device();
        let (splits, unimportant): (Vec<Split>, Vec<Vec<bool>>) =
            self.splits(site, counts, &fields).into_iter().unzip();
        let sides = Sides::<T> {
            sources: upload::<T>(&splits, &device, |split| &split.sources)?,
            destinations: upload::<T>(&splits, &device, |split| &split.destinations)?,
        };
        let mut matching = match_tokens(metric, &sides, self.guidance, site.rows)?;
        let raised: Vec<f32> =
            unimportant.concat().iter().map(|&is| if is { BEFORE_ALL } else { 0.0 }).collect();
        let shape = matching.similarity.shape();
        let raised = T::from_f32(&raised, &shape, matching.similarity.dtype(), &device)?;
        matching.similarity = matching.similarity.add(&raised)?;
        let chosen = matching.choose(counts.merged)?;
        let merges = Merges { merged: chosen.kept.to_host()?, destination: matching.destination.to_host()? };
        let plan = MergePlan::<T>::of_rows(&splits, &merges, site.tokens, MergeKernel::Mean, &device)?;
        Ok(Some(Box::new(plan)))
    }
}

fn upload<T: Tensor>(
    splits: &[Split],
    device: &T::Device,
    side: impl Fn(&Split) -> &Vec<u32>,
) -> Result<T::Indices> {
    T::Indices::from_host(&splits.iter().map(|split| side(split).clone()).collect::<Vec<_>>(), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.nn.functional.interpolate(x, size=(2, 3), mode="area")` of `arange(20).reshape(1, 1, 4, 5)`.
    #[test]
    fn importance_is_resized_by_area() {
        let importance = Importance { height: 4, width: 5, values: (0..20u8).map(f32::from).collect() };
        assert_eq!(importance.on(Grid::new(2, 3)), [3.0, 4.5, 6.0, 13.0, 14.5, 16.0]);
        assert_eq!(importance.on(Grid::new(4, 5)), importance.values);
        assert_eq!(importance.on(Grid::of_frames(2, 1, 1)), [9.5, 9.5]);
    }

    #[test]
    fn the_pool_is_the_most_important_the_lower_first_among_equals() {
        assert_eq!(pool(&[1.0, 3.0, 3.0, 0.5, 2.0], 3), (vec![1, 2, 4], 2.0));
        assert_eq!(pool(&[1.0, 1.0, 1.0], 2), (vec![0, 1], 1.0));
    }

    #[test]
    fn counts_are_the_programs() {
        let options = IbtmOptions::default();
        // N = 4096: r = int(0.7 N), K = int(N / 4), M = int(1.4 (N - r))
        assert_eq!(
            options.counts(0.7, Grid::new(64, 64)),
            Some(Counts { merged: 2867, destinations: 1024, pool: 1720 })
        );
        assert_eq!(options.counts(0.9, Grid::new(64, 64)).map(|counts| counts.merged), Some(3072));
        assert_eq!(options.counts(0.7, Grid::new(1, 9)), None);
        assert_eq!(options.counts(0.0, Grid::new(8, 8)), None);
    }
}
