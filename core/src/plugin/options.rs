//! Options as tables of keys and values. A part of a method has a name and options of its own.
//!
//! A configuration can write the same options in two ways:
//!
//! ```toml
//! scorer = "page-rank"     # short: an option of a part is an option of the method
//! max_iterations = 5
//!
//! [scorer]                 # or a table of the part's own
//! name = "page-rank"
//! max_iterations = 5
//! ```
//!
//! An option that only unchosen parts read is an error. Otherwise nobody would see that it has no effect.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The options of a method or a part: a table of keys and values.
pub type Options = Map<String, Value>;

/// What a part is built from. `C` is the configuration of the method that holds the part.
#[derive(Debug)]
pub struct PartSpec<'a, C> {
    /// The part's own options. For a scorer these are `scorer_options`.
    pub options: &'a Options,
    /// The whole configuration.
    pub config: &'a C,
    field: &'static str,
}

impl<'a, C> PartSpec<'a, C> {
    /// The specification of the part in `slot`, with its own `options`.
    pub(crate) fn new(slot: &PartSlot, options: &'a Options, config: &'a C) -> Self {
        Self { options, config, field: slot.options }
    }

    /// Reads the part's options into a serde type.
    ///
    /// # Errors
    /// [`Error::Config`] names the options' field when they do not fit the type.
    pub fn parse<O: DeserializeOwned>(&self) -> Result<O> {
        from_table(self.options.clone()).map_err(|reason| Error::config(self.field, reason))
    }

    /// Checks that there are no options. Parts that take none call it.
    ///
    /// # Errors
    /// [`Error::Config`] names the first option.
    pub fn expect_no_options(&self) -> Result<()> {
        match self.options.keys().next() {
            Some(key) => {
                Err(Error::config(format!("{}.{key}", self.field), "unknown option; this one takes none"))
            }
            None => Ok(()),
        }
    }
}

/// The place of a part among the options of a method.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartSlot {
    /// The option that names the part, such as `scorer`.
    pub(crate) name: &'static str,
    /// The option that holds the own options of a registered part, such as `scorer_options`.
    pub(crate) options: &'static str,
    /// The built-in parts. Each lists the options of the method that it reads.
    pub(crate) builtin: &'static [(&'static str, &'static [&'static str])],
}

impl PartSlot {
    /// The options that a built-in part reads. `None` for a registered part.
    fn read_by(&self, part: &str) -> Option<&'static [&'static str]> {
        self.builtin.iter().find(|(name, _)| *name == part).map(|(_, reads)| *reads)
    }

    /// The built-in parts that read `option`.
    fn readers(&self, option: &str) -> Vec<&'static str> {
        let reading = self.builtin.iter().filter(|(_, reads)| reads.contains(&option));
        reading.map(|(name, _)| *name).collect()
    }

    /// Replaces the part's own table by the short forms. `preset` is the part to use when the table gives no name.
    ///
    /// # Errors
    /// [`Error::Config`] names an option that the part does not take, or that is given twice.
    pub(crate) fn flatten(&self, options: &mut Options, preset: &str) -> Result<()> {
        let Some(Value::Object(table)) = options.get(self.name) else { return Ok(()) };
        let mut table = table.clone();
        let at = |key: &str| format!("{}.{key}", self.name);
        let part = match table.remove("name") {
            None => preset.to_string(),
            Some(Value::String(name)) => name,
            Some(other) => {
                return Err(Error::config(at("name"), format!("expected a name in quotes, got {other}")));
            }
        };
        options.insert(self.name.into(), part.as_str().into());
        let Some(reads) = self.read_by(&part) else {
            if !table.is_empty() && options.insert(self.options.into(), Value::Object(table)).is_some() {
                let reason = format!("given twice, in the table {} too", self.name);
                return Err(Error::config(self.options, reason));
            }
            return Ok(());
        };
        for (key, value) in table {
            if !reads.contains(&key.as_str()) {
                let known = if reads.is_empty() { "none".into() } else { reads.join(", ") };
                let reason = format!("unknown option; {part} takes {known}");
                return Err(Error::config(at(&key), reason));
            }
            if options.insert(key.clone(), value).is_some() {
                return Err(Error::config(at(&key), format!("given twice, as {key} too")));
            }
        }
        Ok(())
    }

    /// Removes the options that other parts read and the chosen `part` does not.
    pub(crate) fn remove_idle(&self, options: &mut Options, part: &str) {
        options.retain(|key, _| {
            let readers = self.readers(key);
            readers.is_empty() || readers.contains(&part)
        });
    }

    /// Checks that the chosen `part` reads every option of `given` that belongs to parts.
    ///
    /// # Errors
    /// [`Error::Config`] names the option and the parts that read it.
    pub(crate) fn check_idle(&self, given: &Options, part: &str) -> Result<()> {
        for (key, _) in given.iter().filter(|(_, value)| !value.is_null()) {
            let readers = self.readers(key);
            if !readers.is_empty() && !readers.contains(&part) {
                let reason = format!(
                    "does nothing here: it is an option of {} = {}, which is {part:?}",
                    self.name,
                    readers.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" or ")
                );
                return Err(Error::config(key, reason));
            }
        }
        Ok(())
    }
}

/// Entries of one kind, by name. Registries are made of it.
#[derive(Clone)]
pub struct Named<E> {
    kind: &'static str,
    entries: BTreeMap<String, E>,
}

