//! Turns grid entries into points: the product of each entry's axes.

use atedm_sdxl::prompt::TextOptions;
use serde_json::{Map, Value};

use super::budget::Budget;
use super::config::{Config, GridEntry, Sampling};
use super::record::Attention;
use crate::failure::{Failure, Outcome};
use crate::spec::{PruneSpec, json_from_toml, name_of};

/// One point: a method with its options, and sampling settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The entry's name and the varied values.
    pub label: String,
    /// The entry's name.
    pub grid: String,
    /// The keys that the entry varies, with this point's values.
    pub varied: Map<String, Value>,
    /// The method and its options.
    pub spec: PruneSpec,
    /// The sampling settings.
    pub sampling: Sampling,
    /// The requested budget, from whichever table sets it.
    pub budget_tflops: Option<Budget>,
}

/// The largest number of points in a run. Each point is checked, solved and written with all its settings before
/// anything runs.
const MOST_POINTS: usize = 10_000;

/// All points of a configuration, entry by entry. Axes are ordered by name, and the last axis varies fastest.
pub fn points(config: &Config) -> Outcome<Vec<Point>> {
    let mut grid = Vec::with_capacity(config.grid.len());
    let mut count = 0usize;
    for (number, entry) in config.grid.iter().enumerate() {
        let name = entry.name.as_deref().or(entry.method.as_deref());
        let place = format!("grid {} ({})", number + 1, name.unwrap_or("no name"));
        let mut axes = Vec::new();
        axes_of(&entry.each, &mut Vec::new(), &mut axes).map_err(|failure| failure.within(&place))?;
        let own = axes.iter().fold(1usize, |product, (_, values)| product.saturating_mul(values.len()));
        count = count.saturating_add(own);
        if count > MOST_POINTS {
            let reason = format!("expected a grid of at most {MOST_POINTS} points, got {count} up to here");
            return Err(Failure::usage(reason).within(place));
        }
        grid.push((entry, axes, place));
    }
    let mut points = Vec::with_capacity(count);
    for (entry, axes, place) in &grid {
        points.extend(expand(entry, axes, config).map_err(|failure| failure.within(place))?);
    }
    Ok(points)
}

/// An axis: a key (a path into nested tables), and its values.
type Axis = (Vec<String>, Vec<Value>);

fn expand(entry: &GridEntry, axes: &[Axis], config: &Config) -> Outcome<Vec<Point>> {
    let mut combinations: Vec<Vec<(&[String], &Value)>> = vec![Vec::new()];
    for (key, values) in axes {
        let mut longer = Vec::with_capacity(combinations.len() * values.len());
        for chosen in &combinations {
            longer.extend(values.iter().map(|value| [&chosen[..], &[(key.as_slice(), value)]].concat()));
        }
        combinations = longer;
    }
    combinations.iter().map(|chosen| point(entry, config, chosen)).collect()
}

/// Collects the axes of a table. A list is an axis. A table contains the axes of its entries.
fn axes_of(table: &toml::Table, path: &mut Vec<String>, axes: &mut Vec<Axis>) -> Outcome {
    for (key, value) in table {
        path.extend(key.split('.').map(str::to_string));
        let at = |reason: String| Failure::usage(format!("each.{}: {reason}", path.join(".")));
        match json_from_toml(value.clone()).map_err(at)? {
            Value::Array(values) if !values.is_empty() => axes.push((path.clone(), values)),
            Value::Object(_) => match value {
                toml::Value::Table(inner) => axes_of(inner, path, axes)?,
                _ => return Err(at("expected a list of values".into())),
            },
            other => return Err(at(format!("expected a list of values, got {other}"))),
        }
        path.truncate(path.len() - key.split('.').count());
    }
    Ok(())
}

