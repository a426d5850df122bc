//! Similarity-based token pruning (SiTo, AAAI 2025). It keeps the tokens that resemble most others. A pruned token
//! copies the output of the kept token that it resembles most.
//!
//! ```text
//! b_i    = β Σ_j c_ij + α n_i                  c: cosine similarity, n: standard normal noise
//! bases  = in each cell the token with the highest b
//! pruned = the floor(r·N) others most similar to some base
//! back   : each pruned token takes the output of the kept token most similar to it, base or not
//! ```
//!
//! The sum over `j` is one product with the sum of all directions, `x̂_i · Σ_j x̂_j`. It needs no N×N matrix. As in
//! the authors' program, every row of the batch has its own noise. The option `noise = "shared"` uses one draw for
//! all rows. The authors' program compares in f16, whatever the model's dtype. We compare in the model's dtype,
//! where rounding matters less.

use atedm_core::backend::dims;
use atedm_core::plugin::{Grid, GuidanceMasks, IndexPlan, Reduction, Run, Scope, Site, Sublayer};
use atedm_core::{AttentionOps, Error, Indices, Partition, Result};
use serde::{Deserialize, Serialize};

use crate::around::Planner;
use crate::draws::{Draws, Generator};
use crate::grid::Cells;
use crate::matching::{Sides, ThresholdCount, match_tokens, normalised};
use crate::method_options::{BlockAtStep, MethodOptions};
use crate::reuse::Reuse;

/// The noise that decides between tokens of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Noise {
    /// Every row of the batch has its own noise (the authors' program).
    #[default]
    PerRow,
    /// One draw serves all rows. The halves of guidance then differ only in their similarities.
    Shared,
}

/// The options of SiTo besides where and how much it prunes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SitoOptions {
    /// The columns of a cell. One token of each cell is a base. Default 2.
    pub sx: usize,
    /// The rows of a cell. Default 2.
    pub sy: usize,
    /// α, the weight of noise in the choice of bases. 0 makes the choice deterministic. Default 0.1.
    pub noise_alpha: f64,
    /// β, the weight of similarity in the choice of bases. Default 1.
    pub sim_beta: f64,
    /// The kind of noise: `per_row` or `shared`. Default `per_row`.
    pub noise: Noise,
    /// Whether self-attention runs on the kept tokens. Default true.
    pub merge_attn: bool,
    /// Whether cross-attention runs on the kept tokens. Default false.
    pub merge_crossattn: bool,
    /// Whether the feed-forward runs on the kept tokens. Default false.
    pub merge_mlp: bool,
    /// The generator that draws the noise: `torch` (as the authors' program in f32 after `torch.manual_seed(seed)`)
    /// or `chacha`. Default `torch`.
    pub rng: Generator,
    /// Alternative to a ratio: prune the tokens whose similarity to a base is at least this, in `[-1, 1]`. 1 prunes
    /// nothing. Default: none.
    pub threshold: Option<f64>,
    /// The row whose number of such tokens all rows prune: the one with the `most` or the `fewest`. Default `most`.
    pub threshold_count: ThresholdCount,
    /// How long a plan is reused. Default: not at all.
    pub reuse: Reuse,
}

impl Default for SitoOptions {
    fn default() -> Self {
        Self {
            sx: 2,
            sy: 2,
            noise_alpha: 0.1,
            sim_beta: 1.0,
            noise: Noise::PerRow,
            merge_attn: true,
            merge_crossattn: false,
            merge_mlp: false,
            rng: Generator::Torch,
            threshold: None,
            threshold_count: ThresholdCount::Most,
            reuse: Reuse::default(),
        }
    }
}

impl SitoOptions {
    /// Whether self-attention, cross-attention and feed-forward are reduced.
    fn merged(&self) -> [bool; 3] {
        [self.merge_attn, self.merge_crossattn, self.merge_mlp]
    }

    fn cells(&self, grid: Grid) -> Cells {
        Cells { grid, sx: self.sx, sy: self.sy }
    }

    /// The number of tokens of `grid` that are pruned.
    fn pruned(&self, ratio: f64, grid: Grid) -> usize {
        let bases = self.cells(grid).destinations();
        let wanted = (ratio * grid.tokens() as f64).floor() as usize;
        if bases == 0 { 0 } else { wanted.min(grid.tokens() - bases) }
    }
}

impl MethodOptions for SitoOptions {
    fn validate(&self) -> Result<()> {
        self.cells(Grid::new(1, 1)).validate()?;
        for (field, weight) in [("noise_alpha", self.noise_alpha), ("sim_beta", self.sim_beta)] {
            if !weight.is_finite() {
                return Err(Error::config(field, format!("expected a finite number, got {weight}")));
            }
        }
        crate::tome::check_sublayers(self.merged())?;
        crate::tome::check_threshold(self.threshold, self.threshold_count)?;
        self.reuse.validate()
    }

