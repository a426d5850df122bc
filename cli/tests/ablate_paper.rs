//! The paper's configurations in `recipes/paper`. Each is planned for SD-XL base without weights, and must cost what
//! the paper says.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::{names, plan};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/paper")
}

/// The points of a configuration.
fn points(name: &str) -> Vec<Value> {
    let info = plan(&folder(), &format!("{name}.toml"), &[]);
    assert!(info["prompts"].as_u64().unwrap() >= 4);
    let points = info["points"].as_array().unwrap().clone();
    for point in &points {
        let settings = &point["settings"];
        assert_eq!((&settings["steps"], &settings["scheduler"]), (&50.into(), &"euler-sgm".into()), "{name}");
        assert_eq!((&settings["width"], &settings["height"]), (&1024.into(), &1024.into()), "{name}");
        assert_eq!(format!("{:.3}", point["whole_tflop"].as_f64().unwrap()), "6.761");
    }
    points
}

/// Labels with TFLOPs as the paper prints them.
fn costs(name: &str) -> Vec<(String, String)> {
    let printed = |point: &Value| {
        let tflop = point["planned_tflop"].as_f64().unwrap();
        // the paper truncates 6.76 to 6.7 and rounds the others
        let tflop = if point["settings"]["method"] == "none" { "6.7".into() } else { format!("{tflop:.1}") };
        (point["label"].as_str().unwrap().to_string(), tflop)
    };
    points(name).iter().map(printed).collect()
}

fn pairs(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter().map(|(label, tflop)| (label.to_string(), tflop.to_string())).collect()
}

#[test]
fn table_1() {
    let rows = [
        ("SD-XL", "6.7"),
        ("SD-XL-cfg4", "6.7"),
        ("tome-a", "2.9"),
        ("tome-b", "3.6"),
        ("tome-c", "4.1"),
        ("tome-d", "4.6"),
        ("at-edm-a", "2.9"),
        ("at-edm-b", "3.6"),
        ("at-edm-c", "4.1"),
        ("at-edm-d", "4.5"),
    ];
    assert_eq!(costs("table1"), pairs(&rows));
    let scales: Vec<f64> =
        points("table1").iter().map(|point| point["settings"]["guidance_scale"].as_f64().unwrap()).collect();
    assert_eq!(scales, [7.0, 4.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0]);
}

#[test]
fn table_2() {
    let rows = [("SD-XL", "6.7"), ("ToMe", "4.1"), ("AT-EDM", "4.1"), ("AT-EDM-dagger", "4.5")];
    let expected: BTreeSet<(String, String)> = rows
        .iter()
        .flat_map(|(name, tflop)| {
            ["stored", "fused"].map(|attention| (format!("{name} attention={attention}"), tflop.to_string()))
        })
        .collect();
    assert_eq!(costs("table2").into_iter().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn figure_6() {
    let rows = [
        ("SD-XL", "6.7"),
        ("ToMe schedule=constant", "4.1"),
        ("ToMe schedule=prune-less", "4.1"),
        ("AT-EDM schedule=constant", "4.1"),
        ("AT-EDM schedule=prune-less", "4.1"),
    ];
    assert_eq!(costs("fig6"), pairs(&rows));
}

#[test]
fn figure_7() {
    let costs = costs("fig7");
    assert_eq!(costs.len(), 4 * 12);
    for (label, tflop) in costs {
        let expected = match label.split(' ').next().unwrap() {
            "SD-XL" => "6.7",
            "AT-EDM-dagger" => "4.5",
            _ => "4.1",
        };
        assert_eq!(tflop, expected, "{label}");
    }
}

#[test]
fn figures_8_and_9() {
    let rows = [("none", "6.7"), ("G-WPR score=cross", "4.1"), ("G-WPR score=self", "4.1")];
    assert_eq!(costs("fig8"), pairs(&rows));
    let rows = [
        ("none", "6.7"),
        ("AT-EDM recovery=zero", "4.1"),
        ("AT-EDM recovery=bicubic", "4.1"),
        ("AT-EDM recovery=direct", "4.1"),
        ("AT-EDM recovery=similarity", "4.1"),
    ];
    assert_eq!(costs("fig9"), pairs(&rows));
}

/// The budget is fixed, so pruning less in more steps means pruning more in the others.
#[test]
fn figure_10() {
    let points = points("fig10");
    let (mut ratios, mut taus) = (Vec::new(), Vec::new());
    for point in points.iter().filter(|point| point["settings"]["method"] != "none") {
        assert!((point["planned_tflop"].as_f64().unwrap() - 4.1).abs() < 0.005, "{point}");
        ratios.push(point["settings"]["options"]["ratio"].as_f64().unwrap());
        taus.push(point["settings"]["options"]["tau"].as_u64().unwrap());
        assert_eq!(point["reference"], "none");
    }
    assert_eq!(taus, [0, 5, 15, 30, 45]);
    assert!(ratios.is_sorted() && ratios[0] > 0.5 && ratios[4] < 0.9, "{ratios:?}");
    // the paper's own setting; the paper prints both its ratio and its budget
    assert!((ratios[2] - 0.63).abs() < 0.005, "{ratios:?}");
}

#[test]
fn every_configuration_is_among_these() {
    let tested =
        ["table1", "table2", "fig6", "fig7", "fig8", "fig9", "fig10"].map(|name| format!("{name}.toml"));
    let there: BTreeSet<String> =
        names(&folder()).into_iter().filter(|name| name.ends_with(".toml")).collect();
    assert_eq!(there, tested.into());
}
