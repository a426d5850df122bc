//! Merging by the similarity of outputs (DiTo, arXiv 2605.22011). ToMe compares inputs; DiTo compares the outputs of sublayers.
//!
//! ```text
//! step i, i mod interval = 0    Matching: every sublayer runs whole; for each source the destination whose output
//!                               resembles its own most, c_ij the cosine of the two outputs
//! the steps up to the next      Reduction: the r sources with the highest c_i − λ f_i run as their destinations
//!                               f_i: the share of earlier matchings after which token i was merged
//! ```
//!
//! Outputs of neighbouring steps resemble each other, so correspondences of an earlier step hold for the next steps. The penalty
//! λ avoids that the same tokens are merged at every step.
//!
//! The authors' program is not public, and we know only the paper's abstract. We decided the points that it leaves open:
//!
//! 1. The interval is an option, 4 by default. The paper finds it offline by its pair match ratio.
//! 2. The penalty has the form above, with λ = 0.1 by default.
//! 3. Each cell has one destination, as in ToMe. It is drawn again at every matching.
//! 4. A merged token is the mean, as in ToMe. An option changes this.
//! 5. Self-attention is reduced, and options add other sublayers. Each sublayer is matched by its own output.
//! 6. A step of reduction may lack a matching, if the run starts late or the schedule spared the step of the matching. Then the
//!    sublayer's inputs are compared in place of its outputs.

use std::collections::BTreeMap;

use atedm_core::plugin::{
    Action, BlockId, BuildContext, Event, Grid, GuidanceMasks, Reduction, Row, Run, Scope, Site, Sublayer,
    TokenReducer, WithRatio,
};
use atedm_core::{AttentionOps, Error, Indices, Result};
use serde::{Deserialize, Serialize};

use crate::around::LayerObserver;
use crate::draws::{Draws, Generator};
use crate::grid::{Cells, Split, is_whole};
use crate::matching::{Matching, Sides, match_tokens};
use crate::merge::{MergeKernel, MergePlan, Merges};
use crate::method_options::{BlockAtStep, MethodOptions};

/// The options of DiTo. The placement has those for how much is merged, where and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DitoOptions {
    /// The number of steps from one matching to the next, at least 2. The first step of the full schedule is a matching.
    /// Default 4.
    pub interval: usize,
    /// λ, at least 0. A token that was merged after every earlier matching loses λ of its similarity. Default 0.1.
    pub frequency_penalty: f64,
    /// Columns of a cell. Each cell has one destination. Default 2.
    pub sx: usize,
    /// Rows of a cell. Default 2.
    pub sy: usize,
    /// Whether each cell's destination is drawn at every matching. Otherwise it is the cell's first token. Default true.
    pub use_rand: bool,
    /// How merged tokens become one: `mean`, `mlerp` or `prune`. Default `mean`.
    pub merge: MergeKernel,
    /// Whether self-attention runs on merged tokens. Default true.
    pub merge_attn: bool,
    /// Whether cross-attention runs on merged tokens. Default false.
    pub merge_crossattn: bool,
    /// Whether the feed-forward runs on merged tokens. Default false.
    pub merge_mlp: bool,
    /// The generator that draws destinations: `torch` or `chacha`. Default `chacha`.
    pub rng: Generator,
}

impl Default for DitoOptions {
    fn default() -> Self {
        Self {
            interval: 4,
            frequency_penalty: 0.1,
            sx: 2,
            sy: 2,
            use_rand: true,
            merge: MergeKernel::Mean,
            merge_attn: true,
            merge_crossattn: false,
            merge_mlp: false,
            rng: Generator::ChaCha,
        }
    }
}

impl DitoOptions {
    fn merged(&self) -> [bool; 3] {
        [self.merge_attn, self.merge_crossattn, self.merge_mlp]
    }

    fn cells(&self, grid: Grid) -> Cells {
        Cells { grid, sx: self.sx, sy: self.sy }
    }

    /// The number of tokens of `grid` that are merged at a step of reduction.
    fn count(&self, ratio: f64, grid: Grid) -> usize {
        let destinations = self.cells(grid).destinations();
        let wanted = (ratio * grid.tokens() as f64).floor() as usize;
        if destinations == 0 { 0 } else { wanted.min(grid.tokens() - destinations) }
    }

