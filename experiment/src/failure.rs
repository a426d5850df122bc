//! Errors of an experiment: a message of one line, and whether the input or the run is at fault.

use std::fmt;
use std::path::Path;

use atedm_core::Error;

/// An error. Its message is one line that names the key, the file or the image at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// An error in a configuration or on the command line.
    Usage(String),
    /// An error in a file, or in the run itself.
    Run(String),
}

/// The result of an operation that may fail.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// An error in a configuration or on the command line.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(message.to_string())
    }

    /// An error in a file or in the run.
    pub fn run(message: impl fmt::Display) -> Self {
        Self::Run(message.to_string())
    }

    /// An error in a file, whatever its cause.
    pub fn file(path: &Path, reason: impl fmt::Display) -> Self {
        Self::run(format!("{}: {reason}", path.display()))
    }

    /// The same failure, with its place in front of the message.
    pub fn within(self, place: impl fmt::Display) -> Self {
        match self {
            Self::Usage(message) => Self::Usage(format!("{place}: {message}")),
            Self::Run(message) => Self::Run(format!("{place}: {message}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(message) | Self::Run(message)) = self;
        f.write_str(&without_breaks(message))
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Config { .. } => Self::usage(error),
            _ => Self::run(error),
        }
    }
}

/// Puts a text on one line. Messages of libraries may span several lines; ours never do.
pub fn without_breaks(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_one_line_and_know_whose_fault_it_is() {
        let failure = Failure::run("broken\n  at line 3\r\n").within("a.toml");
        assert_eq!(failure.to_string(), "a.toml: broken at line 3");
        assert!(matches!(failure, Failure::Run(_)));
        assert!(matches!(Failure::from(Error::config("tau", "too large")), Failure::Usage(_)));
        assert!(matches!(Failure::from(Error::Cancelled), Failure::Run(_)));
        assert_eq!(Failure::usage("x").within("--prune-opt"), Failure::Usage("--prune-opt: x".into()));
    }
}
