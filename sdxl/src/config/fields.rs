//! Reads a JSON object field by field. Errors name the file and the field.

use std::path::{Path, PathBuf};

use atedm_core::{Error, Result};
use serde_json::{Map, Value};

use crate::text_file;

/// A JSON object and the file that it came from.
///
/// Unknown keys are ignored, because diffusers adds some with every release. [`Fields::expect`] refuses values of known
/// keys that would change the result in ways that this crate does not implement.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    file: PathBuf,
    map: Map<String, Value>,
}

impl Fields {
    /// Reads `file`, which must hold a JSON object.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        Self::parse(file, &text_file::read(file)?)
    }

    /// The text of `file`, which must be a JSON object.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| Error::config(file.display().to_string(), format!("broken JSON: {error}")))?;
        Self::new(file, value)
    }

    /// Wraps the object `value`. `file` is used in messages.
    pub(crate) fn new(file: &Path, value: Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { file: file.to_path_buf(), map }),
            _ => Err(Error::config(file.display().to_string(), "expected a JSON object")),
        }
    }

    /// Replaces the file's value of `name` by `value`.
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        self.map.insert(name.to_string(), value);
        self
    }

    /// All keys and values, by key.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.map.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Refuses an explicit `null` for these names. It is Python's `None`, which diffusers cannot use there.
    pub(crate) fn refuse_null(&self, names: &[&str]) -> Result<()> {
        match names.iter().find(|name| self.map.get(**name).is_some_and(Value::is_null)) {
            Some(name) => {
                Err(self.error(name, "expected a value, got null (leave the key out for its default)"))
            }
            None => Ok(()),
        }
    }

    /// An error about `name`.
    pub(crate) fn error(&self, name: &str, reason: impl Into<String>) -> Error {
        Error::config(format!("{}: {name}", self.file.display()), reason)
    }

    /// The value of `name`; `null` counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Whether the key `name` exists, even with the value `null`.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// An error about `name`, whose value has not the expected form.
    pub(crate) fn wrong(&self, name: &str, expected: &str, got: &Value) -> Error {
        self.error(name, format!("expected {expected}, got {got}"))
    }

    /// A whole number from `least` to 2²⁰. No model needs more, and larger sizes would only exhaust memory.
    fn to_count(&self, name: &str, value: &Value, least: usize) -> Result<usize> {
        const MOST: u64 = 1 << 20;
        match value.as_u64() {
            Some(n) if n >= least as u64 && n <= MOST => Ok(n as usize),
            _ => Err(self.wrong(name, &format!("a whole number from {least} to {MOST}"), value)),
        }
    }

    /// A whole number of at least 1, if the key exists.
    pub(crate) fn optional_count(&self, name: &str) -> Result<Option<usize>> {
        self.get(name).map(|value| self.to_count(name, value, 1)).transpose()
    }

    /// A whole number of at least 1, or `default` when absent.
    pub(crate) fn count(&self, name: &str, default: usize) -> Result<usize> {
        Ok(self.optional_count(name)?.unwrap_or(default))
    }

    /// A whole number of at least 1. The key is required.
    pub(crate) fn required_count(&self, name: &str) -> Result<usize> {
        self.optional_count(name)?.ok_or_else(|| self.error(name, "missing"))
    }

    /// A whole number of at least 0, or `default`.
    pub(crate) fn index(&self, name: &str, default: usize) -> Result<usize> {
        self.get(name).map_or(Ok(default), |value| self.to_count(name, value, 0))
    }

    /// A finite number, if the key exists.
    pub(crate) fn optional_number(&self, name: &str) -> Result<Option<f64>> {
        self.get(name)
            .map(|value| {
                value
                    .as_f64()
                    .filter(|x| x.is_finite())
                    .ok_or_else(|| self.wrong(name, "a finite number", value))
            })
            .transpose()
    }

    /// A finite number, or `default`.
    pub(crate) fn number(&self, name: &str, default: f64) -> Result<f64> {
        Ok(self.optional_number(name)?.unwrap_or(default))
    }

    /// A finite number above 0, or `default`.
    pub(crate) fn positive(&self, name: &str, default: f64) -> Result<f64> {
        let value = self.number(name, default)?;
        if value > 0.0 {
            Ok(value)
        } else {
            Err(self.error(name, format!("expected a number above 0, got {value}")))
        }
    }

    /// `true` or `false`, or `default` when absent. An explicit `null` is Python's `None`, which counts as false.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.map.get(name) {
            None => Ok(default),
            Some(Value::Null) => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(name, "true or false", value)),
        }
    }

    /// A string, if the key exists.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>> {
        self.get(name)
            .map(|value| value.as_str().ok_or_else(|| self.wrong(name, "a string", value)))
            .transpose()
    }

    /// A list of strings, if the key exists.
    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        self.list(name, |value| {
            value.as_str().map(str::to_string).ok_or_else(|| self.wrong(name, "a list of strings", value))
        })
    }

    /// A list of counts of at least 1, if the key exists.
    pub(crate) fn counts(&self, name: &str) -> Result<Option<Vec<usize>>> {
        self.list(name, |value| self.to_count(name, value, 1))
    }

    /// A list of finite numbers, if the key exists.
    pub(crate) fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>> {
        self.list(name, |value| {
            value
                .as_f64()
                .filter(|x| x.is_finite())
                .ok_or_else(|| self.wrong(name, "a list of numbers", value))
        })
    }

    fn list<V>(&self, name: &str, one: impl Fn(&Value) -> Result<V>) -> Result<Option<Vec<V>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(values)) => values.iter().map(one).collect::<Result<Vec<V>>>().map(Some),
            Some(other) => Err(self.wrong(name, "a list", other)),
        }
    }

    /// One count per stage. A single number stands for all stages.
    pub(crate) fn per_stage(&self, name: &str, stages: usize, default: usize) -> Result<Vec<usize>> {
        match self.get(name) {
            None => Ok(vec![default; stages]),
            Some(Value::Array(values)) if values.len() == stages => {
                values.iter().map(|value| self.to_count(name, value, 1)).collect()
            }
            Some(value @ Value::Array(_)) => {
                Err(self.wrong(name, &format!("one number, or {stages}"), value))
            }
            Some(value) => Ok(vec![self.to_count(name, value, 1)?; stages]),
        }
    }

    /// For each stage, a list with one count (0 allowed) per attention block; `layers` are the numbers of blocks. One
    /// number may stand for all stages, or for all blocks of one stage. Lists of stages may be nested.
    pub(crate) fn per_block(&self, name: &str, layers: &[usize], default: usize) -> Result<Vec<Vec<usize>>> {
        let value = self.get(name);
        let stages: Vec<&Value> = match value {
            None => return Ok(layers.iter().map(|&n| vec![default; n]).collect()),
            Some(Value::Array(values)) if values.len() == layers.len() => values.iter().collect(),
            Some(value @ Value::Array(_)) => {
                return Err(self.wrong(
                    name,
                    &format!("one entry for each of {} stages", layers.len()),
                    value,
                ));
            }
            Some(value) => vec![value; layers.len()],
        };
        let one = |value: &Value, blocks: usize| match value {
            Value::Array(values) if values.len() >= blocks => {
                values.iter().take(blocks).map(|value| self.to_count(name, value, 0)).collect()
            }
            Value::Array(_) => Err(self.wrong(name, &format!("{blocks} numbers"), value)),
            value => Ok(vec![self.to_count(name, value, 0)?; blocks]),
        };
        stages.iter().zip(layers).map(|(value, &blocks)| one(value, blocks)).collect()
    }

    /// Refuses any activation that is not `supported`. An absent key is accepted. As in diffusers, case does not
    /// matter.
    pub(crate) fn expect_activation(&self, supported: &[&str]) -> Result<()> {
        match self.text("act_fn")? {
            Some(name) if !supported.contains(&name.to_lowercase().as_str()) => {
                let names: Vec<String> = supported.iter().map(|name| format!("{name:?}")).collect();
                Err(self
                    .error("act_fn", format!("{name:?} is not supported, expected {}", names.join(" or "))))
            }
            _ => Ok(()),
        }
    }

    /// Refuses any value of `name` that is not `supported`. An absent key (or `null`) is always accepted.
    pub(crate) fn expect(&self, name: &str, supported: &[Value]) -> Result<()> {
        match self.get(name) {
            None => Ok(()),
            Some(value) if supported.iter().any(|s| same(s, value)) => Ok(()),
            Some(value) if supported.is_empty() => {
                Err(self.error(name, format!("{value} is not supported, expected null")))
            }
            Some(value) => {
                let list: Vec<String> = supported.iter().map(Value::to_string).collect();
                Err(self.error(name, format!("{value} is not supported, expected {}", list.join(" or "))))
            }
        }
    }
}

/// Equality that treats `1` and `1.0` as equal.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}
