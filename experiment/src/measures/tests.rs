//! Tests on an invented run of three points and four prompts, and on values of the Python package.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::gathered::{Gathered, StoredImage};
use crate::record::{PointInfo, PromptLine, Record, RunInfo, Settings};

fn settings() -> Settings {
    serde_json::from_value(json!({
        "model": "m", "method": "at-edm", "options": {}, "steps": 2, "scheduler": "ddim", "guidance_scale": 7.0,
        "negative_prompt": null, "width": 64, "height": 64, "rng": "torch", "attention": "fused"
    }))
    .unwrap()
}

fn point(id: &str, label: &str, varied: Value, reference: Option<&str>) -> PointInfo {
    PointInfo {
        id: id.into(),
        label: label.into(),
        grid: "at-edm".into(),
        varied,
        config_hash: String::new(),
        settings: settings(),
        budget_tflops: None,
        planned_tflop: None,
        whole_tflop: 4.0,
        reference: reference.map(str::to_string),
    }
}

/// The record of an image. Its machine has so many threads.
fn record(
    point: &PointInfo,
    prompt: &PromptLine,
    tflop: f64,
    seconds: f64,
    threads: usize,
    psnr: Option<f64>,
) -> Record {
    let id = format!("{}/{}", point.id, prompt.id);
    let distances = point.reference.as_ref().map(|_| {
        json!({"to": format!("none/{}", prompt.id), "psnr": psnr, "ssim": 0.5, "latent_l2": 2.0, "latent_l2_relative": 0.25})
    });
    serde_json::from_value(json!({
        "format": 1, "id": id, "point": point.id, "label": point.label, "prompt_id": prompt.id, "prompt": prompt.prompt,
        "seed": 1, "config_hash": "", "settings": settings(),
        "flops": {"mean_tflop": tflop, "whole_tflop": 4.0, "evaluations": 2}, "tokens": [],
        "times": {"seconds_per_step": seconds, "seconds": 9.0, "finished_at": 0}, "distances": distances,
        "image": format!("images/{id}.png"), "latents": null,
        "provenance": {"atedm": "0", "backend": "candle", "device": "cpu", "dtype": "f32", "cpu": "Chip", "gpu": null,
            "threads": threads}
    }))
    .unwrap()
}

/// `none`, and two ratios. At the first prompt, the lower ratio gives the unpruned picture. The last image of each point was
/// made on another machine, which takes ten times as long.
pub(crate) fn run() -> Gathered {
    let points = vec![
        point("none", "none", json!({}), None),
        point("at-edm_ratio=0.3", "at-edm ratio=0.3", json!({"ratio": 0.3}), Some("none")),
        point(
            "at-edm_ratio=0.5",
            "at-edm ratio=0.5",
            json!({"ratio": 0.5, "recovery": "a_b|c"}),
            Some("none"),
        ),
    ];
    let groups = |group: &str| BTreeMap::from([("category".to_string(), group.to_string())]);
    let prompt = |(index, id): (usize, &str)| PromptLine {
        id: id.into(),
        prompt: format!("a {id}"),
        seed: 1,
        groups: if index < 3 { groups(["Colors", "Animals"][index % 2]) } else { BTreeMap::new() },
    };
    let prompts: Vec<PromptLine> =
        ["cat", "fox", "owl", "star"].into_iter().enumerate().map(prompt).collect();
    let mut records = BTreeMap::new();
    for (place, point) in points.iter().enumerate() {
        for (index, prompt) in prompts.iter().enumerate() {
            let (seconds, threads) = if index == 3 { (10.0, 8) } else { (1.0 - 0.1 * place as f64, 2) };
            let psnr = (place != 1 || index > 0).then_some(30.0 - 4.0 * place as f64 + index as f64);
            let record = record(point, prompt, 4.0 - place as f64, seconds, threads, psnr);
            records.insert(record.id.clone(), StoredImage { folder: PathBuf::new(), record });
        }
    }
    let info =
        RunInfo { format: 1, run_hash: String::new(), title: "t".into(), points, prompts: 4, shard: None };
    Gathered { info, prompts, config: String::new(), folders: 1, records, doubles: 0 }
}

fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn value(mean: Option<Mean>) -> (f64, usize) {
    mean.map_or((f64::NAN, 0), |mean| (mean.value, mean.count))
}

