//! Runs' folders from any source. Their files must not lead outside, a run's identity includes everything that decides
//! an image, and an error leaves no files behind.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::{fail, names, replace, succeed, tiny, tiny_copy};
use serde_json::Value;
use tempfile::TempDir;

const USAGE: i32 = 2;
const RUN: i32 = 1;

const SMALL: &str = "steps = 2\nwidth = 64\nheight = 64\n";
const PROMPT: &str = "[prompts]\nfox = \"a fox\"\n";

/// An ablation of two points, made once.
fn ablation() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    MADE.get_or_init(|| {
        let work = TempDir::with_prefix_in("folder-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let grid = "[[grid]]\nmethod = \"at-edm\"\noptions = { ratio = 0.5 }\n";
        fs::write(work.path().join("c.toml"), format!("{SMALL}{PROMPT}{grid}")).unwrap();
        let model = tiny().to_str().unwrap();
        succeed(work.path(), &["ablate", "c.toml", "--model", model, "--output", "run", "--quiet"]);
        work
    })
    .path()
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_all(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// A copy of it, `run`, next to a picture that belongs to somebody else.
fn copied() -> TempDir {
    let work = tempfile::tempdir().unwrap();
    copy_all(ablation(), work.path());
    fs::create_dir(work.path().join("private")).unwrap();
    fs::copy(work.path().join("run/images/none/fox.png"), work.path().join("private/fox.png")).unwrap();
    work
}

/// Every command that reads a run refuses it with this line, and creates and changes nothing.
fn refused(work: &Path, named: &[&str]) {
    let before = files(work);
    let model = tiny().to_str().unwrap();
    for args in [
        &["report", "run"][..],
        &["ablate", "merge", "run", "--output", "all"],
        &["ablate", "c.toml", "--model", model, "--output", "run", "--resume", "--quiet"],
    ] {
        let line = fail(work, args, RUN);
        named.iter().for_each(|named| assert!(line.contains(named), "expected {named:?} in: {line}"));
        assert_eq!(files(work), before, "{args:?}");
    }
}

/// Every file with its bytes; for a link, its target.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(files(&path));
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
            found.push((path, target));
        } else {
            found.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn records_name_the_files_that_the_plan_gives() {
    let work = copied();
    let results = work.path().join("run/results.jsonl");
    let lines = fs::read_to_string(&results).unwrap();
    let absolute = work.path().join("private/fox.png");
    for (key, value, named) in [
        ("image", absolute.to_str().unwrap(), "image: expected \"images/none/fox.png\""),
        (
            "image",
            "../private/fox.png",
            "image: expected \"images/none/fox.png\", got \"../private/fox.png\"",
        ),
        ("image", "images/none/../none/fox.png", "image: expected"),
        ("image", "images/at-edm/fox.png", "image: expected"),
        ("latents", "../private/fox.png", "latents: expected \"latents/none/fox.safetensors\""),
        ("id", "../private/fox", "id: expected \"none/fox\""),
        ("point", "../private", "point: the run has none called \"../private\""),
        ("prompt_id", "../private/fox", "the run has no prompt \"../private/fox\""),
        ("config_hash", "0123456789abcdef", "other settings"),
    ] {
        let (first, rest) = lines.split_once('\n').unwrap();
        let mut record: Value = serde_json::from_str(first).unwrap();
        record[key] = value.into();
        fs::write(&results, format!("{record}\n{rest}")).unwrap();
        refused(work.path(), &["results.jsonl: line 1: ", named]);
    }
    fs::write(&results, lines).unwrap();
    succeed(work.path(), &["report", "run"]);
}

#[test]
fn names_in_a_plan_are_names() {
    for (file, from, to, named) in [
        ("run.json", "\"id\": \"at-edm\"", "\"id\": \"../private\"", "run.json: points: expected ids"),
        ("run.json", "\"id\": \"at-edm\"", "\"id\": \"None\"", "run.json: points: expected ids"),
        ("run.json", "\"width\": 64", "\"width\": 9999999", "at most 32768 pixels"),
        (
            "prompts.jsonl",
            "\"id\":\"fox\"",
            "\"id\":\"../private/fox\"",
            "prompts.jsonl: line 1: expected ids",
        ),
    ] {
        let work = copied();
        let path = work.path().join("run").join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
        for args in [&["report", "run"][..], &["ablate", "merge", "run", "--output", "all"]] {
            let line = fail(work.path(), args, RUN);
            assert!(line.contains(named), "{line}");
        }
        assert_eq!(names(work.path()), ["c.toml", "private", "run"]);
    }
}

#[cfg(unix)]
#[test]
fn links_in_a_run_are_not_followed() {
    use std::os::unix::fs::symlink;
    // each of a run's files and folders is moved away and replaced by a link
    for name in [
        "images",
        "images/none",
        "images/none/fox.png",
        "latents/none/fox.safetensors",
        "results.jsonl",
        "run.json",
    ] {
        let work = copied();
        let (place, away) = (work.path().join("run").join(name), work.path().join("private/moved"));
        fs::rename(&place, &away).unwrap();
        symlink(&away, &place).unwrap();
        if away.is_dir() {
            // files there that look unfinished are not ours
            fs::write(away.join(".atedm-x"), "mine").unwrap();
        }
        refused(work.path(), &[name, "expected no link inside a run's folder"]);
    }
    // the target of a link in the run's folder is not touched, and neither is a loop of links
    let work = copied();
    fs::write(work.path().join("private/.atedm-x"), "mine").unwrap();
    symlink(work.path().join("private"), work.path().join("run/notes")).unwrap();
    symlink(work.path().join("run"), work.path().join("run/loop")).unwrap();
    let model = tiny().to_str().unwrap();
    let resume = ["ablate", "c.toml", "--model", model, "--output", "run", "--resume", "--quiet"];
    succeed(work.path(), &resume);
    assert_eq!(fs::read(work.path().join("private/.atedm-x")).unwrap(), b"mine");
    // shards elsewhere are named, not linked
    symlink(work.path().join("private"), work.path().join("run/shard-0-of-2")).unwrap();
    refused(work.path(), &["shard-0-of-2", "expected no link"]);
}

/// `ablate` with this configuration and these flags is refused, and creates nothing.
fn not_begun(config: &str, more: &[&str], code: i32, named: &[&str]) {
    let work = tempfile::tempdir().unwrap();
    fs::write(work.path().join("c.toml"), config).unwrap();
    let args = ["ablate", "c.toml", "--output", "out/run", "--quiet"];
    let line = fail(work.path(), &[&args[..], more].concat(), code);
    named.iter().for_each(|named| assert!(line.contains(named), "expected {named:?} in: {line}"));
    assert_eq!(names(work.path()), ["c.toml"], "{config}");
}

#[test]
fn what_can_be_checked_is_checked_before_the_first_file() {
    let model = tiny().to_str().unwrap();
    let model = ["--model", model];
    let grid = "[[grid]]\nmethod = \"at-edm\"\n";
    let plain = format!("{SMALL}{PROMPT}{grid}");
    not_begun(&format!("vae_tiling = 1\n{plain}"), &model, USAGE, &["c.toml: vae_tiling: ", "at least"]);
    let named = format!("{plain}name = \"{}\"\n", "x".repeat(300));
    not_begun(&named, &model, USAGE, &["c.toml: grid: expected names of 1 to 240 letters", "got 300"]);
    not_begun(&format!("{plain}name = \"\"\n"), &model, USAGE, &["c.toml: grid: expected names"]);
    // keys of the file, not flags
    let wide = plain.replace("width = 64", "width = 65");
    not_begun(&wide, &model, USAGE, &["c.toml: width: expected a multiple of 8", "got 65"]);
    not_begun(&format!("model = \"gone\"\n{plain}"), &[], RUN, &["c.toml: model: gone"]);
    not_begun(&wide, &["--plan"], USAGE, &["c.toml: width: expected a multiple of 8"]);
    // the engine, and truncated weights
    let other = ["--backend", "ndarray", "--device", "cuda:0"];
    not_begun(&plain, &[&model[..], &other].concat(), USAGE, &["--device"]);
    let broken = tiny_copy();
    let weights = "unet/diffusion_pytorch_model.safetensors";
    let bytes = fs::read(tiny().join(weights)).unwrap();
    replace(broken.path(), weights, &bytes[..bytes.len() - 100]);
    not_begun(&plain, &["--model", broken.path().to_str().unwrap()], RUN, &[weights]);
}

#[test]
fn an_export_that_cannot_be_made_leaves_nothing() {
    let work = tempfile::tempdir().unwrap();
    fs::write(work.path().join("c.txt"), "a fox\n").unwrap();
    let model = tiny().to_str().unwrap();
    let args = ["eval", "export", "--captions", "c.txt", "--output", "out", "--quiet", "--model", model];
    for (more, named) in [
        (&["--prune", "unknown"][..], "unknown"),
        (&["--vae-tiling", "1"], "--vae-tiling: "),
        (&["--width", "65"], "--width: expected a multiple of 8"),
        (&["--backend", "ndarray", "--device", "cuda:0"], "--device"),
    ] {
        let line = fail(work.path(), &[&args[..], more].concat(), USAGE);
        assert!(line.contains(named), "{line}");
        assert_eq!(names(work.path()), ["c.txt"], "{more:?}");
    }
}

#[test]
fn another_model_of_the_same_name_is_another_run() {
    let work = tempfile::tempdir().unwrap();
    let (same, other) = (tiny_copy(), tiny_copy());
    let folder = |copy: &TempDir, name: &str| {
        let place = work.path().join(name).join("model");
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        copy_all(copy.path(), &place);
        place.to_str().unwrap().to_string()
    };
    // one weight is another number
    let weights = "unet/diffusion_pytorch_model.safetensors";
    let mut bytes = fs::read(tiny().join(weights)).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    replace(other.path(), weights, &bytes);
    let [first, moved, other] =
        [(&same, "a"), (&same, "b"), (&other, "c")].map(|(copy, name)| folder(copy, name));
    fs::write(work.path().join("c.toml"), format!("{SMALL}{PROMPT}[[grid]]\nmethod = \"none\"\n")).unwrap();
    let args = ["ablate", "c.toml", "--output", "run", "--quiet", "--resume", "--model"];
    succeed(work.path(), &[&args[..], &[&first]].concat());
    succeed(work.path(), &[&args[..], &[&moved]].concat());
    let message = fail(work.path(), &[&args[..], &[&other]].concat(), RUN);
    assert!(message.contains("is of another run") && message.contains("inputs.checkpoint"), "{message}");
}

#[test]
fn a_schedules_file_counts_by_what_is_in_it() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    let grid =
        "[[grid]]\nmethod = \"at-edm\"\noptions = { schedule = \"table\", schedule_file = \"t.toml\" }\n";
    fs::write(work.path().join("c.toml"), format!("distances = false\n{SMALL}{PROMPT}{grid}")).unwrap();
    fs::write(work.path().join("t.toml"), "[[entries]]\nratio = 0.25\n").unwrap();
    let args = |shard: &'static str| {
        ["ablate", "c.toml", "--model", model, "--output", "run", "--quiet", "--shard", shard, "--resume"]
    };
    succeed(work.path(), &args("0/2"));
    fs::write(work.path().join("t.toml"), "[[entries]]\nratio = 0.5\n").unwrap();
    // shards of two tables never give one result
    let message = fail(work.path(), &args("0/2"), RUN);
    assert!(message.contains("is of another run") && message.contains("options.table"), "{message}");
    let message = fail(work.path(), &args("1/2"), RUN);
    assert!(message.contains("is of another run"), "{message}");
}

