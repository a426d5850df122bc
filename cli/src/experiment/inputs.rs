//! What a run reads beside its configuration, by its content: a path says nothing of what is in a file.

use std::collections::BTreeMap;
use std::path::Path;

use atedm_core::at_edm::AtEdmConfig;
use atedm_core::at_edm::schedule::ScheduleTable;
use atedm_tomerge::MergeConfig;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Outcome};
use crate::files::{CONFIG_MOST, read_bytes};
use crate::prune::PruneSpec;

/// Hashes by what they are of: `checkpoint`, `init_image`, `latents`.
pub(crate) type Inputs = BTreeMap<String, String>;

/// What is known of a checkpoint by its identity, if there is one: a plan needs no weights.
pub(crate) fn of_checkpoint(identity: Option<String>) -> Inputs {
    identity.map(|identity| ("checkpoint".to_string(), digest(identity.as_bytes()))).into_iter().collect()
}

/// 16 hexadecimal digits of a SHA-256.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The same method with the schedule's table that its options name a file of, so that its settings say what it does.
pub(crate) fn with_table_read(spec: &PruneSpec) -> Outcome<PruneSpec> {
    let mut spec = spec.clone();
    let ours = AtEdmConfig::preset(&spec.method).is_some() || MergeConfig::preset(&spec.method).is_some();
    let options = &mut spec.options;
    let by_file =
        options.get("schedule").and_then(Value::as_str) == Some("table") && !options.contains_key("table");
    let named = options.get("schedule_file").and_then(Value::as_str).filter(|_| ours && by_file);
    if let Some(path) = named.map(Path::new) {
        read_bytes(path, CONFIG_MOST).map_err(|failure| failure.within("schedule_file"))?;
        let table = serde_json::to_value(ScheduleTable::from_file(path)?).map_err(Failure::run)?;
        options.remove("schedule_file");
        options.insert("table".into(), table);
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(method: &str, options: Value) -> PruneSpec {
        let Value::Object(options) = options else { panic!("expected a table") };
        PruneSpec { method: method.into(), options }
    }

    #[test]
    fn a_table_takes_the_place_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        let read = |method: &str| {
            let named = spec(method, json!({"schedule": "table", "schedule_file": path.to_str().unwrap()}));
            with_table_read(&named).unwrap()
        };
        std::fs::write(&path, "[[entries]]\nratio = 0.25\n").unwrap();
        let entry = json!({"steps": [0, "100%"], "blocks": ["*"], "ratio": 0.25});
        for method in ["at-edm", "tome-c"] {
            let expected = json!({"schedule": "table", "table": {"entries": [entry]}});
            assert_eq!(Value::Object(read(method).options), expected);
        }
        let before = read("at-edm");
        std::fs::write(&path, "[[entries]]\nratio = 0.5\n").unwrap();
        assert_ne!(before, read("at-edm"));
        // a plugin's options are its own, and idle ones are left to whoever checks them
        for other in [
            spec("mine", json!({"schedule": "table", "schedule_file": "gone"})),
            spec("at-edm", json!({"schedule_file": "gone"})),
        ] {
            assert_eq!(with_table_read(&other).unwrap(), other);
        }
        let gone = spec("at-edm", json!({"schedule": "table", "schedule_file": "gone.toml"}));
        assert!(with_table_read(&gone).unwrap_err().to_string().starts_with("schedule_file: gone.toml: "));
    }
}
