//! An ablation of this crate's program has its scorer next to those that come with it, at one budget.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::Command;

fn run(arguments: &[&str], folder: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_example-own-scorer"));
    let output = command.args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const GRID: &str = r#"
steps = 3
width = 128
height = 128

[prompts]
fox = "a fox"

[[grid]]
method = "at-edm"
options = { tau = 1 }
budget_tflops = 0.000155
each = { scorer = ["page-rank", "contrast", "random"] }

[[grid]]
method = "tome-c"
"#;

#[test]
fn the_scorer_stands_in_a_grid_next_to_ours() {
    let folder = tempfile::tempdir().unwrap();
    run(&["init-tiny", "tiny"], folder.path());
    std::fs::write(folder.path().join("grid.toml"), GRID).unwrap();
    run(&["ablate", "grid.toml", "--model", "tiny", "--output", "run", "--quiet"], folder.path());
    let lines = std::fs::read_to_string(folder.path().join("run/results.jsonl")).unwrap();
    let field = |line: &str, name: &str| {
        let rest = line.split_once(&format!("\"{name}\":")).unwrap().1;
        rest.trim_start_matches('"').split(['"', ',', '}']).next().unwrap().to_string()
    };
    let labels: Vec<String> = lines.lines().map(|line| field(line, "label")).collect();
    let expected =
        ["none", "at-edm scorer=page-rank", "at-edm scorer=contrast", "at-edm scorer=random", "tome-c"];
    assert_eq!(labels, expected);
    let costs: Vec<f64> = lines.lines().map(|line| field(line, "mean_tflop").parse().unwrap()).collect();
    assert!(costs[1] == costs[2] && costs[2] == costs[3] && costs[1] < costs[0], "{costs:?}");
    let far: Vec<String> = lines.lines().skip(1).map(|line| field(line, "latent_l2")).collect();
    assert!(far[0] != far[1] && far[1] != far[2], "{far:?}");
    let compared = ["compare", "--model", "tiny", "--prompt", "a fox", "--steps", "2", "--quiet"];
    let methods = ["--methods", "at-edm,at-edm:scorer=contrast", "--output", "sheet.png"];
    let table = run(&[&compared[..], &methods].concat(), folder.path());
    assert!(table.contains("at-edm scorer=contrast") && folder.path().join("sheet.png").is_file(), "{table}");
}
