//! The one error type of the workspace.

use std::path::PathBuf;

/// What can go wrong anywhere in the workspace, as one concrete enum.
///
/// Every message is one line, and names the operation, the field, the file or the tensor at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation got a tensor whose shape it cannot use.
    #[error("{op}: expected {expected}, got shape {got:?}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// What the operation expected, in words.
        expected: String,
        /// The shape it got.
        got: Vec<usize>,
    },
    /// An operation got a dtype that it does not take, or two that differ.
    #[error("{op}: expected dtype {expected}, got {got}")]
    DType {
        /// The operation.
        op: &'static str,
        /// What was expected.
        expected: String,
        /// What came.
        got: String,
    },
    /// A value that must be finite is not (a NaN score has no order).
    #[error("{what} is not finite")]
    NotFinite {
        /// What held the value.
        what: String,
    },
    /// A configuration value is out of range, unknown or contradictory.
    #[error("{field}: {reason}")]
    Config {
        /// The field, as the user wrote it.
        field: String,
        /// What was expected.
        reason: String,
    },
    /// A weight file or a tensor in it is missing or does not fit.
    #[error("{}: {reason}", weights_place(file, tensor))]
    Weights {
        /// The file, or what stands for one.
        file: PathBuf,
        /// The tensor's name; empty when the file itself is at fault.
        tensor: String,
        /// What was expected.
        reason: String,
    },
    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The backend cannot do this.
    #[error("{backend} does not support {op}")]
    Unsupported {
        /// The backend's name.
        backend: &'static str,
        /// The operation.
        op: String,
    },
    /// A plugin failed, or broke the rules of the seam.
    #[error("plugin {name}: {reason}")]
    Plugin {
        /// The plugin's registered name.
        name: String,
        /// What it did.
        reason: String,
    },
    /// The library behind a backend failed.
    #[error("{backend}: {op}: {source}")]
    Backend {
        /// The backend's name.
        backend: &'static str,
        /// The operation.
        op: &'static str,
        /// The library's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The user's callback asked to stop.
    #[error("cancelled")]
    Cancelled,
}

fn weights_place(file: &std::path::Path, tensor: &str) -> String {
    if tensor.is_empty() { file.display().to_string() } else { format!("{}: {tensor}", file.display()) }
}

/// `Result` with the workspace's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A [`Error::Config`] for `field`.
    pub fn config(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { field: field.into(), reason: reason.into() }
    }

    /// A [`Error::Shape`] for `op`.
    pub fn shape(op: &'static str, expected: impl Into<String>, got: impl Into<Vec<usize>>) -> Self {
        Self::Shape { op, expected: expected.into(), got: got.into() }
    }

    /// A [`Error::Io`] for `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// A [`Error::Weights`] for a tensor (or, with an empty name, for the file itself).
    pub fn weights(file: impl Into<PathBuf>, tensor: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Weights { file: file.into(), tensor: tensor.into(), reason: reason.into() }
    }
}
