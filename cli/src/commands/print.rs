//! What a command answers.

use std::io::Write;

use crate::failure::{Failure, Outcome};
use crate::tell;

/// A command's answer, on the standard output stream, harmless to a terminal.
pub(super) fn print(text: &str) -> Outcome {
    match writeln!(std::io::stdout(), "{}", tell::harmless(text)) {
        // Nobody reads on (a pager was closed): not a failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Failure::run(format!("standard output: {error}"))),
    }
}
