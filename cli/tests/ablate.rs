//! Ablations on a tiny checkpoint with random weights: grids, resumption after kills, shards and merging.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atedm_conformance::tolerance::relative_l2;
use common::{fail, latents, names, read_png, succeed, tiny};
use serde_json::{Value, json};

const USAGE: i32 = 2;
const RUN: i32 = 1;

/// Settings for quick sampling, to be written before prompts and grid.
const SMALL: &str = "steps = 2\nwidth = 64\nheight = 64\n";

/// A configuration with this many prompts and three methods, in its own folder.
fn small_run(folder: &Path, prompts: usize) -> PathBuf {
    let prompts: String = (0..prompts).map(|n| format!("p{n} = \"a picture of {n} foxes\"\n")).collect();
    let grid = "[[grid]]\nmethod = \"at-edm\"\noptions = { ratio = 0.5 }\n[[grid]]\nmethod = \"tome-c\"\n";
    let path = folder.join("run.toml");
    fs::write(&path, format!("{SMALL}[prompts]\n{prompts}{grid}")).unwrap();
    path
}

/// The command `atedm ablate` on the tiny checkpoint, not yet started.
fn ablate(config: &Path, output: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atedm"));
    command.arg("ablate").arg(config).arg("--model").arg(tiny()).arg("--output").arg(output);
    command.args(["--threads", "1", "--quiet"]).args(more).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn finish(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The records of a folder, each without its times, by id.
fn records(folder: &Path) -> BTreeMap<String, Value> {
    let text = fs::read_to_string(folder.join("results.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("times").unwrap();
        (record["id"].as_str().unwrap().to_string(), record)
    });
    let lines: Vec<(String, Value)> = lines.collect();
    let count = lines.len();
    let records: BTreeMap<String, Value> = lines.into_iter().collect();
    assert_eq!(records.len(), count, "an id came twice");
    records
}

fn lines(folder: &Path) -> usize {
    fs::read(folder.join("results.jsonl"))
        .map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count())
}

/// Every file below a folder except `results.jsonl` and `run.json`, with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found.retain(|path, _| !["results.jsonl", "run.json"].contains(&path.to_str().unwrap()));
    found
}

fn assert_same_run(folder: &Path, expected: &Path) {
    assert_eq!(records(folder), records(expected));
    assert_eq!(files(folder), files(expected));
}

