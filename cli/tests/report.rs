//! `atedm report`: pages of a real ablation of a tiny checkpoint: finished, interrupted, in shards, and not begun.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use atedm_experiment::measures::Mean;
use common::{fail, names, succeed, tiny};
use tempfile::TempDir;

const HOSTILE: &str = "<img src=x onerror=alert(1)> & \\\"quotes\\\" </script>";

/// An ablation with three points and three prompts, made once.
fn ablation() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    MADE.get_or_init(|| {
        let work = TempDir::with_prefix_in("report-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let config = format!(
            "title = \"a <b>title</b>\"\nsteps = 2\nwidth = 64\nheight = 64\n\
             [prompts]\nfox = \"a fox\"\nhostile = \"{HOSTILE}\"\nowl = \"an owl\"\n\
             [[grid]]\nmethod = \"at-edm\"\noptions = {{ tau = 0 }}\neach = {{ ratio = [0, 0.5] }}\n"
        );
        fs::write(work.path().join("c.toml"), config).unwrap();
        let model = tiny().to_str().unwrap();
        succeed(work.path(), &["ablate", "c.toml", "--model", model, "--output", "run", "--quiet"]);
        for shard in ["0/2", "1/2"] {
            let args =
                ["ablate", "c.toml", "--model", model, "--output", "shards", "--quiet", "--shard", shard];
            succeed(work.path(), &args);
        }
        work
    })
    .path()
}

/// A copy of the run whose files a test may change.
fn copy(from: &str) -> TempDir {
    fn all(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let target = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => all(&entry.path(), &target),
                false => drop(fs::copy(entry.path(), target).unwrap()),
            }
        }
    }
    let copied = tempfile::tempdir().unwrap();
    all(&ablation().join(from), &copied.path().join("run"));
    copied
}

fn page(work: &Path, args: &[&str]) -> String {
    succeed(work, &[&["report", "run", "--output", "page.html"], args].concat());
    fs::read_to_string(work.join("page.html")).unwrap()
}

#[test]
fn a_finished_run_is_one_page_without_links_outside() {
    let work = copy("run");
    let said = succeed(work.path(), &["report", "run"]);
    assert!(said.contains("run/report.html (9 of 9 images"), "{said}");
    let html = page(work.path(), &[]);
    assert_eq!(html, fs::read_to_string(work.path().join("run/report.html")).unwrap());
    assert_eq!(names(work.path()), ["page.html", "run"]);
    for words in [
        "All 9 images are finished.",
        "a &lt;b&gt;title&lt;/b&gt;",
        "&lt;img src=x onerror=alert(1)&gt; &amp; &quot;quotes&quot; &lt;/script&gt;",
        "at-edm ratio=0.5",
        "The run stored no masks.",
        "PSNR against FLOPs",
        "PSNR against ratio",
        "N = 3",
        "3 equal (∞)",
        "&quot;recovery&quot;: &quot;similarity&quot;",
        "[[grid]]",
    ] {
        assert!(html.contains(words), "{words}");
    }
    for markup in
        ["<b>title", "<img src=x", "http://", "https://", "<link rel=\"stylesheet", "@import", "url("]
    {
        let html = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!html.contains(markup), "{markup}");
    }
    assert_eq!(html.matches("</script>").count(), 1);
    // 9 images: for each prompt, two are compared with the third
    assert_eq!(html.matches("src=\"data:image/png;base64,").count(), 9);
    assert_eq!(html.matches("class=\"compare\"").count(), 6);
    // four distances against FLOPs and against time, the time against FLOPs, and four distances against the ratio
    assert_eq!(html.matches("<figure class=\"chart\">").count(), 13);
    assert_eq!(html.matches("<svg ").count(), 26);
    assert!(!html.contains("id=\"differences\""));
}

