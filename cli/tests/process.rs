//! The program as a process: an unwritable standard error stream, output to the terminal, signals, threads.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{fail, names, replace, tiny, tiny_copy};

const USAGE: i32 = 2;
const RUN: i32 = 1;

const GRID: &str = "steps = 1\n[prompts]\nfox = \"a fox\"\n[[grid]]\nmethod = \"at-edm\"\n";

fn program(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atedm"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command
}

/// Runs the program with each kind of unwritable standard error stream. Returns the exit code of each.
fn unheard(folder: &Path, args: &[&str]) -> Vec<Option<i32>> {
    let mut codes = Vec::new();
    // the libraries' log goes there too
    for log in [None, Some("trace")] {
        let with_log = |mut command: Command| {
            command.envs(log.map(|level| ("ATEDM_LOG", level))).stdout(Stdio::null());
            command
        };
        let full = File::options().write(true).open("/dev/full").unwrap();
        codes.push(with_log(program(folder, args)).stderr(full).status().unwrap().code());
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        codes.push(with_log(program(folder, args)).stderr(writer).status().unwrap().code());
        let mut closed = Command::new("sh");
        closed
            .args(["-c", "exec \"$0\" \"$@\" 2>&-", env!("CARGO_BIN_EXE_atedm")])
            .args(args)
            .current_dir(folder);
        codes.push(with_log(closed).status().unwrap().code());
    }
    codes
}

#[test]
fn a_lost_error_stream_is_no_failure() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    fs::write(work.path().join("grid.toml"), GRID).unwrap();
    let small = ["--width", "64", "--height", "64", "--steps", "1"];
    // a warning about a long prompt, progress, and a summary are written
    let long = "a red fox ".repeat(60);
    let generate = ["generate", "--model", model, "--prompt", &long, "--output", "o.png"];
    assert_eq!(unheard(work.path(), &[&generate[..], &small].concat()), [Some(0); 6]);
    for number in 0..6 {
        let output = format!("run-{number}");
        let args = ["ablate", "grid.toml", "--model", model, "--output", &output];
        assert_eq!(unheard(work.path(), &[&args[..], &["--resume"]].concat()), [Some(0); 6]);
    }
    let merge = ["ablate", "merge", "run-0", "--output", "merged"];
    assert_eq!(unheard(work.path(), &merge)[0], Some(0));
    assert_eq!(unheard(work.path(), &["report", "run-0"]), [Some(0); 6]);
    assert_eq!(unheard(work.path(), &["flops", "--prune", "tome"]), [Some(0); 6]);
    // and the exit code of a failure is unchanged
    assert_eq!(unheard(work.path(), &["generate", "--steps", "0"]), [Some(USAGE); 6]);
    assert_eq!(unheard(work.path(), &["inspect", "--model", "gone"]), [Some(RUN); 6]);
}

/// Text that would colour a terminal, set its title, hide text and change its direction.
const HOSTILE: &str = "a\u{1b}[31mb\u{1b}]0;c\u{7}\u{9b}2J\u{202e}d\u{7f}\te";

/// Asserts one line, harmless and not too long.
fn assert_tame(line: &str) {
    let text = line.strip_suffix('\n').unwrap();
    let bad = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    assert!(!text.contains(bad), "{text:?}");
    assert!(text.chars().count() <= 300, "{} characters: {text}", text.chars().count());
}

#[test]
fn nothing_commands_the_terminal() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    let long = "long".repeat(5000);
    for text in [HOSTILE, &long] {
        let option = format!("{text}=1");
        let file = format!("{}.toml", &text[..8]);
        let key = serde_json::to_string(&text).unwrap();
        for toml in [
            format!("{key} = 1\n{GRID}"),
            format!("title = {key}\nsteps = 0\n"),
            GRID.replace("at-edm", "x").replace("\"x\"", &key),
            GRID.replace("fox =", &format!("{key} =")).replace("steps = 1", "steps = 1\nmasks = [\"gone\"]"),
            GRID.replace("[[grid]]", &format!("[[grid]]\noptions = {{ {key} = 1 }}")),
        ] {
            fs::write(work.path().join(&file), toml).unwrap();
            assert_tame(&fail(work.path(), &["ablate", &file, "--plan"], USAGE));
        }
        for args in [
            &["generate", "--model", text, "--prompt", "p", "--output", "o.png"][..],
            &["generate", "--model", model, "--prompt", "p", "--output", text, "--prune", text],
            &["generate", "--model", model, "--prompt", "p", "--output", "no/such", "--scheduler", text],
            &["inspect", "--model", model, "--prune", text],
            &["inspect", "--model", model, "--prune", "at-edm", "--prune-opt", &option],
            &["inspect", "--model", model, "--prune-config", text],
            &["report", text],
            &["eval", "export", "--captions", text, "--output", "e"],
            &[text],
            &["flops", &format!("--{text}")],
        ] {
            let output = program(work.path(), args).output().unwrap();
            assert!(matches!(output.status.code(), Some(USAGE | RUN)), "{args:?}");
            assert_tame(&String::from_utf8(output.stderr).unwrap());
        }
        for name in
            ["unet/config.json", "vae/config.json", "model_index.json", "scheduler/scheduler_config.json"]
        {
            let copy = tiny_copy();
            let broken = format!(
                "{{{key}: 1, \"_class_name\": {key}, \"block_out_channels\": {key}, \
                \"prediction_type\": {key}}}"
            );
            replace(copy.path(), name, broken.as_bytes());
            let path = copy.path().to_str().unwrap();
            let args = ["generate", "--model", path, "--prompt", "p", "--output", "o.png"];
            let output = program(work.path(), &args).output().unwrap();
            assert!(matches!(output.status.code(), Some(USAGE | RUN)), "{name}");
            assert_tame(&String::from_utf8(output.stderr).unwrap());
        }
    }
}

