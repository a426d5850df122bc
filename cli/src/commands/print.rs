//! Prints a command's answer.

use std::io::Write;

use crate::failure::{Failure, Outcome};
use crate::tell;

/// Prints a command's answer to the standard output, without characters that could control a terminal.
pub(super) fn print(text: &str) -> Outcome {
    match writeln!(std::io::stdout(), "{}", tell::harmless(text)) {
        // If the reader is gone (a pager was closed), this is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Failure::run(format!("standard output: {error}"))),
    }
}