impl<E> Named<E> {
    /// None yet. `kind` names the field in errors.
    pub fn new(kind: &'static str) -> Self {
        Self { kind, entries: BTreeMap::new() }
    }

    /// Checks that a name is new and not empty.
    ///
    /// # Errors
    /// [`Error::Config`] with the kind.
    pub fn check_new(&self, name: &str) -> Result<()> {
        if name.is_empty() || self.entries.contains_key(name) {
            return Err(Error::config(self.kind, format!("expected a new name, got {name:?}")));
        }
        Ok(())
    }

    /// Adds an entry under a new name.
    ///
    /// # Errors
    /// As [`Named::check_new`].
    pub fn insert(&mut self, name: &str, entry: E) -> Result<()> {
        self.check_new(name)?;
        self.set(name, entry);
        Ok(())
    }

    /// Sets the entry of a name. It replaces an earlier entry.
    pub(crate) fn set(&mut self, name: &str, entry: E) {
        self.entries.insert(name.to_string(), entry);
    }

    /// Sets the entries of several names, whatever they were.
    pub fn extend(&mut self, entries: impl IntoIterator<Item = (String, E)>) {
        self.entries.extend(entries);
    }

    /// The known names, in order.
    pub fn names(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }

    /// The entry of this name.
    ///
    /// # Errors
    /// [`Error::Config`] with the kind, listing the known names.
    pub fn get(&self, name: &str) -> Result<&E> {
        self.entries.get(name).ok_or_else(|| {
            Error::config(self.kind, format!("expected one of {}, got {name:?}", self.names().join(", ")))
        })
    }
}

/// Converts options to a table.
///
/// # Errors
/// [`Error::Config`] with field `options` when the value is not a table.
pub fn to_table(value: &impl Serialize) -> Result<Options> {
    match serde_json::to_value(value) {
        Ok(Value::Object(table)) => Ok(table),
        Ok(other) => Err(Error::config("options", format!("expected a table, got {other}"))),
        Err(error) => Err(Error::config("options", error.to_string())),
    }
}

/// Reads a table as options of type `O`. The error is only the reason, because this function does not know the field's name.
///
/// # Errors
/// The fault that serde finds, in words.
pub fn from_table<O: DeserializeOwned>(table: Options) -> std::result::Result<O, String> {
    serde_json::from_value(Value::Object(table)).map_err(|error| error.to_string())
}

/// The error for an unknown option.
pub fn unknown_option<'a>(key: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    known.dedup();
    Error::config(key, format!("unknown option; expected one of {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SLOT: PartSlot = PartSlot {
        name: "engine",
        options: "engine_options",
        builtin: &[("steam", &["coal", "gauge"]), ("sail", &["gauge"]), ("oar", &[])],
    };

    fn table(value: Value) -> Options {
        value.as_object().cloned().unwrap()
    }

    fn flat(value: Value) -> Result<Value> {
        let mut options = table(value);
        SLOT.flatten(&mut options, "sail")?;
        Ok(Value::Object(options))
    }

    #[test]
    fn a_parts_table_is_the_same_as_its_short_forms() {
        assert_eq!(flat(json!({"engine": "oar"})).unwrap(), json!({"engine": "oar"}));
        let short = json!({"engine": "steam", "coal": 3, "a": 1});
        assert_eq!(flat(json!({"engine": {"name": "steam", "coal": 3}, "a": 1})).unwrap(), short);
        assert_eq!(flat(json!({"engine": {"gauge": 2}})).unwrap(), json!({"engine": "sail", "gauge": 2}));
        let own = json!({"engine": "mine", "engine_options": {"coal": 1}});
        assert_eq!(flat(json!({"engine": {"name": "mine", "coal": 1}})).unwrap(), own);
    }

    #[test]
    fn what_is_wrong_in_a_parts_table_is_named() {
        for (value, message) in [
            (json!({"engine": {"name": 3}}), "engine.name: expected a name in quotes, got 3"),
            (json!({"engine": {"name": "sail", "coal": 3}}), "engine.coal: unknown option; sail takes gauge"),
            (json!({"engine": {"name": "oar", "coal": 3}}), "engine.coal: unknown option; oar takes none"),
            (json!({"engine": {"gauge": 3}, "gauge": 3}), "engine.gauge: given twice, as gauge too"),
            (
                json!({"engine": {"name": "mine", "a": 1}, "engine_options": {}}),
                "engine_options: given twice, in the table engine too",
            ),
        ] {
            assert_eq!(flat(value).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn an_option_of_a_part_that_is_not_chosen_is_named_with_its_readers() {
        let check = |given: Value, part: &str| SLOT.check_idle(&table(given), part);
        assert!(check(json!({"coal": 1, "gauge": 1, "other": 1}), "steam").is_ok());
        assert!(check(json!({"coal": null}), "oar").is_ok());
        let error = check(json!({"coal": 1}), "sail").unwrap_err().to_string();
        assert_eq!(
            error,
            "coal: does nothing here: it is an option of engine = \"steam\", which is \"sail\""
        );
        let error = check(json!({"gauge": 1}), "mine").unwrap_err().to_string();
        assert_eq!(
            error,
            "gauge: does nothing here: it is an option of engine = \"steam\" or \"sail\", which is \"mine\""
        );
    }
}
