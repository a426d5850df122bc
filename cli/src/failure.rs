//! Turns a command's failure into one line and an exit code.

use std::process::ExitCode;

pub(crate) use atedm_experiment::failure::{Failure, Outcome};

/// 2 for an error on the command line or in a configuration, 1 for an error in a file or the run.
pub(crate) fn exit_code(failure: &Failure) -> ExitCode {
    ExitCode::from(match failure {
        Failure::Usage(_) => 2,
        _ => 1,
    })
}

/// A clap error on one line, without the usage text and the hint to `--help`.
pub(crate) fn from_clap(error: &clap::Error) -> Failure {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::usage(
            "expected a command: generate, inspect, masks, flops, bench, compare, ablate, report, eval, convert or init-tiny (see atedm --help)",
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
    fn codes_follow_the_fault() {
        let code = |failure: Failure| format!("{:?}", exit_code(&failure));
        assert_eq!(code(Failure::usage("x")), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code(Failure::run("x")), format!("{:?}", ExitCode::from(1)));
    }
}
