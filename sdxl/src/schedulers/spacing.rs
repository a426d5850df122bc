//! Chooses training timesteps: the range functions of numpy and torch, and the three spacings built on them.
//!
//! The spacings are those of Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", table 2.

use atedm_core::{Error, Result};

use super::config::SchedulerConfig;
use super::kinds::Spacing;

/// `numpy.linspace(start, stop, count)`. `endpoint` says whether `stop` is the last value.
pub(super) fn linspace(start: f64, stop: f64, count: usize, endpoint: bool) -> Vec<f64> {
    let intervals = if endpoint { count.saturating_sub(1) } else { count };
    if intervals == 0 {
        return vec![start; count];
    }
    let step = (stop - start) / intervals as f64;
    let mut values: Vec<f64> = (0..count).map(|i| i as f64 * step + start).collect();
    if let (true, Some(last)) = (endpoint, values.last_mut()) {
        *last = stop;
    }
    values
}

/// `numpy.arange(start, 0, -step)` on floats. By rounding, its length may differ by one from the exact quotient.
fn arange_down(start: f64, step: f64) -> Vec<f64> {
    let count = (start / step).ceil() as usize;
    // numpy uses the difference of the first two values as the increment.
    let increment = (start - step) - start;
    (0..count).map(|i| start + i as f64 * increment).collect()
}

/// `torch.linspace` in f32, compiled with fused multiply-add. It computes from both ends to the middle.
pub(super) fn linspace_f32(start: f32, end: f32, count: usize) -> Vec<f32> {
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    (0..count)
        .map(|i| match i < count / 2 {
            true => step.mul_add(i as f32, start),
            false => (-step).mul_add((count - 1 - i) as f32, end),
        })
        .collect()
}

/// `numpy.interp(x, 0.., values)`: linear between neighbours, constant outside.
pub(super) fn interpolate(x: f64, values: &[f32]) -> f64 {
    let at = |i: usize| values.get(i).map_or(f64::NAN, |&v| f64::from(v));
    let last = values.len().saturating_sub(1);
    if x <= 0.0 {
        return at(0);
    }
    if x >= last as f64 {
        return at(last);
    }
    let low = x.floor();
    let i = low as usize;
    (at(i + 1) - at(i)) * (x - low) + at(i)
}

/// Checks the number of steps of a run.
///
/// # Errors
/// [`Error::Config`] naming `steps`.
pub(super) fn check_steps(steps: usize, most: usize) -> Result<()> {
    match (1..=most).contains(&steps) {
        true => Ok(()),
        false => Err(Error::config("steps", format!("expected 1 to {most}, got {steps}"))),
    }
}

/// The parameters of a spacing. The schedulers of diffusers differ in small ways.
pub(super) struct Visits {
    /// Number of training steps.
    pub(super) train: usize,
    /// Number of inference steps.
    pub(super) steps: usize,
    /// The offset added to every `leading` timestep.
    pub(super) offset: usize,
    /// Whether `linspace` and `leading` compute one more step and drop the last (DPM++).
    pub(super) one_more: bool,
    /// Whether `linspace` timesteps are rounded to whole numbers.
    pub(super) whole: bool,
}

impl Visits {
    /// The parameters that Euler uses.
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Self {
        Self {
            train: config.num_train_timesteps,
            steps,
            offset: config.steps_offset,
            one_more: false,
            whole: false,
        }
    }

    /// The timesteps, descending.
    ///
    /// # Errors
    /// [`Error::Config`] naming `steps`, for 0 steps and for more steps than training has.
    pub(super) fn timesteps(&self, spacing: Spacing) -> Result<Vec<f64>> {
        // With `one_more`, one timestep more is computed, and all of them must differ.
        check_steps(self.steps, self.train - usize::from(self.one_more))?;
        let count = self.steps + usize::from(self.one_more);
        let train = self.train as f64;
        let mut timesteps: Vec<f64> = match spacing {
            Spacing::Linspace => {
                let round = |t: f64| if self.whole { t.round_ties_even() } else { f64::from(t as f32) };
                linspace(0.0, train - 1.0, count, true).into_iter().rev().map(round).collect()
            }
            Spacing::Leading => {
                let ratio = self.train / count;
                (0..count).rev().map(|i| (i * ratio + self.offset) as f64).collect()
            }
            Spacing::Trailing => {
                let down = arange_down(train, train / self.steps as f64);
                return Ok(down.into_iter().map(|t| t.round_ties_even() - 1.0).collect());
            }
        };
        timesteps.truncate(self.steps);
        Ok(timesteps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_point() {
        assert_eq!(linspace(3.0, 9.0, 1, true), [3.0]);
        assert_eq!(linspace_f32(3.0, 9.0, 1), [3.0]);
    }

    #[test]
    fn interpolation_is_constant_outside() {
        let values = [1.0, 2.0, 4.0];
        let got = [-1.0, 0.5, 1.5, 2.0, 9.0].map(|x| interpolate(x, &values));
        assert_eq!(got, [1.0, 1.5, 3.0, 4.0, 4.0]);
    }

    #[test]
    fn sdxl_leading_and_trailing() {
        let visits = Visits { train: 1000, steps: 50, offset: 1, one_more: false, whole: false };
        let leading = visits.timesteps(Spacing::Leading).unwrap();
        assert_eq!((leading[0], leading[49]), (981.0, 1.0));
        let trailing = visits.timesteps(Spacing::Trailing).unwrap();
        assert_eq!((trailing[0], trailing[1], trailing[49]), (999.0, 979.0, 19.0));
    }
}
