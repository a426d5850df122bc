//! Commands without `--model`: with the built-in model, and in a build without one.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::names;

const USAGE: i32 = 2;

const CONFIG: &str = "steps = 1\n[prompts]\nstar = \"a red star\"\n[[grid]]\nmethod = \"none\"\n";

/// A working folder with `tmp` for temporary files, `c.toml` and `captions.txt`.
fn work() -> tempfile::TempDir {
    let work = tempfile::tempdir().unwrap();
    fs::create_dir(work.path().join("tmp")).unwrap();
    fs::write(work.path().join("c.toml"), CONFIG).unwrap();
    fs::write(work.path().join("captions.txt"), "a red star\n").unwrap();
    work
}

/// Runs the program with its temporary files in `tmp`. Nothing may remain there.
fn run(work: &Path, line: &str) -> Output {
    let tmp = work.join("tmp");
    let args = line.split(' ').map(|word| word.replace('_', " "));
    let command = Command::new(env!("CARGO_BIN_EXE_atedm"))
        .args(args)
        .current_dir(work)
        .envs(["TMPDIR", "TMP", "TEMP"].map(|name| (name, &tmp)))
        .output()
        .unwrap();
    assert_eq!(names(&tmp), [""; 0], "{line}");
    command
}

/// The one line of a run that fails with `code`.
fn refused(work: &Path, line: &str, code: i32) -> String {
    let output = run(work, line);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{line}\n{errors}");
    assert!(errors.starts_with("error: ") && errors.trim_end().lines().count() == 1, "{line}\n{errors}");
    errors
}

/// A folder with the built-in model's name is used like any other folder.
#[test]
fn a_folder_of_its_name_goes_first() {
    let work = work();
    run(work.path(), "init-tiny atedm-shapes");
    let output = run(work.path(), "inspect --model atedm-shapes");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("checkpoint  atedm-shapes\n") && text.contains("256 x 256 px"), "{text}");
}

#[cfg(not(feature = "embedded"))]
mod without {
    use super::*;

    #[test]
    fn every_command_asks_for_a_checkpoint() {
        for line in [
            "generate --prompt fox --output o.png",
            "generate --model atedm-shapes --prompt fox --output o.png",
            "masks --prompt fox --output-dir m",
            "compare --prompt fox --methods at-edm --output o.png",
            "inspect",
            "flops --model atedm-shapes",
            "ablate c.toml --output run",
            "eval export --captions captions.txt --output e",
        ] {
            let work = work();
            let message = refused(work.path(), line, USAGE);
            assert!(
                message.contains("--model: expected a checkpoint") && message.contains("`embedded`"),
                "{message}"
            );
        }
    }

    #[test]
    fn help_says_that_there_is_none() {
        let output = run(work().path(), "generate --help");
        assert!(String::from_utf8(output.stdout).unwrap().contains("no model of its own"));
    }
}

#[cfg(feature = "embedded")]
mod with {
    use super::*;
    use common::{Png, fail, read_png, tiny};
    use serde_json::Value;

    const RUN: i32 = 1;