fn point(entry: &GridEntry, config: &Config, chosen: &[(&[String], &Value)]) -> Outcome<Point> {
    let run = &config.sampling;
    let mut method = entry.method.clone();
    let mut budget = entry.budget_tflops;
    let mut sampling = Sampling {
        steps: entry.steps.unwrap_or(run.steps),
        guidance_scale: entry.guidance_scale.unwrap_or(run.guidance_scale),
        guidance_rescale: entry.guidance_rescale.unwrap_or(run.guidance_rescale),
        scheduler: entry.scheduler.clone().or_else(|| run.scheduler.clone()),
        negative_prompt: entry.negative_prompt.clone().or_else(|| run.negative_prompt.clone()),
        text: TextOptions {
            syntax: entry.prompt_syntax.clone().unwrap_or_else(|| run.text.syntax.clone()),
            clip_skip: entry.clip_skip.unwrap_or(run.text.clip_skip),
        },
        attention: entry.attention.unwrap_or(run.attention),
    };
    let mut options = Map::new();
    for (key, value) in &entry.options {
        let value = json_from_toml(value.clone())
            .map_err(|reason| Failure::usage(format!("options.{key}: {reason}")))?;
        options.insert(key.clone(), value);
    }
    let mut varied = Map::new();
    let mut label = entry.name.clone();
    let mut words = Vec::new();
    for (path, value) in chosen {
        let key = path.join(".");
        let wrong = |expected: &str| Failure::usage(format!("each.{key}: expected {expected}, got {value}"));
        match key.as_str() {
            "method" => {
                let name = name_of(value).ok_or_else(|| wrong("names of methods"))?;
                if let Some(fixed) = &entry.method {
                    return Err(Failure::usage(format!("each.method: method = {fixed:?} is given too")));
                }
                method = Some(name);
            }
            "steps" => sampling.steps = value.as_u64().ok_or_else(|| wrong("whole numbers"))? as usize,
            "guidance_scale" => sampling.guidance_scale = value.as_f64().ok_or_else(|| wrong("numbers"))?,
            "guidance_rescale" => {
                sampling.guidance_rescale = value.as_f64().ok_or_else(|| wrong("numbers"))?
            }
            "scheduler" => {
                sampling.scheduler = Some(value.as_str().ok_or_else(|| wrong("names of samplers"))?.into());
            }
            "prompt_syntax" => {
                sampling.text.syntax = value.as_str().ok_or_else(|| wrong("names of syntaxes"))?.into();
            }
            "clip_skip" => {
                sampling.text.clip_skip = value.as_u64().ok_or_else(|| wrong("whole numbers"))? as usize;
            }
            "attention" => {
                sampling.attention = serde_json::from_value::<Attention>((*value).clone())
                    .map_err(|_| wrong("\"fused\" or \"stored\""))?;
            }
            "budget_tflops" => {
                budget = Budget::of(value).map_err(|_| wrong("numbers, or shares such as \"80%\""))?;
            }
            _ => {
                insert(&mut options, path, value)
                    .map_err(|reason| Failure::usage(format!("each.{key}: {reason}")))?;
            }
        }
        if key != "method" {
            words.push(format!("{key}={}", plain(value)));
        } else if label.is_some() {
            words.insert(0, plain(value));
        }
        varied.insert(key, (*value).clone());
    }
    let Some(method) = method else {
        return Err(Failure::usage("method: expected the name of a method, here or in each"));
    };
    if method != "none" {
        let own = options.get("budget_tflops").cloned();
        if own.is_some() && budget.is_some() {
            return Err(Failure::usage("budget_tflops: given twice, as an option too"));
        }
        let by_ratio = ["ratio", "token_merging_ratio"].iter().any(|key| options.contains_key(*key));
        if budget.is_some() && by_ratio {
            return Err(Failure::usage("budget_tflops: takes the place of ratio: give one of them"));
        }
        if let Some(own) = own {
            budget = Budget::of(&own)?;
        }
        if budget.is_none() && !by_ratio {
            budget = config.budget_tflops;
        }
        if let Some(budget) = budget {
            options.insert("budget_tflops".into(), budget.checked()?.to_value());
        }
    } else {
        budget = None;
    }
    let head = label.take().unwrap_or_else(|| method.clone());
    words.insert(0, head.clone());
    Ok(Point {
        label: words.join(" "),
        grid: head,
        varied,
        spec: PruneSpec { method, options },
        sampling: sampling.checked()?,
        budget_tflops: budget,
    })
}

/// Sets an entry of nested tables. An entry cannot both fix and vary a key.
fn insert(table: &mut Map<String, Value>, path: &[String], value: &Value) -> Result<(), String> {
    match path {
        [] => Ok(()),
        [last] => match table.insert(last.clone(), value.clone()) {
            None => Ok(()),
            Some(fixed) => Err(format!("options has {last} = {fixed} too")),
        },
        [first, rest @ ..] => match table.entry(first.clone()).or_insert_with(|| Value::Object(Map::new())) {
            Value::Object(inner) => insert(inner, rest, value),
            _ => Err(format!("{first} is both a value and a table")),
        },
    }
}

/// A value without quotes. The items of a list are joined by `+`.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join("+"),
        other => other.to_string(),
    }
}