/// Waits until a folder has this many lines, or the process has ended.
fn wait_for_lines(child: &mut Child, folder: &Path, count: usize) -> bool {
    let began = Instant::now();
    while lines(folder) < count {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "no image in a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

#[test]
fn a_grid_is_made_and_told_of() {
    let work = tempfile::tempdir().unwrap();
    let config = work.path().join("c.toml");
    fs::write(
        &config,
        format!(
            "{SMALL}guidance_scale = 5\n[prompts]\nfox = \"a red fox\"\nowl = {{ prompt = \"an owl\", seed = 7 }}\n\
             [[grid]]\nmethod = \"at-edm\"\neach = {{ recovery = [\"zero\", \"direct\"], guidance_scale = [1, 5] }}\n"
        ),
    )
    .unwrap();
    let run = work.path().join("run");
    finish(&mut ablate(&config, &run, &[]));
    let found = records(&run);
    let points: BTreeSet<&str> = found.values().map(|record| record["point"].as_str().unwrap()).collect();
    let expected = [
        "at-edm_guidance_scale=1_recovery=direct",
        "at-edm_guidance_scale=1_recovery=zero",
        "at-edm_guidance_scale=5_recovery=direct",
        "at-edm_guidance_scale=5_recovery=zero",
        "none_guidance_scale=1",
        "none_guidance_scale=5",
    ];
    assert_eq!(points, expected.into());
    assert_eq!(found.len(), 12);
    let owl = &found["at-edm_guidance_scale=5_recovery=zero/owl"];
    assert_eq!((&owl["seed"], &owl["prompt"]), (&json!(7), &json!("an owl")));
    assert_eq!(owl["distances"]["to"], "none_guidance_scale=5/owl");
    assert_eq!(
        (&owl["settings"]["options"]["recovery"], &owl["settings"]["guidance_scale"]),
        (&json!("zero"), &json!(5.0))
    );
    assert!(owl["flops"]["mean_tflop"].as_f64().unwrap() < owl["flops"]["whole_tflop"].as_f64().unwrap());
    let level = &owl["tokens"][0];
    // 64 pixels: 4 x 4 tokens at level 1, of which floor(0.63 * 16) are removed
    assert_eq!((&level["level"], &level["tokens"], &level["kept"]), (&json!(1), &json!(16.0), &json!(6.0)));
    assert!(level["votes"].as_f64().unwrap() >= 1.0);
    assert_eq!(owl["provenance"]["backend"], if cfg!(feature = "candle") { "candle" } else { "ndarray" });
    let hashes: BTreeSet<&str> =
        found.values().map(|record| record["config_hash"].as_str().unwrap()).collect();
    assert_eq!(hashes.len(), 6, "a hash a point");

    // The picture is the same as from `generate`, except for settings in its metadata. Distances are those of the
    // files.
    let [image, plain] = ["at-edm_guidance_scale=5_recovery=zero", "none_guidance_scale=5"]
        .map(|point| read_png(&run.join("images").join(point).join("owl.png")));
    let model = tiny().to_str().unwrap();
    let mut args = vec!["generate", "--model", model, "--prompt", "an owl", "--seed", "7", "--steps", "2"];
    args.extend(["--guidance-scale", "5", "--width", "64", "--height", "64", "--output", "o.png"]);
    args.extend(["--prune", "at-edm", "--prune-opt", "recovery=zero", "--save-latents", "l.safetensors"]);
    succeed(work.path(), &args);
    let generated = read_png(&work.path().join("o.png"));
    assert_eq!(generated.pixels, image.pixels);
    assert_eq!(generated.chunks, image.chunks);
    let squares: f64 =
        image.pixels.iter().zip(&plain.pixels).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    let psnr = 10.0 * (255.0f64.powi(2) * image.pixels.len() as f64 / squares).log10();
    assert!((owl["distances"]["psnr"].as_f64().unwrap() - psnr).abs() < 1e-9);
    let ssim = owl["distances"]["ssim"].as_f64().unwrap();
    assert!(ssim > -1.0 && ssim < 1.0, "{ssim}");
    let whole = latents(&run.join("latents/none_guidance_scale=5/owl.safetensors")).1;
    let distance = relative_l2(&latents(&work.path().join("l.safetensors")).1, &whole);
    assert!((owl["distances"]["latent_l2_relative"].as_f64().unwrap() - distance).abs() < 1e-9);
}

#[test]
fn shards_of_three_schedulers_merge_to_the_unsharded_run() {
    let work = tempfile::tempdir().unwrap();
    let config = small_run(work.path(), 9);
    let (whole, shards, merged) =
        (work.path().join("whole"), work.path().join("shards"), work.path().join("merged"));
    finish(&mut ablate(&config, &whole, &[]));
    assert_eq!(lines(&whole), 27);

    let slurm = || {
        let mut command = ablate(&config, &shards, &["--resume"]);
        let ids = [("ID", "1"), ("MIN", "1"), ("COUNT", "3"), ("MAX", "3")];
        command.envs(ids.map(|(name, value)| (format!("SLURM_ARRAY_TASK_{name}"), value)));
        command
    };
    let mut killed = slurm().spawn().unwrap();
    let mut torchrun = ablate(&config, &shards, &[]).env("RANK", "1").env("WORLD_SIZE", "3").spawn().unwrap();
    let mut job =
        ablate(&config, &shards, &["--shards", "3"]).env("JOB_COMPLETION_INDEX", "2").spawn().unwrap();
    let first = shards.join("shard-0-of-3");
    assert!(wait_for_lines(&mut killed, &first, 2), "the shard ended before it was killed");
    killed.kill().unwrap();
    killed.wait().unwrap();
    for child in [&mut torchrun, &mut job] {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(names(&shards), ["shard-0-of-3", "shard-1-of-3", "shard-2-of-3"]);
    let (shards, merged) = (shards.to_str().unwrap(), merged.to_str().unwrap());
    let message = fail(work.path(), &["ablate", "merge", shards, "--output", merged], RUN);
    assert!(message.contains("images are missing"), "{message}");
    finish(&mut slurm());
    let message = succeed(work.path(), &["ablate", "merge", shards, "--output", merged]);
    assert!(message.contains("27 images of 3 folders"), "{message}");
    assert_same_run(Path::new(merged), &whole);
    let mut sorted: Vec<String> = Vec::new();
    for line in fs::read_to_string(Path::new(merged).join("results.jsonl")).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        sorted.push(record["id"].as_str().unwrap().to_string());
    }
    assert!(sorted.is_sorted() && sorted.len() == 27);
    let [merged_info, info] = [Path::new(merged), &whole].map(|folder| {
        serde_json::from_str::<Value>(&fs::read_to_string(folder.join("run.json")).unwrap()).unwrap()
    });
    assert_eq!(merged_info, info);

    // The same shard under two names: each id is expected once.
    let copy = work.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for name in ["run.json", "results.jsonl"] {
        fs::copy(first.join(name), copy.join(name)).unwrap();
    }
    for (name, bytes) in files(&first) {
        fs::create_dir_all(copy.join(&name).parent().unwrap()).unwrap();
        fs::write(copy.join(name), bytes).unwrap();
    }
    let twice = ["ablate", "merge", shards, copy.to_str().unwrap(), "--output", "again"];
    let message = fail(work.path(), &twice, RUN);
    assert!(message.contains("copy: has ") && message.contains("expected each id once"), "{message}");
}

#[test]
fn the_number_of_shards_may_change() {
    let work = tempfile::tempdir().unwrap();
    let config = small_run(work.path(), 5);
    let (whole, shards, merged) =
        (work.path().join("whole"), work.path().join("shards"), work.path().join("merged"));
    finish(&mut ablate(&config, &whole, &[]));
    // Killed as one of three shards, where a prompt may be half done, then continued as one of two.
    let mut first = ablate(&config, &shards, &["--shard", "0/3"]).spawn().unwrap();
    wait_for_lines(&mut first, &shards.join("shard-0-of-3"), 1);
    first.kill().unwrap();
    first.wait().unwrap();
    let before = lines(&shards.join("shard-0-of-3"));
    for shard in ["0/2", "1/2"] {
        finish(&mut ablate(&config, &shards, &["--shard", shard, "--resume"]));
    }
    let counts: Vec<usize> = names(&shards).iter().map(|name| lines(&shards.join(name))).collect();
    assert_eq!(counts.iter().sum::<usize>(), 15, "{counts:?}: nothing is made twice");
    assert!(before > 0);
    succeed(
        work.path(),
        &["ablate", "merge", shards.to_str().unwrap(), "--output", merged.to_str().unwrap()],
    );
    assert_same_run(&merged, &whole);
}

/// Twenty kills at random moments between images and within them. The moments come from a fixed seed, as far as the
/// machine's speed allows.
#[test]
fn killed_at_twenty_moments_it_resumes_to_the_uninterrupted_run() {
    let work = tempfile::tempdir().unwrap();
    let config = small_run(work.path(), 16);
    let (whole, run) = (work.path().join("whole"), work.path().join("run"));
    finish(&mut ablate(&config, &whole, &[]));
    let mut state = 20_260_101u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for kill in 0..20 {
        let before = lines(&run);
        let mut child = ablate(&config, &run, &["--resume"]).spawn().unwrap();
        // every fourth kill is during the start of the program, the others at any moments of the work
        let (more, pause) =
            if kill % 4 == 0 { (0, random(300)) } else { (1 + random(2) as usize, random(40)) };
        assert!(wait_for_lines(&mut child, &run, before + more), "kill {kill}: the run ended by itself");
        std::thread::sleep(Duration::from_millis(pause));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(!status.success(), "kill {kill}: the run ended by itself");
    }
    let left = lines(&whole) - lines(&run);
    assert!(left > 0, "the last resumption has work");
    finish(&mut ablate(&config, &run, &["--resume"]));
    assert_same_run(&run, &whole);
    // Another run has nothing to do.
    let text = fs::read(run.join("results.jsonl")).unwrap();
    finish(&mut ablate(&config, &run, &["--resume"]));
    assert_eq!(fs::read(run.join("results.jsonl")).unwrap(), text);
}

#[test]
fn what_a_kill_leaves_is_dropped_and_made_again() {
    let work = tempfile::tempdir().unwrap();
    let config = small_run(work.path(), 2);
    let (whole, run) = (work.path().join("whole"), work.path().join("run"));
    finish(&mut ablate(&config, &whole, &[]));
    finish(&mut ablate(&config, &run, &[]));
    let lines = fs::read_to_string(run.join("results.jsonl")).unwrap();
    // cut within the last line; a picture without a line; an unfinished file
    fs::write(run.join("results.jsonl"), &lines[..lines.len() - 40]).unwrap();
    fs::write(run.join("images/tome-c/.atedm-x1"), b"half").unwrap();
    finish(&mut ablate(&config, &run, &["--resume"]));
    assert_same_run(&run, &whole);
    // a last line of zeros, as after a power cut
    let kept: Vec<&str> = lines.lines().take(5).collect();
    fs::write(run.join("results.jsonl"), format!("{}\n\0\0\0\0\n", kept.join("\n"))).unwrap();
    finish(&mut ablate(&config, &run, &["--resume"]));
    assert_same_run(&run, &whole);
    // but a broken line in the middle is an error
    fs::write(run.join("results.jsonl"), format!("{}\nbroken\n{}\n", kept[0], kept[1])).unwrap();
    let args = [
        "ablate",
        config.to_str().unwrap(),
        "--model",
        tiny().to_str().unwrap(),
        "--output",
        "run",
        "--resume",
    ];
    let message = fail(work.path(), &args, RUN);
    assert!(message.contains("results.jsonl: line 2"), "{message}");
    fs::write(run.join("results.jsonl"), format!("{}\n", kept[0])).unwrap();
    let record: Value = serde_json::from_str(kept[0]).unwrap();
    fs::remove_file(run.join(record["image"].as_str().unwrap())).unwrap();
    let message = fail(work.path(), &args, RUN);
    assert!(message.contains(".png: expected this file"), "{message}");
}

#[test]
fn folders_are_not_mixed_up() {
    let work = tempfile::tempdir().unwrap();
    let config = small_run(work.path(), 1);
    let run = work.path().join("run");
    finish(&mut ablate(&config, &run, &[]));
    let model = tiny().to_str().unwrap();
    let again = |config: &str, more: &[&str], named: &[&str]| {
        let args = [&["ablate", config, "--model", model, "--output", "run"][..], more].concat();
        let message = fail(work.path(), &args, RUN);
        named.iter().for_each(|named| assert!(message.contains(named), "{message}"));
    };
    again("run.toml", &[], &["run: expected a new or an empty folder", "--resume"]);
    let text = fs::read_to_string(&config).unwrap();
    let changed = [
        ("ratio = 0.5", "ratio = 0.6", "point at-edm has other settings"),
        ("tome-c", "tome-d", "point tome-c"),
        ("1 foxes", "2 foxes", "prompts"),
        ("steps = 2", "seed = 1\nsteps = 2", "seeds"),
    ];
    for (from, to, named) in changed {
        let changed =
            text.replace(from, to).replace("0 foxes", if from == "1 foxes" { "2 foxes" } else { "0 foxes" });
        fs::write(work.path().join("other.toml"), changed).unwrap();
        again("other.toml", &["--resume"], &["run.json: is of another run", named]);
    }
    again("run.toml", &["--resume", "--dtype", "bf16"], &["another backend or dtype"]);
    fs::create_dir(work.path().join("own")).unwrap();
    fs::write(work.path().join("own/letter.txt"), b"dear").unwrap();
    let args = ["ablate", "run.toml", "--model", model, "--output", "own", "--resume"];
    let message = fail(work.path(), &args, RUN);
    assert!(message.contains("letter.txt"), "{message}");
    assert_eq!(names(&work.path().join("own")), ["letter.txt"]);
    // another title does not make it another run
    fs::write(&config, format!("title = \"renamed\"\n{text}")).unwrap();
    finish(&mut ablate(&config, &run, &["--resume"]));
}

/// Prompts from a file replace the configuration's. Seeds depend on ids, not on positions.
#[test]
fn prompts_come_from_files() {
    let work = tempfile::tempdir().unwrap();
    let config = small_run(work.path(), 3);
    finish(&mut ablate(&config, &work.path().join("three"), &[]));
    let list = work.path().join("list.jsonl");
    fs::write(&list, "{\"id\": \"p2\", \"prompt\": \"a picture of 2 foxes\"}\n").unwrap();
    let one = work.path().join("one");
    finish(&mut ablate(&config, &one, &["--prompts", list.to_str().unwrap()]));
    let (three, one) = (records(&work.path().join("three")), records(&one));
    assert_eq!(one.len(), 3);
    assert!(one.iter().all(|(id, record)| three[id] == *record));
}

#[test]
fn kept_sets_of_named_prompts_are_stored_merged_and_reported() {
    let work = tempfile::tempdir().unwrap();
    let config = small_run(work.path(), 2);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("masks = [\"p1\"]\n{text}")).unwrap();
    let (run, plain, merged) =
        (work.path().join("run"), work.path().join("plain"), work.path().join("merged"));
    finish(&mut ablate(&config, &run, &[]));
    let stored: Vec<PathBuf> = files(&run).into_keys().filter(|path| path.starts_with("masks")).collect();
    assert_eq!(stored.len(), 2, "of one prompt under two methods: {stored:?}");
    assert!(stored.iter().all(|path| path.ends_with("p1.safetensors")), "{stored:?}");
    succeed(work.path(), &["ablate", "merge", "run", "--output", "merged"]);
    assert!(stored.iter().all(|path| files(&run)[path] == files(&merged)[path]));
    succeed(work.path(), &["report", "merged", "--output", "page.html"]);
    assert!(fs::read_to_string(work.path().join("page.html")).unwrap().contains("Pruned tokens are dark"));
    // files stored next to the images do not change them
    fs::write(&config, text).unwrap();
    finish(&mut ablate(&config, &plain, &[]));
    let pictures = |folder: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
        files(folder).into_iter().filter(|(path, _)| path.starts_with("images")).collect()
    };
    assert_eq!(pictures(&run), pictures(&plain));
    assert_eq!(records(&run), records(&plain));
    fs::write(&config, format!("masks = [\"p7\"]\n{}", fs::read_to_string(&config).unwrap())).unwrap();
    let output = ablate(&config, &work.path().join("other"), &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(USAGE));
    assert!(String::from_utf8_lossy(&output.stderr).contains("masks: expected ids of prompts, got \"p7\""));
}