/// Intervals, differences and wins equal those of `atedm_evaluation` (made by `tests/python/measures_reference.py`).
#[test]
fn figures_are_those_of_the_python_package() {
    let expected: Value = serde_json::from_str(include_str!("../../fixtures/measures.json")).unwrap();
    let values = |key: &str| -> Vec<f64> {
        let values = expected[key].as_array().unwrap().iter();
        values.map(|value| value.as_f64().unwrap_or(f64::INFINITY)).collect()
    };
    let check = |mean: Mean, key: &str| {
        let (low, high) = mean.interval.unwrap();
        for (found, part) in [(mean.value, "value"), (low, "low"), (high, "high")] {
            let wanted = expected[key][part].as_f64().unwrap();
            assert!((found - wanted).abs() < 1e-10, "{key} {part}: {found} {wanted}");
        }
    };
    let (point, baseline) = (values("point"), values("baseline"));
    check(Mean::of(point.clone()).unwrap(), "mean");
    check(Mean::median_of(point.clone()).unwrap(), "median");
    let found = Difference::of(point.into_iter().zip(baseline), Better::Higher).unwrap();
    check(found.mean.unwrap(), "difference");
    check(found.win_rate, "win_rate");
    assert_eq!((found.wins, found.ties, found.losses, found.mean.unwrap().count), (5, 1, 7, 12));
}

#[test]
fn rows_have_costs_medians_and_fronts() {
    let run = run();
    let measures = Measures::of(&run);
    assert_eq!(measures.machine(), Some("Chip, 2 threads"));
    let summary = Summary::new(&measures, None, None).unwrap();
    let row = &summary.rows[1];
    assert_eq!((row.images, value(row.tflop), row.group.as_deref()), (4, (3.0, 4), None));
    // three images of the machine with the most images
    assert_eq!(value(row.seconds_per_step), (0.9, 3));
    let psnr = row.metrics[0];
    assert_eq!((value(psnr.mean), psnr.infinite, psnr.difference), ((28.0, 3), 1, None));
    assert!(psnr.front.flops && psnr.front.time && summary.rows[0].metrics[0].mean.is_none());
    // the higher ratio is cheaper and has a worse PSNR, but the same SSIM
    let ssim = |row: usize| summary.rows[row].metrics[1].front;
    assert!(summary.rows[2].metrics[0].front.flops && ssim(2).flops && !ssim(1).flops && !ssim(0).flops);
    assert_eq!(summary.unit.name, "TFLOP");
}

#[test]
fn measures_of_other_programs_are_joined() {
    let run = run();
    let table = "prompt,point,clip:higher,lpips\nfox,none,0.3,0.1\nfox,at-edm ratio=0.5,0.2,\ncat,at-edm_ratio=0.5,0.4,0.25\ncat,none,0.3,0\n";
    let (_folder, path) = file("m.csv", table);
    let mut measures = Measures::of(&run);
    measures.join(&path, &Directions::from([("lpips".to_string(), Better::Lower)])).unwrap();
    let line = r#"{"point": "none", "prompt": "owl", "dino:higher": 0.5, "other:lower": null}"#;
    let (_folder, path) = file("m.jsonl", &format!("{line}\n\n"));
    measures.join(&path, &Directions::new()).unwrap();
    let names: Vec<(&str, Better)> =
        measures.metrics().iter().skip(4).map(|metric| (metric.name.as_str(), metric.better)).collect();
    let expected = [
        ("clip", Better::Higher),
        ("lpips", Better::Lower),
        ("dino", Better::Higher),
        ("other", Better::Lower),
    ];
    assert_eq!(names, expected);
    assert_eq!(measures.value(4, "at-edm_ratio=0.5", "fox"), Some(0.2));
    assert_eq!(measures.value(5, "at-edm_ratio=0.5", "fox"), None);
    assert_eq!(measures.value(6, "none", "owl"), Some(0.5));
    let baseline = Baseline::named(&run, "unpruned").unwrap();
    let summary = Summary::new(&measures, Some(&baseline), None).unwrap();
    assert!(summary.rows[0].metrics.iter().all(|found| found.difference.is_none()));
    let found = summary.rows[2].metrics[4].difference.unwrap();
    assert_eq!((found.wins, found.ties, found.losses), (1, 0, 1));
    assert!(found.mean.unwrap().value.abs() < 1e-12);
    // the unpruned image has no distance to itself
    assert!(summary.rows[2].metrics[0].difference.is_none());
    let point = Baseline::named(&run, "at-edm ratio=0.3").unwrap();
    let found = Summary::new(&measures, Some(&point), None).unwrap().rows[2].metrics[0].difference.unwrap();
    // equal pictures beat any others; their infinite PSNR is in no mean
    assert_eq!((value(found.mean), found.losses, found.win_rate.value), ((-4.0, 3), 4, 0.0));
    assert!(Baseline::named(&run, "nobody").unwrap_err().to_string().contains("none, at-edm_ratio=0.3"));
}