#[test]
fn figures_are_those_of_the_records() {
    let work = copy("run");
    let html = page(work.path(), &[]);
    let lines = fs::read_to_string(work.path().join("run/results.jsonl")).unwrap();
    let records: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ssim: Vec<f64> = records
        .iter()
        .filter(|record| record["label"] == "at-edm ratio=0.5")
        .map(|record| record["distances"]["ssim"].as_f64().unwrap())
        .collect();
    let mean = ssim.iter().sum::<f64>() / 3.0;
    let (low, high) = Mean::of(ssim).unwrap().interval.unwrap();
    assert!(low < mean && mean < high);
    assert!(
        html.contains(&format!(">{mean:.3}<small>[{low:.3}, {high:.3}]<br>N = 3")),
        "{mean} {low} {high}"
    );
}

#[test]
fn shards_are_gathered_and_unfinished_runs_are_shown() {
    let shards = copy("shards");
    let html = page(shards.path(), &["--prompt", "owl"]);
    assert!(html.contains("All 9 images are finished.") && html.contains("1 of 3 prompts"));
    assert_eq!(html.matches("src=\"data:image/png;base64,").count(), 3);

    let work = copy("run");
    let results = work.path().join("run/results.jsonl");
    let lines = fs::read_to_string(&results).unwrap();
    let first: String = lines.split_inclusive('\n').take(4).collect();
    // a kill may leave the start of a line
    fs::write(&results, first + "{\"format\": 1, \"id\": \"at-e").unwrap();
    let html = page(work.path(), &[]);
    assert!(html.contains("Not finished: 4 of 9 images.") && html.contains("not finished</td>"));
    fs::write(&results, "").unwrap();
    let html = page(work.path(), &[]);
    assert!(html.contains("No image is finished yet, of 9.") && html.contains("planned"));
    assert!(!html.contains("<svg") && !html.contains("NaN"));
}

#[test]
fn stored_masks_are_drawn() {
    let work = copy("run");
    let info: serde_json::Value =
        serde_json::from_slice(&fs::read(work.path().join("run/run.json")).unwrap()).unwrap();
    let points = info["points"].as_array().unwrap();
    let point = points.iter().find(|point| point["label"] == "at-edm ratio=0.5").unwrap();
    let folder = format!("run/masks/{}", point["id"].as_str().unwrap());
    fs::create_dir_all(work.path().join(&folder)).unwrap();
    let (masks, model) = (format!("{folder}/fox.safetensors"), tiny().to_str().unwrap());
    let made = ["generate", "--model", model, "--prompt", "a fox", "--steps", "2", "--width", "64"];
    let more = ["--height", "64", "--prune", "at-edm", "--prune-opt", "tau=0,ratio=0.5"];
    let output = ["--masks-out", masks.as_str(), "--output", "fox.png", "--quiet"];
    succeed(work.path(), &[&made[..], &more, &output].concat());
    let html = page(work.path(), &["--prompt", "fox"]);
    assert!(!html.contains("stored no masks"));
    // two steps, eleven blocks
    assert_eq!(html.matches("alt=\"kept tokens, ").count(), 22);
    assert!(html.contains("mid.0 layer 0: "));
    fs::write(work.path().join(&masks), "no masks").unwrap();
    assert!(fail(work.path(), &["report", "run"], 1).contains("fox.safetensors"));
}

