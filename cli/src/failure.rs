//! How a command fails: one line and an exit code.

use std::fmt;
use std::process::ExitCode;

use atedm_core::Error;

use crate::tell;

/// Whose fault it is, which is also the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A file or the run itself: exit code 1.
    Run,
    /// The command line or a configuration: exit code 2.
    Usage,
}

/// A command's failure: told as `error: …` on one line, as [`tell::shown`] makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    fault: Fault,
    message: String,
}

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// The command line or a configuration value is at fault.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { fault: Fault::Usage, message: message.to_string() }
    }

    /// A file or the run is at fault.
    pub(crate) fn run(message: impl fmt::Display) -> Self {
        Self { fault: Fault::Run, message: message.to_string() }
    }

    /// A file is at fault, whatever kind of error was found in it.
    pub(crate) fn file(path: &std::path::Path, reason: impl fmt::Display) -> Self {
        Self::run(format!("{}: {reason}", path.display()))
    }

    /// The same failure, with the place it concerns in front.
    pub(crate) fn within(self, place: impl fmt::Display) -> Self {
        Self { fault: self.fault, message: format!("{place}: {}", self.message) }
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.fault {
            Fault::Run => 1,
            Fault::Usage => 2,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&tell::shown(&self.message))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let fault = match error {
            Error::Config { .. } => Fault::Usage,
            _ => Fault::Run,
        };
        Self { fault, message: error.to_string() }
    }
}

/// A clap error as one line: its own words without the usage text and the hint at `--help`.
pub(crate) fn from_clap(error: &clap::Error) -> Failure {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::usage(
            "expected a command: generate, inspect, masks, flops, bench, compare, ablate, report, eval or init-tiny (see atedm --help)",
        );
    }
    let text = error.to_string();
    let body = text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let line = body.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    Failure::usage(line.strip_prefix("error: ").unwrap_or(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_and_codes_follow_the_fault() {
        let failure = Failure::file(std::path::Path::new("a.toml"), "broken\n  at line 3\n");
        assert_eq!(failure.to_string(), "a.toml: broken at line 3");
        assert_eq!(failure.fault, Fault::Run);
        assert_eq!(Failure::from(Error::config("tau", "too large")).fault, Fault::Usage);
        assert_eq!(Failure::from(Error::Cancelled).fault, Fault::Run);
        assert_eq!(Failure::usage("x").within("--prune-opt").to_string(), "--prune-opt: x");
    }
}