#[test]
fn two_points_that_are_one_run_are_refused() {
    for grid in [
        "[[grid]]\nmethod = \"at-edm\"\n[[grid]]\nname = \"again\"\nmethod = \"at-edm\"\noptions = { ratio = 0.63 }\n",
        "[[grid]]\nmethod = \"at-edm\"\neach = { tau = [\"30%\", 3] }\n",
        "[[grid]]\nmethod = \"tome-c\"\neach = { ratio = [0.5, 0.5] }\n",
        "[[grid]]\nname = \"a\"\nmethod = \"none\"\n[[grid]]\nname = \"b\"\nmethod = \"none\"\n",
        "[[grid]]\nmethod = \"at-edm-dagger\"\n[[grid]]\nmethod = \"at-edm\"\noptions = { levels = \"deepest\" }\n",
    ] {
        let config = format!("steps = 10\n{PROMPT}{grid}");
        let work = tempfile::tempdir().unwrap();
        fs::write(work.path().join("c.toml"), config).unwrap();
        let line = fail(work.path(), &["ablate", "c.toml", "--plan"], USAGE);
        let said = line.contains("are the same run") || line.contains("have one name");
        assert!(line.contains("c.toml: grid: ") && said, "{line}");
    }
}

#[test]
fn sizes_are_counted_first() {
    let values = (0..1000).map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
    let grid =
        |axes: &str| format!("{PROMPT}[[grid]]\nname = \"vast\"\nmethod = \"at-edm\"\n[grid.each]\n{axes}");
    let thousand = format!("[{values}]\n");
    let billion =
        ["max_iterations", "rescore_every", "tau"].map(|key| format!("{key} = {thousand}")).concat();
    not_begun(&grid(&billion), &["--plan"], USAGE, &["at most 10000 points, got 1000000000"]);
    let long = format!("[prompts]\nfox = \"{}\"\n[[grid]]\nmethod = \"none\"\n", "x".repeat(100_000));
    not_begun(&long, &["--plan"], USAGE, &["prompts: fox: expected a prompt of at most 65536 bytes"]);
    let from = |file: &str| format!("prompts_file = \"{file}\"\n[[grid]]\nmethod = \"none\"\n");
    not_begun(
        &from("/dev/zero"),
        &["--plan"],
        RUN,
        &["c.toml: prompts_file: /dev/zero: expected a regular file"],
    );
    not_begun(&from("."), &["--plan"], RUN, &["prompts_file: ", "got a folder"]);
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.tsv");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    not_begun(&from(pipe.to_str().unwrap()), &["--plan"], RUN, &["pipe.tsv: expected a regular file"]);
    let vast = folder.path().join("vast.txt");
    fs::write(&vast, "fox ".repeat(50 << 18)).unwrap();
    let tabbed = folder.path().join("vast.tsv");
    fs::write(&tabbed, format!("id\t{}\n", "fox ".repeat(50 << 18))).unwrap();
    not_begun(&from(tabbed.to_str().unwrap()), &["--plan"], USAGE, &["vast.tsv", "at most 65536 bytes"]);
    let args = ["eval", "export", "--captions", vast.to_str().unwrap(), "--output", "out"];
    let line = fail(folder.path(), &args, USAGE);
    assert!(line.contains("vast.txt") && line.contains("at most 65536 bytes"), "{line}");
}

