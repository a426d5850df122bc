//! Turns `--prune`, `--prune-opt` and `--prune-config` into a method's name and options.

use std::path::Path;

use atedm_experiment::files::{CONFIG_MOST, read_text};
use atedm_experiment::spec::{PruneSpec, json_from_toml, merge, name_of, read_options};
use serde_json::Map;

use crate::args::PruneArgs;
use crate::failure::{Failure, Outcome};

/// Reads the flags, and the file if there is one. An option on the command line overrides the file's.
pub(crate) fn spec(args: &PruneArgs) -> Outcome<PruneSpec> {
    let mut spec = match &args.prune_config {
        Some(path) => from_file(path, args.prune.as_deref())?,
        None => PruneSpec::new(args.prune.as_deref().unwrap_or("none")),
    };
    let mut typed = Map::new();
    for list in &args.prune_opt {
        read_options(list, &mut typed).map_err(|failure| failure.within("--prune-opt"))?;
    }
    merge(&mut spec.options, typed);
    Ok(spec)
}

/// Parses `--methods`: `name,name:key=value,key=value,name`. A part with an equals sign and no name is one more option of the
/// last method.
pub(crate) fn methods(list: &[String]) -> Outcome<Vec<PruneSpec>> {
    let list = list.join(",");
    let mut typed: Vec<(String, Vec<String>)> = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, option) = match part.split_once(':') {
            Some((name, option)) if !name.contains('=') => (Some(name), Some(option)),
            _ if part.contains('=') => (None, Some(part)),
            _ => (Some(part), None),
        };
        if let Some(name) = name {
            typed.push((name.to_string(), Vec::new()));
        }
        match (typed.last_mut(), option) {
            (Some((_, options)), Some(option)) => options.push(option.to_string()),
            (None, _) => {
                return Err(Failure::usage(format!(
                    "--methods: expected a method's name first, got {part:?}"
                )));
            }
            _ => {}
        }
    }
    let one = |(name, options): (String, Vec<String>)| {
        let prune_opt = vec![options.join(",")];
        spec(&PruneArgs { prune: Some(name), prune_opt, prune_config: None })
            .map_err(|failure| failure.within("--methods"))
    };
    let specs: Vec<PruneSpec> = typed.into_iter().map(one).collect::<Outcome<_>>()?;
    match specs.is_empty() {
        true => Err(Failure::usage("--methods: expected at least one method")),
        false => Ok(specs),
    }
}

/// Reads `method = "…"` and the options from a TOML file. `--prune` may name the method if the file does not, but not a
/// different one.
fn from_file(path: &Path, typed_method: Option<&str>) -> Outcome<PruneSpec> {
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
    Ok(PruneSpec { method, options })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn methods_have_options_of_their_own() {
        let list = ["none,at-edm:ratio=0.5,tau=15", " at-edm:scorer_options.power=1", "tome-c"];
        let read = methods(&list.map(String::from)).unwrap();
        let names: Vec<&str> = read.iter().map(|spec| spec.method.as_str()).collect();
        assert_eq!(names, ["none", "at-edm", "at-edm", "tome-c"]);
        assert_eq!(Value::Object(read[1].options.clone()), json!({"ratio": 0.5, "tau": 15}));
        assert_eq!(Value::Object(read[2].options.clone()), json!({"scorer_options": {"power": 1}}));
        assert!(read[3].options.is_empty());
        for (bad, named) in [("", "at least one"), ("ratio=1", "name first"), ("at-edm:ratio", "key=value")] {
            let message = methods(&[bad.into()]).unwrap_err().to_string();
            assert!(message.contains(named) && message.starts_with("--methods"), "{message}");
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
        let read = spec(&args).unwrap();
        assert_eq!(read.method, "at-edm");
        assert_eq!(Value::Object(read.options), json!({"ratio": 0.7, "tau": 15, "own": {"a": 1, "b": 3}}));
        std::fs::write(&path, format!("\u{feff}{}", std::fs::read_to_string(&path).unwrap())).unwrap();
        assert_eq!(spec(&args).unwrap().method, "at-edm");
        std::fs::write(&path, "method = [\"tome\", \"at-edm\"]\n[tome]\nratio = 0.5\n").unwrap();
        let stacked = PruneArgs { prune_opt: vec!["at-edm.tau=15".into()], ..args.clone() };
        let read = spec(&stacked).unwrap();
        assert_eq!(read.method, "tome+at-edm");
        assert_eq!(Value::Object(read.options), json!({"tome": {"ratio": 0.5}, "at-edm": {"tau": 15}}));
        std::fs::write(&path, "method = [1]\n").unwrap();
        assert!(spec(&args).unwrap_err().to_string().contains("method: expected the name"));
        let other = PruneArgs { prune: Some("none".into()), ..args };
        assert!(spec(&other).unwrap_err().to_string().contains("method"));
        std::fs::write(&path, "ratio = nan\n").unwrap();
        assert!(spec(&other).unwrap_err().to_string().contains("ratio: expected a finite number"));
        std::fs::write(&path, "method = \"at-edm\"\nratio = \n").unwrap();
        assert!(spec(&other).unwrap_err().to_string().contains("line 2"));
    }
}