    fn kept(&self, ratio: f64, &BlockAtStep { grid, .. }: &BlockAtStep) -> usize {
        grid.tokens() - self.pruned(ratio, grid)
    }

    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        crate::tome::merges(sub, self.merged()).then_some(Scope::Both)
    }

    fn decides_by_data(&self) -> bool {
        self.threshold.is_some()
    }

    fn reuse(&self) -> Reuse {
        self.reuse.clone()
    }

    fn why_capped(&self) -> String {
        format!("one base stays in each cell of {} x {} tokens", self.sx, self.sy)
    }
}

/// The planner of SiTo.
#[derive(Debug)]
pub(crate) struct Sito {
    options: SitoOptions,
    guidance: GuidanceMasks,
    draws: Draws,
}

impl Sito {
    pub(crate) fn new(options: SitoOptions, guidance: GuidanceMasks, seed: u64) -> Self {
        let draws = Draws::new(options.rng, seed);
        Self { options, guidance, draws }
    }

    /// `β Σ_j c_ij + α n_i` for `tokens` `[b, n, c]`: `[b, n]` on the host, row after row.
    fn scores<T: AttentionOps>(&mut self, site: &Site<'_>, tokens: &T) -> Result<Vec<f32>> {
        let [batch, n, _] = dims(tokens, "base scores")?;
        let directions = normalised(tokens)?.cast(tokens.dtype().accumulator())?;
        let sums = directions.mul(&directions.sum(1)?)?.sum(2)?.reshape(&[batch, n])?;
        let noise = match self.options.noise {
            _ if self.options.noise_alpha == 0.0 => None,
            Noise::PerRow => Some(self.draws.normals(n, site)),
            Noise::Shared => Some(self.draws.normals(n, &first_row(site)).repeat(batch)),
        };
        let mut scores = sums.affine(self.options.sim_beta, 0.0)?;
        if let Some(noise) = noise {
            let noise = T::from_f32(&noise, &[batch, n], scores.dtype(), &scores.device())?;
            scores = scores.add(&noise.affine(self.options.noise_alpha, 0.0)?)?;
        }
        self.guidance.share(scores, site.rows)?.to_f32()
    }
}

/// The same place for a batch of only its first row.
fn first_row<'a>(site: &Site<'a>) -> Site<'a> {
    Site { rows: site.rows.get(..1).unwrap_or_default(), ..*site }
}

impl<T: AttentionOps> Planner<T> for Sito {
    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        self.options.scope(sub)
    }

    fn begin(&mut self, run: &Run<'_>) {
        self.draws = Draws::new(self.options.rng, run.seed);
    }

    fn plan(&mut self, site: &Site<'_>, metric: &T, ratio: f64) -> Result<Option<Box<dyn Reduction<T>>>> {
        let pruned = self.options.pruned(ratio, site.grid);
        if pruned == 0 {
            return Ok(None);
        }
        let device = metric.device();
        let (start, end) = site.protected;
        let gap = end.saturating_sub(start);
        let batch = metric.shape().first().copied().unwrap_or(0);
        let grid_places: Vec<u32> =
            (0..site.grid.tokens()).map(|i| if i < start { i } else { i + gap } as u32).collect();
        let on_grid = T::Indices::from_host(&vec![grid_places; batch], &device)?;
        let scores = self.scores(site, &metric.gather(1, &on_grid)?)?;
        let cells = self.options.cells(site.grid);
        let (mut bases, mut others) = (Vec::new(), Vec::new());
        for row in scores.chunks(site.grid.tokens().max(1)) {
            if row.iter().any(|score| score.is_nan()) {
                return Err(Error::NotFinite { what: "a base score".into() });
            }
            let split = cells.split(Some(&cells.best(row))).around(site.protected);
            bases.push(split.destinations);
            others.push(split.sources);
        }
        let sides = Sides::<T> {
            sources: T::Indices::from_host(&others, &device)?,
            destinations: T::Indices::from_host(&bases, &device)?,
        };
        let matching = match_tokens(metric, &sides, self.guidance, site.rows)?;
        let pruned = match self.options.threshold {
            None => pruned,
            Some(threshold) => matching.at_least(threshold, self.options.threshold_count)?,
        };
        if pruned == 0 {
            return Ok(None);
        }
        let gone = sides.sources.gather(&matching.choose(pruned)?.kept)?;
        let kept = gone.complement(site.tokens)?;
        let partition = Partition::<T> { kept: kept.clone(), pruned: gone.clone() };
        // Protected tokens are kept. Like other kept tokens, they may be copied.
        let back = Sides::<T> { sources: gone, destinations: kept };
        let donors = match_tokens(metric, &back, self.guidance, site.rows)?.destination;
        Ok(Some(Box::new(IndexPlan::new(&partition, &donors)?)))
    }
}