/// The prompts of a run in its folder.
fn prompts_of(folder: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(folder.join("prompts.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of = |line: &Value, key: &str| line[key].as_str().unwrap().to_string();
    lines.map(|line| (of(&line, "id"), of(&line, "prompt"))).collect()
}

#[test]
fn tables_of_captions_give_their_captions() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    fs::write(work.path().join("c.toml"), format!("{SMALL}{PROMPT}[[grid]]\nmethod = \"none\"\n")).unwrap();
    let mlperf = "id\timage_id\tcaption\theight\twidth\tfile_name\n\
                  1\t139\tA red circle\t640\t426\ta.jpg\n2\t285\tA small cat\t640\t480\tb.jpg\n";
    for (number, (name, text, expected)) in [
        ("table.tsv", mlperf, &[("1", "A red circle"), ("2", "A small cat")][..]),
        ("header.tsv", "id\tprompt\nfox\ta red fox\n", &[("fox", "a red fox")]),
        ("table.csv", "\u{feff}id,prompt\n1,\"a red, small fox\"\n", &[("1", "a red, small fox")]),
        ("plain.tsv", "\u{feff}fox\ta \"red\" fox\r\n", &[("fox", "a \"red\" fox")]),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(work.path().join(name), text).unwrap();
        let expected: Vec<(String, String)> =
            expected.iter().map(|(id, text)| (id.to_string(), text.to_string())).collect();
        let (out, run) = (format!("out-{number}"), format!("run-{number}"));
        let sampled = ["--steps", "1", "--width", "64", "--height", "64", "--quiet", "--model", model];
        let export = ["eval", "export", "--captions", name, "--output", &out];
        succeed(work.path(), &[&export[..], &sampled].concat());
        assert_eq!(prompts_of(&work.path().join(&out)), expected, "{name}");
        let ablate = ["ablate", "c.toml", "--prompts", name, "--output", &run, "--quiet", "--model", model];
        succeed(work.path(), &ablate);
        assert_eq!(prompts_of(&work.path().join(&run)), expected, "{name}");
    }
    fs::write(work.path().join("bom.txt"), "\u{feff}a red circle\r\na small cat\r\n").unwrap();
    let args = ["eval", "export", "--captions", "bom.txt", "--output", "bom", "--quiet", "--model", model];
    succeed(work.path(), &[&args[..], &["--steps", "1", "--width", "64", "--height", "64"]].concat());
    let expected = [("000000", "a red circle"), ("000001", "a small cat")];
    assert_eq!(prompts_of(&work.path().join("bom")), expected.map(|(id, text)| (id.into(), text.into())));
}

/// The lines of a run by id, without times.
fn lines(run: &Path) -> BTreeMap<String, Value> {
    let text = fs::read_to_string(run.join("results.jsonl")).unwrap();
    let line = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("times").unwrap();
        (record["id"].as_str().unwrap().to_string(), record)
    };
    text.lines().map(line).collect()
}