#[test]
fn a_file_without_prompts_measures_points_as_a_whole() {
    let run = run();
    let (_folder, path) = file("fid.csv", "point,fid:lower\nnone,31.9\nat-edm ratio=0.5,33.5\n");
    let mut measures = Measures::of(&run);
    measures.join(&path, &Directions::new()).unwrap();
    let summary = Summary::new(&measures, Some(&Baseline::Unpruned), Some("category")).unwrap();
    let found: Vec<(f64, usize)> = summary.rows.iter().map(|row| value(row.metrics[4].mean)).collect();
    assert_eq!((found[0], found[1].1, found[2]), ((31.9, 1), 0, (33.5, 1)));
    // it is of all prompts, and of no prompt alone
    assert!(found[3..].iter().all(|(_, count)| *count == 0));
    assert!(summary.rows.iter().all(|row| row.metrics[4].difference.is_none()));
    assert!(summary.table(Format::Markdown).unwrap().contains("| **33.50** |"));
}

#[test]
fn what_cannot_be_joined_is_told_with_its_line() {
    let run = run();
    for (name, text, expected) in [
        ("m.txt", "", "expected a name that ends in .csv, .tsv or .jsonl"),
        ("m.csv", "", "expected columns point and prompt, got an empty file"),
        ("m.csv", "prompt,clip\n", "line 1: expected a column point, got columns prompt, clip"),
        ("m.csv", "point,prompt\n", "expected columns of measures beside point and prompt"),
        (
            "m.csv",
            "point,prompt,clip\n",
            "line 1: column \"clip\": expected a direction, higher or lower, as in \"clip:lower\"",
        ),
        ("m.csv", "point,prompt,a:up\n", "line 1: column \"a:up\": expected higher or lower, got \"up\""),
        (
            "m.csv",
            "point,prompt,a:lower\nnone,fox,1\nnobody,fox,1\n",
            "line 3: expected a point of the run (none, ",
        ),
        (
            "m.csv",
            "point,prompt,a:lower\nnone,dog,1\n",
            "line 2: prompt: expected the id of a prompt of the run, got \"dog\"",
        ),
        ("m.tsv", "point\tprompt\ta:lower\nnone\tfox\tNaN\n", "line 2: a: expected a finite number, got NaN"),
        ("m.tsv", "point\tprompt\ta:lower\nnone\tfox\tinf\n", "line 2: a: expected a finite number, got inf"),
        ("m.csv", "point,prompt,a:lower\nnone,fox,x\n", "line 2: a: expected a number, got \"x\""),
        ("m.csv", "point,prompt,a:lower\nnone,fox\n", "line 2: expected 3 columns, got 2"),
        (
            "m.csv",
            "point,prompt,a:lower\nnone,fox,1\nnone,owl,1\nnone,fox,2\n",
            "line 4: expected each point and prompt once, got none/fox of line 2",
        ),
        (
            "m.csv",
            "point,prompt,relative l2:lower\nnone,fox,1\n",
            "column relative l2: expected a measure that is not there yet",
        ),
        (
            "m.csv",
            "point,prompt,psnr:higher\nnone,fox,1\n",
            "column psnr: expected a measure that is not there yet",
        ),
        (
            "m.jsonl",
            "{\"point\": \"none\", \"prompt\": \"fox\", \"a:lower\": \"1\"}\n",
            "line 1: a: expected a number, got \"1\"",
        ),
        (
            "m.jsonl",
            "{\"point\": \"none\", \"prompt\": 1, \"a:lower\": 1}\n",
            "line 1: prompt: expected an id of the run as text",
        ),
        (
            "m.jsonl",
            "{\"prompt\": \"fox\", \"a:lower\": 1}\n",
            "line 1: point: expected an id of the run as text",
        ),
        (
            "m.jsonl",
            "{\"point\": \"none\", \"prompt\": \"fox\", \"a:lower\": 1}\n{\"point\": \"none\", \"a:lower\": 1}\n",
            "line 2: prompt: expected an id, as on other lines",
        ),
        ("m.jsonl", "\n[1]\n", "line 2: invalid type"),
    ] {
        let (_folder, path) = file(name, text);
        let message = Measures::of(&run).join(&path, &Directions::new()).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains(name), "{text:?}\n{message}\n{expected}");
    }
}

#[test]
fn rows_are_split_by_a_property_of_prompts() {
    let run = run();
    let measures = Measures::of(&run);
    let summary = Summary::new(&measures, None, Some("category")).unwrap();
    let told: Vec<(Option<&str>, usize)> =
        summary.rows.iter().map(|row| (row.group.as_deref(), row.images)).collect();
    let expected = [[(None, 4); 3], [(Some("Animals"), 1); 3], [(Some("Colors"), 2); 3]].concat();
    assert_eq!(told, expected);
    let message = Summary::new(&measures, None, Some("colour")).unwrap_err().to_string();
    assert_eq!(message, "expected a property of the run's prompts (category), got \"colour\"");
}

