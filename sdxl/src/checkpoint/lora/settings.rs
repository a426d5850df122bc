//! The scale of layers in files that diffusers wrote together with PEFT's settings.
//!
//! Such a file has no tensors for alpha. Its header's metadata hold the settings of each part, as JSON in one text.
//!
//! Source: diffusers' `loaders/lora_base.py`; PEFT's `LoraConfig` and `get_pattern_key`.

use atedm_core::Result;
use serde_json::{Map, Value};

use crate::checkpoint::Part;
use crate::checkpoint::single::Shapes;

/// The key of the settings in a header's metadata.
pub(super) const KEY: &str = "lora_adapter_metadata";

/// The settings of all parts. A file without them has none.
#[derive(Debug, Default)]
pub(super) struct Settings(Map<String, Value>);

impl Settings {
    /// Reads the text under [`KEY`].
    ///
    /// # Errors
    /// [`atedm_core::Error::Weights`] if the text is no JSON table, or names a kind that is not read.
    pub(super) fn read(shapes: &Shapes, text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::default()) };
        let settings = serde_json::from_str(text)
            .map(Self)
            .map_err(|error| shapes.error("", format!("expected JSON in the metadata {KEY}: {error}")))?;
        let part = Part::ALL.into_iter().find(|part| settings.flag(*part, "use_dora"));
        match part {
            Some(part) => Err(shapes
                .error("", format!("holds DoRA for {}, which is not read: expected LoRA", part.folder()))),
            None => Ok(settings),
        }
    }

    fn get(&self, part: Part, key: &str) -> Option<&Value> {
        self.0.get(&format!("{}.{key}", part.folder()))
    }

    fn flag(&self, part: Part, key: &str) -> bool {
        self.get(part, key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The scale that the settings give `module`, whose full name in its part is `name`. `None` without settings.
    ///
    /// # Errors
    /// [`atedm_core::Error::Weights`] if they do not give one alpha.
    pub(super) fn scale(&self, shapes: &Shapes, part: Part, name: &str, rank: usize) -> Result<Option<f64>> {
        let failed = |reason: String| shapes.error(name, format!("{KEY}: {}.{reason}", part.folder()));
        let empty = Map::new();
        let patterns = self.get(part, "alpha_pattern").and_then(Value::as_object).unwrap_or(&empty);
        let mut alphas: Vec<&Value> = Vec::new();
        for (pattern, alpha) in patterns {
            if pattern.trim_start_matches('^').contains(|c: char| !c.is_alphanumeric() && !"._-".contains(c))
            {
                return Err(failed(format!("alpha_pattern: expected names of modules, got {pattern:?}")));
            }
            if fits(pattern, name) && !alphas.contains(&alpha) {
                alphas.push(alpha);
            }
        }
        let alpha = match alphas[..] {
            [] => self.get(part, "lora_alpha"),
            [alpha] => Some(alpha),
            _ => return Err(failed("alpha_pattern: expected one entry for this module, got several".into())),
        };
        let Some(alpha) = alpha else { return Ok(None) };
        let alpha = alpha.as_f64().filter(|alpha| alpha.is_finite());
        let alpha = alpha.ok_or_else(|| failed("lora_alpha: expected a finite number".into()))?;
        let rank = rank as f64;
        Ok(Some(alpha / if self.flag(part, "use_rslora") { rank.sqrt() } else { rank }))
    }
}

/// Whether a module is called `pattern`, or ends with it after a dot. A `^` asks for the whole name.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('^') {
        Some(whole) => name == whole,
        None => name.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names_or_their_ends() {
        assert!(fits("to_q", "a.b.to_q") && fits("b.to_q", "a.b.to_q") && fits("a.to_q", "a.to_q"));
        assert!(!fits("o_q", "a.to_q") && !fits("to_q", "a.to_q.b") && !fits("^to_q", "a.to_q"));
        assert!(fits("^a.to_q", "a.to_q"));
    }
}
