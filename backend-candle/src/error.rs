//! Converts Candle's errors into ours.

use atedm_core::{Error, Result};

use crate::NAME;

/// Turns Candle's error into an [`Error::Backend`] that names an operation.
pub(crate) trait OrBackend<T> {
    fn or_backend(self, op: &'static str) -> Result<T>;
}

impl<T> OrBackend<T> for candle_core::Result<T> {
    fn or_backend(self, op: &'static str) -> Result<T> {
        self.map_err(|error| Error::Backend { backend: NAME, op, source: Box::new(bare(error)) })
    }
}

/// The error without Candle's back-trace, which would make the message several lines long.
pub(crate) fn bare(error: candle_core::Error) -> candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => bare(*inner),
        other => other,
    }
}
