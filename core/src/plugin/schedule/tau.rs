//! The boundary between early and late denoising steps.

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result};

/// The number of early steps τ, as a count (`15`) or a share of the steps (`"30%"`).
///
/// A step is early when its index in the *full* schedule is below τ. The paper uses 15 of 50.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tau {
    /// This many steps.
    Steps(usize),
    /// This percentage of the steps, rounded down.
    Percent(f64),
}

impl Default for Tau {
    fn default() -> Self {
        Self::Percent(30.0)
    }
}

impl Tau {
    /// τ in a run of `total` steps. A share is rounded down.
    pub fn steps(self, total: usize) -> usize {
        match self {
            Self::Steps(steps) => steps,
            Self::Percent(percent) => (percent * total as f64 / 100.0).floor() as usize,
        }
    }

    /// Checks that a share is between 0 and 100 %. A count is always valid.
    ///
    /// # Errors
    /// [`Error::Config`] with field `field`.
    pub fn validate(self, field: &str) -> Result<()> {
        match self {
            Self::Percent(percent) if !(0.0..=100.0).contains(&percent) => {
                Err(Error::config(field, format!("expected a share between 0% and 100%, got {percent}%")))
            }
            _ => Ok(()),
        }
    }

    /// Checks that τ does not exceed the number of steps in a run. They may be equal.
    ///
    /// # Errors
    /// [`Error::Config`] with field `field`.
    pub fn fits(self, field: &str, total: usize) -> Result<()> {
        let steps = self.steps(total);
        if steps > total {
            return Err(Error::config(
                field,
                format!("expected at most the {total} steps of the run, got {steps}"),
            ));
        }
        Ok(())
    }
}

impl std::fmt::Display for Tau {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl std::str::FromStr for Tau {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.strip_suffix('%') {
            Some(number) => number.trim().parse().ok().map(Self::Percent),
            None => text.parse().ok().map(Self::Steps),
        };
        let tau = parsed.ok_or_else(|| {
            Error::config("tau", format!("expected a count of steps or a share such as 30%, got {text:?}"))
        })?;
        tau.validate("tau")?;
        Ok(tau)
    }
}

impl Serialize for Tau {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Steps(steps) => steps.serialize(serializer),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Tau {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct TauVisitor;
        impl Visitor<'_> for TauVisitor {
            type Value = Tau;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a count of steps or a share such as \"30%\"")
            }
            fn visit_u64<E: de::Error>(self, steps: u64) -> std::result::Result<Tau, E> {
                usize::try_from(steps)
                    .map(Tau::Steps)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(steps), &self))
            }
            fn visit_i64<E: de::Error>(self, steps: i64) -> std::result::Result<Tau, E> {
                usize::try_from(steps)
                    .map(Tau::Steps)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(steps), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Tau, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(TauVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_per_cent_of_fifty_is_fifteen() {
        assert_eq!(Tau::default().steps(50), 15);
        assert_eq!(Tau::default().steps(4), 1);
        assert_eq!(Tau::default().steps(3), 0);
        assert_eq!(Tau::Percent(100.0).steps(7), 7);
        assert_eq!(Tau::Steps(9).steps(50), 9);
    }

    #[test]
    fn reads_counts_and_shares_only() {
        let read = |text: &str| serde_json::from_str::<Tau>(text);
        assert_eq!(read("15").unwrap(), Tau::Steps(15));
        assert_eq!(read("\"15\"").unwrap(), Tau::Steps(15));
        assert_eq!(read("\"12.5%\"").unwrap(), Tau::Percent(12.5));
        for bad in ["-1", "0.3", "\"101%\"", "\"-1%\"", "\"NaN%\"", "\"many\"", "true"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for tau in [Tau::Steps(0), Tau::Steps(15), Tau::Percent(30.0), Tau::Percent(33.3)] {
            assert_eq!(read(&serde_json::to_string(&tau).unwrap()).unwrap(), tau);
        }
    }

    #[test]
    fn tau_may_equal_the_steps_but_not_exceed_them() {
        assert!(Tau::Steps(50).fits("tau", 50).is_ok());
        let error = Tau::Steps(51).fits("tau", 50).unwrap_err().to_string();
        assert!(error.starts_with("tau: ") && error.contains("50"), "{error}");
    }
}