#[test]
fn tables_have_every_figure_in_csv_and_readable_cells_elsewhere() {
    let run = run();
    let measures = Measures::of(&run);
    let baseline = Baseline::Point("at-edm_ratio=0.3".into());
    let summary = Summary::new(&measures, Some(&baseline), Some("category")).unwrap();
    let text = summary.table(Format::Csv).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let heads = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 9);
    let cell = |row: usize, head: &str| {
        rows[row].get(heads.iter().position(|name| name == head).unwrap()).unwrap().to_string()
    };
    assert_eq!(
        [cell(2, "point"), cell(2, "varied.ratio"), cell(2, "varied.recovery"), cell(2, "category")],
        ["at-edm_ratio=0.5", "0.5", "a_b|c", "all"]
    );
    assert_eq!(
        [cell(2, "tflop"), cell(2, "psnr"), cell(2, "psnr_n"), cell(1, "psnr_infinite")],
        ["2", "23.5", "4", "1"]
    );
    assert_eq!(
        [cell(2, "psnr_difference"), cell(2, "psnr_win_rate"), cell(2, "psnr_losses")],
        ["-4", "0", "4"]
    );
    assert_eq!(
        [cell(0, "psnr"), cell(0, "psnr_low"), cell(0, "psnr_n"), cell(1, "psnr_difference")],
        ["", "", "0", ""]
    );
    assert_eq!(
        [cell(2, "psnr_front_flops"), cell(1, "machine"), cell(5, "category")],
        ["true", "Chip, 2 threads", "Animals"]
    );

    let text = summary.table(Format::Markdown).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with(
            "| point | category | N | TFLOP | saved | s/step | PSNR ↑ | Δ PSNR | PSNR wins | SSIM ↑ |"
        ),
        "{text}"
    );
    let row = lines[4];
    assert!(
        row.starts_with("| at-edm ratio=0.5 | all | 4 | 2.000 | 50.0 % | 0.800 [0.800, 0.800] | **23.50** ["),
        "{row}"
    );
    assert!(row.contains("| −4.00 [−4.00, −4.00] | 0 % of 4 |"), "{row}");
    assert!(
        text.contains("against at-edm ratio=0.3, prompt by prompt") && text.contains("on Chip, 2 threads.")
    );
    assert!(
        lines.iter().take(11).all(|line| line.matches(" | ").count() == lines[0].matches(" | ").count()),
        "{text}"
    );

    let text = summary.table(Format::Latex).unwrap();
    assert!(
        text.contains("\\begin{tabular}{llrrrr") && text.trim_end().ends_with("\\end{tabular}"),
        "{text}"
    );
    assert!(text.contains("PSNR $\\uparrow$ & $\\Delta$ PSNR & PSNR wins & SSIM $\\uparrow$"), "{text}");
    assert!(
        text.contains("50.0 \\% & 0.800 {\\scriptsize [0.800, 0.800]} & \\textbf{23.50} {\\scriptsize ["),
        "{text}"
    );
    assert!(text.contains("$-$4.00 {\\scriptsize [$-$4.00, $-$4.00]}"), "{text}");
    assert_eq!(text.matches("\\midrule").count(), 3);
}

#[test]
fn names_of_users_are_text_in_tables() {
    let mut run = run();
    run.info.points[2].label = "50% of_a|b & {c} $d$ \\e\n\\input{x}".into();
    let measures = Measures::of(&run);
    let baseline = Baseline::Point("at-edm_ratio=0.5".into());
    let summary = Summary::new(&measures, Some(&baseline), None).unwrap();
    let text = summary.table(Format::Latex).unwrap();
    let safe = "50\\% of\\_a|b \\& \\{c\\} \\$d\\$ \\textbackslash{}e \\textbackslash{}input\\{x\\} &";
    assert!(text.contains(safe), "{text}");
    // nothing but a comment holds the name as it is
    assert!(
        text.lines().filter(|line| line.contains("\\input{x}")).all(|line| line.starts_with('%')),
        "{text}"
    );
    let text = summary.table(Format::Markdown).unwrap();
    assert!(text.contains("| 50% of_a\\|b & {c} $d$ \\\\e \\\\input{x} |"), "{text}");
    assert!("x".parse::<Format>().is_err() && Format::of("a.html".as_ref()).is_err());
    assert_eq!(Format::of("a.TEX".as_ref()).unwrap(), Format::Latex);
}
