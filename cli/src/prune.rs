//! From `--prune`, `--prune-opt` and `--prune-config` to a method's name and its options.

use std::path::Path;

use atedm_core::plugin::stack::JOIN;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

use crate::args::PruneArgs;
use crate::failure::{Failure, Outcome};
use crate::files::{CONFIG_MOST, read_text};

/// A method as a configuration names it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PruneSpec {
    /// The registered name.
    pub(crate) method: String,
    /// Its options, an object.
    pub(crate) options: Map<String, Value>,
}

impl PruneSpec {
    /// Reads the flags, and the file if there is one. A single option wins over the file's.
    pub(crate) fn from_args(args: &PruneArgs) -> Outcome<Self> {
        let mut spec = match &args.prune_config {
            Some(path) => Self::from_file(path, args.prune.as_deref())?,
            None => Self { method: args.prune.clone().unwrap_or_else(|| "none".into()), options: Map::new() },
        };
        let mut typed = Map::new();
        for list in &args.prune_opt {
            read_options(list, &mut typed).map_err(|failure| failure.within("--prune-opt"))?;
        }
        merge(&mut spec.options, typed);
        Ok(spec)
    }

    /// `method = "…"` and the options, from a TOML file. `--prune` may give the method instead, but not another one.
    fn from_file(path: &Path, typed_method: Option<&str>) -> Outcome<Self> {
        let text = read_text(path, CONFIG_MOST)?;
        let at = |reason: String| Failure::usage(format!("{}: {reason}", path.display()));
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line =
                error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            at(format!("line {line}: expected TOML: {}", error.message()))
        })?;
        let mut options = Map::new();
        for (key, value) in table {
            let value = json_from_toml(value).map_err(|reason| at(format!("{key}: {reason}")))?;
            options.insert(key, value);
        }
        let written = match options.remove("method") {
            None => None,
            Some(written) => Some(name_of(&written).ok_or_else(|| {
                at("method: expected the name of a pruning method in quotes, or a list of such names".into())
            })?),
        };
        let method = match (typed_method, written) {
            (None, Some(name)) => name,
            (Some(typed), None) => typed.to_string(),
            (Some(typed), Some(name)) if typed == name => name,
            (Some(typed), Some(name)) => {
                return Err(at(format!("method: expected {typed:?} as --prune says, got {name:?}")));
            }
            (None, None) => {
                return Err(at("method: expected the name of a pruning method (or --prune)".into()));
            }
        };
        Ok(Self { method, options })
    }
}

/// A method's name, or those of a stack's members as a list, outer first.
pub(crate) fn name_of(written: &Value) -> Option<String> {
    match written {
        Value::String(name) => Some(name.clone()),
        Value::Array(names) if !names.is_empty() => {
            let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
            names.map(|names| names.join(&JOIN.to_string()))
        }
        _ => None,
    }
}

/// [`name_of`] for a table that serde reads.
pub(crate) fn read_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let written = Value::deserialize(from)?;
    let name = name_of(&written);
    name.map(Some).ok_or_else(|| D::Error::custom("expected the name of a method, or a list of names"))
}

/// Reads `key=value,key=value`; `a.b=1` sets entry `b` of table `a`, `1+2` is a list.
fn read_options(list: &str, into: &mut Map<String, Value>) -> Outcome {
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

/// One value: a boolean, a number, a list joined by `+`, else text (shares such as `30%` stay text).
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

pub(crate) fn json_from_toml(value: toml::Value) -> Result<Value, String> {
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

/// Puts `over` on top of `base`, table by table.
fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
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

    #[test]
    fn typed_options_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        std::fs::write(&path, "method = \"at-edm\"\nratio = 0.5\ntau = 15\n[own]\na = 1\nb = 2\n").unwrap();
        let args = PruneArgs {
            prune: None,
            prune_opt: vec!["ratio=0.7,own.b=3".into()],
            prune_config: Some(path.clone()),
        };
        let spec = PruneSpec::from_args(&args).unwrap();
        assert_eq!(spec.method, "at-edm");
        assert_eq!(Value::Object(spec.options), json!({"ratio": 0.7, "tau": 15, "own": {"a": 1, "b": 3}}));
        std::fs::write(&path, format!("\u{feff}{}", std::fs::read_to_string(&path).unwrap())).unwrap();
        assert_eq!(PruneSpec::from_args(&args).unwrap().method, "at-edm");
        std::fs::write(&path, "method = [\"tome\", \"at-edm\"]\n[tome]\nratio = 0.5\n").unwrap();
        let spec =
            PruneSpec::from_args(&PruneArgs { prune_opt: vec!["at-edm.tau=15".into()], ..args.clone() })
                .unwrap();
        assert_eq!(spec.method, "tome+at-edm");
        assert_eq!(Value::Object(spec.options), json!({"tome": {"ratio": 0.5}, "at-edm": {"tau": 15}}));
        std::fs::write(&path, "method = [1]\n").unwrap();
        assert!(PruneSpec::from_args(&args).unwrap_err().to_string().contains("method: expected the name"));
        let other = PruneArgs { prune: Some("none".into()), ..args };
        assert!(PruneSpec::from_args(&other).unwrap_err().to_string().contains("method"));
        std::fs::write(&path, "ratio = nan\n").unwrap();
        assert!(
            PruneSpec::from_args(&other).unwrap_err().to_string().contains("ratio: expected a finite number")
        );
        std::fs::write(&path, "method = \"at-edm\"\nratio = \n").unwrap();
        assert!(PruneSpec::from_args(&other).unwrap_err().to_string().contains("line 2"));
    }
}