/// Lines of the standard error stream.
fn told(output: &Output) -> Vec<String> {
    String::from_utf8(output.stderr.clone()).unwrap().split_inclusive('\n').map(String::from).collect()
}

#[test]
fn warnings_and_answers_are_tame() {
    let work = tempfile::tempdir().unwrap();
    let named = work.path().join(&HOSTILE[..12]);
    fs::rename(tiny_copy().keep(), &named).unwrap();
    let model = named.to_str().unwrap();
    let prompt = format!("{HOSTILE} {}", "a red fox ".repeat(6000));
    let args = ["generate", "--model", model, "--prompt", &prompt, "--output", "o.png", "--steps", "1"];
    let output = program(work.path(), &args).output().unwrap();
    assert!(output.status.success(), "{:?}", told(&output));
    let lines = told(&output);
    assert!(lines.iter().any(|line| line.starts_with("warning: ")), "{lines:?}");
    lines.iter().for_each(|line| assert_tame(line));
    for args in [&["inspect", "--model", model][..], &["inspect", "--model", model, "--json"]] {
        let output = program(work.path(), args).output().unwrap();
        let answer = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && answer.contains("\\u001b[31m"), "{answer}");
        answer
            .split_inclusive('\n')
            .for_each(|line| assert!(!line.trim_end_matches('\n').contains(char::is_control)));
    }
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// Waits until the condition holds, at most a minute.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(feature = "embedded")]
mod signals {
    use super::*;

    const SIGINT: i32 = 2;
    const SIGTERM: i32 = 15;

    /// Starts it with its temporary files in `tmp`, and waits until the built-in model is there.
    fn start(work: &Path, command: &mut Command) -> Child {
        let tmp = work.join("tmp");
        fs::create_dir_all(&tmp).unwrap();
        let child = command.current_dir(work).env("TMPDIR", &tmp).stderr(Stdio::null()).spawn().unwrap();
        wait_until("the model is not unpacked", || !names(&tmp).is_empty());
        child
    }

    const LONG: [&str; 7] = ["generate", "--prompt", "a star", "--steps", "1000", "--output", "o.png"];

    #[test]
    fn the_unpacked_model_goes_with_the_process() {
        let work = tempfile::tempdir().unwrap();
        for (name, signal) in [("-INT", SIGINT), ("-TERM", SIGTERM), ("-HUP", 1)] {
            // while it is being unpacked, while weights are read, between steps
            for wait in [0, 30, 800] {
                let mut child = start(work.path(), &mut program(work.path(), &LONG));
                std::thread::sleep(Duration::from_millis(wait));
                send(name, &child);
                // a shell shows 128 plus the signal's number
                assert_eq!(child.wait().unwrap().signal(), Some(signal), "{name} after {wait} ms");
                assert_eq!(names(&work.path().join("tmp")), [""; 0], "{name} after {wait} ms");
                assert_eq!(names(work.path()), ["tmp"]);
            }
        }
    }

    #[test]
    fn a_shell_sees_130_and_143() {
        let work = tempfile::tempdir().unwrap();
        for (name, code) in [("-INT", "130"), ("-TERM", "143")] {
            let mut shell = Command::new("sh");
            let script = "sh -c 'echo $$ > pid; exec \"$0\" \"$@\"' \"$0\" \"$@\"; echo $?";
            shell.args(["-c", script, env!("CARGO_BIN_EXE_atedm")]).args(LONG).stdout(Stdio::piped());
            let mut shell = start(work.path(), &mut shell);
            let pid = fs::read_to_string(work.path().join("pid")).unwrap();
            assert!(Command::new("kill").args([name, pid.trim()]).status().unwrap().success());
            let mut shown = String::new();
            shell.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
            shell.wait().unwrap();
            assert_eq!(shown.trim(), code);
            assert_eq!(names(&work.path().join("tmp")), [""; 0]);
        }
    }