#[test]
fn tables_and_differences_join_measures_of_other_programs() {
    let work = copy("run");
    let prompts = work.path().join("run/prompts.jsonl");
    let text = fs::read_to_string(&prompts).unwrap();
    let grouped = |line: &str| {
        let end = if line.contains("\"owl\"") { ",\"groups\":{\"category\":\"birds\"}}" } else { "}" };
        format!("{}{end}\n", line.strip_suffix('}').unwrap())
    };
    fs::write(&prompts, text.lines().map(grouped).collect::<String>()).unwrap();
    let points = ["none", "at-edm_ratio=0", "at-edm_ratio=0.5"];
    let lines = points.iter().zip(0..).flat_map(|(point, place)| {
        let better = |id| if id == "owl" { 2.0 } else { -1.0 };
        ["fox", "hostile", "owl"]
            .map(|id| format!("{point},{id},{},{}\n", 0.3 + 0.1 * f64::from(place) * better(id), place))
    });
    let table = format!("point,prompt,clip:higher,lpips\n{}", lines.collect::<String>());
    fs::write(work.path().join("m.csv"), table).unwrap();
    let flags =
        ["--metrics", "m.csv", "--direction", "lpips=lower", "--baseline", "none", "--by", "category"];
    let tables = ["--table", "t.csv", "--table", "t.md", "--table", "t.tex"];
    let html = page(work.path(), &[&flags[..], &tables, &["--charts", "charts"]].concat());
    let charts = names(&work.path().join("charts"));
    assert!(charts.len() == 19 && charts.contains(&"clip_against_FLOPs.svg".to_string()), "{charts:?}");
    let svg = fs::read_to_string(work.path().join("charts/PSNR_against_ratio.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains("PSNR against ratio (higher is better)"));
    for words in [
        "Differences</h2>",
        "Δ clip",
        "1 won, 0 tied, 2 lost",
        "clip against FLOPs (higher is better)",
        "0.3000",
    ] {
        assert!(html.contains(words), "{words}");
    }
    // six measures against FLOPs, time and the ratio, and the time against FLOPs
    assert_eq!(html.matches("<figure class=\"chart\">").count(), 19);
    let text = |name: &str| fs::read_to_string(work.path().join(name)).unwrap();
    // three points over all prompts and over birds
    assert_eq!((text("t.csv").lines().count(), text("t.md").matches("| birds |").count()), (7, 3));
    assert!(text("t.md").contains("| 33 % of 3 |") && text("t.tex").contains("& 33 \\% {\\scriptsize of 3}"));
    for (args, named) in [
        (&["--metrics", "m.csv"][..], "--metrics: m.csv: line 1: column \"lpips\": expected a direction"),
        (
            &["--direction", "lpips=lower"],
            "--direction: expected a column of a file of --metrics, got \"lpips\"",
        ),
        (&["--direction", "lpips=down"], "expected a measure and its direction"),
        (
            &["--baseline", "nobody"],
            "--baseline: expected a point of the run (none, at-edm_ratio=0, at-edm_ratio=0.5)",
        ),
        (&["--table", "t.html"], "--table: expected a name that ends in .csv, .md or .tex, got t.html"),
        (&["--table", "t.md", "--by", "colour"], "--by: expected a property of the run's prompts (category)"),
    ] {
        let said = fail(work.path(), &[&["report", "run"], args].concat(), 2);
        assert!(said.contains(named), "{said}");
    }
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let work = copy("run");
    for (args, code, named) in [
        (&["report", "nowhere"][..], 1, "nowhere"),
        (&["report", "."], 1, "run.json"),
        (&["report", "run", "--output", "no/such/page.html"], 1, "no/such"),
        (&["report", "run", "--prompt", "cat"], 2, "\"cat\""),
        (&["report", "run", "--pixels", "0"], 2, "--pixels"),
        (&["report"], 2, "DIR"),
    ] {
        let said = fail(work.path(), args, code);
        assert!(said.contains(named), "{said}");
    }
    let image = work.path().join("run/images/none/fox.png");
    fs::write(&image, "no picture").unwrap();
    assert!(fail(work.path(), &["report", "run"], 1).contains("fox.png: expected a PNG"));
    fs::remove_file(&image).unwrap();
    assert!(fail(work.path(), &["report", "run"], 1).contains("fox.png"));
    let mut lines = fs::read_to_string(work.path().join("run/results.jsonl")).unwrap();
    lines.insert_str(0, "{}\n");
    fs::write(work.path().join("run/results.jsonl"), lines).unwrap();
    assert!(fail(work.path(), &["report", "run"], 1).contains("results.jsonl: line 1"));
    assert_eq!(names(work.path()), ["run"]);
}
