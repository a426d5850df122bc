//! Configurations of ablations that are refused, and the published sets of prompts.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;

use common::{atedm, fail, names, succeed, tiny};
use serde_json::{Value, json};

const USAGE: i32 = 2;
const RUN: i32 = 1;

/// Settings for quick sampling, to be written before prompts and grid.
const SMALL: &str = "steps = 2\nwidth = 64\nheight = 64\n";

#[test]
fn bad_configurations_are_named_and_leave_nothing() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    let prompts = format!("{SMALL}[prompts]\nfox = \"a fox\"\n");
    for (text, named) in [
        (
            format!("speed = 3\n{prompts}[[grid]]\nmethod = \"none\"\n"),
            &["c.toml: line 1: unknown field `speed`"][..],
        ),
        (format!("{prompts}[[grid]]\nmethod = \"at-edm\"\ntau = 3\n"), &["unknown field `tau`", "options"]),
        (
            format!("{prompts}[[grid]]\nmethod = \"at-edm\"\noptions = {{ taw = 3 }}\n"),
            &["at-edm: taw: unknown option"],
        ),
        (
            format!("{prompts}[[grid]]\nmethod = \"at-edm\"\neach = {{ tau = [1, 9] }}\n"),
            &["at-edm tau=9: tau"],
        ),
        (format!("{prompts}[[grid]]\nmethod = \"mine\"\n"), &["mine"]),
        (
            format!("{prompts}[[grid]]\nmethod = \"mine\"\nbudget_tflops = 4\n"),
            &["mine: method: expected one of", "tome-d"],
        ),
        (
            format!("{prompts}[[grid]]\nmethod = \"todo-sdxl\"\nbudget_tflops = 4\n"),
            &["todo-sdxl: budget_tflops: no ratio decides"],
        ),
        (
            format!("{prompts}[[grid]]\nmethod = \"at-edm\"\nbudget_tflops = nan\n"),
            &["grid 1 (at-edm): budget_tflops: expected a finite number, got NaN"],
        ),
        (
            format!(
                "{prompts}[[grid]]\nmethod = \"at-edm\"\noptions = {{ damping = 0.5 }}\neach = {{ scorer = [\"random\"] }}\n"
            ),
            &["at-edm scorer=random: damping: does nothing here"],
        ),
        (
            format!("{prompts}[[grid]]\nmethod = \"at-edm\"\nbudget_tflops = 4\n"),
            &["at-edm: budget_tflops: expected at least"],
        ),
        (
            format!("{prompts}[[grid]]\nmethod = \"at-edm\"\n[[grid]]\nmethod = \"at-edm\"\n"),
            &["\"at-edm\"", "names of their own"],
        ),
        (format!("prompts_file = \"gone.tsv\"\n{SMALL}[[grid]]\nmethod = \"none\"\n"), &["gone.tsv"]),
        (format!("{prompts}[[grid]]\nmethod = \"none\"\nsteps = 2000\n"), &["none: ", "1000"]),
    ] {
        fs::write(work.path().join("c.toml"), &text).unwrap();
        let output = atedm(work.path(), &["ablate", "c.toml", "--model", model, "--output", "run"]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && message.trim_end().lines().count() == 1, "{message}");
        named
            .iter()
            .for_each(|named| assert!(message.contains(named), "{text}\nexpected {named:?} in: {message}"));
        assert_eq!(names(work.path()), ["c.toml"], "{text}");
    }
    fs::write(work.path().join("c.toml"), format!("{prompts}[[grid]]\nmethod = \"none\"\n")).unwrap();
    let message = fail(work.path(), &["ablate", "c.toml", "--model", model], USAGE);
    assert!(message.contains("--output"), "{message}");
    let message = fail(
        work.path(),
        &["ablate", "c.toml", "--model", model, "--output", "run", "--shard", "3/3"],
        USAGE,
    );
    assert!(message.contains("m/n"), "{message}");
    let message = fail(work.path(), &["ablate", "merge", ".", "--output", "all"], RUN);
    assert!(message.contains("run.json"), "{message}");
}

/// The prompts are invented, in the form of the published files.
#[test]
fn published_sets_are_checked_and_keep_their_categories() {
    let work = tempfile::tempdir().unwrap();
    let file = |name: &str, head: &str, count: usize, rest: &str| {
        let rows: String = (0..count).map(|number| format!("picture {number}{rest}\n")).collect();
        fs::write(work.path().join(name), format!("{head}\n{rows}")).unwrap();
    };
    file("parti.tsv", "Prompt\tCategory\tChallenge\tNote", 1632, "\tArts\tBasic\t");
    file("draw.csv", "Prompts,Category", 200, ",Colors");
    file("short.csv", "Prompts,Category", 20, ",Colors");
    fs::create_dir(work.path().join("sub")).unwrap();
    let config = |source: &str| {
        let text = format!("prompts_file = \"{source}\"\n{SMALL}[[grid]]\nmethod = \"none\"\n");
        fs::write(work.path().join("sub/c.toml"), text).unwrap();
    };
    // the path starts from the configuration's folder
    config("parti:../parti.tsv");
    let model = tiny().to_str().unwrap();
    let plan = ["ablate", "sub/c.toml", "--model", model, "--plan"];
    let said = succeed(work.path(), &plan);
    assert!(said.contains("parti.tsv: expected the published file of parti (SHA-256 fab29e41"), "{said}");
    let said = succeed(work.path(), &[&plan[..], &["--prompts", "drawbench:draw.csv"]].concat());
    assert!(!said.contains("SHA-256"), "{said}");
    config("drawbench:../short.csv");
    let said = fail(work.path(), &plan, 2);
    assert!(
        said.contains("prompts_file: ") && said.contains("expected the 200 prompts of drawbench, got 20"),
        "{said}"
    );

    let export =
        ["eval", "export", "--captions", "drawbench:draw.csv", "--limit", "2", "--output", "out", "--quiet"];
    let small = ["--model", model, "--steps", "1", "--width", "64", "--height", "64"];
    succeed(work.path(), &[&export[..], &small].concat());
    for name in ["out/prompts.jsonl", "out/run/prompts.jsonl"] {
        let text = fs::read_to_string(work.path().join(name)).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line["groups"] == json!({"category": "Colors"})), "{text}");
    }
    let by = ["report", "out/run", "--table", "t.md", "--by", "category"];
    succeed(work.path(), &by);
    assert!(fs::read_to_string(work.path().join("t.md")).unwrap().contains("| none | Colors | 2 |"));
}