    #[test]
    fn an_ignored_signal_stays_ignored() {
        let work = tempfile::tempdir().unwrap();
        let mut ignoring = Command::new("sh");
        let script = "trap '' INT HUP; exec \"$0\" \"$@\"";
        ignoring.args(["-c", script, env!("CARGO_BIN_EXE_atedm")]).args(LONG);
        let mut child = start(work.path(), &mut ignoring);
        send("-INT", &child);
        send("-HUP", &child);
        std::thread::sleep(Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none());
        assert_eq!(names(&work.path().join("tmp")).len(), 1);
        send("-TERM", &child);
        assert_eq!(child.wait().unwrap().signal(), Some(SIGTERM));
        assert_eq!(names(&work.path().join("tmp")), [""; 0]);
    }

    #[test]
    fn a_terminated_ablation_resumes() {
        let work = tempfile::tempdir().unwrap();
        let four = "steps = 3\n[prompts]\na = \"a\"\nb = \"b\"\nc = \"c\"\nd = \"d\"\n[[grid]]\nmethod = \"at-edm\"\n";
        fs::write(work.path().join("grid.toml"), four).unwrap();
        let args = ["ablate", "grid.toml", "--output", "run", "--resume", "--quiet"];
        let lines =
            || fs::read_to_string(work.path().join("run/results.jsonl")).unwrap_or_default().lines().count();
        let mut child = start(work.path(), &mut program(work.path(), &args));
        wait_until("no image is made", || lines() > 0);
        send("-TERM", &child);
        assert_eq!(child.wait().unwrap().signal(), Some(SIGTERM));
        let before = lines();
        assert_eq!(names(&work.path().join("tmp")), [""; 0]);
        let status = program(work.path(), &args).env("TMPDIR", work.path().join("tmp")).status().unwrap();
        // the unpruned image of each prompt, and the pruned one
        assert!(status.success() && before < 8 && lines() == 8, "{before}, then {}", lines());
    }
}

#[test]
fn threads_are_bounded() {
    let work = tempfile::tempdir().unwrap();
    let model = tiny().to_str().unwrap();
    fs::write(work.path().join("grid.toml"), GRID).unwrap();
    let most = 4 * std::thread::available_parallelism().unwrap().get();
    let mut cases = vec![
        (&["--threads", "1000000"][..], ("X", "1"), "--threads"),
        (&["--threads", "18446744073709551615"], ("X", "1"), "--threads"),
        (&[], ("RAYON_NUM_THREADS", "10000"), "RAYON_NUM_THREADS"),
        (&["--backend", "ndarray"], ("RAYON_NUM_THREADS", "1000000000"), "RAYON_NUM_THREADS"),
    ];
    if cfg!(feature = "tch") {
        cases.push((&["--backend", "tch"], ("OMP_NUM_THREADS", "10000"), "OMP_NUM_THREADS"));
        cases.push((&["--backend", "tch"], ("MKL_NUM_THREADS", "20000"), "MKL_NUM_THREADS"));
        cases.push((
            &["--backend", "tch", "--threads", "1000000"],
            ("OMP_NUM_THREADS", "10000"),
            "--threads",
        ));
    }
    for (number, (flags, variable, named)) in cases.into_iter().enumerate() {
        let output = format!("run-{number}");
        let args = ["ablate", "grid.toml", "--model", model, "--quiet", "--output", &output];
        let made = program(work.path(), &[&args[..], flags].concat()).envs([variable]).output().unwrap();
        let lines = told(&made);
        assert!(made.status.success() && lines.len() == 1, "{flags:?} {variable:?}: {lines:?}");
        assert!(lines[0].starts_with(&format!("warning: {named}: {most} threads")), "{lines:?}");
        let results = fs::read_to_string(work.path().join(output).join("results.jsonl")).unwrap();
        let threads: Vec<u64> = results
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter_map(|record| record["provenance"]["threads"].as_u64())
            .collect();
        assert_eq!(threads, [most as u64; 2], "{flags:?} {variable:?}");
    }
    // values within the limit are not changed
    let args = ["ablate", "grid.toml", "--model", model, "--quiet", "--output", "run"];
    let made = program(work.path(), &args).env("RAYON_NUM_THREADS", "2").output().unwrap();
    assert!(made.status.success() && made.stderr.is_empty(), "{:?}", told(&made));
}
