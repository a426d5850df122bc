//! Checks that several methods of this crate share.

use atedm_core::plugin::{BuildContext, NestId};
use atedm_core::{AttentionOps, Error, Result};

/// Checks that there are no kept sets to replay, because these methods remove no tokens.
///
/// # Errors
/// [`Error::Config`] naming `masks`.
pub(crate) fn no_replay<T: AttentionOps>(context: &BuildContext<T>) -> Result<()> {
    match context.replay {
        Some(_) => Err(Error::config(
            "masks",
            "kept sets can be replayed for AT-EDM only: this method keeps every token",
        )),
        None => Ok(()),
    }
}

/// Checks that the model has reported the nest that a method works on.
///
/// # Errors
/// [`Error::Config`] naming the option that selects the nest.
pub(crate) fn expect_heard(heard: bool, field: &str, nest: NestId) -> Result<()> {
    match heard {
        true => Ok(()),
        false => Err(Error::config(field, format!("the model tells of no {nest}"))),
    }
}
