//! The unit in which a run's FLOPs are shown.

use crate::gathered::Gathered;

/// The unit of a run's FLOPs.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Unit {
    /// `TFLOP`, `GFLOP` or `MFLOP`.
    pub name: &'static str,
    /// How many of this unit make one TFLOP.
    pub factor: f64,
}

impl Unit {
    /// A unit in which the unpruned model has at least 1.
    #[must_use]
    pub fn of(run: &Gathered) -> Self {
        let largest = run.info.points.iter().map(|point| point.whole_tflop).fold(0.0, f64::max);
        match largest {
            large if large >= 1.0 => Self { name: "TFLOP", factor: 1.0 },
            middle if middle >= 1e-3 => Self { name: "GFLOP", factor: 1e3 },
            _ => Self { name: "MFLOP", factor: 1e6 },
        }
    }

    /// A number of TFLOP in this unit, without its name.
    #[must_use]
    pub fn show(self, tflop: f64) -> String {
        format!("{:.3}", tflop * self.factor)
    }
}
