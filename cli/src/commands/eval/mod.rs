//! `atedm eval export`: makes images for captions, in folders that FID and CLIP programs read.
//!
//! An export is an ablation with captions as prompts. Seeds, shards and resuming work as in `atedm ablate`, whose
//! folder is `run/`. When all images exist, the folders for the evaluators are made from it:
//! ```text
//! prompts.jsonl            the captions with their ids
//! eval.toml                the ablation's configuration, unless --grid gives one
//! run/                     the ablation, shards too
//! images/POINT/ID.png      links to its images: one flat folder a point, as pytorch-fid and clean-fid read it
//! captions/POINT.tsv       columns filepath and title, as open_clip reads it; paths start from this folder
//! ```

mod captions;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use atedm_core::DType;
use atedm_experiment::ablation::Written;
use atedm_experiment::config::{Config, Origin, noise_dtype};
use atedm_experiment::files::{OutputFile, read_bytes};
use atedm_experiment::gathered::Gathered;
use atedm_experiment::prompts::PromptText;
use atedm_sdxl::prompt::PLAIN;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::ablate::{self, Request};
use crate::Extension;
use crate::args::{EvalAction, EvalArgs, ExportArgs};
use crate::failure::{Failure, Outcome};
use crate::sample::check_sampler;
use crate::{prune, tell};

const PROMPTS: &str = "prompts.jsonl";
const CONFIG: &str = "eval.toml";
const RUN: &str = "run";
const IMAGES: &str = "images";
const CAPTIONS: &str = "captions";

/// Makes the images, then the folders.
pub(crate) fn run(args: &EvalArgs, extension: &impl Extension) -> Outcome {
    let EvalAction::Export(args) = &args.action;
    let captions = captions::read(&args.captions, args.limit)?;
    let jsonl = captions::to_jsonl(&captions.texts)?;
    let (config, text, origin) = match &args.grid {
        Some(grid) => {
            let (config, text) = Config::read_with(grid, Some(captions.clone()))?;
            (config, text, Origin::File(grid))
        }
        None => {
            check_sampler(extension, args.sampling.scheduler.as_deref())?;
            let text = config(args)?;
            (Config::parse(&text, RUN, &args.output, Some(captions.clone()))?, text, Origin::Flags)
        }
    };
    let own = args.grid.is_none().then_some((CONFIG, text.as_str()));
    let kept: Vec<(PathBuf, &str)> = std::iter::once((PROMPTS, jsonl.as_str()))
        .chain(own)
        .map(|(name, text)| (args.output.join(name), text))
        .collect();
    kept.iter().try_for_each(|(path, text)| is_kept(path, text).map(drop))?;
    let before = || kept.iter().try_for_each(|(path, text)| keep(path, text));
    let written = Written { config: &config, text: &text, origin };
    let output = args.output.join(RUN);
    let request = Request {
        model: &args.model,
        output: &output,
        shards: &args.shards,
        take_from: &[],
        engine: &args.engine,
        quiet: args.quiet,
    };
    ablate::make_images(written, &request, extension, Box::new(before))?;
    export(args, &captions.texts, &jsonl)
}

/// Converts the flags to an ablation's configuration.
fn config(args: &ExportArgs) -> Outcome<String> {
    let spec = prune::spec(&args.prune)?;
    let mut point = toml::Table::new();
    let value = |value: Value| toml::Value::try_from(value).map_err(Failure::usage);
    point.insert("method".into(), spec.method.clone().into());
    point.insert("options".into(), value(Value::Object(spec.options))?);
    let sampling = &args.sampling;
    let whole = |number: u64, name: &str| {
        i64::try_from(number)
            .map(toml::Value::from)
            .map_err(|_| Failure::usage(format!("--{name}: expected at most {}, got {number}", i64::MAX)))
    };
    let mut table = toml::Table::new();
    table.insert("title".into(), format!("{}: images for evaluation", spec.method).into());
    table.insert("prompts_file".into(), PROMPTS.into());
    table.insert("distances".into(), false.into());
    table.insert("seed".into(), whole(sampling.seed, "seed")?);
    table.insert("steps".into(), whole(sampling.steps as u64, "steps")?);
    table.insert("guidance_scale".into(), sampling.guidance_scale.into());
    table.insert("rng".into(), sampling.rng.name().into());
    noise_dtype(sampling.rng.into(), sampling.rng_dtype.map(DType::from), "--rng-dtype")?;
    if let Some(dtype) = sampling.rng_dtype {
        table.insert("rng_dtype".into(), DType::from(dtype).to_string().into());
    }
    if sampling.guidance_rescale > 0.0 {
        table.insert("guidance_rescale".into(), sampling.guidance_rescale.into());
    }
    if let Some(name) = &sampling.scheduler {
        table.insert("scheduler".into(), name.as_str().into());
    }
    if let Some(text) = &sampling.negative_prompt {
        table.insert("negative_prompt".into(), text.as_str().into());
    }
    if sampling.text.prompt_syntax != PLAIN {
        table.insert("prompt_syntax".into(), sampling.text.prompt_syntax.as_str().into());
    }
    if sampling.text.clip_skip > 0 {
        table.insert("clip_skip".into(), whole(sampling.text.clip_skip as u64, "clip-skip")?);
    }
    let pixels = [
        ("width", sampling.size.width),
        ("height", sampling.size.height),
        ("vae_tiling", sampling.vae_tiling),
    ];
    for (name, pixels) in pixels {
        if let Some(pixels) = pixels {
            table.insert(name.into(), whole(pixels as u64, name)?);
        }
    }
    table.insert("grid".into(), vec![toml::Value::Table(point)].into());
    toml::to_string(&table).map_err(Failure::usage)
}

