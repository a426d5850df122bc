//! The files of `recipes/cluster`. The array script is run as SLURM runs it, and the manifest's arguments are tried.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{names, succeed, tiny};

const CONFIG: &str = "steps = 2\nwidth = 64\nheight = 64\n[prompts]\na = \"one\"\nb = \"two\"\nc = \"three\"\nd = \"four\"\n\
    [[grid]]\nmethod = \"at-edm\"\n";

fn cluster(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/cluster").join(name)
}

#[test]
fn the_array_script_makes_every_share() {
    let work = tempfile::tempdir().unwrap();
    fs::write(work.path().join("c.toml"), CONFIG).unwrap();
    let script = |task: usize| {
        let mut command = Command::new("bash");
        command.arg(cluster("slurm-array.sh")).current_dir(work.path());
        command.env("ATEDM", env!("CARGO_BIN_EXE_atedm")).env("CONFIG", "c.toml").env("MODEL", tiny());
        command.env("OUTPUT", "run").env("DEVICE", "cpu").env("DTYPE", "f32");
        command.env("BACKEND", if cfg!(feature = "candle") { "candle" } else { "ndarray" });
        command.env("SLURM_ARRAY_TASK_ID", task.to_string()).env("SLURM_ARRAY_TASK_COUNT", "2");
        let output = command.env("SLURM_ARRAY_TASK_MIN", "0").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    // submitted twice, as after a time limit
    [0, 1, 0, 1].into_iter().for_each(script);
    assert_eq!(names(&work.path().join("run")), ["shard-0-of-2", "shard-1-of-2"]);
    let message = succeed(work.path(), &["ablate", "merge", "run", "--output", "all"]);
    assert!(message.contains("8 images of 2 folders"), "{message}");
}

#[test]
fn the_jobs_arguments_are_the_programs() {
    let manifest = fs::read_to_string(cluster("kubernetes-indexed-job.yaml")).unwrap();
    let of = |key: &str| {
        manifest.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap().trim().to_string()
    };
    let completions = of("completions:");
    let flags: Vec<&str> = manifest.lines().filter_map(|line| line.trim().strip_prefix("- --")).collect();
    assert!(flags.contains(&format!("shards={completions}").as_str()), "{flags:?}");
    assert_eq!((of("completionMode:").as_str(), of("parallelism:")), ("Indexed", completions));
    let command = of("command:");
    assert_eq!(command, "[\"atedm\", \"ablate\", \"/config/run.toml\"]");

    // the same flags, with this machine's folders and device
    let work = tempfile::tempdir().unwrap();
    fs::write(work.path().join("run.toml"), CONFIG).unwrap();
    let model = format!("--model={}", tiny().display());
    let here = |flag: &&str| match flag.split('=').next().unwrap() {
        "model" => model.clone(),
        "output" => "--output=run".into(),
        "device" => "--device=cpu".into(),
        "dtype" => "--dtype=f32".into(),
        _ => format!("--{flag}"),
    };
    for index in 0..8 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atedm"));
        command.args(["ablate", "run.toml"]).args(flags.iter().map(here)).current_dir(work.path());
        let output = command.env("JOB_COMPLETION_INDEX", index.to_string()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let message = succeed(work.path(), &["ablate", "merge", "run", "--output", "all"]);
    assert!(message.contains("8 images of 8 folders"), "{message}");
}
