//! A method's name and options, in the form of configurations and command lines.

use atedm_core::plugin::stack::JOIN;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

use crate::failure::{Failure, Outcome};

/// A method and its options in a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct PruneSpec {
    /// The registered name.
    pub method: String,
    /// The options: a JSON object.
    pub options: Map<String, Value>,
}

impl PruneSpec {
    /// A method with its default options.
    pub fn new(method: impl Into<String>) -> Self {
        Self { method: method.into(), options: Map::new() }
    }

    /// Sets an option.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.options.insert(key.into(), value.into());
        self
    }

    /// A label with the method and its options: `at-edm prune_point=before_ff`.
    pub fn label(&self) -> String {
        let option = |(key, value): (&String, &Value)| in_label(key, value);
        std::iter::once(self.method.clone()).chain(self.options.iter().map(option)).collect()
    }
}

/// An option in a label: ` key=value`, with text unquoted. A table's entries are ` key.entry=value`.
pub fn in_label(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!(" {key}={text}"),
        Value::Object(table) => {
            table.iter().map(|(entry, value)| in_label(&format!("{key}.{entry}"), value)).collect()
        }
        other => format!(" {key}={other}"),
    }
}

/// A method's name, or the names of a stack's members as a list, outer first.
pub fn name_of(written: &Value) -> Option<String> {
    match written {
        Value::String(name) => Some(name.clone()),
        Value::Array(names) if !names.is_empty() => {
            let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
            names.map(|names| names.join(&JOIN.to_string()))
        }
        _ => None,
    }
}

/// Reads [`name_of`] from a table with serde.
///
/// # Errors
/// An error if the value is neither a name nor a list of names.
pub fn read_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let written = Value::deserialize(from)?;
    let name = name_of(&written);
    name.map(Some).ok_or_else(|| D::Error::custom("expected the name of a method, or a list of names"))
}

/// Reads `key=value,key=value`. `a.b=1` sets entry `b` of table `a`. `1+2` is a list.
///
/// # Errors
/// An error about the first pair that cannot be read.
pub fn read_options(list: &str, into: &mut Map<String, Value>) -> Outcome {
    for pair in list.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((key, text)) = pair.split_once('=') else {
            return Err(Failure::usage(format!("expected key=value, got {pair:?}")));
        };
        let (key, text) = (key.trim(), text.trim());
        let path: Vec<&str> = key.split('.').collect();
        if path.iter().any(|part| part.is_empty()) {
            return Err(Failure::usage(format!("expected key=value, got {pair:?}")));
        }
        let value = read_value(text).map_err(|reason| Failure::usage(format!("{key}: {reason}")))?;
        insert(into, &path, value).map_err(|reason| Failure::usage(format!("{key}: {reason}")))?;
    }
    Ok(())
}

fn insert(table: &mut Map<String, Value>, path: &[&str], value: Value) -> Result<(), String> {
    match path {
        [] => Ok(()),
        [last] => match table.insert(last.to_string(), value) {
            None => Ok(()),
            Some(_) => Err("given twice".into()),
        },
        [first, rest @ ..] => match table.entry(*first).or_insert_with(|| Value::Object(Map::new())) {
            Value::Object(inner) => insert(inner, rest, value),
            _ => Err(format!("{first} is both a value and a table")),
        },
    }
}

/// Reads one value: a boolean, a number, a list joined by `+`, else text. Shares such as `30%` remain text.
fn read_value(text: &str) -> Result<Value, String> {
    match text {
        "" => return Err("expected a value".into()),
        "true" => return Ok(Value::Bool(true)),
        "false" => return Ok(Value::Bool(false)),
        _ => {}
    }
    if let Ok(whole) = text.parse::<i64>() {
        return Ok(whole.into());
    }
    if let Ok(number) = text.parse::<f64>() {
        return Number::from_f64(number)
            .map(Value::Number)
            .ok_or(format!("expected a finite number, got {text}"));
    }
    if text.contains('+') {
        let parts = text.split('+').filter(|part| !part.is_empty());
        return parts.map(read_value).collect::<Result<Vec<_>, _>>().map(Value::Array);
    }
    Ok(Value::String(text.to_string()))
}

/// A TOML value as JSON. Values that JSON cannot represent are errors.
pub fn json_from_toml(value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(whole) => whole.into(),
        toml::Value::Boolean(flag) => Value::Bool(flag),
        toml::Value::Float(number) => Number::from_f64(number)
            .map(Value::Number)
            .ok_or(format!("expected a finite number, got {number}"))?,
        toml::Value::Datetime(date) => {
            return Err(format!("expected a number, text or list, got the date {date}"));
        }
        toml::Value::Array(items) => {
            Value::Array(items.into_iter().map(json_from_toml).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => {
            let entries = table.into_iter().map(|(key, value)| Ok((key, json_from_toml(value)?)));
            Value::Object(entries.collect::<Result<_, String>>()?)
        }
    })
}

/// Merges `over` into `base`, table by table. Values of `over` win.
pub fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options(text: &str) -> Outcome<Value> {
        let mut table = Map::new();
        read_options(text, &mut table)?;
        Ok(Value::Object(table))
    }

    #[test]
    fn values_get_their_types() {
        let read =
            options("ratio=0.63, tau=30%,max_iterations=5,epsilon=1e-4,shared=true,levels=1+2,own.gain=-2")
                .unwrap();
        let expected = json!({"ratio": 0.63, "tau": "30%", "max_iterations": 5, "epsilon": 1e-4, "shared": true,
            "levels": [1, 2], "own": {"gain": -2}});
        assert_eq!(read, expected);
        assert_eq!(
            options("prune_layers=0,levels=all,blocks=mid.0+up.0.1").unwrap(),
            json!({"prune_layers": 0, "levels": "all", "blocks": ["mid.0", "up.0.1"]})
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("ratio", "key=value"),
            ("=3", "key=value"),
            ("ratio=", "ratio: expected a value"),
            ("ratio=NaN", "ratio: expected a finite number"),
            ("ratio=inf", "ratio: expected a finite number"),
            ("ratio=0.1,ratio=0.2", "ratio: given twice"),
            ("a=1,a.b=2", "a is both"),
        ] {
            let message = options(text).unwrap_err().to_string();
            assert!(message.contains(named), "{text}: {message}");
        }
    }
}
