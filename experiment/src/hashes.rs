//! Hashes that name a point's settings and a run. Equal hashes mean equal results.

use atedm_core::plugin::Tau;
use serde::Serialize;
use serde_json::Value;

use super::failure::{Failure, Outcome};
use super::inputs::digest;
use super::record::{FORMAT, PointInfo, PromptLine, Settings};

/// A hash of the settings' effect. `family` is the name of the method's family, if it has one. A preset hashes like the settings that it stands for, and a share of the steps like
/// a number of them.
pub(crate) fn canonical(settings: &Settings, family: Option<&str>) -> Outcome<String> {
    let mut settings = settings.clone();
    if let Some(family) = family {
        settings.method = family.into();
    }
    whole_tau(&mut settings.options, settings.steps);
    hash(&settings)
}

/// Replaces every `tau` by a number of steps: the method's own, and those in the tables of a stack's members.
fn whole_tau(options: &mut Value, steps: usize) {
    let Value::Object(table) = options else { return };
    for (key, value) in table {
        match serde_json::from_value::<Tau>(value.clone()) {
            Ok(share) if key == "tau" => *value = share.steps(steps).into(),
            _ => whole_tau(value, steps),
        }
    }
}

/// The hash of everything that decides a run's results.
pub(crate) fn run_hash<'a>(
    points: impl Iterator<Item = &'a PointInfo>,
    prompts: &[PromptLine],
    vae_tiling: Option<usize>,
) -> Outcome<String> {
    let hashes: Vec<(&str, &str)> =
        points.map(|point| (point.id.as_str(), point.config_hash.as_str())).collect();
    hash(&(FORMAT, hashes, prompts, vae_tiling))
}

/// 16 hexadecimal digits of the SHA-256 of a value's JSON with sorted keys.
pub(crate) fn hash(value: &impl Serialize) -> Outcome<String> {
    let json = sorted(serde_json::to_value(value).map_err(Failure::run)?);
    Ok(digest(json.to_string().as_bytes()))
}

/// The same value with the keys of every table sorted, whatever the library's order is.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(table) => {
            let mut entries: Vec<(String, Value)> =
                table.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
