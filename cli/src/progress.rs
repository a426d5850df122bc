//! The progress bar, on the standard error stream.

use std::cell::Cell;
use std::io::IsTerminal;

use atedm_experiment::listener::{Listener, Phase, Psnr, WrittenImage};
use atedm_sdxl::flops::readable;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::tell;

/// A bar over denoising steps with steps, time left and seconds per step. It is hidden if the user asks for that, or if
/// the error stream is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    quiet: bool,
    /// Whether it is shown. Lines must then be written above it.
    shown: Cell<bool>,
}

impl Progress {
    /// A bar over `steps`. It is not shown yet.
    pub(crate) fn new(steps: usize, quiet: bool) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
        let seconds_a_step = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let done = state.pos();
            // This writes to the bar's own buffer and cannot fail.
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
        Self { bar, quiet, shown: Cell::new(false) }
    }

    /// Shows the current phase.
    pub(crate) fn phase(&self, words: &'static str) {
        self.shown.set(true);
        self.bar.set_message(words);
        self.bar.tick();
    }

    /// Shows that this many steps are done.
    pub(crate) fn done(&self, steps: usize) {
        self.bar.set_position(steps as u64);
    }

    /// Removes the bar.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
        self.shown.set(false);
    }

    /// Prints a line for the user, unless they asked for quiet.
    pub(crate) fn say(&self, line: &str) {
        if !self.quiet {
            self.above(|| tell::line(line));
        }
    }

    /// Calls `write` while the bar is out of the way.
    fn above(&self, write: impl FnOnce()) {
        match self.shown.get() {
            true => self.bar.suspend(write),
            false => write(),
        }
    }
}

impl Listener for Progress {
    fn warning(&self, message: &str) {
        self.above(|| tell::warning(message));
    }

    fn begin(&self, steps: usize) {
        self.bar.set_length(steps as u64);
    }

    fn phase(&self, phase: Phase) {
        Progress::phase(
            self,
            match phase {
                Phase::Loading => "loading",
                Phase::Denoising => "denoising",
                Phase::Decoding => "decoding",
            },
        );
    }

    fn ready(&self) {
        self.bar.reset();
        Progress::phase(self, "denoising");
    }

    fn steps_done(&self, steps: usize) {
        self.done(steps);
    }

    fn written(&self, image: &WrittenImage<'_>) {
        let WrittenImage { prompt, label, count, total, flops, times, psnr } = image;
        let far = match psnr {
            Some(Psnr::Decibels(psnr)) => format!(", {psnr:.1} dB"),
            Some(Psnr::Equal) => ", equal".into(),
            None => String::new(),
        };
        self.say(&format!(
            "{count} of {total}: {prompt} {label} ({:.2} s a step, {}{far})",
            times.seconds_per_step,
            readable(flops.mean_tflop),
        ));
    }

    fn end(&self) {
        self.clear();
    }

    fn note(&self, words: &str) {
        self.say(words);
    }
}
