//! `atedm train` on a tiny recipe: kills, resuming, wrong inputs.

#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{fail, names, succeed};

/// The recipe that trains in seconds, with a few more steps.
fn recipe(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/training/tiny.toml");
    let text = fs::read_to_string(&source).unwrap();
    assert!(text.contains("steps = 4\n") && text.contains("steps = 5\n"), "{text}");
    let file = folder.join("recipe.toml");
    fs::write(&file, text.replace("steps = 4\n", "steps = 12\n").replace("steps = 5\n", "steps = 12\n"))
        .unwrap();
    file
}

fn losses(out: &Path) -> [String; 2] {
    ["autoencoder", "diffusion"].map(|part| fs::read_to_string(out.join(part).join("loss.csv")).unwrap())
}

/// A training is killed (SIGKILL) repeatedly, each time a little later; the moments come from a fixed seed. It must end
/// with the same losses and model as an uninterrupted training, to the byte.
#[test]
fn killed_again_and_again_it_resumes_to_the_same_bytes() {
    let work = tempfile::tempdir().unwrap();
    recipe(work.path());
    let args =
        |out: &'static str| ["train", "recipe.toml", "--out", out, "--save-every", "0", "--deterministic"];
    let started = Instant::now();
    let said = succeed(work.path(), &args("whole"));
    let whole = started.elapsed();
    assert!(said.contains("wrote whole/model: 12 steps trained"), "{said}");
    assert!(work.path().join("whole/samples/000012.png").is_file());

    let mut kills = 0;
    let mut hurry = 1.0;
    for attempt in 1..=40u32 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_atedm"))
            .args(args("killed"))
            .current_dir(work.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // a third of the whole, and a share of it that differs between attempts
        let share = f64::from(attempt * 37 % 101) / 101.0;
        let deadline =
            Instant::now() + whole.mul_f64(hurry * (0.3 + 0.2 * share)).max(Duration::from_millis(50));
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() >= deadline {
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        match ended {
            Some(status) => {
                assert!(status.success());
                if kills > 0 {
                    break;
                }
                // The whole run was slow, for example because the libraries came from the disk.
                fs::remove_dir_all(work.path().join("killed")).unwrap();
                hurry *= 0.5;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
        }
    }
    assert!(kills > 0, "it ended before it could be killed");
    let (whole, killed) = (work.path().join("whole"), work.path().join("killed"));
    assert_eq!(losses(&killed), losses(&whole), "after {kills} kills");
    for part in ["unet/diffusion_pytorch_model", "text_encoder_2/model", "vae/diffusion_pytorch_model"] {
        let read = |out: &Path| fs::read(out.join("model").join(part).with_extension("safetensors")).unwrap();
        assert!(read(&killed) == read(&whole), "{part} after {kills} kills");
    }
    assert_eq!(names(&killed.join("model")), names(&whole.join("model")));
}

/// Stopped by the time limit, it says so, and its model makes pictures.
#[test]
fn stopped_it_leaves_a_model_that_draws() {
    let work = tempfile::tempdir().unwrap();
    recipe(work.path());
    succeed(work.path(), &["train", "recipe.toml", "--out", "t", "--quiet"]);
    let again = succeed(work.path(), &["train", "recipe.toml", "--out", "t"]);
    assert!(again.contains("wrote t/model: 12 steps trained"), "{again}");
    // the measured quality is put into the card, and nothing else changes
    let of = |name: &str| fs::read(work.path().join("t/model").join(name)).unwrap();
    let weights = of("unet/diffusion_pytorch_model.safetensors");
    fs::write(work.path().join("quality.md"), "Colours: 90 % of 256.\n").unwrap();
    succeed(work.path(), &["train", "recipe.toml", "--out", "t", "--quality", "quality.md", "--quiet"]);
    assert!(
        String::from_utf8(of("README.md"))
            .unwrap()
            .contains("\n## Quality\n\nColours: 90 % of 256.\n\n## Limits\n")
    );
    assert_eq!(of("unet/diffusion_pytorch_model.safetensors"), weights);
    let line = fail(work.path(), &["train", "recipe.toml", "--out", "t", "--quality", "none.md"], 1);
    assert!(line.contains("--quality: none.md"), "{line}");
    let drawn = [
        "generate",
        "--model",
        "t/model",
        "--prompt",
        "a large red star",
        "--steps",
        "2",
        "--output",
        "o.png",
    ];
    succeed(work.path(), &drawn);
    assert!(work.path().join("o.png").is_file());
    let stopped = succeed(work.path(), &["train", "recipe.toml", "--out", "s", "--stop-after", "0"]);
    assert!(stopped.contains("stopped; the same command goes on from s"), "{stopped}");
    assert_eq!(losses_of(&work.path().join("s/autoencoder/loss.csv")), 1);
}

fn losses_of(file: &Path) -> usize {
    fs::read_to_string(file).unwrap().lines().count() - 1
}

#[test]
fn wrong_inputs_are_one_line() {
    let work = tempfile::tempdir().unwrap();
    let file = recipe(work.path());
    let no_file = fail(work.path(), &["train", "none.toml", "--out", "t"], 1);
    assert!(no_file.contains("none.toml"), "{no_file}");
    let text = fs::read_to_string(&file).unwrap();
    let wrong = [
        ("seed = 5", "seed = -5", "seed"),
        ("seed = 5", "seed = 5\n[data]\nkind = \"photos\"", "photos"),
        // without the feature, the line says so; with it, it names the folder
        (
            "seed = 5",
            "seed = 5\n[data]\nkind = \"emoji\"\nfolder = \"nowhere\"",
            if cfg!(feature = "emoji") { "nowhere/noto/icons.json" } else { "data.kind: emoji need" },
        ),
        ("groups = 4", "groups = 3", "groups"),
        ("clip = 1.0", "clip = 0.0", "autoencoder.training.clip"),
    ];
    for (from, to, named) in wrong {
        fs::write(&file, text.replacen(from, to, 1)).unwrap();
        let output = common::atedm(work.path(), &["train", "recipe.toml", "--out", "t"]);
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{to}");
        assert!(line.starts_with("error: ") && line.lines().count() == 1 && line.contains(named), "{line}");
    }
    fs::write(&file, text).unwrap();
    let flags = [
        (vec!["--save-every", "-1"], "--save-every"),
        (vec!["--stop-after", "nan"], "--stop-after"),
        (vec!["--device", "cuda:0", "--deterministic"], "--deterministic"),
    ];
    for (flags, named) in flags {
        let args = [vec!["train", "recipe.toml", "--out", "u"], flags].concat();
        let line = fail(work.path(), &args, 2);
        assert!(line.contains(named), "{line}");
        assert!(!work.path().join("u").exists(), "{args:?}");
    }
    // the folder of another recipe is not changed
    succeed(work.path(), &["train", "recipe.toml", "--out", "t", "--quiet", "--stop-after", "0"]);
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("seed = 5", "seed = 6")).unwrap();
    let line = fail(work.path(), &["train", "recipe.toml", "--out", "t"], 1);
    assert!(line.contains("state.safetensors: was written with another recipe"), "{line}");
}

/// The trainer accepts emoji like shapes.
#[cfg(feature = "emoji")]
#[test]
fn emoji_are_trained_on() {
    let work = tempfile::tempdir().unwrap();
    common::emoji_packages(&work.path().join("packages"));
    let file = recipe(work.path());
    let text = fs::read_to_string(&file).unwrap();
    let emoji = text.replacen("[model]", "[data]\nkind = \"emoji\"\nfolder = \"packages\"\n\n[model]", 1);
    fs::write(&file, emoji).unwrap();
    let said = succeed(work.path(), &["train", "recipe.toml", "--out", "t"]);
    assert!(said.contains("wrote t/model: 12 steps trained"), "{said}");
    let card = fs::read_to_string(work.path().join("t/model/README.md")).unwrap();
    assert!(card.contains("Noto Emoji"), "{card}");
    let prompt = ["--prompt", "a one brick", "--steps", "2", "--output", "o.png"];
    succeed(work.path(), &[&["generate", "--model", "t/model"][..], &prompt].concat());
}