#[test]
fn images_of_another_run_are_taken_where_every_setting_is_equal() {
    let work = tempfile::tempdir().unwrap();
    copy_all(ablation(), work.path());
    let model = tiny().to_str().unwrap();
    // other names, one method more, one prompt more, and a prompt of the other run under another id
    let prompts = "[prompts]\nfirst = { prompt = \"a fox\", seed = SEED }\nowl = \"an owl\"\n";
    let fox = lines(&work.path().join("run"))["none/fox"]["seed"].to_string();
    let grid = "[[grid]]\nname = \"whole\"\nmethod = \"none\"\n[[grid]]\nname = \"half\"\nmethod = \"at-edm\"\n\
                options = { ratio = 0.5 }\n[[grid]]\nmethod = \"tome-c\"\n";
    let config = format!("{SMALL}{}{grid}", prompts.replace("SEED", &fox));
    fs::write(work.path().join("d.toml"), &config).unwrap();
    let run = |output: &str, more: &[&str]| {
        let args = ["ablate", "d.toml", "--model", model, "--output", output, "--quiet"];
        succeed(work.path(), &[&args[..], more].concat())
    };
    run("alone", &[]);
    run("taken", &["--take-from", "run"]);
    assert_eq!(lines(&work.path().join("taken")), lines(&work.path().join("alone")));
    let pictures = |folder: &str| -> Vec<Vec<u8>> {
        files(&work.path().join(folder).join("images")).into_iter().map(|(_, bytes)| bytes).collect()
    };
    assert_eq!(pictures("taken"), pictures("alone"));
    // a picture that is painted over in the other run shows which ones were taken
    let mark = |point: &str| {
        let path = work.path().join("run/images").join(point).join("fox.png");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend(b"mark");
        fs::write(path, bytes).unwrap();
    };
    ["none", "at-edm"].into_iter().for_each(mark);
    run("marked", &["--take-from", "run"]);
    let marked: Vec<PathBuf> = files(&work.path().join("marked/images"))
        .into_iter()
        .filter(|(_, bytes)| bytes.ends_with(b"mark"))
        .map(|(path, _)| path.strip_prefix(work.path()).unwrap().to_path_buf())
        .collect();
    assert_eq!(
        marked,
        ["half", "whole"].map(|point| PathBuf::from(format!("marked/images/{point}/first.png")))
    );
    // other settings: nothing is taken
    fs::write(work.path().join("d.toml"), config.replace("steps = 2", "steps = 3")).unwrap();
    run("other", &["--take-from", "run"]);
    assert!(files(&work.path().join("other/images")).iter().all(|(_, bytes)| !bytes.ends_with(b"mark")));
    // other tiles are no setting of a point, so they are an error
    fs::write(work.path().join("d.toml"), format!("vae_tiling = 64\n{config}")).unwrap();
    let args = ["ablate", "d.toml", "--model", model, "--output", "tiles", "--take-from", "run", "--quiet"];
    let line = fail(work.path(), &args, RUN);
    assert!(line.contains("run: vae_tiling: expected that of this run"), "{line}");
    let args = ["ablate", "d.toml", "--model", model, "--output", "none", "--take-from", "gone", "--quiet"];
    let line = fail(work.path(), &args, RUN);
    assert!(line.contains("gone"), "{line}");
}
