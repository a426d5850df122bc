//! The program `atedm` as a library: text to image with SD-XL, pruned by AT-EDM or by a plugin of your own.
//!
//! An outside crate ships its own program with [`main_with`] and an [`Extension`] that registers its plugins; the whole
//! command line then knows them by name.
//!
//! # Structure
//! What the commands do is the library [`atedm_experiment`]; here are the command line and the terminal.
//! - `args`: what was typed; `prune`, `sample`, `model`: the flags' meaning; `failure`: errors as an exit code.
//! - `commands`: one file a command; `dispatch`: the one `match` that picks a backend.
//! - `tell`: the one place that writes to the standard error stream; `threads`: how many; `signals`: what goes before a kill.
//! - `builtin`: the trained model in the binary; `tiny`: the random checkpoint of `init-tiny`.
//!
//! # Mask files
//! `--masks-out` writes safetensors with one group of tensors for each pruning decision, named
//! `step.{step}.{block}.layer.{layer}.{field}`: `kept` (I64 `[rows, kept]`, ascending positions in the token stream),
//! `scores` (F32 `[rows, tokens]`), `positions` (I64 `[rows, tokens]`, grid positions of a stream that was pruned before),
//! `votes` (I64 `[1]`) and `site` (I64 `[4]`: tokens, grid height, grid width, U-Net evaluation). `--masks-in` replays `kept`.

// They panic where nobody can read: `tell` and `commands::print` do not.
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

/// The whole program, with an outside crate's plugins in it: parses the command line, runs the command, and reports a
/// failure as one line `error: …` with exit code 2 (command line or configuration) or 1 (files or the run).
pub fn main_with(extension: impl Extension) -> ExitCode {
    run_with(std::env::args_os(), extension)
}

/// [`main_with`] on a command line of the caller's: the program's name, then its arguments.
pub fn run_with<A>(arguments: impl IntoIterator<Item = A>, extension: impl Extension) -> ExitCode
where
    A: Into<OsString> + Clone,
{
    start_log();
    let cli = match args::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(answer) if !answer.use_stderr() => {
            // Help or version. Should the reader of a pipe be gone, there is nobody to tell.
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

/// Spans and events of the libraries, on the standard error stream, if `ATEDM_LOG` asks for them (`ATEDM_LOG=debug`).
fn start_log() {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("ATEDM_LOG") {
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| tell::Log);
        // Fails only if a caller has a subscriber of its own, which then is the one to use.
        let _ = subscriber.try_init();
    }
}
