//! The progress bar, on the standard error stream.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::tell;

/// A bar over denoising steps: steps, time left, seconds a step. Hidden when asked for or when nobody watches.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    quiet: bool,
    started: Instant,
}

impl Progress {
    /// A bar over `steps`, not yet shown.
    pub(crate) fn new(steps: usize, quiet: bool) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
        let seconds_a_step = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let done = state.pos();
            // A write to the bar's own buffer: nothing to report.
            let _ = if done == 0 {
                write!(out, "–")
            } else {
                write!(out, "{:.2}", state.elapsed().as_secs_f64() / done as f64)
            };
        };
        let template = "{msg:>10} {wide_bar} {pos}/{len}  {s_per_it} s/it  {elapsed} < {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.with_key("s_per_it", seconds_a_step));
        }
        Self { bar, quiet, started: Instant::now() }
    }

    /// What happens now.
    pub(crate) fn phase(&self, words: &'static str) {
        self.bar.set_message(words);
        self.bar.tick();
    }

    /// Denoising begins: the clock starts.
    pub(crate) fn start(&mut self) {
        self.started = Instant::now();
        self.bar.reset();
        self.phase("denoising");
    }

    /// This many steps are done.
    pub(crate) fn done(&self, steps: usize) {
        self.bar.set_position(steps as u64);
    }

    /// Time since [`Progress::start`].
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Removes the bar.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// A line for the user, unless they asked for quiet.
    pub(crate) fn say(&self, line: &str) {
        if !self.quiet {
            self.bar.suspend(|| tell::line(line));
        }
    }
}
