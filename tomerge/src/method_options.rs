//! What every method's options answer without a tensor.

use atedm_core::Result;
use atedm_core::plugin::{Grid, Scope, Sublayer};

use crate::reuse::Reuse;

/// Where and when something is reduced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockAtStep {
    /// The block's resolution level.
    pub level: usize,
    /// The block's token grid.
    pub grid: Grid,
    /// 0-based index of the step in the full schedule.
    pub step: usize,
    /// The time step that the model is told, 0 to 1000.
    pub timestep: f64,
}

/// A method's own options: whether they are right, and what they come to.
pub trait MethodOptions {
    /// That every value is in range and no two contradict each other.
    ///
    /// # Errors
    /// [`atedm_core::Error::Config`] naming the field and what was expected.
    fn validate(&self) -> Result<()>;

    /// The tokens that `ratio` leaves at `place`.
    fn kept(&self, ratio: f64, place: &BlockAtStep) -> usize;

    /// What of `sub`'s input is reduced; `None` where it runs whole.
    fn scope(&self, sub: Sublayer) -> Option<Scope>;

    /// Whether it does one thing at one time step and another at another, whatever its schedule.
    fn follows_timesteps(&self) -> bool {
        false
    }

    /// Whether a ratio says how much is reduced.
    fn has_ratio(&self) -> bool {
        true
    }

    /// Whether the tokens themselves decide how many stay.
    fn decides_by_data(&self) -> bool {
        false
    }

    /// How long plans are used again.
    fn reuse(&self) -> Reuse {
        Reuse::default()
    }

    /// Whether what was found out at step `at` is used at the later step `now`.
    fn serves(&self, _at: usize, now: usize) -> bool {
        !self.reuse().is_fresh(now)
    }

    /// Why no block is reduced although a ratio is asked for; `finest` is the finest level with attention.
    fn why_nothing(&self, _finest: usize) -> String {
        "the ratio is less than one token, or the grids are too small".into()
    }

    /// Why less is removed than asked for.
    fn why_capped(&self) -> String {
        "no more can be removed".into()
    }
}
