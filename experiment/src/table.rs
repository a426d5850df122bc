//! `schedule_file`: a file with a schedule's table. The file is read here, and its table replaces the option. A run
//! depends on the table, so its record and hash hold the table. Methods read no files.

use std::path::{Path, PathBuf};

use atedm_core::Error;
use atedm_core::plugin::Options;
use atedm_core::plugin::schedule::ScheduleTable;
use atedm_core::plugin::stack;
use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::files::{CONFIG_MOST, read_text};

const FILE: &str = "schedule_file";
const TABLE: &str = "table";

/// Options in which no file is named.
pub(crate) struct Inlined {
    pub(crate) options: Options,
    /// The places of tables that came from files. It is empty for the method's own table, and `member.` for that of a
    /// stack's member.
    places: Vec<String>,
}

impl Inlined {
    /// Renames an error about the table to one about the option that named its file.
    pub(crate) fn named(&self, error: Error) -> Error {
        let place = |field: &str| self.places.iter().find(|place| field.strip_prefix(*place) == Some(TABLE));
        match error {
            Error::Config { field, reason } => match place(&field) {
                Some(place) => Error::config(format!("{place}{FILE}"), reason),
                None => Error::Config { field, reason },
            },
            error => error,
        }
    }
}

/// Runs [`inline_table`] for a method, or for each member of a stack.
pub(crate) fn inline_tables(method: &str, options: &Options) -> Outcome<Inlined> {
    if !stack::is_stack(method) {
        return inline_table(options);
    }
    let mut all = Inlined { options: options.clone(), places: Vec::new() };
    for (member, table) in &mut all.options {
        let Value::Object(own) = table else { continue };
        let inlined = inline_table(own).map_err(|failure| failure.within(member))?;
        all.places.extend(inlined.places.iter().map(|_| format!("{member}.")));
        *own = inlined.options;
    }
    Ok(all)
}

/// Replaces `schedule_file` in `options` by its content as `table`. The option may also be in the table `schedule`.
fn inline_table(options: &Options) -> Outcome<Inlined> {
    let mut options = options.clone();
    let nested = options.get_mut("schedule").and_then(Value::as_object_mut);
    let nested = nested.and_then(|schedule| schedule.remove(FILE));
    let file = match (options.remove(FILE), nested) {
        (None, None) => return Ok(Inlined { options, places: Vec::new() }),
        (Some(file), None) | (None, Some(file)) => file,
        (Some(_), Some(_)) => return Err(Failure::usage("schedule_file: given twice, in schedule too")),
    };
    let Value::String(file) = file else {
        return Err(Failure::usage(format!("schedule_file: expected a path in quotes, got {file}")));
    };
    let path = PathBuf::from(file);
    let table = serde_json::to_value(read(&path)?).map_err(Failure::run)?;
    if options.insert(TABLE.into(), table).is_some() {
        return Err(Failure::usage("schedule_file: takes the place of table: give one of them"));
    }
    Ok(Inlined { options, places: vec![String::new()] })
}

/// Reads a `.toml` or `.json` file.
fn read(path: &Path) -> Outcome<ScheduleTable> {
    let wrong = |reason: &dyn std::fmt::Display| {
        Failure::usage(format!("schedule_file: {}: {reason}", path.display()))
    };
    let text = read_text(path, CONFIG_MOST).map_err(|failure| failure.within(FILE))?;
    let table: ScheduleTable = match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => toml::from_str(&text).map_err(|error| wrong(&error))?,
        Some("json") => {
            let value: Value = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
            let entries = if value.is_array() { serde_json::json!({ "entries": value }) } else { value };
            serde_json::from_value(entries).map_err(|error| wrong(&error))?
        }
        _ => return Err(wrong(&"expected a file that ends in .toml or .json")),
    };
    table.validate(&path.display().to_string())?;
    Ok(table)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn inlined(options: Value) -> Outcome<Inlined> {
        inline_table(options.as_object().unwrap())
    }

    #[test]
    fn a_file_becomes_the_table_that_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let expected = json!({"entries": [{"ratio": 0.25, "steps": [0, 15], "blocks": ["down.*"]}]});
        for (name, text) in [
            ("t.toml", "[[entries]]\nratio = 0.25\nsteps = [0, 15]\nblocks = ['down.*']\n"),
            ("t.json", r#"{"entries": [{"ratio": 0.25, "steps": [0, 15], "blocks": ["down.*"]}]}"#),
            ("marked.json", "\u{feff}[{\"ratio\": 0.25, \"steps\": [0, 15], \"blocks\": [\"down.*\"]}]"),
            ("list.json", r#"[{"ratio": 0.25, "steps": [0, 15], "blocks": ["down.*"]}]"#),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let flat = inlined(json!({"schedule": "table", "schedule_file": path})).unwrap().options;
            assert_eq!(Value::Object(flat), json!({"schedule": "table", "table": expected}));
            let nested = json!({"schedule": {"name": "table", "schedule_file": path}});
            assert_eq!(inlined(nested).unwrap().options["table"], expected);
            let twice = inlined(json!({"table": expected, "schedule_file": path})).err().unwrap();
            assert!(twice.to_string().starts_with("schedule_file: "), "{twice}");
        }
        for (name, text) in [
            ("broken.toml", "[[entries]]\nratio ="),
            ("broken.json", "{"),
            ("key.toml", "[[entries]]\nratio = 0.1\nspeed = 2"),
            ("key.json", r#"{"entries": [], "more": 1}"#),
            ("range.toml", "[[entries]]\nratio = 1.0"),
            ("table.txt", ""),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            let error = inlined(json!({"schedule_file": path})).err().unwrap().to_string();
            assert!(error.contains(name) && !error.contains('\n'), "{name}: {error}");
        }
        let absent = inlined(json!({"schedule_file": dir.path().join("absent.toml")})).err().unwrap();
        assert!(absent.to_string().contains("absent.toml"), "{absent}");
        assert!(inlined(json!({"schedule_file": 3})).err().unwrap().to_string().contains("in quotes"));
    }

    #[test]
    fn an_idle_table_is_named_by_its_file() {
        let named = |place: Option<&str>, field: &str| {
            let places = place.map(str::to_string).into_iter().collect();
            let inlined = Inlined { options: Options::new(), places };
            inlined.named(Error::config(field, "is idle")).to_string()
        };
        assert_eq!(
            [named(Some(""), TABLE), named(None, TABLE)],
            ["schedule_file: is idle", "table: is idle"]
        );
        let member = named(Some("at-edm."), "at-edm.table");
        assert_eq!(
            [member, named(Some("at-edm."), TABLE)],
            ["at-edm.schedule_file: is idle", "table: is idle"]
        );
    }
}
