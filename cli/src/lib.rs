#![doc = include_str!("../README.md")]
//!
//! An outside crate ships its own program with [`main_with`] and an [`Extension`] that registers its plugins. The whole
//! command line then knows them by name.
//!
//! ```no_run
//! use atedm_core::plugin::{Registry, Unpruned, Whole};
//! use atedm_core::{AttentionOps, Result};
//!
//! struct Mine;
//!
//! impl atedm::Extension for Mine {
//!     fn register<T: AttentionOps>(&self, registry: &mut Registry<T>) -> Result<()> {
//!         registry.register_method(
//!             "do-nothing",
//!             |_options, _facts| Ok(Whole),
//!             |_plan, _context| Ok(Box::new(Unpruned)),
//!         )
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     atedm::main_with(Mine)
//! }
//! ```
//!
//! # Structure
//! The library [`atedm_experiment`] does the work of the commands. This crate has the command line and the terminal.
//! - `args`: the command line. `prune`, `sample`, `model`: the meaning of flags. `failure`: errors as an exit code.
//! - `commands`: one file per command. `dispatch`: the only `match` that chooses a backend.
//! - `tell`: the only place that writes to the standard error stream. `threads`: the number of threads. `signals`:
//!   clean-up before a signal ends the process.
//! - `builtin`: the trained model in the binary. `tiny`: the random checkpoint of `init-tiny`.
//!
//! # Mask files
//! `--masks-out` writes safetensors with one group of tensors for each pruning decision. Names are
//! `step.{step}.{block}.layer.{layer}.{field}`. The fields are:
//! - `kept` (I64 `[rows, kept]`): ascending positions in the token stream. `--masks-in` replays them.
//! - `scores` (F32 `[rows, tokens]`): the scores.
//! - `positions` (I64 `[rows, tokens]`): grid positions of a stream that was pruned before.
//! - `votes` (I64 `[1]`): the votes cast.
//! - `site` (I64 `[4]`): tokens, grid height, grid width, U-Net evaluation.

// The standard macros panic if the reader is gone. `tell` and `commands::print` do not.
#![deny(clippy::print_stderr, clippy::print_stdout)]

mod args;
mod builtin;
mod commands;
mod describe;
mod dispatch;
mod failure;
mod model;
mod progress;
mod prune;
mod sample;
#[cfg(unix)]
mod signals;
mod tell;
mod threads;
mod tiny;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

pub use atedm_experiment::Extension;

/// Runs the whole program with an outside crate's plugins. It parses the command line and runs the command. A failure
/// is reported as one line `error: …` with exit code 2 (command line or configuration) or 1 (files or the run).
pub fn main_with(extension: impl Extension) -> ExitCode {
    run_with(std::env::args_os(), extension)
}

/// Like [`main_with`], with the caller's own command line: the program's name, then its arguments.
pub fn run_with<A>(arguments: impl IntoIterator<Item = A>, extension: impl Extension) -> ExitCode
where
    A: Into<OsString> + Clone,
{
    start_log();
    let cli = match args::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(answer) if !answer.use_stderr() => {
            // Help or version. If the reader of a pipe is gone, nobody needs an error.
            let _ = answer.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return report(&failure::from_clap(&error)),
    };
    match commands::run(cli.command, &extension) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

fn report(failure: &failure::Failure) -> ExitCode {
    tell::line(format_args!("error: {}", tell::shown(&failure.to_string())));
    failure::exit_code(failure)
}

/// Writes spans and events of the libraries to the standard error stream if `ATEDM_LOG` is set (`ATEDM_LOG=debug`).
fn start_log() {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("ATEDM_LOG") {
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| tell::Log);
        // This fails only if the caller has its own subscriber. Then that one is used.
        let _ = subscriber.try_init();
    }
}
