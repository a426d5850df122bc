//! Shared code of the program's tests: running it, and a tiny checkpoint.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

/// Runs the program in `folder`.
pub(crate) fn atedm(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_atedm")).args(args).current_dir(folder).output().unwrap()
}

/// Runs the program, which must succeed. Returns its standard error stream.
pub(crate) fn succeed(folder: &Path, args: &[&str]) -> String {
    let output = atedm(folder, args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {:?}\n{errors}", output.status);
    errors
}

/// The plan of an ablation's file.
pub(crate) fn plan(folder: &Path, file: &str, more: &[&str]) -> Value {
    let output = atedm(folder, &[&["ablate", file, "--plan", "--json"], more].concat());
    assert!(output.status.success(), "{file} {more:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs the program, which must fail with `code` and one line of explanation. Returns that line.
pub(crate) fn fail(folder: &Path, args: &[&str], code: i32) -> String {
    let output = atedm(folder, args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{errors}");
    assert!(errors.starts_with("error: ") && errors.trim_end().lines().count() == 1, "{args:?}\n{errors}");
    errors
}

/// A tiny checkpoint, written once for each test binary.
pub(crate) fn tiny() -> &'static Path {
    static TINY: OnceLock<PathBuf> = OnceLock::new();
    TINY.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let name = std::env::current_exe().unwrap().file_stem().unwrap().to_string_lossy().into_owned();
        let path = root.join(format!("tiny-{name}"));
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
        succeed(root, &["init-tiny", path.to_str().unwrap()]);
        path
    })
}

/// A copy of the tiny checkpoint (files are linked, not copied) whose files a test may remove and replace.
pub(crate) fn tiny_copy() -> TempDir {
    let copy = TempDir::with_prefix_in("tiny-copy-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    link(tiny(), copy.path());
    copy
}

fn link(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            link(&entry.path(), &target);
        } else {
            fs::hard_link(entry.path(), target).unwrap();
        }
    }
}

/// Replaces a file of a copy. The original file, which it was linked to, is not changed.
pub(crate) fn replace(copy: &Path, name: &str, content: &[u8]) {
    let path = copy.join(name);
    fs::remove_file(&path).unwrap();
    fs::write(path, content).unwrap();
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The tensor `latents` of a file, with its shape.
pub(crate) fn latents(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor("latents").unwrap();
    assert_eq!(view.dtype(), safetensors::Dtype::F32);
    let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (view.shape().to_vec(), values)
}

/// A picture as it was read.
pub(crate) struct Png {
    /// Width and height.
    pub(crate) size: (u32, u32),
    /// Three bytes each.
    pub(crate) pixels: Vec<u8>,
    /// Text chunks: key and text.
    pub(crate) chunks: Vec<(String, String)>,
}

/// Reads a picture.
pub(crate) fn read_png(path: &Path) -> Png {
    let mut reader =
        png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap())).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter().map(|chunk| (chunk.keyword.clone(), chunk.text.clone()));
    let unicode = info.utf8_text.iter().map(|chunk| (chunk.keyword.clone(), chunk.get_text().unwrap()));
    Png { size: (info.width, info.height), pixels, chunks: plain.chain(unicode).collect() }
}

/// The files of the emoji packages, with nine drawings of our own.
#[cfg(feature = "emoji")]
pub(crate) fn emoji_packages(folder: &Path) {
    let numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    let icon =
        |name| format!(r##""{name}-brick": {{"body": "<rect width='128' height='64' fill='#f00000'/>"}}"##);
    let label = |name| format!(r#"{{"label": "{name} brick", "group": 7}}"#);
    let write = |name: &str, text: String| {
        let file = folder.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    let icons = numbers.map(icon).join(", ");
    write("noto/icons.json", format!(r#"{{"width": 128, "height": 128, "icons": {{{icons}}}}}"#));
    write("emojibase/en/data.json", format!("[{}]", numbers.map(label).join(", ")));
    let groups = r#"{"groups": {"3": "animals-nature", "4": "food-drink", "5": "travel-places", "6": "activities", "7": "objects"}}"#;
    write("emojibase/meta/groups.json", groups.to_owned());
}