/// Turns a label into a folder's name. Characters that are not allowed become `_`.
pub fn slug(label: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '=' | '+' | '-');
    let slug: String = label.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    // a leading dot would hide the folder, or lead out of it
    if slug.starts_with('.') { format!("_{slug}") } else { slug }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn expanded(grid: &str) -> Outcome<Vec<Point>> {
        let text = format!("guidance_scale = 5\n[prompts]\nfox = \"a fox\"\n{grid}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        points(&Config::read(&path, None)?.0)
    }

    #[test]
    fn entries_are_products_of_their_axes() {
        let found = expanded(
            "[[grid]]\nmethod = \"none\"\n\
             [[grid]]\nname = \"dsap\"\nmethod = \"at-edm\"\nbudget_tflops = 4.1\noptions = { prune_layers = [0, 4] }\n\
             each = { tau = [0, 15], guidance_scale = [3, 7.5], scorer_options.power = [1] }\n",
        )
        .unwrap();
        let labels: Vec<&str> = found.iter().map(|point| point.label.as_str()).collect();
        assert_eq!(
            labels,
            [
                "none",
                "dsap guidance_scale=3 scorer_options.power=1 tau=0",
                "dsap guidance_scale=3 scorer_options.power=1 tau=15",
                "dsap guidance_scale=7.5 scorer_options.power=1 tau=0",
                "dsap guidance_scale=7.5 scorer_options.power=1 tau=15",
            ]
        );
        assert_eq!((found[0].sampling.guidance_scale, found[4].sampling.guidance_scale), (5.0, 7.5));
        assert_eq!(
            Value::Object(found[4].spec.options.clone()),
            json!({"budget_tflops": 4.1, "prune_layers": [0, 4], "scorer_options": {"power": 1}, "tau": 15})
        );
        assert_eq!(slug(labels[4]), "dsap_guidance_scale=7.5_scorer_options.power=1_tau=15");
    }

    #[test]
    fn methods_are_an_axis_and_lists_are_values() {
        let found =
            expanded("[[grid]]\neach = { method = [\"at-edm\", \"tome-c\"], levels = [[1, 2], \"all\"] }\n")
                .unwrap();
        let labels: Vec<&str> = found.iter().map(|point| point.label.as_str()).collect();
        assert_eq!(
            labels,
            ["at-edm levels=1+2", "tome-c levels=1+2", "at-edm levels=all", "tome-c levels=all"]
        );
    }

    /// Ten axes of a hundred values give 10^20 points. None may be made.
    #[test]
    fn points_are_counted_before_they_are_made() {
        let values = (0..100).map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
        let axes: String = (0..10).map(|axis| format!("a{axis} = [{values}]\n")).collect();
        let entry = format!("[[grid]]\nname = \"vast\"\nmethod = \"at-edm\"\n[grid.each]\n{axes}");
        let message = expanded(&entry).unwrap_err().to_string();
        let named = "grid 1 (vast): expected a grid of at most 10000 points, got 18446744073709551615";
        assert!(message.contains(named), "{message}");
        let entry = |name: &str, axes: &str| {
            format!("[[grid]]\nname = \"{name}\"\nmethod = \"at-edm\"\n[grid.each]\n{axes}")
        };
        let full = entry("full", &format!("a = [{values}]\nb = [{values}]\n"));
        assert_eq!(expanded(&full).unwrap().len(), 10_000);
        let message = expanded(&(full + &entry("more", "a = [1]\n"))).unwrap_err().to_string();
        assert!(
            message.contains("grid 2 (more): expected a grid of at most 10000 points, got 10001"),
            "{message}"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (grid, named) in [
            ("[[grid]]\nname = \"a\"\n", "grid 1 (a): method: expected"),
            ("[[grid]]\nmethod = \"at-edm\"\neach = { tau = 3 }\n", "each.tau: expected a list"),
            ("[[grid]]\nmethod = \"at-edm\"\neach = { tau = [] }\n", "each.tau: expected a list"),
            (
                "[[grid]]\nmethod = \"at-edm\"\neach = { steps = [\"x\"] }\n",
                "each.steps: expected whole numbers",
            ),
            ("[[grid]]\nmethod = \"at-edm\"\neach = { steps = [0] }\n", "steps: expected at least 1"),
            (
                "[[grid]]\nmethod = \"at-edm\"\noptions = { tau = 1 }\neach = { tau = [3] }\n",
                "options has tau = 1 too",
            ),
            (
                "[[grid]]\nmethod = \"at-edm\"\nbudget_tflops = 4\noptions = { ratio = 0.5 }\n",
                "budget_tflops: takes",
            ),
            ("[[grid]]\nmethod = \"at-edm\"\neach = { method = [\"none\"] }\n", "each.method"),
            (
                "[[grid]]\nmethod = \"at-edm\"\nbudget_tflops = nan\n",
                "grid 1 (at-edm): budget_tflops: expected a finite",
            ),
        ] {
            let message = expanded(grid).unwrap_err().to_string();
            assert!(message.contains(named), "{grid}: {message}");
        }
    }
}