    /// Runs the program. Returns its standard output.
    fn succeed(work: &Path, line: &str) -> String {
        let output = run(work, line);
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    /// `atedm-shapes HASH (built in)`.
    fn is_its_name(name: &str) -> bool {
        let hash = name.strip_prefix("atedm-shapes ").and_then(|rest| rest.strip_suffix(" (built in)"));
        hash.is_some_and(|hash| hash.len() == 8 && hash.chars().all(|digit| digit.is_ascii_hexdigit()))
    }

    #[test]
    fn a_picture_needs_nothing_but_a_prompt() {
        let work = work();
        let rest = "--prompt a_red_star --steps 2 --quiet --output";
        succeed(work.path(), &format!("generate {rest} none.png"));
        succeed(work.path(), &format!("generate --model atedm-shapes --prune at-edm {rest} pruned.png"));
        let [none, pruned] = ["none.png", "pruned.png"].map(|name| read_png(&work.path().join(name)));
        assert_eq!((none.size, pruned.size), ((64, 64), (64, 64)));
        assert_ne!(none.pixels, pruned.pixels);
        for picture in [&none, &pruned] {
            let (_, parameters) = picture.chunks.iter().find(|(key, _)| key == "parameters").unwrap();
            let model = parameters.split(", ").find_map(|pair| pair.strip_prefix("Model: ")).unwrap();
            assert!(is_its_name(model), "{parameters}");
        }
    }

    /// The mean of each 2 x 2 pixels: the picture at the size of its latents.
    fn shrunk(picture: &Png) -> Vec<f64> {
        let wide = picture.size.0 as usize;
        let (small, count) = (wide / 2, picture.size.1 as usize / 2);
        let mean = |place: usize| {
            let (row, column, colour) = (place / 3 / small, place / 3 % small, place % 3);
            let at =
                |y: usize, x: usize| picture.pixels[3 * ((2 * row + y) * wide + 2 * column + x) + colour];
            (0..4).map(|pixel| f64::from(at(pixel / 2, pixel % 2))).sum::<f64>() / 4.0
        };
        (0..3 * small * count).map(mean).collect()
    }

    /// Previews have the colours of the picture, and follow it more closely the later they are.
    #[test]
    fn previews_show_what_the_picture_becomes() {
        let work = work();
        let line = "generate --prompt a_large_red_star_on_the_left_on_a_striped_pink_background --steps 12 --quiet --output star.png";
        succeed(work.path(), &format!("{line} --preview 4"));
        let there =
            ["c.toml", "captions.txt", "star.png", "star.preview-0004.png", "star.preview-0008.png", "tmp"];
        assert_eq!(names(work.path()), there);
        let picture = read_png(&work.path().join("star.png"));
        let expected = shrunk(&picture);
        let far = |name: &str| {
            let preview = read_png(&work.path().join(name));
            assert_eq!(preview.size, (32, 32));
            let pairs = preview.pixels.iter().zip(&expected);
            let far = pairs.map(|(got, expected)| (f64::from(*got) - expected).abs()).sum::<f64>();
            far / expected.len() as f64
        };
        let [early, late] = ["star.preview-0004.png", "star.preview-0008.png"].map(far);
        let mean = expected.iter().sum::<f64>() / expected.len() as f64;
        let spread = expected.iter().map(|value| (value - mean).abs()).sum::<f64>() / expected.len() as f64;
        println!("mean distance of bytes: {early:.1}, then {late:.1}; the picture's spread {spread:.1}");
        assert!(late < early && late < 0.7 * spread, "{early}, {late}, {spread}");

        // The picture is the same, and a decoder makes other previews.
        let vae = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-b/vae");
        let words: Vec<String> = line.split(' ').map(|word| word.replace('_', " ")).collect();
        let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
        args.extend(["--preview", "8", "--preview-vae", vae.to_str().unwrap()]);
        common::succeed(work.path(), &args);
        assert_eq!(read_png(&work.path().join("star.png")).pixels, picture.pixels);
        assert_eq!(read_png(&work.path().join("star.preview-0008.png")).size, (256, 256));
        let message = refused(work.path(), &format!("{line} --preview 8 --preview-vae gone"), RUN);
        assert!(message.contains("gone"), "{message}");
    }

    #[test]
    fn attention_has_two_levels_to_prune() {
        let shown = json(&succeed(work().path(), "inspect --prune at-edm --json"));
        assert!(is_its_name(shown["checkpoint"].as_str().unwrap()), "{shown}");
        assert_eq!((&shown["width"], &shown["height"]), (&64.into(), &64.into()));
        let mut tokens: Vec<u64> = shown["blocks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|block| block["tokens"].as_u64().unwrap())
            .collect();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens, [64, 256]);
        assert!(shown["mean_tflop"].as_f64().unwrap() < shown["unpruned_tflop"].as_f64().unwrap());
    }

    #[test]
    fn other_commands_take_it_too() {
        let work = work();
        succeed(work.path(), "masks --prompt a_star --steps 2 --quiet --output-dir masks");
        assert!(names(&work.path().join("masks")).contains(&"contact-sheet.png".to_string()));
        let line = "compare --prompt a_star --steps 1 --methods at-edm --output sheet.png --quiet --json";
        assert!(is_its_name(json(&succeed(work.path(), line))["model"].as_str().unwrap()));
        succeed(work.path(), "eval export --captions captions.txt --steps 1 --quiet --output export");
        assert_eq!(names(&work.path().join("export/images/none")).len(), 1);
        let shown = json(&succeed(work.path(), "flops --model atedm-shapes --prune at-edm --json"));
        assert!(is_its_name(shown["model"].as_str().unwrap()), "{shown}");
        // the paper's model, as always
        assert_eq!(json(&succeed(work.path(), "flops --prune at-edm --json"))["model"], "SD-XL base 1.0");
    }

    #[test]
    fn a_run_goes_on_with_the_model_it_began_with() {
        let work = work();
        succeed(work.path(), "ablate c.toml --quiet --output run");
        let info = fs::read_to_string(work.path().join("run/run.json")).unwrap();
        let settings = json(&info)["points"][0]["settings"].clone();
        assert!(is_its_name(settings["model"].as_str().unwrap()), "{settings}");
        succeed(work.path(), "ablate c.toml --quiet --output run --resume");
        // its plan is the run's plan
        let named = format!("model = \"atedm-shapes\"\n{CONFIG}");
        fs::write(work.path().join("named.toml"), named).unwrap();
        let planned = json(&succeed(work.path(), "ablate named.toml --plan --json"));
        assert_eq!(planned["run_hash"], json(&info)["run_hash"]);

        fs::remove_file(work.path().join("run/results.jsonl")).unwrap();
        let model = tiny().to_str().unwrap();
        let other =
            fail(work.path(), &["ablate", "c.toml", "--model", model, "--output", "run", "--resume"], RUN);
        assert!(other.contains("run.json: is of another run: point none has other settings"), "{other}");
    }

    #[test]
    fn nothing_stays_after_an_error() {
        let work = work();
        let message = refused(work.path(), "generate --prompt p --width 12 --output o.png", USAGE);
        assert!(message.contains("--width"), "{message}");
        let line = "generate --prompt p --steps 2 --latents gone.safetensors --output o.png";
        assert!(refused(work.path(), line, RUN).contains("gone.safetensors"));
        assert_eq!(names(work.path()), ["c.toml", "captions.txt", "tmp"]);
    }

    #[test]
    fn the_temporary_folder_is_named_where_it_is_at_fault() {
        let work = work();
        let output = Command::new(env!("CARGO_BIN_EXE_atedm"))
            .args(["inspect"])
            .env("TMPDIR", work.path().join("gone"))
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(RUN), "{message}");
        assert!(message.contains("gone: the built-in model cannot be unpacked here"), "{message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    }

    #[test]
    fn help_names_it() {
        let output = succeed(work().path(), "generate --help");
        assert!(output.contains("[default: atedm-shapes"), "{output}");
    }
}
