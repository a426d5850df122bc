//! The configuration: round trips, options over presets, and errors that name the field.

use atedm_core::at_edm::{
    AtEdmConfig, Bicubic, CrossVote, Heads, Norm, Protect, PrunePoint, ScoreSource, presets,
};
use atedm_core::plugin::schedule::{ScheduleEntry, ScheduleTable};
use atedm_core::plugin::{BuildContext, GuidanceMasks, Levels, Registry, Tau};
use atedm_core::reference::NdTensor;
use serde_json::{Map, Value, json};

/// Every field has another value than its default.
fn everything() -> AtEdmConfig {
    let options = |value: Value| value.as_object().cloned().unwrap();
    AtEdmConfig {
        ratio: 0.25,
        budget_tflops: Some(3.6),
        keep_multiple: 8,
        prune_point: PrunePoint::BeforeFf,
        prune_layers: vec![0, 4],
        protect: Protect::Mask,
        levels: Levels::List(vec![1, 2]),
        score: ScoreSource::CrossAttention,
        scorer: "mine".into(),
        scorer_options: options(json!({"a": 1})),
        max_iterations: 9,
        level_iterations: [(2, 3)].into(),
        warm_start: true,
        cold_iterations: Some(6),
        rescore_every: 4,
        epsilon: 0.0,
        norm: Norm::L2,
        heads: Heads::Max,
        damping: 0.125,
        cross_vote: CrossVote::Hard,
        selector: "theirs".into(),
        selector_options: options(json!({"b": [1, 2]})),
        recovery: "bicubic".into(),
        recovery_options: options(json!({"c": "d"})),
        bicubic: Bicubic::Normalised,
        schedule: "table".into(),
        schedule_options: options(json!({"e": true})),
        table: Some(ScheduleTable {
            entries: vec![ScheduleEntry {
                steps: [Tau::Steps(1), Tau::Percent(50.0)],
                blocks: vec!["up.*".into()],
                ratio: 0.5,
            }],
        }),
        tau: Tau::Steps(3),
        guidance: GuidanceMasks::Mean,
    }
}

#[test]
fn every_field_survives_json_and_toml() {
    for config in [AtEdmConfig::default(), everything()] {
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<AtEdmConfig>(&text).unwrap(), config);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<AtEdmConfig>(&text).unwrap(), config);
    }
    assert_eq!(toml::from_str::<AtEdmConfig>("").unwrap(), AtEdmConfig::default());
}

/// Every field that is written can be given as an option with the same name.
#[test]
fn every_field_is_an_option() {
    let Value::Object(all) = serde_json::to_value(everything()).unwrap() else { panic!("a table") };
    assert_eq!(all.len(), 30);
    let defaults = serde_json::to_value(AtEdmConfig::default()).unwrap();
    for (key, value) in &all {
        assert_ne!(defaults.get(key), Some(value), "{key} is at its default");
        let mut options = Map::from_iter([(key.clone(), value.clone())]);
        // An option of a part needs that part.
        match key.as_str() {
            "schedule" => drop(options.insert("table".into(), all["table"].clone())),
            "table" => drop(options.insert("schedule".into(), "table".into())),
            "bicubic" => drop(options.insert("recovery".into(), "bicubic".into())),
            "cross_vote" => drop(options.insert("score".into(), "cross".into())),
            "cold_iterations" => drop(options.insert("warm_start".into(), true.into())),
            _ => {}
        }
        let config = AtEdmConfig::from_options("at-edm", &options).unwrap();
        assert_eq!(serde_json::to_value(config).unwrap().get(key), Some(value));
    }
}

