//! The choice of the tokens that stay, by their scores.

mod sample;

pub use sample::Sample;

use crate::backend::Partition;
use crate::plugin::{Run, Site};
use crate::{Result, Tensor};

/// Chooses the tokens that stay. It is object-safe, and a registry finds it by name.
pub trait TokenSelector<T: Tensor>: Send + std::fmt::Debug {
    /// A run begins: forget what belongs to an image.
    ///
    /// # Errors
    /// Those of the selector.
    fn begin_run(&mut self, _run: &Run<'_>) -> Result<()> {
        Ok(())
    }

    /// Splits the tokens by their scores `[b, tokens]` into `kept` tokens that stay and the rest. Both ascend. The
    /// scores of protected tokens are above all others.
    ///
    /// # Errors
    /// [`Error::NotFinite`](crate::Error::NotFinite) for a NaN score.
    fn select(&mut self, site: &Site<'_>, scores: &T, kept: usize) -> Result<Partition<T>>;
}

/// The tokens with the highest scores stay. Among equal scores the lower index stays (paper, section 3.1, step 3).
#[derive(Debug, Clone, Copy, Default)]
pub struct TopK;

impl<T: Tensor> TokenSelector<T> for TopK {
    fn select(&mut self, _site: &Site<'_>, scores: &T, kept: usize) -> Result<Partition<T>> {
        scores.split_top_k(kept)
    }
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;

    fn _obj_safe(_: Box<dyn TokenSelector<crate::reference::NdTensor>>) {}
}
