//! ToMe's own options, under the names that users of tomesd know.

use atedm_core::plugin::{Grid, Scope, Sublayer};
use atedm_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::draws::Generator;
use crate::grid::Cells;
use crate::matching::ThresholdCount;
use crate::merge::MergeKernel;
use crate::method_options::{BlockAtStep, MethodOptions};
use crate::reuse::Reuse;

/// The implementation of ToMe to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Variant {
    /// As tomesd 0.1.3: it compares the layer's input before its first norm, and merges queries, keys and values.
    #[default]
    Tomesd,
    /// As ComfyUI's node: it compares the normalised input before the projections. It merges only queries, and only
    /// those of self-attention.
    Comfy,
}

/// The options of ToMe besides where and how much it merges. The defaults are tomesd's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TomeOptions {
    /// The coarsest resolution that is merged, as a divisor of the latents' (1, 2, 4 or 8). A block at level `l` is
    /// merged when `2^l` is at most this. SD-XL has no attention at divisor 1, so the default merges nothing there.
    /// 4 merges everywhere. Default 1.
    pub max_downsample: usize,
    /// The columns of a cell. One token of each cell is a destination. Default 2.
    pub sx: usize,
    /// The rows of a cell. Default 2.
    pub sy: usize,
    /// Whether the destination within each cell is drawn. If not, it is the first token. With `rng = "torch"` a
    /// batch with an odd number of rows draws none, as in tomesd. Default true.
    pub use_rand: bool,
    /// Whether self-attention runs on merged tokens. Default true.
    pub merge_attn: bool,
    /// Whether cross-attention runs on merged tokens. Default false.
    pub merge_crossattn: bool,
    /// Whether the feed-forward runs on merged tokens. Default false.
    pub merge_mlp: bool,
    /// `tomesd` or `comfy`. Default `tomesd`.
    pub variant: Variant,
    /// How tokens are merged: `mean`, `mlerp` or `prune`. Default `mean`.
    pub merge: MergeKernel,
    /// The generator that draws destinations: `torch` (as tomesd after `torch.manual_seed(seed)`) or `chacha`.
    /// Default `torch`.
    pub rng: Generator,
    /// Alternative to a ratio (CA-ToMe): merge the sources whose similarity is at least this, in `[-1, 1]`. 1
    /// merges nothing. A `ratio` of 0 then still means that nothing is merged. Default: none.
    pub threshold: Option<f64>,
    /// The row whose number of such sources all rows merge: the one with the `most` (CA-ToMe) or with the `fewest`.
    /// With `fewest` no row merges below the threshold. Default `most`.
    pub threshold_count: ThresholdCount,
    /// How long a plan is reused. Default: not at all.
    pub reuse: Reuse,
}

impl Default for TomeOptions {
    fn default() -> Self {
        Self {
            max_downsample: 1,
            sx: 2,
            sy: 2,
            use_rand: true,
            merge_attn: true,
            merge_crossattn: false,
            merge_mlp: false,
            variant: Variant::Tomesd,
            merge: MergeKernel::Mean,
            rng: Generator::Torch,
            threshold: None,
            threshold_count: ThresholdCount::Most,
            reuse: Reuse::default(),
        }
    }
}

/// The number of a grid's tokens that are destinations, and the number of sources merged into them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeCounts {
    /// The number of destinations, one for each cell.
    pub destinations: usize,
    /// The number of sources that are merged.
    pub merged: usize,
}

impl TomeOptions {
    /// Whether self-attention, cross-attention and feed-forward are reduced.
    fn merged(&self) -> [bool; 3] {
        [self.merge_attn, self.merge_crossattn, self.merge_mlp]
    }

    /// The cells of a grid.
    pub fn cells(&self, grid: Grid) -> Cells {
        Cells { grid, sx: self.sx, sy: self.sy }
    }

    /// Whether blocks at `level` are merged.
    pub fn reaches(&self, level: usize) -> bool {
        1usize.checked_shl(level as u32).is_some_and(|divisor| divisor <= self.max_downsample)
    }