#[test]
fn options_take_the_forms_of_a_command_line() {
    let options = json!({
        "token_merging_ratio": "50%", "tau": "20%", "levels": "1+2", "prune_layers": "0+3", "score": "cross",
        "level_iterations": {"1": 1, "2": 3}, "warm_start": true, "rescore_every": 2,
        "prune_point": "before_ff", "guidance": "per_row", "recovery": "bicubic", "bicubic": "normalised", "epsilon": 0, "norm": "l2",
    });
    let config = AtEdmConfig::from_options("at-edm-dagger", options.as_object().unwrap()).unwrap();
    let expected = AtEdmConfig {
        ratio: 0.5,
        tau: Tau::Percent(20.0),
        levels: Levels::List(vec![1, 2]),
        prune_layers: vec![0, 3],
        score: ScoreSource::CrossAttention,
        prune_point: PrunePoint::BeforeFf,
        recovery: "bicubic".into(),
        bicubic: Bicubic::Normalised,
        level_iterations: [(1, 1), (2, 3)].into(),
        warm_start: true,
        rescore_every: 2,
        epsilon: 0.0,
        norm: Norm::L2,
        ..AtEdmConfig::default()
    };
    assert_eq!(config, expected);
}

#[test]
fn presets_are_the_papers_settings() {
    assert_eq!(AtEdmConfig::preset("at-edm"), Some(AtEdmConfig::default()));
    assert_eq!(AtEdmConfig::preset("at-edm-dagger").unwrap().levels, Levels::Deepest);
    for (name, budget) in [("a", 2.9), ("b", 3.6), ("c", 4.1), ("d", 4.5)] {
        let config = AtEdmConfig::preset(&format!("at-edm-{name}")).unwrap();
        assert_eq!((config.budget_tflops, config.prune_point), (Some(budget), PrunePoint::BeforeFf));
    }
    for name in presets::names() {
        AtEdmConfig::preset(name).unwrap().validate().unwrap();
    }
    assert_eq!(AtEdmConfig::preset("at-edm-z"), None);
    let default = AtEdmConfig::default();
    assert_eq!((default.ratio, default.max_iterations, default.epsilon), (0.63, 5, 1e-4));
}

