//! What the options of every method answer without a tensor.

use atedm_core::Result;
use atedm_core::plugin::{Grid, Scope, Sublayer};

use crate::reuse::Reuse;

/// The place and time of a reduction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockAtStep {
    /// The block's resolution level.
    pub level: usize,
    /// The block's token grid.
    pub grid: Grid,
    /// 0-based index of the step in the full schedule.
    pub step: usize,
    /// The time step that the model gets, 0 to 1000.
    pub timestep: f64,
}

/// A method's own options. They check themselves and state their consequences.
pub trait MethodOptions {
    /// Checks that every value is in range and that no two contradict each other.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] with the field and the expected value.
    fn validate(&self) -> Result<()>;

    /// The number of tokens that `ratio` leaves at `place`.
    fn kept(&self, ratio: f64, place: &BlockAtStep) -> usize;

    /// The part of `sub`'s input that is reduced. `None` where the sublayer runs whole.
    fn scope(&self, sub: Sublayer) -> Option<Scope>;

    /// Whether the method itself acts differently at different time steps, apart from any schedule.
    fn follows_timesteps(&self) -> bool {
        false
    }

    /// Whether a ratio sets how much is reduced.
    fn has_ratio(&self) -> bool {
        true
    }

    /// Whether the values of the tokens decide how many stay.
    fn decides_by_data(&self) -> bool {
        false
    }

    /// How long plans are reused.
    fn reuse(&self) -> Reuse {
        Reuse::default()
    }

    /// Whether the result of step `at` is used at the later step `now`.
    fn serves(&self, _at: usize, now: usize) -> bool {
        !self.reuse().is_fresh(now)
    }

    /// The reason why no block is reduced although the ratio is above 0. `finest` is the finest level with attention.
    fn why_nothing(&self, _finest: usize) -> String {
        "the ratio is less than one token, or the grids are too small".into()
    }

    /// The reason why the method removes less than the ratio says.
    fn why_capped(&self) -> String {
        "no more can be removed".into()
    }
}
