//! A run that needs too much memory ends with one line before anything is loaded.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::process::Command;

use common::{atedm, names, tiny};
use serde_json::Value;

/// Runs `generate` at this size with an address space of this many kilobytes. Returns the exit code and the message.
fn limited(kilobytes: u64, size: &str) -> (Option<i32>, String) {
    let work = tempfile::tempdir().unwrap();
    let script = format!("ulimit -v {kilobytes} && exec \"$@\"");
    let model = tiny().to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_atedm");
    let mut args =
        vec!["-c", &script, "sh", program, "generate", "--model", model, "--prompt", "a fox", "--steps", "1"];
    args.extend(["--output", "o.png", "--width", size, "--height", size, "--threads", "1", "--quiet"]);
    let output = Command::new("sh").args(args).current_dir(work.path()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    if !output.status.success() {
        assert_eq!(names(work.path()), [""; 0], "{errors}");
    }
    (output.status.code(), errors)
}

#[test]
fn a_size_beyond_the_limit_is_refused_before_loading() {
    // far more than the program and its libraries map, far less than the pictures need
    let (code, errors) = limited(6_000_000, "16384");
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.starts_with("error: the run needs about ") && errors.lines().count() == 1, "{errors}");
    assert!(errors.contains("ulimit -v") && errors.contains("--vae-tiling"), "{errors}");
    let (code, errors) = limited(6_000_000, "64");
    assert_eq!(code, Some(0), "{errors}");
}

#[test]
fn inspect_says_what_a_run_needs() {
    let work = tempfile::tempdir().unwrap();
    let shown = |size: &str, json: &[&str]| {
        let args = ["inspect", "--model", tiny().to_str().unwrap(), "--width", size, "--height", size];
        String::from_utf8(atedm(work.path(), &[&args[..], json].concat()).stdout).unwrap()
    };
    let text = shown("64", &[]);
    assert_eq!(text.lines().filter(|line| line.starts_with("memory: about ")).count(), 1, "{text}");
    let memory = |size: &str| -> Value {
        serde_json::from_str::<Value>(&shown(size, &["--json"])).unwrap()["memory"].clone()
    };
    let (small, large) = (memory("64"), memory("128"));
    // four times the pixels need four times the activations, and the same weights
    for (key, factor) in [("decoding", 4), ("denoising", 4), ("unet", 1), ("vae", 1), ("text_encoders", 1)] {
        let [before, after] = [&small, &large].map(|memory| memory[key].as_u64().unwrap());
        assert!(before > 0 && after == factor * before, "{key}: {before} and {after}");
    }
}