    fn is_matching(&self, step: usize) -> bool {
        step.is_multiple_of(self.interval)
    }
}

impl MethodOptions for DitoOptions {
    fn validate(&self) -> Result<()> {
        if self.interval < 2 {
            let reason = format!("expected at least 2, got {}: a matching reduces nothing", self.interval);
            return Err(Error::config("interval", reason));
        }
        if !(self.frequency_penalty >= 0.0 && self.frequency_penalty.is_finite()) {
            let reason = format!("expected a finite number, at least 0, got {}", self.frequency_penalty);
            return Err(Error::config("frequency_penalty", reason));
        }
        self.cells(Grid::new(1, 1)).validate()?;
        crate::tome::check_sublayers(self.merged())
    }

    fn kept(&self, ratio: f64, &BlockAtStep { grid, step, .. }: &BlockAtStep) -> usize {
        let merged = if self.is_matching(step) { 0 } else { self.count(ratio, grid) };
        grid.tokens() - merged
    }

    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        crate::tome::merges(sub, self.merged()).then_some(Scope::Both)
    }

    fn serves(&self, at: usize, now: usize) -> bool {
        at / self.interval == now / self.interval
    }

    fn why_nothing(&self, _finest: usize) -> String {
        "every step is a matching, the ratio is less than one token, or the grids are smaller than a cell"
            .into()
    }

    fn why_capped(&self) -> String {
        format!("one destination stays in each cell of {} x {} tokens", self.sx, self.sy)
    }
}

/// A sublayer at one place in the model.
type Place = (BlockId, usize, Sublayer);

/// The correspondences of one sublayer, and the merge plan that follows from them.
struct Found<T: AttentionOps> {
    /// The number of the interval, from its matching to the next.
    interval: usize,
    /// Tokens of the stream.
    tokens: usize,
    split: Split,
    matching: Matching<T>,
    plan: Option<(usize, Box<dyn Reduction<T>>)>,
}

/// How often the tokens of one batch row were merged.
#[derive(Debug, Clone, Default)]
struct Selected {
    matchings: usize,
    merged: Vec<usize>,
}

/// DiTo.
pub(crate) struct Dito<T: AttentionOps> {
    options: DitoOptions,
    guidance: GuidanceMasks,
    ratio: f64,
    draws: Draws,
    observer: LayerObserver<T>,
    found: BTreeMap<(Place, Vec<Row>), Found<T>>,
    selected: BTreeMap<(Place, Row), Selected>,
}

impl<T: AttentionOps> Dito<T> {
    pub(crate) fn new(
        options: DitoOptions,
        guidance: GuidanceMasks,
        ratio: f64,
        context: &BuildContext<T>,
    ) -> Self {
        let draws = Draws::new(options.rng, context.seed);
        let observer = context.observer.clone();
        let (found, selected) = (BTreeMap::new(), BTreeMap::new());
        let observer = LayerObserver::new(observer);
        Self { options, guidance, ratio, draws, observer, found, selected }
    }

    /// The number of tokens that a sublayer of `site` merges; `None` if it merges none.
    fn count(&self, site: &Site<'_>, sub: Sublayer) -> Option<usize> {
        let count = self.options.count(self.ratio, site.grid);
        (self.options.scope(sub).is_some() && is_whole(site) && count > 0).then_some(count)
    }

    /// Finds the correspondences of `compared` `[b, tokens, channels]`.
    fn find(&mut self, site: &Site<'_>, sub: Sublayer, compared: &T) -> Result<()> {
        let cells = self.options.cells(site.grid);
        let offsets = if self.options.use_rand { self.draws.offsets(&cells, site) } else { None };
        let split = cells.split(offsets.as_deref()).around(site.protected);
        let sides = Sides::of_split(&split, site.rows.len(), &compared.device())?;
        let matching = match_tokens(compared, &sides, self.guidance, site.rows)?;
        let interval = site.step.index / self.options.interval;
        let found = Found { interval, tokens: site.tokens, split, matching, plan: None };
        self.found.insert((place(site, sub), site.rows.to_vec()), found);
        Ok(())
    }

