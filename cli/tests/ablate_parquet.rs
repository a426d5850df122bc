//! `atedm ablate merge --parquet`: with the cargo feature `parquet` a file of columns, without it one clear line.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;

use common::{succeed, tiny};

/// A merged run of two prompts and one method, if merging with `--parquet` succeeds.
fn merged() -> tempfile::TempDir {
    let work = tempfile::tempdir().unwrap();
    let text = "steps = 2\nwidth = 64\nheight = 64\n[prompts]\na = \"one\"\nb = \"two\"\n\
        [[grid]]\nmethod = \"at-edm\"\noptions = { ratio = 0.5 }\n";
    fs::write(work.path().join("c.toml"), text).unwrap();
    let model = tiny().to_str().unwrap();
    succeed(work.path(), &["ablate", "c.toml", "--model", model, "--output", "run", "--quiet"]);
    work
}

const MERGE: [&str; 6] = ["ablate", "merge", "run", "--parquet", "--output", "all"];

#[cfg(not(feature = "parquet"))]
#[test]
fn a_build_without_the_feature_says_so() {
    let work = merged();
    let message = common::fail(work.path(), &MERGE, 2);
    assert!(message.contains("--parquet: this build lacks the cargo feature `parquet`"), "{message}");
    assert!(!work.path().join("all").exists());
}

#[cfg(feature = "parquet")]
#[test]
fn rows_are_the_lines() {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    use serde_json::Value;

    let work = merged();
    succeed(work.path(), &MERGE);
    let text = fs::read_to_string(work.path().join("all/results.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let file = fs::File::open(work.path().join("all/results.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(|row| row.unwrap()).collect();
    assert_eq!((rows.len(), lines.len()), (4, 4));
    for (row, line) in rows.iter().zip(&lines) {
        let field = |name: &str| row.get_column_iter().find(|(column, _)| *column == name).unwrap().1.clone();
        let text = |value: &Value| Field::Str(value.as_str().unwrap().into());
        let number = |value: &Value| value.as_f64().map_or(Field::Null, Field::Double);
        assert_eq!(field("id"), text(&line["id"]));
        assert_eq!(field("prompt"), text(&line["prompt"]));
        assert_eq!(field("seed"), Field::Long(line["seed"].as_i64().unwrap()));
        assert_eq!(field("mean_tflop"), number(&line["flops"]["mean_tflop"]));
        assert_eq!(field("psnr"), number(&line["distances"]["psnr"]));
        assert_eq!(field("ratio"), number(&line["settings"]["options"]["ratio"]));
        assert_eq!(field("gpu"), Field::Null);
    }
}
