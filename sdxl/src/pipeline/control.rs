//! A ControlNet in a run: the picture that it follows, and the steps at which it runs.

use atedm_core::{Error, Result};

/// What the checkpoint's ControlNet follows in a run.
#[derive(Debug, Clone)]
pub struct Control<T> {
    /// The picture `[1, 3, height, width]` in RGB, with values from 0 to 1 and the size of the output. It serves all images.
    pub picture: T,
    /// The factor of the ControlNet's outputs: 1 as trained, 0 without effect.
    pub scale: f64,
    /// The steps at which it runs.
    pub span: ControlSpan,
}

/// The steps at which a ControlNet runs, as shares of the steps of a run: diffusers' `control_guidance_start` and
/// `control_guidance_end`. At other steps the U-Net runs alone.
///
/// diffusers counts evaluations. A sampler that evaluates twice a step may therefore differ from it by one evaluation at either
/// end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ControlSpan {
    start: f64,
    end: f64,
}

impl ControlSpan {
    /// All steps.
    pub const WHOLE: Self = Self { start: 0.0, end: 1.0 };

    /// The steps that lie wholly between these shares.
    ///
    /// # Errors
    /// [`Error::Config`] unless `0 ≤ start < end ≤ 1`.
    pub fn new(start: f64, end: f64) -> Result<Self> {
        if start >= 0.0 && start < end && end <= 1.0 {
            return Ok(Self { start, end });
        }
        let reason = format!("expected shares of the steps, from 0 to 1 and rising, got {start} and {end}");
        Err(Error::config("control-start, control-end", reason))
    }

    /// The share of the steps that have passed as the ControlNet begins.
    pub fn start(self) -> f64 {
        self.start
    }

    /// The share of the steps that have passed as it ends.
    pub fn end(self) -> f64 {
        self.end
    }

    /// Whether it runs at step `index` of a schedule of `total` steps, of which a run begins at `first`.
    pub fn covers(self, index: usize, first: usize, total: usize) -> bool {
        let (number, count) = (index.saturating_sub(first) as f64, total.saturating_sub(first) as f64);
        number / count >= self.start && (number + 1.0) / count <= self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// diffusers: `keep = not (i / len(timesteps) < start or (i + 1) / len(timesteps) > end)`.
    #[test]
    fn steps_are_those_that_diffusers_keeps() {
        let kept = |start, end, first, total| {
            let span = ControlSpan::new(start, end).unwrap();
            (first..total).filter(|&index| span.covers(index, first, total)).collect::<Vec<usize>>()
        };
        assert_eq!(kept(0.0, 1.0, 0, 4), [0, 1, 2, 3]);
        assert_eq!(kept(0.2, 0.8, 0, 10), [2, 3, 4, 5, 6, 7]);
        assert_eq!(kept(0.21, 0.79, 0, 10), [3, 4, 5, 6]);
        // a run on a picture begins at step 6 of 10: half of its steps are two
        assert_eq!(kept(0.0, 0.5, 6, 10), [6, 7]);
        assert_eq!(kept(0.0, 0.1, 0, 5), [0; 0]);
    }

    #[test]
    fn shares_must_rise() {
        for (start, end) in
            [(0.5, 0.5), (0.6, 0.4), (-0.1, 1.0), (0.0, 1.1), (f64::NAN, 1.0), (0.0, f64::NAN)]
        {
            let error = ControlSpan::new(start, end).unwrap_err().to_string();
            assert!(error.starts_with("control-start, control-end: expected shares of the steps"), "{error}");
        }
    }
}
