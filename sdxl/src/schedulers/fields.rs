//! Typed access to a JSON object with errors that name the file and the field.

use std::path::{Path, PathBuf};

use atedm_core::{Error, Result};
use serde_json::{Map, Value};

/// The fields of a config file. `null` counts as absent.
pub(super) struct Fields {
    map: Map<String, Value>,
    origin: PathBuf,
}

impl Fields {
    /// Parses JSON as Python writes it: also with bare `-Infinity`, `Infinity` and `NaN`, which are read as absent.
    pub(super) fn parse(text: &str, origin: &Path) -> Result<Self> {
        let parsed = serde_json::from_str(text).or_else(|error| match without_infinities(text) {
            Some(cleaned) => serde_json::from_str(&cleaned),
            None => Err(error),
        });
        match parsed {
            Ok(Value::Object(map)) => Ok(Self { map, origin: origin.to_path_buf() }),
            Ok(_) => Err(Error::config(origin.display().to_string(), "expected a JSON object")),
            Err(error) => Err(Error::config(origin.display().to_string(), format!("expected JSON: {error}"))),
        }
    }

    /// An error about `field`.
    pub(super) fn error(&self, field: &str, reason: impl Into<String>) -> Error {
        Error::config(format!("{}: {field}", self.origin.display()), reason)
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    fn read<V>(&self, field: &str, kind: &str, take: impl Fn(&Value) -> Option<V>) -> Result<Option<V>> {
        let wrong = |value: &Value| self.error(field, format!("expected {kind}, got {value}"));
        self.get(field).map(|value| take(value).ok_or_else(|| wrong(value))).transpose()
    }

    /// A finite number.
    pub(super) fn number(&self, field: &str) -> Result<Option<f64>> {
        self.read(field, "a number", Value::as_f64)
    }

    /// A whole number from 0.
    pub(super) fn count(&self, field: &str) -> Result<Option<usize>> {
        self.read(field, "a whole number", |value| value.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>> {
        self.read(field, "true or false", Value::as_bool)
    }

    /// A string.
    pub(super) fn text(&self, field: &str) -> Result<Option<String>> {
        self.read(field, "a string", |value| value.as_str().map(str::to_string))
    }

    /// A list of numbers.
    pub(super) fn numbers(&self, field: &str) -> Result<Option<Vec<f32>>> {
        let list = |value: &Value| value.as_array()?.iter().map(|n| n.as_f64().map(|n| n as f32)).collect();
        self.read(field, "a list of numbers", list)
    }

    /// One of several names.
    pub(super) fn one_of<V: Copy>(&self, field: &str, known: &[(&str, V)]) -> Result<Option<V>> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        match known.iter().find(|(name, _)| *name == text) {
            Some(&(_, value)) => Ok(Some(value)),
            None => {
                let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                Err(self.error(field, format!("expected {}, got {text:?}", names.join(", "))))
            }
        }
    }
}

/// `text` with bare `Infinity`, `-Infinity` and `NaN` made `null`; `None` if there is none.
fn without_infinities(text: &str) -> Option<String> {
    let mut cleaned = String::with_capacity(text.len());
    let (mut found, mut in_string, mut escaped) = (false, false, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let token = ["-Infinity", "Infinity", "NaN"].into_iter().find(|token| rest.starts_with(token));
        if let (false, Some(token)) = (in_string, token) {
            cleaned.push_str("null");
            found = true;
            rest = &rest[token.len()..];
            continue;
        }
        if c == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && c == '\\' && !escaped;
        cleaned.push(c);
        rest = &rest[c.len_utf8()..];
    }
    found.then_some(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_infinities() {
        let text = r#"{"a": -Infinity, "b": "NaN \" Infinity", "c": NaN}"#;
        assert_eq!(without_infinities(text).unwrap(), r#"{"a": null, "b": "NaN \" Infinity", "c": null}"#);
        assert_eq!(without_infinities("{}"), None);
    }
}
