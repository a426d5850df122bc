//! The program of this crate names its own scorer in a configuration; the plain one does not know it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::{Command, Output};

fn own_scorer(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_example-own-scorer"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

#[test]
fn a_configuration_names_the_scorer() {
    let folder = tempfile::tempdir().unwrap();
    let made = own_scorer(&["init-tiny", "tiny"], folder.path());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/contrast.toml");
    let run = [
        "generate",
        "--model",
        "tiny",
        "--prompt",
        "a fox",
        "--steps",
        "2",
        "--quiet",
        "--masks-out",
        "masks.safetensors",
        "--output",
        "fox.png",
        "--prune-config",
        config,
    ];
    let pruned = own_scorer(&run, folder.path());
    assert!(pruned.status.success(), "{}", String::from_utf8_lossy(&pruned.stderr));
    assert!(folder.path().join("fox.png").is_file() && folder.path().join("masks.safetensors").is_file());
}

#[test]
fn its_options_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    assert!(own_scorer(&["init-tiny", "tiny"], folder.path()).status.success());
    let options = "scorer=contrast,scorer_options.power=3";
    let run = [
        "generate",
        "--model",
        "tiny",
        "--prompt",
        "a fox",
        "--prune",
        "at-edm",
        "--prune-opt",
        options,
        "--output",
        "fox.png",
    ];
    let refused = own_scorer(&run, folder.path());
    let message = String::from_utf8_lossy(&refused.stderr).to_string();
    assert_eq!(refused.status.code(), Some(2), "{message}");
    assert!(message.contains("scorer_options.power: expected 1 or 2, got 3"), "{message}");
    assert!(!folder.path().join("fox.png").exists());
}
