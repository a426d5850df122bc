//! The one error type of the workspace.

use std::path::PathBuf;

/// Everything that can go wrong in the workspace, as one concrete enum.
///
/// Every message is one line. It names the operation, the field, the file or the tensor at fault.
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
    /// An operation got a dtype that it does not support, or two different dtypes.
    #[error("{op}: expected dtype {expected}, got {got}")]
    DType {
        /// The operation.
        op: &'static str,
        /// What was expected.
        expected: String,
        /// What it got.
        got: String,
    },
    /// A value that must be finite is not finite. A NaN score, for example, has no rank.
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
        /// The file, or a description of the source.
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

/// The first link on the way to `path`, or `path` itself, whose target is missing.
fn dead_link(path: &std::path::Path) -> Option<String> {
    let (link, target) = path
        .ancestors()
        .filter_map(|link| Some((link, link.read_link().ok()?)))
        .find(|(link, _)| !link.exists())?;
    let name = if link == path { String::new() } else { format!("{} ", link.display()) };
    Some(format!("{name}is a link to {}, which is missing", target.display()))
}

/// The text on one line, with one space for every run of white space. Other libraries give messages of several lines.
pub fn one_line(text: impl std::fmt::Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `Result` with the workspace's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Config`] for `field`.
    pub fn config(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { field: field.into(), reason: reason.into() }
    }

    /// An [`Error::Shape`] for `op`.
    pub fn shape(op: &'static str, expected: impl Into<String>, got: impl Into<Vec<usize>>) -> Self {
        Self::Shape { op, expected: expected.into(), got: got.into() }
    }

    /// An [`Error::Io`] for `path`. If the file is missing because a link's target is missing, the message says so.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        let source = match dead_link(&path) {
            Some(reason) if source.kind() == std::io::ErrorKind::NotFound => {
                std::io::Error::new(source.kind(), reason)
            }
            _ => source,
        };
        Self::Io { path, source }
    }

    /// An [`Error::Weights`] for a tensor. An empty name means the file itself.
    pub fn weights(file: impl Into<PathBuf>, tensor: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Weights { file: file.into(), tensor: tensor.into(), reason: reason.into() }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn links_to_nowhere_are_told_from_missing_files() {
        let folder = std::env::temp_dir().join(format!("atedm-core-links-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (name, target) in [("dead", "blobs/0"), ("alive", ".")] {
            let _ = std::fs::remove_file(folder.join(name));
            std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
        }
        let message = |name: &str, kind: io::ErrorKind| {
            let path = folder.join(name);
            let message = Error::io(&path, kind.into()).to_string();
            message.replace(&folder.display().to_string(), "F")
        };
        let missing = io::ErrorKind::NotFound;
        assert_eq!(message("dead", missing), "F/dead: is a link to blobs/0, which is missing");
        assert_eq!(message("dead/a", missing), "F/dead/a: F/dead is a link to blobs/0, which is missing");
        assert_eq!(message("alive/a", missing), format!("F/alive/a: {}", io::Error::from(missing)));
        let refused = io::ErrorKind::PermissionDenied;
        assert_eq!(message("dead", refused), format!("F/dead: {}", io::Error::from(refused)));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
