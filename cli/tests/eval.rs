//! `atedm eval export` on a tiny checkpoint with random weights.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::Path;

use common::{fail, names, succeed, tiny};
use tempfile::TempDir;

const COCO: &str = r#"{"info": {"year": 2017}, "images": [{"id": 139, "file_name": "000000000139.jpg"}], "annotations": [
    {"image_id": 285, "id": 20, "caption": "A big \"brown\" bear."},
    {"image_id": 139, "id": 11, "caption": "A room, again."},
    {"image_id": 139, "id": 10, "caption": "A woman stands in the\n dining area. "},
    {"image_id": 632, "id": 5, "caption": "Bedroom scene"}]}"#;

/// A folder with captions in it.
fn folder() -> TempDir {
    let work = tempfile::tempdir().unwrap();
    fs::write(work.path().join("coco.json"), COCO).unwrap();
    fs::write(work.path().join("lines.txt"), "a fox\n\nan owl\n").unwrap();
    work
}

fn flags<'a>(captions: &'a str, output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let model = tiny().to_str().unwrap();
    let mut args = vec!["eval", "export", "--captions", captions, "--model", model, "--output", output];
    args.extend(more);
    args
}

const SMALL: [&str; 6] = ["--steps", "2", "--width", "64", "--height", "64"];

fn read(work: &Path, name: &str) -> String {
    fs::read_to_string(work.join(name)).unwrap()
}

#[test]
fn folders_and_lists_are_as_the_evaluators_read_them() {
    let work = folder();
    let prune = ["--prune", "at-edm", "--prune-opt", "ratio=0.5,tau=0"];
    let said = succeed(work.path(), &flags("coco.json", "out", &[&SMALL[..], &prune].concat()));
    assert!(said.contains("out: 1 folders in images/ of 3 images each") && said.contains("sha256"), "{said}");
    let out = work.path().join("out");
    assert_eq!(names(&out), ["captions", "eval.toml", "images", "prompts.jsonl", "run"]);
    assert_eq!(names(&out.join("images")), ["at-edm"]);
    // nothing but pictures, with the names of COCO's photographs
    let pictures = ["000000000139.png", "000000000285.png", "000000000632.png"];
    assert_eq!(names(&out.join("images/at-edm")), pictures);
    assert_eq!(
        read(&out, "captions/at-edm.tsv"),
        "filepath\ttitle\n\
         images/at-edm/000000000139.png\tA woman stands in the dining area.\n\
         images/at-edm/000000000285.png\t\"A big \"\"brown\"\" bear.\"\n\
         images/at-edm/000000000632.png\tBedroom scene\n"
    );
    for name in pictures {
        assert_eq!(common::read_png(&out.join("images/at-edm").join(name)).size, (64, 64));
    }
    // repeating it has nothing to do; another method is another export
    let again = flags("coco.json", "out", &[&SMALL[..], &prune, &["--resume"]].concat());
    assert!(succeed(work.path(), &again).contains("all 3 images are there"));
    let said = fail(work.path(), &flags("coco.json", "out", &[&SMALL[..], &["--resume"]].concat()), 1);
    assert!(said.contains("eval.toml") && said.contains("another export"), "{said}");
    let fewer = flags("coco.json", "out", &[&SMALL[..], &prune, &["--resume", "--limit", "2"]].concat());
    assert!(fail(work.path(), &fewer, 1).contains("prompts.jsonl"));
    fs::write(out.join("images/at-edm/foreign.png"), "").unwrap();
    assert!(fail(work.path(), &[&again[..], &["--quiet"]].concat(), 1).contains("foreign.png"));
}

#[test]
fn noise_follows_the_caption_not_the_method_or_the_others() {
    let work = folder();
    succeed(work.path(), &flags("coco.json", "three", &SMALL));
    succeed(work.path(), &flags("coco.json", "one", &[&SMALL[..], &["--limit", "1"]].concat()));
    let off = ["--prune", "at-edm", "--prune-opt", "ratio=0"];
    succeed(work.path(), &flags("coco.json", "off", &[&SMALL[..], &off].concat()));
    let pixels = |name: &str| common::read_png(&work.path().join(name)).pixels;
    let whole = pixels("three/images/none/000000000139.png");
    assert_eq!(whole, pixels("one/images/none/000000000139.png"));
    assert_eq!(whole, pixels("off/images/at-edm/000000000139.png"));
    assert_ne!(whole, pixels("three/images/none/000000000285.png"));
    succeed(
        work.path(),
        &flags("coco.json", "other", &[&SMALL[..], &["--limit", "1", "--seed", "1"]].concat()),
    );
    assert_ne!(whole, pixels("other/images/none/000000000139.png"));
}

#[test]
fn shards_make_one_export_of_a_grid() {
    let work = folder();
    fs::write(
        work.path().join("grid.toml"),
        "steps = 2\nwidth = 64\nheight = 64\ndistances = false\n[prompts]\nunused = \"x\"\n\
         [[grid]]\nmethod = \"none\"\neach = { guidance_scale = [1, 7] }\n",
    )
    .unwrap();
    let grid = |output, shard| flags("lines.txt", output, &["--grid", "grid.toml", "--shard", shard]);
    let whole = succeed(work.path(), &flags("lines.txt", "whole", &["--grid", "grid.toml"]));
    assert!(whole.contains("2 folders in images/ of 2 images each"), "{whole}");
    assert_eq!(names(&work.path().join("whole")), ["captions", "images", "prompts.jsonl", "run"]);
    // ids are line numbers; of two shards, one may have nothing to do
    let said: Vec<String> = ["0/2", "1/2"].map(|shard| succeed(work.path(), &grid("parts", shard))).into();
    assert!(said[1].contains("2 folders in images/ of 2 images each"), "{said:?}");
    for point in names(&work.path().join("whole/images")) {
        let (whole, parts) = (format!("whole/images/{point}"), format!("parts/images/{point}"));
        assert_eq!(names(&work.path().join(&whole)), ["000000.png", "000002.png"]);
        for name in ["000000.png", "000002.png"] {
            let pixels = |folder: &str| common::read_png(&work.path().join(folder).join(name)).pixels;
            assert_eq!(pixels(&whole), pixels(&parts), "{point} {name}");
        }
        let list = format!("captions/{point}.tsv");
        assert_eq!(read(&work.path().join("whole"), &list), read(&work.path().join("parts"), &list));
    }
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let work = folder();
    fs::write(work.path().join("empty.txt"), "\n").unwrap();
    fs::write(work.path().join("bad.json"), "{\"annotations\": 3}").unwrap();
    for (captions, more, code, named) in [
        ("nowhere.json", &[][..], 1, "nowhere.json"),
        ("empty.txt", &[], 1, "empty.txt: expected at least one caption"),
        ("bad.json", &[], 1, "bad.json: expected COCO's captions"),
        ("coco.json", &["--prune", "at-edn"], 2, "at-edn"),
        ("coco.json", &["--grid", "g.toml", "--steps", "3"], 2, "--steps"),
        ("coco.json", &["--grid", "g.toml"], 1, "g.toml"),
    ] {
        let output = tempfile::tempdir_in(work.path()).unwrap();
        let said = fail(work.path(), &flags(captions, output.path().to_str().unwrap(), more), code);
        assert!(said.contains(named), "{said}");
    }
    assert!(fail(work.path(), &["eval"], 2).contains("export"));
    // a mistyped method leaves nothing that prevents the correct one
    fail(work.path(), &flags("lines.txt", "out", &["--prune", "at-edn"]), 2);
    succeed(work.path(), &flags("lines.txt", "out", &SMALL));
}
