//! A budget as it is written: in TFLOPs, or as a share of what the unpruned model costs.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use atedm_core::plugin::percentage;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::failure::{Failure, Outcome};

/// The option that holds a budget.
pub(crate) const KEY: &str = "budget_tflops";

/// The mean cost of an evaluation for which a ratio is solved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Budget {
    /// TFLOPs (2 × MAC, one sample).
    Tflops(f64),
    /// A share of the unpruned model's cost; 0.8 is written `"80%"`.
    Share(f64),
}

/// What happens to a point whose budget no ratio meets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unreachable {
    /// The configuration is refused.
    #[default]
    Error,
    /// The run has no such point, and its listener is warned.
    LeaveOut,
}

/// A budget in TOML and JSON.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Number(f64),
    Text(String),
}

impl Budget {
    /// The budget in TFLOPs, for a model whose unpruned evaluation costs `whole` TFLOPs.
    pub fn tflops(self, whole: f64) -> f64 {
        match self {
            Self::Tflops(tflops) => tflops,
            Self::Share(share) => share * whole,
        }
    }

    /// The budget of a JSON value; `None` for null.
    ///
    /// # Errors
    /// [`Failure::Usage`] if it is neither a number nor a share.
    pub fn of(value: &Value) -> Outcome<Option<Self>> {
        if value.is_null() {
            return Ok(None);
        }
        let budget = serde_json::from_value(value.clone());
        budget.map(Some).map_err(|_| Failure::usage(format!("{KEY}: {}", expected(value))))
    }

    /// The value that [`of`](Self::of) reads.
    pub fn to_value(self) -> Value {
        match Written::from(self) {
            Written::Number(number) => number.into(),
            Written::Text(text) => text.into(),
        }
    }

    /// Checks that it is a number.
    ///
    /// # Errors
    /// [`Failure::Usage`] for an infinite number, and for one that is none.
    pub fn checked(self) -> Outcome<Self> {
        let (Self::Tflops(number) | Self::Share(number)) = self;
        match number.is_finite() {
            true => Ok(self),
            false => Err(Failure::usage(format!("{KEY}: expected a finite number, got {number}"))),
        }
    }
}

fn expected(got: impl Display) -> String {
    format!("expected TFLOPs or a share of the unpruned model's cost such as \"80%\", got {got}")
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map_or_else(|_| Self::try_from(Written::Text(text.into())), |number| Ok(Self::Tflops(number)))
    }
}

impl Display for Budget {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match Written::from(*self) {
            Written::Number(number) => write!(f, "{number}"),
            Written::Text(text) => f.write_str(&text),
        }
    }
}

impl From<Budget> for Written {
    fn from(budget: Budget) -> Self {
        match budget {
            Budget::Tflops(tflops) => Self::Number(tflops),
            // Rounded, because 0.07 times 100 is a little more than 7.
            Budget::Share(share) => Self::Text(format!("{}%", (share * 1e12).round() / 1e10)),
        }
    }
}

impl TryFrom<Written> for Budget {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(number) => Ok(Self::Tflops(number)),
            Written::Text(text) => {
                percentage(&text).map(Self::Share).ok_or_else(|| expected(format!("{text:?}")))
            }
        }
    }
}

/// Replaces every share among a method's options by TFLOPs, also in the tables of a stack's members. `whole` gives the cost
/// of an unpruned evaluation.
///
/// # Errors
/// As [`Budget::of`], and those of `whole`.
pub(crate) fn in_tflops(options: &mut Map<String, Value>, whole: &dyn Fn() -> Outcome<f64>) -> Outcome {
    for (key, value) in options {
        match value {
            Value::Object(member) => in_tflops(member, whole)?,
            Value::String(_) if key == KEY => {
                if let Some(budget) = Budget::of(value)? {
                    *value = budget.tflops(whole()?).into();
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_budget_is_a_number_or_a_share() {
        let of = |value| Budget::of(&value);
        assert_eq!(of(json!(4.1)).unwrap(), Some(Budget::Tflops(4.1)));
        assert_eq!(of(json!(4)).unwrap(), Some(Budget::Tflops(4.0)));
        assert_eq!(of(json!("80%")).unwrap(), Some(Budget::Share(0.8)));
        assert_eq!(of(json!("62.5 %")).unwrap(), Some(Budget::Share(0.625)));
        assert_eq!(of(json!(null)).unwrap(), None);
        assert_eq!(Budget::Share(0.7).tflops(2.0), 1.4);
        for wrong in [json!("much"), json!("%"), json!("4.1"), json!([1]), json!(true), json!({})] {
            let message = of(wrong).unwrap_err().to_string();
            assert!(message.starts_with("budget_tflops: expected TFLOPs or a share"), "{message}");
        }
        for value in [json!(4.1), json!("80%"), json!("62.5%"), json!("7%")] {
            assert_eq!(of(value.clone()).unwrap().unwrap().to_value(), value);
        }
        assert!(Budget::Share(f64::NAN).checked().is_err());
    }

    #[test]
    fn shares_become_tflops_in_every_table() {
        let Value::Object(mut options) = json!({"budget_tflops": "50%", "at-edm": {"budget_tflops": "25%", "tau": "30%"}, "tome": {"budget_tflops": 3}})
        else {
            unreachable!()
        };
        in_tflops(&mut options, &|| Ok(8.0)).unwrap();
        let expected = json!({"budget_tflops": 4.0, "at-edm": {"budget_tflops": 2.0, "tau": "30%"}, "tome": {"budget_tflops": 3}});
        assert_eq!(Value::Object(options), expected);
    }
}
