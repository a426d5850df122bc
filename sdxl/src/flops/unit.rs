//! FLOP figures in a readable unit.

/// A unit for figures with three decimals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Unit {
    /// `TFLOP`, `GFLOP` or `MFLOP`.
    pub name: &'static str,
    factor: f64,
}

impl Unit {
    /// The largest unit in which `tflop` is at least 1. If there is none, the smallest unit.
    pub fn fitting(tflop: f64) -> Self {
        let (name, factor) = match tflop {
            large if large >= 1.0 => ("TFLOP", 1.0),
            middle if middle >= 1e-3 => ("GFLOP", 1e3),
            _ => ("MFLOP", 1e6),
        };
        Self { name, factor }
    }

    /// A number of TFLOPs in this unit, without the unit's name.
    pub fn show(&self, tflop: f64) -> String {
        format!("{:.3}", self.factor * tflop)
    }
}

/// A number of TFLOPs in the unit that fits it, with the unit's name.
pub fn readable(tflop: f64) -> String {
    let unit = Unit::fitting(tflop);
    format!("{} {}", unit.show(tflop), unit.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_a_fitting_unit() {
        assert_eq!([6.761, 0.0123, 0.0000456].map(readable), ["6.761 TFLOP", "12.300 GFLOP", "45.600 MFLOP"]);
    }
}
