//! ToMe's own options, by the names that users of tomesd know.

use atedm_core::plugin::{Grid, Scope, Sublayer};
use atedm_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::draws::Generator;
use crate::grid::Cells;
use crate::matching::ThresholdCount;
use crate::merge::MergeKernel;
use crate::method_options::{BlockAtStep, MethodOptions};
use crate::reuse::Reuse;

/// Whose ToMe it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// As tomesd 0.1.3: similarities of the layer's input before its first norm; queries, keys and values are merged.
    #[default]
    Tomesd,
    /// As ComfyUI's node: similarities of the normalised input, before the projections; queries alone are merged, of
    /// self-attention alone.
    Comfy,
}

/// What ToMe can be told besides where and how much. The default is tomesd's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TomeOptions {
    /// The coarsest resolution that is merged, as a divisor of the latents' (1, 2, 4 or 8): a block at level `l` is
    /// merged when `2^l` is at most this. SD-XL has no attention at 1, so that the default does nothing there; 4 is
    /// all of it. Default 1.
    pub max_downsample: usize,
    /// Columns of a cell, of which one token is a destination. Default 2.
    pub sx: usize,
    /// Rows of a cell. Default 2.
    pub sy: usize,
    /// Whether the destination within each cell is drawn; else it is the first. With `rng = "torch"` a batch of an odd
    /// number of rows draws none, as in tomesd. Default true.
    pub use_rand: bool,
    /// Whether self-attention runs on merged tokens. Default true.
    pub merge_attn: bool,
    /// Whether cross-attention does. Default false.
    pub merge_crossattn: bool,
    /// Whether the feed-forward does. Default false.
    pub merge_mlp: bool,
    /// `tomesd` or `comfy`. Default `tomesd`.
    pub variant: Variant,
    /// What a merged token is: `mean`, `mlerp` or `prune`. Default `mean`.
    pub merge: MergeKernel,
    /// Which generator draws destinations: `torch` (as tomesd after `torch.manual_seed(seed)`) or `chacha`.
    /// Default `torch`.
    pub rng: Generator,
    /// Instead of a ratio (CA-ToMe): sources are merged whose similarity is at least this, in `[-1, 1]`; 1 merges
    /// nothing. `ratio` then only says where nothing is merged (0). Default: none.
    pub threshold: Option<f64>,
    /// Whose number of such sources all rows of the batch merge: `most`, that of the row with the most (CA-ToMe), or
    /// `fewest`, so that no row merges what is less similar. Default `most`.
    pub threshold_count: ThresholdCount,
    /// How long a plan is used again. Default: not at all.
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

/// How many of a grid's tokens are destinations, and how many sources are merged into them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeCounts {
    /// Destinations, one a cell.
    pub destinations: usize,
    /// Sources that are merged.
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

    /// Whether blocks at `level` are merged at all.
    pub fn reaches(&self, level: usize) -> bool {
        1usize.checked_shl(level as u32).is_some_and(|divisor| divisor <= self.max_downsample)
    }

    /// What `ratio` comes to on `grid` at `level`: `floor(ratio · N)` sources, but no more than there are. `None`
    /// where nothing is merged.
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

/// Whether a method reduces a sublayer: its `merge_attn`, `merge_crossattn` and `merge_mlp`. Joint attention and parallel
/// sublayers go by `merge_attn`.
pub(crate) fn merges(sub: Sublayer, [attention, cross_attention, feed_forward]: [bool; 3]) -> bool {
    match sub {
        Sublayer::SelfAttention | Sublayer::JointAttention | Sublayer::Parallel => attention,
        Sublayer::CrossAttention => cross_attention,
        Sublayer::FeedForward => feed_forward,
    }
}

/// That a method reduces some sublayer: whether `merge_attn`, `merge_crossattn` and `merge_mlp` are set.
pub(crate) fn check_sublayers(merged: [bool; 3]) -> Result<()> {
    if merged.contains(&true) {
        return Ok(());
    }
    Err(Error::config("merge_attn", "expected at least one of merge_attn, merge_crossattn and merge_mlp"))
}

/// That a threshold is a cosine similarity, and whose count it takes is not said without one.
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