/// Whether a file that identifies the export exists. If its content differs and the run has begun, it is an error.
fn is_kept(path: &Path, text: &str) -> Outcome<bool> {
    let begun = path.with_file_name(RUN).exists();
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Ok(found) if found.is_file() && found.len() != text.len() as u64 => None,
        _ => Some(read_bytes(path, text.len() as u64)?),
    };
    match found.is_some_and(|found| found == text.as_bytes()) {
        false if begun => Err(Failure::file(
            path,
            "is of another export: expected a new folder, or the same captions and flags",
        )),
        same => Ok(same),
    }
}

/// Writes such a file if it does not exist.
fn keep(path: &Path, text: &str) -> Outcome {
    if is_kept(path, text)? {
        return Ok(());
    }
    make_folder_of(path)?;
    OutputFile::prepare(path)?.write(text.as_bytes())
}

/// Writes the links and lists, after all images exist.
fn export(args: &ExportArgs, captions: &[PromptText], jsonl: &str) -> Outcome {
    let run = Gathered::read(&args.output.join(RUN))?;
    let (done, total) = (run.records.len(), run.total());
    let say = |line: String| {
        if !args.quiet {
            tell::line(line);
        }
    };
    if done < total {
        say(format!(
            "{done} of {total} images are there: {IMAGES}/ and {CAPTIONS}/ are written by the shard that makes the last one"
        ));
        return Ok(());
    }
    for point in &run.info.points {
        let mut list = String::from("filepath\ttitle\n");
        let names = captions.iter().map(|caption| format!("{}.png", caption.id));
        only_these(&args.output.join(IMAGES).join(&point.id), &names.collect())?;
        for caption in captions {
            let Some(finished) = run.image(&point.id, &caption.id) else { continue };
            let name = format!("{IMAGES}/{}/{}.png", point.id, caption.id);
            link(&finished.folder.join(&finished.record.image), &args.output.join(&name))?;
            list.push_str(&format!("{name}\t{}\n", captions::field(&caption.text)));
        }
        let path = args.output.join(CAPTIONS).join(format!("{}.tsv", point.id));
        make_folder_of(&path)?;
        OutputFile::prepare(&path)?.write(list.as_bytes())?;
    }
    let digest: String = Sha256::digest(jsonl.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let (points, count, folder) = (run.info.points.len(), captions.len(), args.output.display());
    say(format!(
        "{folder}: {points} folders in {IMAGES}/ of {count} images each, their captions in {CAPTIONS}/ (sha256 of {PROMPTS}: {digest})"
    ));
    Ok(())
}

/// Evaluators take every picture of a folder. So a folder must not contain pictures that are not of the export.
fn only_these(folder: &Path, names: &BTreeSet<String>) -> Outcome {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| Failure::file(folder, error))?,
    };
    for entry in entries {
        let name = entry.map_err(|error| Failure::file(folder, error))?.file_name();
        let name = name.to_string_lossy().into_owned();
        // a file that another shard is writing now
        if !names.contains(&name) && !name.starts_with('.') {
            return Err(Failure::file(&folder.join(name), "is no image of this export: expected it away"));
        }
    }
    Ok(())
}

/// Links a file if the file system can, else copies it. Another shard may do the same at the same time.
fn link(from: &Path, to: &Path) -> Outcome {
    make_folder_of(to)?;
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(_) => {
            let bytes = fs::read(from).map_err(|error| Failure::file(from, error))?;
            OutputFile::prepare(to)?.write(&bytes)
        }
    }
}

fn make_folder_of(path: &Path) -> Outcome {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|error| Failure::file(folder, error))
}
