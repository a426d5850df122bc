//! Reads scheduler configs as JSON. Python writes JSON with some extensions, and many fields hold one of a few names.

use std::path::Path;

use atedm_core::{Error, Result};

use super::kinds::Levels;
use crate::config::Fields;

/// The classes of diffusers that we know and whose models were trained with betas.
pub(super) const OVER_BETAS: [&str; 11] = [
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "LCMScheduler",
    "TCDScheduler",
];

/// Parses JSON as Python writes it. Bare `-Infinity`, `Infinity` and `NaN` are allowed and count as absent.
///
/// # Errors
/// [`Error::Config`] naming `origin`.
pub(super) fn parse(text: &str, origin: &Path) -> Result<Fields> {
    let parsed = serde_json::from_str(text).or_else(|error| match without_infinities(text) {
        Some(cleaned) => serde_json::from_str(&cleaned),
        None => Err(error),
    });
    let broken = |error| Error::config(origin.display().to_string(), format!("broken JSON: {error}"));
    Fields::new(origin, parsed.map_err(broken)?)
}

/// The value for the name in `field`, if the field exists.
///
/// # Errors
/// [`Error::Config`] naming the file and the field, with a list of the names.
pub(super) fn one_of<V: Copy>(fields: &Fields, field: &str, known: &[(&str, V)]) -> Result<Option<V>> {
    let Some(text) = fields.text(field)? else { return Ok(None) };
    match known.iter().find(|(name, _)| *name == text) {
        Some(&(_, value)) => Ok(Some(value)),
        None => {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            Err(fields.error(field, format!("expected {}, got {text:?}", names.join(", "))))
        }
    }
}

/// Refuses an explicit `null` (Python's `None`) that diffusers' `class` cannot compute with. Keys that the class does
/// not read may hold anything.
///
/// # Errors
/// [`Error::Config`] naming the file and the field.
pub(super) fn refuse_null(fields: &Fields, class: &str) -> Result<()> {
    const SPACING: [&str; 2] = ["timestep_spacing", "steps_offset"];
    fields.refuse_null(&[
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "prediction_type",
    ])?;
    match class {
        "EulerDiscreteScheduler" => {
            fields.refuse_null(&SPACING)?;
            fields.refuse_null(&["final_sigmas_type", "interpolation_type"])
        }
        "EulerAncestralDiscreteScheduler" | "HeunDiscreteScheduler" | "LMSDiscreteScheduler" => {
            fields.refuse_null(&SPACING)
        }
        "DDIMScheduler" | "DDPMScheduler" => {
            fields.refuse_null(&SPACING)?;
            let clips = fields.flag("clip_sample", true)?;
            if clips { fields.refuse_null(&["clip_sample_range"]) } else { Ok(()) }
        }
        "DPMSolverMultistepScheduler" => {
            fields.refuse_null(&SPACING)?;
            fields.refuse_null(&["final_sigmas_type", "algorithm_type", "solver_type", "solver_order"])
        }
        "DPMSolverSinglestepScheduler" => {
            fields.refuse_null(&["final_sigmas_type", "algorithm_type", "solver_type", "solver_order"])
        }
        "UniPCMultistepScheduler" => {
            fields.refuse_null(&SPACING)?;
            fields.refuse_null(&["final_sigmas_type", "solver_type", "solver_order", "disable_corrector"])
        }
        "LCMScheduler" => fields.refuse_null(&["original_inference_steps", "timestep_scaling"]),
        "TCDScheduler" => fields.refuse_null(&["original_inference_steps"]),
        _ => Ok(()),
    }
}

/// How noise levels are spaced.
///
/// # Errors
/// [`Error::Config`] naming the file and the second of two flags.
pub(super) fn levels(fields: &Fields) -> Result<Levels> {
    let mut chosen: Option<(&str, Levels)> = None;
    for (field, levels) in [
        ("use_karras_sigmas", Levels::Karras),
        ("use_exponential_sigmas", Levels::Exponential),
        ("use_beta_sigmas", Levels::Beta),
    ] {
        if !fields.flag(field, false)? {
            continue;
        }
        if let Some((first, _)) = chosen.replace((field, levels)) {
            return Err(fields.error(field, format!("expected false beside {first}, got true")));
        }
    }
    Ok(chosen.map_or(Levels::Training, |(_, levels)| levels))
}

/// Refuses values that diffusers knows and we do not. To ignore them would be worse.
///
/// # Errors
/// [`Error::Config`] naming the file and the field.
pub(super) fn refuse_unsupported(fields: &Fields) -> Result<()> {
    for field in ["thresholding", "use_lu_lambdas", "use_flow_sigmas", "use_dynamic_shifting"] {
        if fields.flag(field, false)? {
            return Err(fields.error(field, "expected false, true is not supported"));
        }
    }
    if !fields.flag("predict_x0", true)? {
        return Err(fields.error("predict_x0", "expected true, false is not supported"));
    }
    if let Some([_, ..]) = fields.numbers("disable_corrector")?.as_deref() {
        return Err(fields.error("disable_corrector", "expected an empty list"));
    }
    if let Some(value) = fields.optional_number("lambda_min_clipped")? {
        return Err(fields.error("lambda_min_clipped", format!("expected -Infinity, got {value}")));
    }
    one_of(fields, "interpolation_type", &[("linear", ())])?;
    let continuous = fields.text("timestep_type")? == Some("continuous");
    if continuous && fields.text("prediction_type")? == Some("v_prediction") {
        return Err(fields.error("timestep_type", "expected discrete with v_prediction, got continuous"));
    }
    Ok(())
}

/// `text` with bare `Infinity`, `-Infinity` and `NaN` replaced by `null`. `None` if it has none of them.
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
