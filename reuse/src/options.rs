//! Reads a method's options from a table.

use atedm_core::plugin::Options;
use atedm_core::plugin::options::{from_table, to_table, unknown_option};
use atedm_core::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads the options; defaults apply to those not given.
///
/// # Errors
/// [`Error::Config`] naming an unknown option, with a list of the known ones, or an option whose value has the wrong
/// form.
pub(crate) fn read<O: Default + Serialize + DeserializeOwned>(options: &Options) -> Result<O> {
    let mut all = to_table(&O::default())?;
    for (key, value) in options {
        if !all.contains_key(key) {
            return Err(unknown_option(key, all.keys().map(String::as_str)));
        }
        // Each option is read alone over the defaults, so an error carries its name.
        let alone = Options::from_iter([(key.clone(), value.clone())]);
        from_table::<O>(alone).map_err(|reason| Error::config(key, reason))?;
        all.insert(key.clone(), value.clone());
    }
    from_table(all).map_err(|reason| Error::config("options", reason))
}

/// Checks that a count is not 0.
///
/// # Errors
/// [`Error::Config`] naming the field.
pub(crate) fn at_least_one(field: &str, count: usize) -> Result<()> {
    match count {
        0 => Err(Error::config(field, "expected at least 1, got 0")),
        _ => Ok(()),
    }
}

/// Every option with its value, except those that are not set.
pub(crate) fn settings(options: &impl Serialize) -> Options {
    let mut all = to_table(options).unwrap_or_default();
    all.retain(|_, value| !value.is_null());
    all
}
