//! Parsers for the values of single flags.

use std::fmt;
use std::str::FromStr;

use atedm_experiment::Budget;

/// Parses a whole number of at least 1.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "expected a whole number of at least 1".to_string())
}

/// Parses a step's index.
pub(super) fn step(text: &str) -> Result<usize, String> {
    text.trim().parse().map_err(|_| "expected steps counted from 0, such as 0,15,30".to_string())
}

/// Parses a whole number.
pub(super) fn count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "expected a whole number of at least 0".to_string())
}

/// Parses a seed.
pub(super) fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("expected a whole number from 0 to {}", u64::MAX))
}

/// Parses a finite number.
pub(super) fn finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite()).ok_or_else(|| "expected a finite number".to_string())
}

/// Parses a budget.
pub(super) fn budget(text: &str) -> Result<Budget, String> {
    let budget: Budget = text.parse()?;
    budget.checked().map_err(|failure| failure.to_string())
}

/// Parses a number from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let expected = || "expected a number from 0 to 1".to_string();
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(expected)
}

/// A device on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU by number.
    Cuda(usize),
    /// The Apple GPU.
    Metal,
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected cpu, cuda:N or metal".to_string();
        match text.split_once(':') {
            None => match text {
                "cpu" => Ok(Self::Cpu),
                "cuda" => Ok(Self::Cuda(0)),
                "metal" => Ok(Self::Metal),
                _ => Err(expected()),
            },
            Some(("cuda", number)) => number.parse().map(Self::Cuda).map_err(|_| expected()),
            Some(_) => Err(expected()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert_eq!(positive("3"), Ok(3));
        for bad in ["0", "-1", "1.5", "", "x"] {
            assert!(positive(bad).is_err(), "{bad}");
        }
        assert_eq!(finite("-2.5"), Ok(-2.5));
        for bad in ["NaN", "inf", "-inf", "seven", ""] {
            assert!(finite(bad).is_err(), "{bad}");
        }
        assert_eq!((share("0"), share("1")), (Ok(0.0), Ok(1.0)));
        for bad in ["-0.1", "1.01", "NaN", "inf", "half"] {
            assert!(share(bad).is_err(), "{bad}");
        }
        assert!(seed("-1").is_err());
    }

    #[test]
    fn devices_read_back_as_written() {
        for name in ["cpu", "cuda:0", "cuda:3", "metal"] {
            assert_eq!(name.parse::<Device>().unwrap().to_string(), name);
        }
        for bad in ["gpu", "cuda:", "cuda:x", "cpu:1", "metal:0", ""] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
    }
}