    /// The counts for `ratio` on `grid` at `level`: `floor(ratio · N)` sources, at most all sources. `None` where
    /// nothing is merged.
    pub fn counts(&self, ratio: f64, level: usize, grid: Grid) -> Option<MergeCounts> {
        let (tokens, destinations) = (grid.tokens(), self.cells(grid).destinations());
        let merged = ((ratio * tokens as f64).floor() as usize).min(tokens - destinations);
        (self.reaches(level) && destinations > 0 && merged > 0)
            .then_some(MergeCounts { destinations, merged })
    }
}

impl MethodOptions for TomeOptions {
    fn validate(&self) -> Result<()> {
        if ![1, 2, 4, 8].contains(&self.max_downsample) {
            let reason = format!("expected 1, 2, 4 or 8, got {}", self.max_downsample);
            return Err(Error::config("max_downsample", reason));
        }
        self.cells(Grid::new(1, 1)).validate()?;
        check_sublayers(self.merged())?;
        if self.variant == Variant::Comfy {
            for (field, set) in [("merge_crossattn", self.merge_crossattn), ("merge_mlp", self.merge_mlp)] {
                if set {
                    let reason = "variant = \"comfy\" merges the queries of self-attention alone";
                    return Err(Error::config(field, reason));
                }
            }
        }
        check_threshold(self.threshold, self.threshold_count)?;
        self.reuse.validate()
    }

    fn kept(&self, ratio: f64, &BlockAtStep { level, grid, .. }: &BlockAtStep) -> usize {
        grid.tokens() - self.counts(ratio, level, grid).map_or(0, |counts| counts.merged)
    }

    fn scope(&self, sub: Sublayer) -> Option<Scope> {
        let scope = match self.variant {
            Variant::Tomesd => Scope::Both,
            Variant::Comfy => Scope::Queries,
        };
        merges(sub, self.merged()).then_some(scope)
    }

    fn decides_by_data(&self) -> bool {
        self.threshold.is_some()
    }

    fn reuse(&self) -> Reuse {
        self.reuse.clone()
    }

    fn why_nothing(&self, finest: usize) -> String {
        if self.reaches(finest) {
            return "the ratio is less than one token, or the grids are smaller than a cell".into();
        }
        let (divisor, needed) = (self.max_downsample, 1u64 << finest.min(63));
        format!(
            "max_downsample = {divisor} reaches no attention block of this model, the finest needs {needed}"
        )
    }

    fn why_capped(&self) -> String {
        format!("one destination stays in each cell of {} x {} tokens", self.sx, self.sy)
    }
}

/// Whether a method reduces a sublayer, by its `merge_attn`, `merge_crossattn` and `merge_mlp`. Joint attention and
/// parallel sublayers follow `merge_attn`.
pub(crate) fn merges(sub: Sublayer, [attention, cross_attention, feed_forward]: [bool; 3]) -> bool {
    match sub {
        Sublayer::SelfAttention | Sublayer::JointAttention | Sublayer::Parallel => attention,
        Sublayer::CrossAttention => cross_attention,
        Sublayer::FeedForward => feed_forward,
    }
}

/// Checks that a method reduces some sublayer. `merged` holds `merge_attn`, `merge_crossattn` and `merge_mlp`.
pub(crate) fn check_sublayers(merged: [bool; 3]) -> Result<()> {
    if merged.contains(&true) {
        return Ok(());
    }
    Err(Error::config("merge_attn", "expected at least one of merge_attn, merge_crossattn and merge_mlp"))
}

/// Checks that a threshold is a cosine similarity. Without a threshold, `count` must not be set.
pub(crate) fn check_threshold(threshold: Option<f64>, count: ThresholdCount) -> Result<()> {
    match threshold {
        None if count != ThresholdCount::default() => {
            Err(Error::config("threshold_count", "counts under a threshold alone: give threshold, too"))
        }
        Some(threshold) if !(-1.0..=1.0).contains(&threshold) => {
            let reason = format!("expected a cosine similarity, -1 to 1, got {threshold}");
            Err(Error::config("threshold", reason))
        }
        _ => Ok(()),
    }
}