/// Each bad value gives one line that begins with its field.
#[test]
fn bad_values_name_their_field() {
    for (options, field) in [
        (json!({"ratio": 1.0}), "ratio: "),
        (json!({"ratio": -0.1}), "ratio: "),
        (json!({"token_merging_ratio": 2}), "ratio: "),
        (json!({"ratio": "half"}), "ratio: "),
        (json!({"ratio": "130%"}), "ratio: "),
        (json!({"ratio": "NaN"}), "ratio: "),
        (json!({"ratio": null}), "ratio: "),
        (json!({"ratio": 0.5, "token_merging_ratio": 0.5}), "token_merging_ratio: "),
        (json!({"ratio": 0.5, "budget_tflops": 3.0}), "budget_tflops: "),
        (json!({"budget_tflops": 0}), "budget_tflops: "),
        (json!({"budget_tflops": -4.1}), "budget_tflops: "),
        (json!({"keep_multiple": 0}), "keep_multiple: "),
        (json!({"keep_multiple": -8}), "keep_multiple: "),
        (json!({"max_iterations": 0}), "max_iterations: "),
        (json!({"level_iterations": {"1": 0}}), "level_iterations.1: "),
        (json!({"level_iterations": {"one": 1}}), "level_iterations: "),
        (json!({"level_iterations": 2}), "level_iterations: "),
        (json!({"warm_start": 1}), "warm_start: "),
        (json!({"cold_iterations": 0}), "cold_iterations: "),
        (json!({"rescore_every": 0}), "rescore_every: "),
        (json!({"epsilon": -1e-4}), "epsilon: "),
        (json!({"damping": 1.0}), "damping: "),
        (json!({"prune_layers": []}), "prune_layers: "),
        (json!({"prune_layers": "0,1"}), "prune_layers: "),
        (json!({"levels": []}), "levels: "),
        (json!({"levels": "some"}), "levels: "),
        (json!({"tau": "130%"}), "tau: "),
        (json!({"tau": 0.3}), "tau: "),
        (json!({"tau": -1}), "tau: "),
        (json!({"score": "both"}), "score: "),
        (json!({"prune_point": "during_ff"}), "prune_point: "),
        (json!({"heads": "min"}), "heads: "),
        (json!({"norm": "l3"}), "norm: "),
        (json!({"guidance": "uncond"}), "guidance: "),
        (json!({"schedule": "table"}), "schedule: "),
        (json!({"table": {"entries": []}}), "table: "),
        (json!({"schedule_file": "x.toml"}), "schedule_file: unknown option"),
        (json!({"schedule": "table", "table": {"entries": [{"ratio": 1.5}]}}), "table.entries[0].ratio: "),
        (json!({"bicubc": "plain"}), "bicubc: "),
    ] {
        let error = AtEdmConfig::from_options("at-edm", options.as_object().unwrap());
        let message = error.expect_err(&format!("{options} is bad")).to_string();
        assert!(message.starts_with(field), "{options}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
    let error = AtEdmConfig::from_options("at-edm-z", &Map::new()).unwrap_err().to_string();
    assert!(error.starts_with("preset: ") && error.contains("at-edm-dagger"), "{error}");
}

#[test]
fn values_that_json_cannot_hold_are_checked_too() {
    let nan = |config: AtEdmConfig| config.validate().unwrap_err().to_string();
    let base = AtEdmConfig::default;
    assert!(nan(AtEdmConfig { ratio: f64::NAN, ..base() }).starts_with("ratio: "));
    assert!(nan(AtEdmConfig { epsilon: f64::NAN, ..base() }).starts_with("epsilon: "));
    assert!(nan(AtEdmConfig { epsilon: f64::INFINITY, ..base() }).starts_with("epsilon: "));
    assert!(nan(AtEdmConfig { damping: f64::NAN, ..base() }).starts_with("damping: "));
    assert!(nan(AtEdmConfig { budget_tflops: Some(f64::NAN), ..base() }).starts_with("budget_tflops: "));
    assert!(nan(AtEdmConfig { tau: Tau::Percent(f64::NAN), ..base() }).starts_with("tau: "));
    assert!(base().with_ratio(f64::NAN).is_err());
    assert!(base().with_votes(0, 0.0).is_err());
    assert!(base().with_tau(Tau::Percent(-1.0)).is_err());
}

#[test]
fn unknown_keys_are_refused_by_serde_too() {
    assert!(serde_json::from_value::<AtEdmConfig>(json!({"rho": 0.5})).is_err());
    assert!(toml::from_str::<AtEdmConfig>("rho = 0.5").is_err());
}

/// A ratio on top of a budget preset replaces the budget.
#[test]
fn a_ratio_replaces_a_presets_budget() {
    let options = json!({"ratio": 0.7});
    let config = AtEdmConfig::from_options("at-edm-a", options.as_object().unwrap()).unwrap();
    assert_eq!((config.ratio, config.budget_tflops, config.prune_point), (0.7, None, PrunePoint::BeforeFf));
    let solved = AtEdmConfig::preset("at-edm-a").unwrap().with_ratio(0.9).unwrap();
    assert_eq!((solved.ratio, solved.budget_tflops), (0.9, None));
}

/// A cap on top of a preset with caps by level replaces those caps.
#[test]
fn a_cap_replaces_a_presets_caps_by_level() {
    let with =
        |options: Value| AtEdmConfig::from_options("at-edm-fast", options.as_object().unwrap()).unwrap();
    let preset = AtEdmConfig::preset("at-edm-fast").unwrap();
    assert!(!preset.level_iterations.is_empty());
    assert_eq!(with(json!({"ratio": 0.5})).level_iterations, preset.level_iterations);
    let config = with(json!({"max_iterations": 3}));
    assert_eq!((config.max_iterations, config.level_iterations), (3, [].into()));
    let config = with(json!({"max_iterations": 3, "level_iterations": {"2": 4}}));
    assert_eq!((config.max_iterations, config.level_iterations), (3, [(2, 4)].into()));
}

/// A preset's options of a part belong to the preset's part. A part that is named again, even the same one, has its defaults.
#[test]
fn a_part_that_is_named_again_starts_from_its_defaults() {
    let with =
        |options: Value| AtEdmConfig::from_options("at-edm-best", options.as_object().unwrap()).unwrap();
    let preset = with(json!({"ratio": 0.5}));
    assert_eq!(
        (preset.recovery.as_str(), &preset.recovery_options["changes"]),
        ("update", &json!("bicubic"))
    );
    assert_eq!(with(json!({"recovery": {"k": 8}})).recovery_options["k"], json!(8));
    for name in ["similarity", "soft", "update"] {
        let config = with(json!({"recovery": name}));
        assert_eq!((config.recovery.as_str(), config.recovery_options.is_empty()), (name, true));
        assert_eq!(with(Value::Object(config.to_options())), config, "{name}");
        let registry = Registry::<NdTensor>::with_builtins();
        registry.build("at-edm-best", &json!({ "recovery": name }), &BuildContext::default()).unwrap();
    }
    assert_eq!(with(json!({"recovery": "soft", "selector": "sample"})).selector, "sample");
    assert_eq!(with(Value::Object(preset.to_options())), preset);
}

/// Options that have no effect beside the others are errors. The errors name them, and the options that would use them.
#[test]
fn idle_options_are_refused() {
    for (options, message) in [
        (
            json!({"scorer": "random", "damping": 0.5}),
            r#"damping: does nothing here: it is an option of scorer = "page-rank", which is "random""#,
        ),
        (
            json!({"scorer": "token-norm", "heads": "max"}),
            r#"heads: does nothing here: it is an option of scorer = "page-rank" or "column-mean" or "value-norm", which is "token-norm""#,
        ),
        (
            json!({"scorer": "column-mean", "max_iterations": 3}),
            r#"max_iterations: does nothing here: it is an option of scorer = "page-rank", which is "column-mean""#,
        ),
        (
            json!({"scorer": "mine", "score": "cross"}),
            r#"score: does nothing here: it is an option of scorer = "page-rank" or "column-mean", which is "mine""#,
        ),
        (
            json!({"recovery": "zero", "bicubic": "plain"}),
            r#"bicubic: does nothing here: it is an option of recovery = "bicubic", which is "zero""#,
        ),
        (
            json!({"schedule": "constant", "tau": "10%"}),
            r#"tau: does nothing here: it is an option of schedule = "prune-less" or "prune-more", which is "constant""#,
        ),
        (
            json!({"score": "self", "cross_vote": "hard"}),
            r#"cross_vote: does nothing here: it is an option of score = "cross", which is "self""#,
        ),
        (
            json!({"cold_iterations": 3}),
            "cold_iterations: does nothing here: it is an option of warm_start = true, which is false",
        ),
        (
            json!({"scorer": {"name": "random", "damping": 0.5}}),
            "scorer.damping: unknown option; random takes none",
        ),
    ] {
        let error = AtEdmConfig::from_options("at-edm", options.as_object().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    // options that come only from a preset do not count as given
    for options in
        [json!({"scorer": "random"}), json!({"schedule": "constant"}), json!({"warm_start": false})]
    {
        AtEdmConfig::from_options("at-edm-fast", options.as_object().unwrap()).unwrap();
    }
}

#[test]
fn a_part_takes_a_table_of_its_own_options() {
    let read = |options: Value| AtEdmConfig::from_options("at-edm", options.as_object().unwrap());
    let tables = json!({
        "scorer": {"name": "page-rank", "max_iterations": 7, "heads": "mean"},
        "recovery": {"name": "bicubic", "bicubic": "normalised"},
        "schedule": {"tau": 4},
    });
    let short = json!({
        "max_iterations": 7, "heads": "mean", "recovery": "bicubic", "bicubic": "normalised", "tau": 4,
    });
    assert_eq!(read(tables).unwrap(), read(short).unwrap());
    let own = read(json!({"selector": {"name": "mine", "odd": true}})).unwrap();
    assert_eq!((own.selector.as_str(), &own.selector_options["odd"]), ("mine", &json!(true)));
    let error = read(json!({"scorer": {"max_iterations": 0}})).unwrap_err().to_string();
    assert!(error.starts_with("max_iterations: "), "{error}");
}