    /// The merge plan of a sublayer with this `input` at a step of reduction.
    fn plan(
        &mut self,
        site: &Site<'_>,
        sub: Sublayer,
        count: usize,
        input: &T,
    ) -> Result<Option<Box<dyn Reduction<T>>>> {
        let key = (place(site, sub), site.rows.to_vec());
        let interval = site.step.index / self.options.interval;
        let serves = |found: &Found<T>| found.interval == interval && found.tokens == site.tokens;
        if !self.found.get(&key).is_some_and(serves) {
            self.find(site, sub, input)?;
        }
        let Self { found, selected, options, .. } = self;
        let Some(found) = found.get_mut(&key) else { return Ok(None) };
        if let Some((of, plan)) = &found.plan
            && *of == count
        {
            return Ok(Some(plan.clone_box()));
        }
        let anew = found.plan.is_none();
        let scores = penalised(
            options,
            &found.matching.similarity,
            &found.split,
            |row| selected.get(&(key.0, row)),
            site.rows,
        )?;
        let chosen = scores.split_top_k(count)?.kept.to_host()?;
        if anew {
            for (row, chosen) in site.rows.iter().zip(&chosen) {
                let selected = selected.entry((key.0, *row)).or_default();
                selected.matchings += 1;
                selected.merged.resize(site.tokens, 0);
                let sources = chosen.iter().filter_map(|&number| found.split.sources.get(number as usize));
                for &at in sources {
                    selected.merged[at as usize] += 1;
                }
            }
        }
        let merges = Merges { merged: chosen, destination: found.matching.destination.to_host()? };
        let device = input.device();
        let plan = MergePlan::<T>::new(&found.split, &merges, site.tokens, options.merge, &device)?;
        let plan: Box<dyn Reduction<T>> = Box::new(plan);
        found.plan = Some((count, plan.clone_box()));
        Ok(Some(plan))
    }
}

fn place(site: &Site<'_>, sub: Sublayer) -> Place {
    (site.block, site.layer, sub)
}

/// `c_i − λ f_i` for every source of every row, `[b, sources]`.
fn penalised<'a, T: AttentionOps>(
    options: &DitoOptions,
    similarity: &T,
    split: &Split,
    selected: impl Fn(Row) -> Option<&'a Selected>,
    rows: &[Row],
) -> Result<T> {
    if options.frequency_penalty == 0.0 {
        return Ok(similarity.clone());
    }
    let mut penalties = Vec::with_capacity(rows.len() * split.sources.len());
    for row in rows {
        let selected = selected(*row);
        penalties.extend(split.sources.iter().map(|&at| {
            let times = selected.and_then(|selected| selected.merged.get(at as usize)).copied().unwrap_or(0);
            let of = selected.map_or(1, |selected| selected.matchings.max(1));
            (options.frequency_penalty * times as f64 / of as f64) as f32
        }));
    }
    let penalties = T::from_f32(&penalties, &similarity.shape(), similarity.dtype(), &similarity.device())?;
    similarity.sub(&penalties)
}

impl<T: AttentionOps> WithRatio for Dito<T> {
    fn set_ratio(&mut self, ratio: f64) {
        self.ratio = ratio;
    }
}

impl<T: AttentionOps> TokenReducer<T> for Dito<T> {
    fn begin_run(&mut self, run: &Run<'_>) -> Result<()> {
        self.draws = Draws::new(self.options.rng, run.seed);
        self.found.clear();
        self.selected.clear();
        Ok(())
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, T>) -> Result<Action<T>> {
        let matching = self.options.is_matching(site.step.index);
        match event {
            Event::LayerEnter { .. } => self.observer.enter_layer(),
            Event::After { sub, output, .. } if matching && self.count(site, sub).is_some() => {
                self.find(site, sub, output)?;
            }
            Event::Before { sub, hidden, .. } if !matching => {
                let Some(count) = self.count(site, sub) else { return Ok(Action::Continue) };
                if let Some(by) = self.plan(site, sub, count, hidden)? {
                    self.observer.tell(site, by.as_ref(), &hidden.device())?;
                    return Ok(Action::Around { scope: Scope::Both, by });
                }
            }
            _ => {}
        }
        Ok(Action::Continue)
    }
}
