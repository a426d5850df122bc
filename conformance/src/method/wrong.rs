//! Tensors that do not fit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use atedm_core::plugin::Reduction;
use atedm_core::{Result, Tensor};

use crate::report::panic_message;

/// How a tensor is wrong. Tokens are the last axis but one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WrongTensor {
    /// One token too many.
    MoreTokens,
    /// One token too few; a single one stays.
    FewerTokens,
    /// One batch row too many.
    MoreRows,
    /// An axis is missing.
    Flat,
    /// An axis too many.
    Deep,
    /// Nothing came where a graph was asked for; other tensors are as they should be.
    Missing,
}

impl WrongTensor {
    pub(super) const ALL: [Self; 6] =
        [Self::MoreTokens, Self::FewerTokens, Self::MoreRows, Self::Flat, Self::Deep, Self::Missing];

    /// `right` made wrong.
    pub(super) fn of<T: Tensor>(self, right: &T) -> Result<T> {
        let shape = right.shape();
        let axis = shape.len().saturating_sub(2);
        match self {
            Self::MoreTokens => T::concat(&[right, &right.narrow(axis, 0, 1)?], axis),
            Self::FewerTokens => right.narrow(axis, 0, shape[axis].saturating_sub(1).max(1)),
            Self::MoreRows => T::concat(&[right, &right.narrow(0, 0, 1)?], 0),
            Self::Flat => right.reshape(&[&[shape[0] * shape[1]][..], &shape[2..]].concat()),
            Self::Deep => right.reshape(&[&[1][..], &shape].concat()),
            Self::Missing => Ok(right.clone()),
        }
    }
}

/// The wrong tensors that a reduction takes, or that make it panic. `input` and `shrunk` are the right ones.
pub(super) fn taken<T: Tensor>(by: &dyn Reduction<T>, input: &T, shrunk: &T) -> Vec<String> {
    let mut took = Vec::new();
    for how in WrongTensor::ALL {
        for (what, right) in [("shrink", input), ("restore", shrunk)] {
            // nothing can be made of no tokens
            let Some(wrong) = how.of(right).ok().filter(|wrong| wrong.shape() != right.shape()) else {
                continue;
            };
            let result = catch_unwind(AssertUnwindSafe(|| match what {
                "shrink" => by.shrink(&wrong),
                _ => by.restore(&wrong),
            }));
            let fault = match result {
                Ok(Err(_)) => continue,
                Ok(Ok(_)) => "is taken".to_string(),
                Err(panic) => format!("panics: {}", panic_message(&*panic)),
            };
            took.push(format!("{what} of {:?} instead of {:?} {fault}", wrong.shape(), right.shape()));
        }
    }
    took
}
