//! What gathering by wrong positions would look like.

use atedm_candle::CandleTensor;
use atedm_core::plugin::{Action, Event, Reduction, Site, TokenReducer};
use atedm_core::{Indices, Result, Tensor};

use crate::cases::Method;

/// A method whose reductions give their tokens each other's positions.
pub(crate) struct Misplaced<'a>(pub(crate) &'a mut Method);

impl TokenReducer<CandleTensor> for Misplaced<'_> {
    fn inner(&mut self) -> Option<&mut dyn TokenReducer<CandleTensor>> {
        Some(self.0.as_mut())
    }

    fn on_event(&mut self, site: &Site<'_>, event: Event<'_, CandleTensor>) -> Result<Action<CandleTensor>> {
        Ok(match self.0.on_event(site, event)? {
            Action::UntilExit(by) => Action::UntilExit(Box::new(Backwards(by))),
            Action::Around { scope, by } => Action::Around { scope, by: Box::new(Backwards(by)) },
            other => other,
        })
    }
}

/// A reduction that gives its first token the last one's position.
#[derive(Debug)]
struct Backwards(Box<dyn Reduction<CandleTensor>>);

impl Reduction<CandleTensor> for Backwards {
    fn kept(&self) -> usize {
        self.0.kept()
    }
    fn shrink(&self, full: &CandleTensor) -> Result<CandleTensor> {
        self.0.shrink(full)
    }
    fn restore(&self, reduced: &CandleTensor) -> Result<CandleTensor> {
        self.0.restore(reduced)
    }
    fn positions(&self) -> Option<Result<<CandleTensor as Tensor>::Indices>> {
        Some(self.0.positions()?.and_then(|positions| {
            let mut rows = positions.to_host()?;
            rows.iter_mut().for_each(|row| row.reverse());
            Indices::from_host(&rows, &positions.device())
        }))
    }
    fn clone_box(&self) -> Box<dyn Reduction<CandleTensor>> {
        Box::new(Self(self.0.clone_box()))
    }
}
