//! Converts libtorch's errors into ours.

use atedm_core::{Error, Result, one_line};
use tch::TchError;

/// The name of the backend in configs, errors and metadata.
pub(crate) const NAME: &str = "tch";

/// The result of libtorch's own operations.
pub type TorchResult<T> = std::result::Result<T, TchError>;

/// Turns libtorch's error into an [`Error::Backend`] that names an operation. Code that calls tch beside this crate needs it.
pub trait OrBackend<T> {
    /// The value, or the error on one line.
    fn or_backend(self, op: &'static str) -> Result<T>;
}

impl<T> OrBackend<T> for TorchResult<T> {
    fn or_backend(self, op: &'static str) -> Result<T> {
        self.map_err(|error| Error::Backend { backend: NAME, op, source: Box::new(bare(error)) })
    }
}

/// The error without libtorch's back-trace, which would make the message dozens of lines long.
fn bare(error: TchError) -> TchError {
    match error {
        TchError::Torch(text) => TchError::Torch(without_back_trace(&text)),
        other => other,
    }
}

/// The part of libtorch's message before its back-trace, on one line.
pub(crate) fn without_back_trace(text: &str) -> String {
    one_line(text.split("Exception raised from").next().unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line() {
        let x = tch::Tensor::from_slice(&[1.0f32, 2.0]);
        let message = x.f_reshape([3]).or_backend("reshape").unwrap_err().to_string();
        assert!(message.starts_with("tch: reshape: ") && !message.contains('\n'), "{message}");
        assert!(message.contains("shape '[3]'") && !message.contains("frame #"), "{message}");
    }
}
