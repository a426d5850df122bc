//! How an experiment fails: one line, and whose fault it is.

use std::fmt;
use std::path::Path;

use atedm_core::Error;

/// What went wrong, told on one line that names the culprit: a key, a file, an image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// A configuration, or what a command line says.
    Usage(String),
    /// A file, or the run itself.
    Run(String),
}

/// What may fail in an experiment.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A configuration or a command line is at fault.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(message.to_string())
    }

    /// A file or the run is at fault.
    pub fn run(message: impl fmt::Display) -> Self {
        Self::Run(message.to_string())
    }

    /// A file is at fault, whatever kind of error was found in it.
    pub fn file(path: &Path, reason: impl fmt::Display) -> Self {
        Self::run(format!("{}: {reason}", path.display()))
    }

    /// The same failure, with the place it concerns in front.
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

/// A text on one line: libraries' messages may span several; ours never do.
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
